// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore

/// Takes drafts from `mdc.inbox`, where any Kafka client can put them, and submits them.
///
/// A draft without an idempotency key gets one made of its place in the log, so that reading it again after a crash does not
/// make a second message of it. What cannot be sent goes to the dead letters with the reason.
final class InboxService: Role {
    let name = "ingest"
    private let consumer: Consumer
    private let client: MessageClient
    private let writer: RecordWriter
    private let logger: Logger
    private let stopFlag = StopFlag()

    init(consumer: Consumer, client: MessageClient, writer: RecordWriter, logger: Logger) {
        self.consumer = consumer
        self.client = client
        self.writer = writer
        self.logger = logger
    }

    func stop() { stopFlag.set() }

    func run() async throws {
        try await consumer.subscribe([Topics.inbox])
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 1_000, timeout: .milliseconds(200))
            if records.isEmpty { continue }
            try await take(records)
            var offsets: [TopicPartition: OffsetAndMetadata] = [:]
            for record in records { offsets[record.topicPartition] = OffsetAndMetadata(record.offset + 1) }
            do {
                try await consumer.commit(offsets)
            } catch {
                logger.warning("committing the inbox failed", metadata: ["error": "\(error)"])
            }
        }
        await consumer.close()
    }

    private func take(_ records: [ConsumerRecord]) async throws {
        var drafts: [MessageDraft] = []
        var sources: [ConsumerRecord] = []
        var dead: [ProducerRecord] = []
        for record in records {
            do {
                guard let value = record.value else { throw PipelineError(.invalidDocument, "the record has no value") }
                var draft = try MessageDraft(json: value)
                if draft.idempotencyKey == nil, draft.id == nil {
                    let place = record.topicPartition
                    draft.idempotencyKey = "inbox:\(place.topic):\(place.partition):\(record.offset)"
                }
                drafts.append(draft)
                sources.append(record)
            } catch {
                dead.append(Records.deadLetter(record, reason: "\(error)"))
            }
        }
        while !drafts.isEmpty {
            let results = await client.submit(drafts)
            var again: [MessageDraft] = []
            var againSources: [ConsumerRecord] = []
            for (index, result) in results.enumerated() {
                guard case .failure(let error) = result else { continue }
                if error.code == .invalidMessage || error.code == .conflict {
                    dead.append(Records.deadLetter(sources[index], reason: error.message))
                } else {
                    again.append(drafts[index])
                    againSources.append(sources[index])
                }
            }
            (drafts, sources) = (again, againSources)
            guard !drafts.isEmpty else { break }
            if stopFlag.isSet { throw PipelineError(.closed, "stopped before the inbox could be written on") }
            try await Task.sleep(for: .milliseconds(500))
        }
        if !dead.isEmpty { try await writer.write(dead) }
    }
}
