// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Partitions that come and go, between two turns of the main loop.
extension TopologySession {
    func assigned(_ partitions: Set<TopicPartition>) async {
        await turn.acquire()
        defer { turn.release() }
        guard !isFailed else { return }
        do {
            for stage in stages where stage.store != nil { try await restore(stage, partitions) }
            if let find = topology.startOffsets {
                for (partition, offset) in try await find(partitions.sorted()) where partitions.contains(partition) {
                    try await consumer.seek(partition, to: offset)
                }
            }
            state.withLock { state in for partition in partitions { state.tracker.assign(partition) } }
        } catch {
            fail(error)
        }
    }

    /// Ends what is under way of these partitions, commits it, and forgets them.
    func revoked(_ partitions: Set<TopicPartition>) async {
        await turn.acquire()
        defer { turn.release() }
        guard !isFailed else { return }
        do {
            // A transaction belongs to all partitions, so all of it is ended.
            try await commitBarrier(isExact ? nil : partitions, within: settings.drainTimeout)
        } catch {
            if isExact {
                fail(error)
            } else {
                logger.warning(
                    "partitions are given up before all of their records were done; whoever gets them does these again",
                    metadata: ["error": "\(error)"]
                )
                if !hasBarrier {
                    let offsets = state.withLock { $0.tracker.committable(partitions) }
                    try? await consumer.commit(offsets.mapValues { OffsetAndMetadata($0) })
                }
            }
        }
        forget(partitions)
    }

    func lost(_ partitions: Set<TopicPartition>) async {
        await turn.acquire()
        defer { turn.release() }
        if isExact, state.withLock({ $0.epoch != nil }) {
            fail(TopologyError(.log, "the group took partitions away while a transaction had records of them"))
        }
        forget(partitions)
    }

    private func forget(_ partitions: Set<TopicPartition>) {
        state.withLock { $0.tracker.drop(partitions) }
        originals.withLock { kept in kept = kept.filter { !partitions.contains($0.value.topicPartition) } }
        for stage in stages { for partition in partitions { stage.store?.drop(partition) } }
        for task in tasks { for partition in partitions { task.revoked(partition) } }
    }

    // MARK: State

    /// Reads what a stage kept for these partitions, and gives it to its tasks.
    private func restore(_ stage: StageRuntime, _ partitions: Set<TopicPartition>) async throws {
        guard let store = stage.store else { return }
        let numbers = Set(partitions.map(\.partition))
        let found = try await readChangelog(store.topic, numbers)
        for partition in partitions {
            let entries = found[partition] ?? [:]
            store.assign(partition, entries)
            for index in stage.queues.indices {
                let own = entries.filter { entry in
                    entry.key.owner == nil
                        || stage.grouping.task(for: entry.key.owner, turn: 0, of: stage.queues.count) == index
                }
                try task(stage, index)?.assigned(
                    partition,
                    state: own.map { StateEntry(key: $0.key, value: $0.value) }
                )
            }
        }
    }

    private func task(_ stage: StageRuntime, _ index: Int) -> StageTask? {
        tasks.first { $0.stage === stage && $0.index == index }
    }

    /// Everything that is on these partitions of a changelog, by partition of the source.
    ///
    /// It is read up to its end as writers see it, through all that is committed: what a worker before this one has in an open transaction
    /// is waited for, because its offsets may count as well.
    private func readChangelog(_ topic: String, _ numbers: Set<PartitionID>) async throws -> [TopicPartition: [StateKey:
        ByteBuffer]]
    {
        let wanted = numbers.map { TopicPartition(topic: topic, partition: $0) }
        let probe = try Consumer(
            ConsumerConfiguration(client: settings.client),
            eventLoopGroup: eventLoopGroup,
            logger: logger
        )
        var reading = ConsumerConfiguration(client: settings.client)
        reading.isolation = .readCommitted
        let reader = try Consumer(reading, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let ends = try await probe.endOffsets(wanted)
            let starts = try await probe.beginningOffsets(wanted)
            try await reader.assign(starts)
            var found: [TopicPartition: [StateKey: ByteBuffer]] = [:]
            while try ends.contains(where: { try (reader.position($0.key) ?? 0) < $0.value }) {
                try checkFailure()
                if shared.mustStop { throw CancellationError() }
                for record in try await reader.poll(maxRecords: 5_000, timeout: .milliseconds(100)) {
                    guard let bytes = record.key, let (key, topic) = StateRecord.decode(bytes) else { continue }
                    let partition = TopicPartition(topic: topic, partition: record.topicPartition.partition)
                    found[partition, default: [:]][key] = record.value
                }
            }
            await probe.close()
            await reader.close()
            return found
        } catch {
            await probe.close()
            await reader.close()
            throw error
        }
    }
}
