// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import NIOCore
import Synchronization

extension ConsumerDriver {
    private func groupID() throws -> String {
        guard let group = configuration.groupID else {
            throw ClientError(.configuration, "commits need ConsumerConfiguration.groupID")
        }
        return group
    }

    func committed(_ partitions: [TopicPartition]) async throws -> [TopicPartition: OffsetAndMetadata] {
        try checkOpen()
        return try await core.fetchOffsets(group: try groupID(), partitions: partitions, until: core.apiDeadline)
    }

    func commitPositions() async throws {
        let positions = shared.withLock { shared in
            var positions = shared.revoking.filter { $0.value.offset >= 0 }
            for (partition, state) in shared.fetch.partitions {
                guard let position = state.position else { continue }
                positions[partition] = OffsetAndMetadata(position, leaderEpoch: LeaderEpoch(state.positionEpoch))
            }
            return positions
        }
        try await commit(positions)
    }

    /// Commits what belongs to this member, again while the group rebalances; then complains about the rest.
    func commit(_ offsets: [TopicPartition: OffsetAndMetadata]) async throws {
        let group = try groupID()
        if offsets.isEmpty { return }
        for (partition, offset) in offsets where offset.offset.rawValue < 0 {
            throw ClientError(.invalidState, "cannot commit offset \(offset.offset) of \(partition)")
        }
        let deadline = core.apiDeadline
        while true {
            let (mine, foreign, isMember) = shared.withLock { shared in
                guard shared.mode == .subscribed else { return (offsets, [TopicPartition](), false) }
                let mine = offsets.filter {
                    shared.fetch.partitions[$0.key] != nil || shared.revoking[$0.key] != nil
                }
                return (mine, offsets.keys.filter { mine[$0] == nil }.sorted(), true)
            }
            do {
                if !mine.isEmpty {
                    let member = isMember ? try await currentMember() : .none
                    try await core.commitOffsets(group: group, mine, member: member, until: deadline)
                    metrics.committed()
                }
                if foreign.isEmpty { return }
                throw ClientError(
                    .partitionNotAssigned,
                    "not committed, because they belong to another member by now: \(foreign.map(\.description).joined(separator: ", "))"
                )
            } catch let error as ClientError where isMember && Self.isRebalancing(error) {
                // The group is in between two generations; the next one may still have these partitions here.
                guard NIODeadline.now() + .milliseconds(100) < deadline else { throw error }
                try await Task.sleep(for: .milliseconds(50))
            }
        }
    }

    private static func isRebalancing(_ error: ClientError) -> Bool {
        switch error.errorCode {
        case .rebalanceInProgress?, .illegalGeneration?, .unknownMemberId?: true
        default: false
        }
    }

    private func currentMember() async throws -> GroupMember {
        try await core.onLoop {
            guard self.membership.isMember else {
                throw ClientError.broker(.rebalanceInProgress, "committing offsets")
            }
            return GroupMember(
                generation: self.membership.generation,
                memberID: self.membership.memberID,
                instanceID: self.configuration.groupInstanceID
            )
        }
    }

    func groupMetadata() async throws -> ConsumerGroupMetadata {
        guard let groupID = configuration.groupID else {
            throw ClientError(.invalidState, "the consumer has no group; set groupID")
        }
        let isSubscribed = shared.withLock { $0.mode != .assigned }
        guard isSubscribed else { return ConsumerGroupMetadata(groupID: groupID) }
        let member = try await currentMember()
        return ConsumerGroupMetadata(
            groupID: groupID,
            generation: member.generation,
            memberID: member.memberID,
            instanceID: member.instanceID
        )
    }

    // MARK: Auto-commit

    /// On the event loop.
    func startAutoCommit() {
        guard configuration.enableAutoCommit, configuration.groupID != nil, autoCommitTimer == nil else { return }
        scheduleAutoCommit()
    }

    private func scheduleAutoCommit() {
        guard !core.isClosed else { return }
        autoCommitTimer = eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(configuration.autoCommitInterval)) {
            Task {
                await self.autoCommit()
                self.eventLoop.execute { self.scheduleAutoCommit() }
            }
        }
    }

    /// Commits what the application is done with; failures are left to the next time.
    func autoCommit(only partitions: [TopicPartition]? = nil) async {
        let offsets = shared.withLock { shared in
            let chosen = partitions.map(Set.init)
            return shared.consumed.filter { entry in
                guard chosen?.contains(entry.key) != false else { return false }
                return shared.mode == .assigned || shared.fetch.partitions[entry.key] != nil
                    || shared.revoking[entry.key] != nil
            }
        }
        do {
            try await commit(offsets)
        } catch {
            logger.debug("auto-commit failed", metadata: [LogKey.error: "\(error)"])
        }
    }
}
