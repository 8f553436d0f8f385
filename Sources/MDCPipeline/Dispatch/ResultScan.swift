// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore

/// Looks up which attempts have a result on `mdc.events` since a point in time.
///
/// Used once after a crash: an attempt that was taken and has a result is not made again.
struct ResultScan: Sendable {
    let configuration: ConsumerConfiguration
    let eventLoopGroup: any EventLoopGroup
    let logger: Logger

    /// The attempts with a result of a dispatcher, written at or after `since` (less a margin for clocks).
    func results(since: Timestamp) async -> [MessageReference] {
        await Retry.untilSuccess(logger, "looking up results") {
            var configuration = configuration
            configuration.groupID = nil
            let consumer = try Consumer(configuration, eventLoopGroup: eventLoopGroup, logger: logger)
            do {
                let results = try await read(consumer, since: since + -5_000)
                await consumer.close()
                return results
            } catch {
                await consumer.close()
                throw error
            }
        }
    }

    private func read(_ consumer: Consumer, since: Timestamp) async throws -> [MessageReference] {
        let partitions = (0..<Int32(Topics.keyedPartitions)).map {
            TopicPartition(topic: Topics.events, partition: PartitionID($0))
        }
        let starts = try await consumer.offsetsForTimes(
            Dictionary(uniqueKeysWithValues: partitions.map { ($0, since) })
        )
        guard !starts.isEmpty else { return [] }
        let ends = try await consumer.endOffsets(Array(starts.keys))
        try await consumer.assign(starts.mapValues(\.offset))
        var open = Set(starts.keys)
        var results: [MessageReference] = []
        var progress = ContinuousClock.now
        while !open.isEmpty {
            let records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(100))
            if !records.isEmpty { progress = .now }
            guard ContinuousClock.now - progress < .seconds(5) else {
                throw PipelineError(.log, "nothing of \(Topics.events) has come for five seconds")
            }
            for record in records {
                guard let value = record.value, let event = try? TimelineEvent(json: value),
                    event.component == "dispatcher", event.kind != .redelivered, event.kind != .rerouted,
                    event.kind != .cancelRefused, event.kind != .scheduled
                else { continue }
                results.append(MessageReference(messageID: event.messageID, attempt: event.attempt))
            }
            for partition in open {
                guard let end = ends[partition], let position = try consumer.position(partition), position < end else {
                    open.remove(partition)
                    continue
                }
            }
        }
        return results
    }
}
