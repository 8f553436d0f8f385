// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Membership, on the event loop.
extension ConsumerDriver {
    private var group: String { configuration.groupID ?? "" }

    /// Performs actions, then sees to the next tick.
    func perform(_ actions: [GroupMembershipStateMachine.Action]) {
        for action in actions { perform(action) }
        let memberID = membership.memberID
        shared.withLock { $0.memberID = memberID.isEmpty ? nil : memberID }
        scheduleTick()
    }

    private func scheduleTick() {
        membershipTimer?.cancel()
        membershipTimer = nil
        guard !isLeft, let time = membership.nextTick else { return }
        membershipTimer = eventLoop.assumeIsolated().scheduleTask(deadline: time) { self.tick() }
    }

    private func tick() {
        guard !isLeft else { return }
        // The application's threads only leave a note when they poll.
        let (isPolling, lastPoll) = shared.withLock { ($0.isPolling, $0.lastPoll) }
        var actions: [GroupMembershipStateMachine.Action] = []
        if isPolling {
            actions = membership.pollStarted(now: .now())
        } else {
            membership.pollEnded(now: lastPoll)
        }
        actions += membership.tick(now: .now())
        if membership.isExpelled {
            logger.warning(
                "no poll within maxPollInterval: the member leaves its group until the next poll",
                metadata: [LogKey.group: "\(group)"]
            )
            shared.withLock { $0.isExpelled = true }
        }
        perform(actions)
    }

    private func perform(_ action: GroupMembershipStateMachine.Action) {
        switch action {
        case .join(let id, let memberID, let protocols): join(id, memberID, protocols)
        case .countPartitions(let id, let topics): countPartitions(id, topics)
        case .sync(let id, let plan): sync(id, plan)
        case .heartbeat(let id, let generation, let memberID): heartbeat(id, generation, memberID)
        case .leave(let memberID): _ = sendLeave(memberID)
        case .forgetCoordinator: core.forgetCoordinator(of: group)
        case .revoke(let partitions): revoke(partitions)
        case .lose(let partitions): lose(partitions)
        case .assign(let partitions): assigned(partitions)
        case .fail(let failure):
            let error = ClientError(
                .groupLost,
                "group '\(group)': \(failure.message) (\(failure.error))",
                errorCode: failure.error
            )
            logger.debug("out of the group", metadata: [LogKey.error: "\(error)"])
            shared.withLock { $0.fetch.note(error) }
            wakePoll()
        }
    }

    // MARK: Requests

    private func toCoordinator<Request: RequestMessage>(
        _ type: Request.Type,
        purpose: ClientCore.Purpose = .membership,
        timeout: Duration? = nil,
        make: @escaping (Int16) -> Request
    ) -> EventLoopFuture<Request.Response>.Isolated {
        core.coordinator(of: group).assumeIsolated().flatMap { node in
            self.core.send(type, to: .broker(node), purpose: purpose, timeout: timeout, make: make)
        }
    }

    private func failed(_ request: GroupMembershipStateMachine.Request, _ id: Int, _ error: any Error) {
        guard !isLeft else { return }
        let failure = error as? ClientError
        if failure?.code == .closed { return }
        let kind: GroupMembershipStateMachine.Failure
        if let failure, failure.code == .unsupportedVersion {
            kind = .error(.unsupportedVersion)
        } else {
            kind = failure?.errorCode.map { .error($0) } ?? .connection
        }
        logger.debug(
            "a group request failed",
            metadata: [LogKey.group: "\(group)", LogKey.error: "\(error)"]
        )
        perform(membership.failed(request, id: id, kind, now: .now()))
    }

    private func failed(
        _ request: GroupMembershipStateMachine.Request,
        _ id: Int,
        _ code: Int16,
        memberID: String? = nil
    ) {
        logger.debug(
            "a group request was refused",
            metadata: [LogKey.group: "\(group)", LogKey.error: "\(ErrorCode(rawValue: code))"]
        )
        perform(
            membership.failed(request, id: id, .error(ErrorCode(rawValue: code)), memberID: memberID, now: .now())
        )
    }

    private func join(_ id: Int, _ memberID: String, _ protocols: [GroupMembershipStateMachine.JoinProtocol]) {
        metrics.rebalanced()
        let configuration = self.configuration
        let group = self.group
        func milliseconds(_ duration: Duration) -> Int32 {
            Int32(clamping: TimeAmount(duration).nanoseconds / 1_000_000)
        }
        toCoordinator(JoinGroupRequest.self, timeout: configuration.maxPollInterval + .seconds(10)) { version in
            JoinGroupRequest(
                groupId: group,
                sessionTimeoutMs: milliseconds(configuration.sessionTimeout),
                rebalanceTimeoutMs: milliseconds(configuration.maxPollInterval),
                memberId: memberID,
                groupInstanceId: version >= 5 ? configuration.groupInstanceID : nil,
                protocolType: "consumer",
                protocols: protocols.map { .init(name: $0.name, metadata: $0.metadata) }
            )
        }.whenComplete { result in
            guard !self.isLeft else { return }
            switch result {
            case .failure(let error): self.failed(.join, id, error)
            case .success(let response) where response.errorCode != 0:
                self.failed(.join, id, response.errorCode, memberID: response.memberId)
            case .success(let response): self.joined(id, response)
            }
        }
    }

    private func joined(_ id: Int, _ response: JoinGroupResponse) {
        var members: [AssignableMember] = []
        for member in response.members {
            guard let subscription = try? GroupProtocol.decodeSubscription(member.metadata) else {
                logger.warning(
                    "a group member's subscription cannot be read; it gets nothing",
                    metadata: [LogKey.group: "\(group)", LogKey.member: "\(member.memberId)"]
                )
                members.append(
                    AssignableMember(
                        id: member.memberId,
                        instanceID: member.groupInstanceId,
                        subscription: MemberSubscription(topics: [])
                    )
                )
                continue
            }
            members.append(
                AssignableMember(id: member.memberId, instanceID: member.groupInstanceId, subscription: subscription)
            )
        }
        perform(
            membership.joinAnswered(
                id: id,
                GroupMembershipStateMachine.JoinAnswer(
                    generation: response.generationId,
                    memberID: response.memberId,
                    leader: response.leader,
                    protocolName: response.protocolName ?? "",
                    members: members,
                    skipAssignment: response.skipAssignment
                )
            )
        )
    }

    private func countPartitions(_ id: Int, _ topics: [String]) {
        core.topicsOfInterest.formUnion(topics)
        core.refreshMetadata().assumeIsolated().whenComplete { _ in
            guard !self.isLeft else { return }
            self.perform(self.membership.partitionsCounted(id: id, self.partitionCounts(topics)))
        }
    }

    private func partitionCounts(_ topics: [String]) -> [String: Int32] {
        topics.reduce(into: [:]) { counts, topic in
            if let known = core.metadata.topic(topic) { counts[topic] = Int32(known.partitions.count) }
        }
    }

    private func sync(_ id: Int, _ plan: GroupMembershipStateMachine.SyncPlan) {
        let group = self.group
        let instanceID = configuration.groupInstanceID
        toCoordinator(SyncGroupRequest.self, timeout: configuration.maxPollInterval + .seconds(10)) { version in
            SyncGroupRequest(
                groupId: group,
                generationId: plan.generation,
                memberId: plan.memberID,
                groupInstanceId: version >= 3 ? instanceID : nil,
                protocolType: version >= 5 ? "consumer" : nil,
                protocolName: version >= 5 ? plan.protocolName : nil,
                assignments: plan.assignments.sorted { $0.key < $1.key }.map {
                    .init(memberId: $0.key, assignment: GroupProtocol.encode(assignment: $0.value))
                }
            )
        }.whenComplete { result in
            guard !self.isLeft else { return }
            switch result {
            case .failure(let error): self.failed(.sync, id, error)
            case .success(let response) where response.errorCode != 0: self.failed(.sync, id, response.errorCode)
            case .success(let response):
                do {
                    let assignment = try GroupProtocol.decodeAssignment(response.assignment)
                    self.logger.debug(
                        "assigned",
                        metadata: [
                            LogKey.group: "\(group)", LogKey.generation: "\(plan.generation)",
                            LogKey.partition: "\(assignment.sorted())",
                        ]
                    )
                    self.perform(self.membership.syncAnswered(id: id, assignment: assignment, now: .now()))
                } catch {
                    self.failed(.sync, id, ErrorCode.invalidRequest.rawValue)
                }
            }
        }
    }

    private func heartbeat(_ id: Int, _ generation: Int32, _ memberID: String) {
        let group = self.group
        let instanceID = configuration.groupInstanceID
        toCoordinator(
            HeartbeatRequest.self,
            timeout: min(configuration.sessionTimeout, configuration.client.requestTimeout)
        ) {
            version in
            HeartbeatRequest(
                groupId: group,
                generationId: generation,
                memberId: memberID,
                groupInstanceId: version >= 3 ? instanceID : nil
            )
        }.whenComplete { result in
            guard !self.isLeft else { return }
            switch result {
            case .failure(let error): self.failed(.heartbeat, id, error)
            case .success(let response) where response.errorCode != 0: self.failed(.heartbeat, id, response.errorCode)
            case .success:
                self.membership.heartbeatSucceeded(id: id)
                self.scheduleTick()
            }
        }
    }

    private func sendLeave(_ memberID: String) -> EventLoopFuture<Void> {
        let group = self.group
        let instanceID = configuration.groupInstanceID
        // Not behind a join that waits for others.
        return toCoordinator(LeaveGroupRequest.self, purpose: .coordinator, timeout: .seconds(5)) { version in
            version >= 3
                ? LeaveGroupRequest(groupId: group, members: [.init(memberId: memberID, groupInstanceId: instanceID)])
                : LeaveGroupRequest(groupId: group, memberId: memberID)
        }.map { _ in }.nonisolated()
    }

    /// Leaves for good, and waits for the broker to know.
    func leaveGroup() async {
        try? await eventLoop.flatSubmit {
            var left = self.eventLoop.makeSucceededVoidFuture()
            for action in self.membership.leave() {
                if case .leave(let memberID) = action { left = self.sendLeave(memberID) }
            }
            return left
        }.get()
    }

    // MARK: Partitions

    /// Takes partitions out of the reading. `mayCommit`: the application may still commit them.
    func stopReading(_ partitions: [TopicPartition], mayCommit: Bool) {
        shared.withLock { shared in
            for partition in partitions {
                if mayCommit, let state = shared.fetch.partitions[partition], let position = state.position {
                    shared.revoking[partition] = OffsetAndMetadata(
                        position,
                        leaderEpoch: LeaderEpoch(state.positionEpoch)
                    )
                } else if mayCommit {
                    shared.revoking[partition] = .some(OffsetAndMetadata(-1))
                }
                shared.fetch.remove(partition)
                if !mayCommit { shared.consumed[partition] = nil }
            }
        }
    }

    private func callbackDone() {
        eventLoop.execute {
            guard !self.isLeft else { return }
            self.perform(self.membership.callbacksDone())
        }
    }

    private func revoke(_ partitions: [TopicPartition]) {
        stopReading(partitions, mayCommit: true)
        callbacks.run { callbacks in
            if self.configuration.enableAutoCommit { await self.autoCommit(only: partitions) }
            await callbacks.onRevoked?(partitions)
            self.shared.withLock { shared in
                for partition in partitions {
                    shared.revoking[partition] = nil
                    shared.consumed[partition] = nil
                }
            }
            self.callbackDone()
        }
    }

    private func lose(_ partitions: [TopicPartition]) {
        stopReading(partitions, mayCommit: false)
        callbacks.run { callbacks in
            await callbacks.onLost?(partitions)
            self.callbackDone()
        }
    }

    private func assigned(_ partitions: [TopicPartition]) {
        let isHeld = callbacks.hasAssignedCallback
        shared.withLock { shared in
            for partition in partitions { shared.fetch.add(partition, at: .committed, isHeld: isHeld) }
        }
        if !isHeld { runFetches() }
        callbacks.run { callbacks in
            if isHeld {
                await callbacks.onAssigned?(partitions)
                self.shared.withLock { shared in
                    for partition in partitions { shared.fetch.release(partition) }
                }
                self.scheduleFetches()
                self.wakePoll()
            }
            self.callbackDone()
        }
    }

    // MARK: Metadata

    func metadataChanged() {
        guard !core.isClosed else { return }
        if !isLeft, !membership.watchedTopics.isEmpty {
            perform(membership.metadataChanged(partitionCounts(membership.watchedTopics)))
        }
        // A topic that is to come is looked for more often than metadata ages.
        if core.topicsOfInterest.contains(where: { core.metadata.topic($0) == nil }) {
            missingTopicTimer?.cancel()
            missingTopicTimer = eventLoop.assumeIsolated().scheduleTask(in: .seconds(1)) {
                self.core.refreshMetadata()
            }
        }
        runFetches()
    }
}
