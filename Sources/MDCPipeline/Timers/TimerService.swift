// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Delivers the records of `mdc.timers` when they are due.
///
/// The partitions are shared out by a consumer group. The timers of a partition are read back from its floor (the oldest
/// timer that is set) before the first of them fires, so that a cancellation is never overlooked. A timer fires at least once:
/// its record is delivered first and marked as fired then. A delivery that may be the second says so.
final class TimerService: Role {
    let name = "timers"

    private struct Timer: Sendable {
        var partition: TopicPartition
        var offset: Int64
        var headers: TimerHeaders
        var value: ByteBuffer
        /// Since when its record may have been delivered before: it was due before its partition came to us, and who had the
        /// partition may have delivered it and died; or who set it says so.
        var again: Timestamp?
    }

    private struct State: Sendable {
        var queue = TimerQueue<String, Timer>()
        var floors: [TopicPartition: FloorTracker] = [:]
        /// Partitions that are being read back, and up to where.
        var loading: [TopicPartition: Int64] = [:]
        /// When the partitions came to us.
        var assignedAt: [TopicPartition: Timestamp] = [:]
    }

    private let consumer: Consumer
    private let writer: RecordWriter
    private let logger: Logger
    private let stopFlag = StopFlag()
    private let state = Mutex(State())

    init(consumer: Consumer, writer: RecordWriter, logger: Logger) {
        self.consumer = consumer
        self.writer = writer
        self.logger = logger
    }

    func stop() { stopFlag.set() }

    /// Timers that are set.
    var count: Int { state.withLock { $0.queue.count } }

    func run() async throws {
        try await consumer.subscribe(
            [Topics.timers],
            onAssigned: { [self] in await assigned($0) },
            onRevoked: { [self] in await revoked($0) },
            onLost: { [self] partitions in state.withLock { Self.drop(partitions, &$0) } }
        )
        var commitAt = SystemTime.now()
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(waitMilliseconds()))
            state.withLock { state in
                for record in records { Self.take(record, &state) }
            }
            finishLoading()
            try await fireDue()
            let now = SystemTime.now()
            if now - commitAt > 500 {
                commitAt = now
                await commit()
            }
        }
        await commit()
        await consumer.close()
    }

    /// How long there is nothing to do but listen.
    private func waitMilliseconds() -> Int64 {
        let now = SystemTime.now().rawValue
        return state.withLock { state in
            guard state.loading.isEmpty, let due = state.queue.nextDue else { return 200 }
            return min(200, max(0, due - now))
        }
    }

    private static func take(_ record: ConsumerRecord, _ state: inout State) {
        let partition = record.topicPartition
        let offset = record.offset.rawValue
        var floor = state.floors[partition] ?? FloorTracker(start: offset)
        defer { state.floors[partition] = floor }
        guard let id = record.key.map({ String(buffer: $0) }) else { return floor.passed(offset) }
        if let old = state.queue.cancel(id), old.partition == partition { floor.closed(old.offset) }
        guard let value = record.value, let headers = TimerHeaders(record.headers) else { return floor.passed(offset) }
        floor.opened(offset)
        let mayHaveFired = state.assignedAt[partition].map { headers.due <= $0 } ?? false
        let said = record.header(Records.againHeader).flatMap { Int64($0) }.map(Timestamp.init)
        state.queue.set(
            id,
            due: headers.due.rawValue,
            payload: Timer(
                partition: partition,
                offset: offset,
                headers: headers,
                value: value,
                again: said ?? (mayHaveFired ? headers.due : nil)
            )
        )
    }

    /// A partition is loaded when everything that was there at its assignment has been read.
    private func finishLoading() {
        let loading = state.withLock { $0.loading }
        for (partition, end) in loading {
            guard let position = try? consumer.position(partition), position.rawValue >= end else { continue }
            state.withLock { $0.loading[partition] = nil }
        }
    }

    private func fireDue() async throws {
        let now = SystemTime.now()
        let due = state.withLock { state -> [(id: String, timer: Timer)] in
            guard state.loading.isEmpty else { return [] }
            var due: [(String, Timer)] = []
            while due.count < 1_000, let first = state.queue.popDue(now: now.rawValue) {
                due.append((first.id, first.payload))
            }
            return due
        }
        guard !due.isEmpty else { return }
        try await writer.write(
            due.map {
                ProducerRecord(
                    topic: $0.timer.headers.topic,
                    key: ByteBuffer(string: $0.timer.headers.key),
                    value: $0.timer.value,
                    headers: $0.timer.again.map { [Records.again(since: $0)] } ?? []
                )
            }
        )
        try await writer.write(due.map { Records.timerEnd($0.id) })
        state.withLock { state in
            for (_, timer) in due { state.floors[timer.partition]?.closed(timer.offset) }
        }
    }

    private func commit() async {
        let offsets = state.withLock { state in
            state.floors.filter { state.loading[$0.key] == nil }.mapValues { OffsetAndMetadata(Offset($0.floor)) }
        }
        guard !offsets.isEmpty else { return }
        do {
            try await consumer.commit(offsets)
        } catch {
            logger.warning("committing timers failed; it is tried again", metadata: ["error": "\(error)"])
        }
    }

    // MARK: - Partitions come and go

    private func assigned(_ partitions: [TopicPartition]) async {
        // Until the ends are known, nothing of these partitions may fire.
        state.withLock { state in
            for partition in partitions {
                state.loading[partition] = .max
                state.assignedAt[partition] = SystemTime.now()
            }
        }
        let ends = await Retry.untilSuccess(logger, "reading the ends of the timers") {
            try await self.consumer.endOffsets(partitions)
        }
        state.withLock { state in
            for partition in partitions { state.loading[partition] = ends[partition]?.rawValue ?? 0 }
        }
    }

    private func revoked(_ partitions: [TopicPartition]) async {
        await commit()
        state.withLock { Self.drop(partitions, &$0) }
    }

    private static func drop(_ partitions: [TopicPartition], _ state: inout State) {
        let gone = Set(partitions)
        for partition in partitions {
            state.floors[partition] = nil
            state.loading[partition] = nil
            state.assignedAt[partition] = nil
        }
        state.queue.cancelAll { gone.contains($0.partition) }
    }
}

/// Repeats what must succeed before work can go on.
enum Retry {
    static func untilSuccess<Value: Sendable>(
        _ logger: Logger,
        _ what: String,
        _ body: @Sendable () async throws -> Value
    ) async -> Value {
        var pause = Duration.milliseconds(100)
        while true {
            do {
                return try await body()
            } catch {
                logger.warning("\(what) failed; trying again", metadata: ["error": "\(error)"])
                try? await Task.sleep(for: pause)
                pause = min(pause * 2, .seconds(5))
            }
        }
    }
}
