// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore

/// Reads what is known of single messages from the log: documents from their lanes, submissions and ends from the timelines.
struct LaneLookup: Sendable {
    let configuration: ConsumerConfiguration
    let eventLoopGroup: any EventLoopGroup
    let logger: Logger

    /// What the timelines say of some messages.
    struct Knowledge: Sendable {
        var submitted: Set<String> = []
        var ended: [String: MessageStatus] = [:]
    }

    private func consumer() throws -> Consumer {
        var configuration = configuration
        configuration.groupID = nil
        return try Consumer(configuration, eventLoopGroup: eventLoopGroup, logger: logger)
    }

    /// The message at `<topic>:<partition>:<offset>`; nil if there is none (any more).
    func message(at source: String) async -> Message? {
        let parts = source.split(separator: ":")
        guard parts.count == 3, let partition = Int32(parts[1]), let offset = Int64(parts[2]) else { return nil }
        do {
            let consumer = try consumer()
            let place = TopicPartition(topic: String(parts[0]), partition: PartitionID(partition))
            try await consumer.assign([place: Offset(offset)])
            let records = try await consumer.poll(maxRecords: 1, timeout: .seconds(2))
            await consumer.close()
            guard let value = records.first?.value else { return nil }
            return try Message(json: value)
        } catch {
            logger.warning(
                "a message cannot be read from its lane",
                metadata: ["at": "\(source)", "error": "\(error)"]
            )
            return nil
        }
    }

    /// What the timelines say of these messages since they were made; nil if they could not be read, or no message is given.
    func knowledge(of messages: [Message], of partitions: Set<Int32>) async -> Knowledge? {
        guard let since = messages.map(\.createdAt).min() else { return nil }
        do {
            let consumer = try consumer()
            do {
                let knowledge = try await read(
                    consumer,
                    Set(messages.map(\.id)),
                    // Less a margin: the clock of who submitted may go before.
                    since: since + -5_000,
                    partitions.map { TopicPartition(topic: Topics.events, partition: PartitionID($0)) }
                )
                await consumer.close()
                return knowledge
            } catch {
                await consumer.close()
                throw error
            }
        } catch {
            logger.warning("timelines cannot be read; it is tried again", metadata: ["error": "\(error)"])
            return nil
        }
    }

    private func read(
        _ consumer: Consumer,
        _ wanted: Set<String>,
        since: Timestamp,
        _ partitions: [TopicPartition]
    ) async throws -> Knowledge {
        var knowledge = Knowledge()
        let starts = try await consumer.offsetsForTimes(
            Dictionary(uniqueKeysWithValues: partitions.map { ($0, since) })
        )
        guard !starts.isEmpty else { return knowledge }
        let ends = try await consumer.endOffsets(Array(starts.keys))
        try await consumer.assign(starts.mapValues(\.offset))
        var progress = ContinuousClock.now
        while try ends.contains(where: { try consumer.position($0.key).map { [end = $0.value] in $0 < end } ?? false })
        {
            let records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(100))
            if !records.isEmpty { progress = .now }
            guard ContinuousClock.now - progress < .seconds(5) else {
                throw PipelineError(.log, "nothing of \(Topics.events) has come for five seconds")
            }
            for record in records {
                guard let key = record.key, wanted.contains(String(buffer: key)),
                    let event = record.value.flatMap({ try? TimelineEvent(json: $0) })
                else { continue }
                if event.kind == .submitted { knowledge.submitted.insert(event.messageID) }
                if let status = event.status, status.isFinal, knowledge.ended[event.messageID] == nil {
                    knowledge.ended[event.messageID] = status
                }
            }
        }
        return knowledge
    }
}
