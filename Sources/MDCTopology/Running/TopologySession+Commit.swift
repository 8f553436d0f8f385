// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Offsets, state and transactions.
extension TopologySession {
    /// Commits what is done; in stages with state everything under way is ended first.
    func commitProgress() async throws {
        if isExact {
            // Where only markers were read there is no transaction yet, and the lag would stay.
            guard state.withLock({ $0.epoch == nil && $0.tracker.isIdle && !$0.tracker.committable().isEmpty }) else {
                return
            }
            try openEpoch()
            return try await commitBarrier()
        }
        if hasBarrier { return try await commitBarrier() }
        if topology.guarantee == .atMostOnce { return }
        let offsets = state.withLock { $0.tracker.committable() }
        try await commit(offsets)
    }

    /// Waits until nothing is under way, then commits outputs, state and offsets: in one transaction, or state before offsets.
    ///
    /// `limit`: how long is waited; without one the processors' own limits count.
    func commitBarrier(_ partitions: Set<TopicPartition>? = nil, within limit: Duration = .seconds(86_400)) async throws
    {
        try await untilIdle(partitions, within: limit)
        if isExact { return try await commitTransaction() }
        let offsets = state.withLock { $0.tracker.committable(partitions) }
        if hasBarrier { try await writeState(partitions) }
        if topology.guarantee == .atLeastOnce { try await commit(offsets) }
    }

    private func commitTransaction() async throws {
        guard state.withLock({ $0.epoch != nil }) else { return }
        for stage in stages {
            guard let store = stage.store else { continue }
            for record in store.takeChanges() {
                try await producer.enqueue(record) { if case .failure(let error) = $0 { self.fail(error) } }
            }
        }
        let offsets = state.withLock { $0.tracker.committable() }
        if !offsets.isEmpty {
            try await producer.sendOffsets(
                offsets.mapValues { OffsetAndMetadata($0) },
                group: try await memberMetadata()
            )
        }
        while true {
            do {
                try await producer.commitTransaction()
                break
            } catch let error as ClientError where error.code == .timeout || error.code == .connection {
                // The outcome is open; only the same call finds it out.
                try Task.checkCancellation()
                logger.warning("the commit is repeated", metadata: ["error": "\(error)"])
            }
        }
        state.withLock { state in
            state.epoch = nil
            state.tracker.committed(offsets)
        }
        shared.state.withLock { $0.commits += 1 }
    }

    /// Who this worker is in its group; waits while the group is in between two generations.
    private func memberMetadata() async throws -> ConsumerGroupMetadata {
        let deadline = ContinuousClock.now + settings.drainTimeout
        while true {
            do {
                return try await consumer.groupMetadata()
            } catch let error as ClientError where error.isRetriable && ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }

    private func commit(_ offsets: [TopicPartition: Offset]) async throws {
        if offsets.isEmpty { return }
        do {
            try await consumer.commit(offsets.mapValues { OffsetAndMetadata($0) })
        } catch let error as ClientError where error.code == .partitionNotAssigned {
            // Whoever has it now goes on from the last commit.
        } catch let error as ClientError where error.isRetriable {
            logger.warning("committing offsets failed; the next commit has them too", metadata: ["error": "\(error)"])
            return
        }
        state.withLock { $0.tracker.committed(offsets) }
        shared.state.withLock { $0.commits += 1 }
    }

    /// At most once: what was read counts as done before anything is done.
    func commitPositions() async throws {
        var positions: [TopicPartition: OffsetAndMetadata] = [:]
        for partition in consumer.assignment {
            if let position = try? consumer.position(partition) { positions[partition] = OffsetAndMetadata(position) }
        }
        try await consumer.commit(positions)
        shared.state.withLock { $0.commits += 1 }
    }

    /// Brings the changelogs up to date.
    private func writeState(_ partitions: Set<TopicPartition>?) async throws {
        var isEmpty = true
        for stage in stages {
            for record in stage.store?.takeChanges(partitions) ?? [] {
                isEmpty = false
                try await producer.enqueue(record) { if case .failure(let error) = $0 { self.fail(error) } }
            }
        }
        if isEmpty { return }
        try await producer.flush()
        try checkFailure()
    }

    /// Waits until nothing (of these partitions) is under way. Throws what failed meanwhile, or ``TopologyError`` (`processor`) after
    /// the time.
    func untilIdle(_ partitions: Set<TopicPartition>? = nil, within limit: Duration) async throws {
        let deadline = ContinuousClock.now + limit
        var pause = Duration.microseconds(200)
        while true {
            try checkFailure()
            if state.withLock({ state in partitions.map { state.tracker.isIdle($0) } ?? state.tracker.isIdle }) {
                return
            }
            if ContinuousClock.now >= deadline {
                throw TopologyError(.processor, "what is under way did not end within \(limit.inSeconds) s")
            }
            try await Task.sleep(for: pause)
            pause = min(pause * 2, .milliseconds(5))
        }
    }
}
