// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Reads a small topic from some point in time on, for as long as it lives, and tells what it reads in the order of each
/// partition. No group: every process that follows a topic sees all of it.
final class TopicFollower: Sendable {
    private struct Waiter {
        var until: [TopicPartition: Int64]
        var continuation: CheckedContinuation<Void, Never>
    }

    private struct State {
        var reading: Task<Void, Never>?
        var consumer: Consumer?
        var positions: [TopicPartition: Int64] = [:]
        var waiters: [Waiter] = []
        var isClosed = false
    }

    private let topic: String
    private let configuration: ConsumerConfiguration
    private let eventLoopGroup: any EventLoopGroup
    private let logger: Logger
    private let since: @Sendable () -> Timestamp?
    private let apply: @Sendable ([ConsumerRecord]) -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - since: From when on the topic is read; nil: from its start.
    ///   - apply: Called with what was read, from one task.
    init(
        _ topic: String,
        client: ClientConfiguration,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger,
        since: @escaping @Sendable () -> Timestamp? = { nil },
        apply: @escaping @Sendable ([ConsumerRecord]) -> Void
    ) {
        self.topic = topic
        configuration = ConsumerConfiguration(client: client, groupID: nil)
        self.eventLoopGroup = eventLoopGroup
        self.logger = logger
        self.since = since
        self.apply = apply
    }

    /// Returns when all that was in the topic at the time of the call has been told. Begins to read with the first call.
    ///
    /// - Throws: ``PipelineError`` with code `log` if the topic cannot be read.
    func caughtUp() async throws(PipelineError) {
        do {
            let consumer = try await started()
            let ends = try await consumer.endOffsets(try await partitions(consumer))
            await withCheckedContinuation { continuation in
                let isThere = state.withLock { state -> Bool in
                    guard !state.isClosed, !Self.reaches(state.positions, ends.mapValues(\.rawValue)) else {
                        return true
                    }
                    state.waiters.append(Waiter(until: ends.mapValues(\.rawValue), continuation: continuation))
                    return false
                }
                if isThere { continuation.resume() }
            }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.log, "cannot read \(topic)", cause: error)
        }
        if state.withLock({ $0.isClosed }) { throw PipelineError(.closed, "\(topic) is no longer followed") }
    }

    /// Ends the reading.
    func close() async {
        let (reading, waiters) = state.withLock { state in
            state.isClosed = true
            defer { state.waiters = [] }
            return (state.reading, state.waiters)
        }
        for waiter in waiters { waiter.continuation.resume() }
        await reading?.value
    }

    private static func reaches(_ positions: [TopicPartition: Int64], _ ends: [TopicPartition: Int64]) -> Bool {
        ends.allSatisfy { positions[$0.key] ?? 0 >= $0.value }
    }

    private func partitions(_ consumer: Consumer) async throws -> [TopicPartition] {
        let known = state.withLock { Array($0.positions.keys) }
        if !known.isEmpty { return known }
        let admin = try Admin(configuration.client, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let found = try await admin.describeTopics([topic]).flatMap(\.partitions)
                .map { TopicPartition(topic: topic, partition: $0.id) }
            await admin.close()
            return found
        } catch {
            await admin.close()
            throw error
        }
    }

    /// The consumer at work. Two first calls at once agree on one of them.
    private func started() async throws -> Consumer {
        if let consumer = state.withLock({ $0.consumer }) { return consumer }
        let consumer = try Consumer(configuration, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let all = try await partitions(consumer)
            var starts = try await consumer.beginningOffsets(all)
            if let since = since() {
                let ends = try await consumer.endOffsets(all)
                let found = try await consumer.offsetsForTimes(
                    Dictionary(uniqueKeysWithValues: all.map { ($0, since) })
                )
                for partition in all { starts[partition] = found[partition]?.offset ?? ends[partition] }
            }
            try await consumer.assign(starts)
            let (kept, isMine) = state.withLock { state -> (Consumer, Bool) in
                if let other = state.consumer { return (other, false) }
                state.consumer = consumer
                state.positions = starts.mapValues(\.rawValue)
                state.reading = Task { [self] in await read(consumer) }
                return (consumer, true)
            }
            if !isMine { await consumer.close() }
            return kept
        } catch {
            await consumer.close()
            throw error
        }
    }

    private func read(_ consumer: Consumer) async {
        while !state.withLock({ $0.isClosed }) {
            let records: [ConsumerRecord]
            do {
                records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(100))
            } catch {
                logger.warning("reading \(topic) failed; trying again", metadata: ["error": "\(error)"])
                try? await Task.sleep(for: .milliseconds(500))
                continue
            }
            if !records.isEmpty { apply(records) }
            let ready = state.withLock { state -> [Waiter] in
                for key in state.positions.keys {
                    if let position = try? consumer.position(key) {
                        state.positions[key] = max(state.positions[key] ?? 0, position.rawValue)
                    }
                }
                guard !state.waiters.isEmpty else { return [] }
                let split = state.waiters.partition { Self.reaches(state.positions, $0.until) }
                defer { state.waiters.removeSubrange(split...) }
                return Array(state.waiters[split...])
            }
            for waiter in ready { waiter.continuation.resume() }
        }
        await consumer.close()
    }
}
