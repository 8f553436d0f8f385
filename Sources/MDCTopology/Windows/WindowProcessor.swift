// SPDX-License-Identifier: Apache-2.0

import MDCModel
public import NIOCore
import Synchronization

extension Topology {
    /// Adds a stage of tumbling windows by event time: one aggregate for each key in each window.
    ///
    /// When a window is closed (an event time of the same partition of the source and the same task has passed its end by `grace`) its
    /// aggregates are emitted: the key, the aggregate, the headers `window.start` and `window.end` (milliseconds) and the window's last
    /// millisecond as event time. Records that come later still go to the stream ``lateStream``. Windows are kept on a changelog.
    ///
    /// - Parameters:
    ///   - size: Of a window; at least a millisecond.
    ///   - grace: How far out of order records may be.
    ///   - reduce: The aggregate (nil: the first of its window) with a record added.
    public mutating func window(
        _ name: String,
        from inputs: [String],
        parallelism: Int = 1,
        size: Duration,
        grace: Duration = .zero,
        reduce: @escaping @Sendable (ByteBuffer?, StreamRecord) throws -> ByteBuffer
    ) {
        let options = ProcessorOptions(grouping: .byKey, parallelism: parallelism, isStateful: true)
        processor(name, from: inputs, options: options) { index in
            WindowProcessor(
                size: size.milliseconds,
                grace: grace.milliseconds,
                hasUnkeyed: Grouping.byKey.task(for: nil, turn: 0, of: parallelism) == index,
                reduce: reduce
            )
        }
    }

    /// A reduction for ``window(_:from:parallelism:size:grace:reduce:)``: how many records there were, as decimal text.
    public static func count(_ aggregate: ByteBuffer?, _ record: StreamRecord) -> ByteBuffer {
        let before = aggregate.flatMap { Int(String(buffer: $0)) } ?? 0
        return ByteBuffer(string: String(before + 1))
    }
}

/// Windows of one task, over all partitions of sources that this worker reads.
final class WindowProcessor: Processor {
    /// The entry that has the watermark of a partition. Windows' entries have 8 bytes more.
    private static let watermarkKey = StateKey(owner: nil, suffix: ByteBuffer(string: "watermark"))

    private let size: Int64
    private let grace: Int64
    /// Whether records without a key come to this task.
    private let hasUnkeyed: Bool
    private let reduce: @Sendable (ByteBuffer?, StreamRecord) throws -> ByteBuffer
    private let partitions = Mutex<[TopicPartition: TumblingWindows]>([:])

    init(
        size: Int64,
        grace: Int64,
        hasUnkeyed: Bool,
        reduce: @escaping @Sendable (ByteBuffer?, StreamRecord) throws -> ByteBuffer
    ) {
        self.hasUnkeyed = hasUnkeyed
        self.size = max(size, 1)
        self.grace = max(grace, 0)
        self.reduce = reduce
    }

    private static func key(_ slot: TumblingWindows.Slot) -> StateKey {
        StateKey(owner: slot.key, suffix: ByteBuffer(integer: slot.start))
    }

    func assigned(_ partition: TopicPartition, state: [StateEntry]) {
        var windows = TumblingWindows(size: size, grace: grace)
        for entry in state {
            if entry.key == Self.watermarkKey {
                if let time = entry.value.getInteger(at: entry.value.readerIndex, as: Int64.self) {
                    windows.restore(watermark: time)
                }
            } else if entry.key.owner != nil || hasUnkeyed,
                let start = entry.key.suffix.getInteger(at: entry.key.suffix.readerIndex, as: Int64.self)
            {
                windows.restore(.init(start: start, key: entry.key.owner), entry.value)
            }
        }
        partitions.withLock { [windows] in $0[partition] = windows }
    }

    func revoked(_ partition: TopicPartition) { partitions.withLock { $0[partition] = nil } }

    func process(_ record: StreamRecord, _ context: ProcessorContext) async throws {
        guard let source = context.source else { return }
        let (isLate, slot, before) = partitions.withLock { partitions in
            let windows = partitions[source.partition] ?? TumblingWindows(size: size, grace: grace)
            let slot = TumblingWindows.Slot(start: windows.start(of: record.timestamp), key: record.key)
            return (windows.isLate(record.timestamp), slot, windows.aggregate(slot))
        }
        if isLate {
            context.emit(record, stream: Topology.lateStream)
            return
        }
        let aggregate = try reduce(before, record)
        // Nothing throws from here on, so what the machine and the changelog hold stays the same.
        let (closed, watermark) = partitions.withLock { partitions in
            var windows = partitions[source.partition] ?? TumblingWindows(size: size, grace: grace)
            let closed = windows.put(slot, aggregate, at: record.timestamp)
            partitions[source.partition] = windows
            return (closed, windows.watermark)
        }
        context.set(Self.key(slot), aggregate)
        for window in closed {
            context.set(Self.key(window.slot), nil)
            context.emit(result(window))
        }
        if watermark == record.timestamp.rawValue { keep(watermark, context) }
    }

    /// Tasks share the entry: the highest counts, and all go on from there.
    private func keep(_ watermark: Int64, _ context: ProcessorContext) {
        let kept = context.value(Self.watermarkKey).flatMap { $0.getInteger(at: $0.readerIndex, as: Int64.self) }
        if watermark > kept ?? .min { context.set(Self.watermarkKey, ByteBuffer(integer: watermark)) }
    }

    private func result(_ window: TumblingWindows.Closed) -> StreamRecord {
        let end = window.slot.start + size
        return StreamRecord(
            key: window.slot.key,
            value: window.aggregate,
            headers: [
                RecordHeader(key: "window.start", value: ByteBuffer(string: String(window.slot.start))),
                RecordHeader(key: "window.end", value: ByteBuffer(string: String(end))),
            ],
            timestamp: Timestamp(end - 1)
        )
    }
}

extension Duration {
    /// Whole milliseconds.
    var milliseconds: Int64 { components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000 }
    /// Seconds with a fraction.
    var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}
