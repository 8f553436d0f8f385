// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Appends records and waits until all of them are durable.
struct RecordWriter: Sendable {
    let producer: Producer
    let logger: Logger

    /// Appends the records; returns when each of them is durable. What fails for a reason that passes is tried again, for as
    /// long as the task is not cancelled.
    ///
    /// - Throws: ``PipelineError`` with code `log` if the log refuses a record for good, or the producer is closed.
    func write(_ records: [ProducerRecord]) async throws(PipelineError) {
        var pending = records
        var pause = Duration.milliseconds(100)
        while !pending.isEmpty {
            let failed: [(record: ProducerRecord, error: ClientError)]
            do {
                failed = try await attempt(pending)
            } catch {
                throw PipelineError(.log, "cannot write to the log", cause: error)
            }
            guard let first = failed.first else { return }
            if failed.contains(where: { !Self.mayPass($0.error) }) || Task.isCancelled {
                throw PipelineError(.log, "the log refused a record of \(first.record.topic)", cause: first.error)
            }
            logger.warning(
                "writing to the log failed; trying again",
                metadata: ["records": "\(failed.count)", "topic": "\(first.record.topic)", "error": "\(first.error)"]
            )
            pending = failed.map(\.record)
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, .seconds(5))
        }
    }

    private static func mayPass(_ error: ClientError) -> Bool {
        error.isRetriable || error.code == .deliveryTimeout
    }

    private func attempt(_ records: [ProducerRecord]) async throws -> [(record: ProducerRecord, error: ClientError)] {
        let latch = AckLatch(count: records.count)
        for (index, record) in records.enumerated() {
            do {
                try await producer.enqueue(record) { result in latch.done(index, result) }
            } catch let error as ClientError {
                latch.done(index, .failure(error))
            }
        }
        return await latch.failures().map { (records[$0.index], $0.error) }
    }
}

/// Counts acknowledgements and wakes one waiter when the last has come.
private final class AckLatch: Sendable {
    private struct State {
        var missing: Int
        var failures: [(index: Int, error: ClientError)] = []
        var waiter: CheckedContinuation<Void, Never>?
    }

    private let state: Mutex<State>

    init(count: Int) { state = Mutex(State(missing: count)) }

    func done(_ index: Int, _ result: Result<RecordMetadata, ClientError>) {
        let waiter = state.withLock { state -> CheckedContinuation<Void, Never>? in
            if case .failure(let error) = result { state.failures.append((index, error)) }
            state.missing -= 1
            guard state.missing == 0 else { return nil }
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    func failures() async -> [(index: Int, error: ClientError)] {
        await withCheckedContinuation { continuation in
            let isDone = state.withLock { state -> Bool in
                if state.missing == 0 { return true }
                state.waiter = continuation
                return false
            }
            if isDone { continuation.resume() }
        }
        return state.withLock { $0.failures.sorted { $0.index < $1.index } }
    }
}

/// The forms of the centre's records.
enum Records {
    /// The header that names the writer of an event.
    static let writerHeader = "w"
    /// The header that says where the message of a result lies in its lane.
    static let sourceHeader = "src"
    /// The header of a delivery that may be a timer's second: since when the first may have been made, milliseconds.
    static let againHeader = "again"

    /// The header of a record that calls an attempt back.
    static let cancelHeader = "cancel"

    static func event(
        _ event: TimelineEvent,
        json: ByteBuffer? = nil,
        writer: String,
        source: String? = nil
    ) -> ProducerRecord {
        var headers = [RecordHeader(key: writerHeader, value: ByteBuffer(string: writer))]
        if let source { headers.append(RecordHeader(key: sourceHeader, value: ByteBuffer(string: source))) }
        return ProducerRecord(
            topic: Topics.events,
            key: ByteBuffer(string: event.messageID),
            value: json ?? event.json(),
            headers: headers,
            timestamp: event.at
        )
    }

    /// Calls an attempt back, if it has not been started: to the lane that it is in, so that one dispatcher decides.
    static func cancel(_ message: Message) -> ProducerRecord {
        var record = lane(message, json: message.json())
        record.headers.append(RecordHeader(key: cancelHeader, value: ByteBuffer()))
        return record
    }

    static func notice(_ notice: ProviderNotice) -> ProducerRecord {
        ProducerRecord(topic: Topics.providers, key: ByteBuffer(string: notice.key), value: notice.json())
    }

    static func lane(_ message: Message, json: ByteBuffer) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.dispatch(message.channel, message.lane),
            key: ByteBuffer(string: message.id),
            value: json
        )
    }

    /// A timer that delivers the message to its lane.
    static func timer(_ id: String, due: Timestamp, message: Message, json: ByteBuffer) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.timers,
            key: ByteBuffer(string: id),
            value: json,
            headers: TimerHeaders(
                due: due,
                topic: Topics.dispatch(message.channel, message.lane),
                key: message.id
            ).records
        )
    }

    /// Says that the record may have been delivered before, at `since` or later.
    static func again(since: Timestamp) -> RecordHeader {
        RecordHeader(key: againHeader, value: ByteBuffer(string: String(since.rawValue)))
    }

    /// Cancels a timer, or marks it as fired.
    static func timerEnd(_ id: String) -> ProducerRecord {
        ProducerRecord(topic: Topics.timers, key: ByteBuffer(string: id), value: nil)
    }

    static func retryTimerID(_ messageID: String, attempt: Int) -> String { "retry:\(messageID):\(attempt)" }
    static func quietTimerID(_ messageID: String, attempt: Int, due: Timestamp) -> String {
        "quiet:\(messageID):\(attempt):\(due.rawValue)"
    }
    static func sendAtTimerID(_ messageID: String) -> String { "send-at:\(messageID)" }

    static func deadLetter(_ record: ConsumerRecord, reason: String) -> ProducerRecord {
        let source = "\(record.topicPartition.topic):\(record.topicPartition.partition):\(record.offset)"
        return ProducerRecord(
            topic: Topics.deadLetter,
            key: record.key,
            value: record.value,
            headers: record.headers + [
                RecordHeader(key: "reason", value: ByteBuffer(string: reason)),
                RecordHeader(key: "source", value: ByteBuffer(string: source)),
            ]
        )
    }
}

extension ConsumerRecord {
    /// The text of a header; nil if it is not there.
    func header(_ key: String) -> String? {
        for header in headers where header.key == key { return header.value.map { String(buffer: $0) } }
        return nil
    }
}
