// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Windows of one length that follow each other, by event time, for one partition of a source: pure.
///
/// The watermark is the highest event time so far. A window is closed, and its results told, once the watermark has passed its end by
/// the grace; what comes for it later is late. Time of the clock plays no part, so the same records always give the same windows.
struct TumblingWindows {
    /// A window of one key.
    struct Slot: Hashable, Sendable {
        /// Its first millisecond.
        var start: Int64
        var key: ByteBuffer?
    }

    /// A closed window of one key.
    struct Closed: Hashable {
        var slot: Slot
        var aggregate: ByteBuffer
    }

    let size: Int64
    let grace: Int64
    private(set) var watermark = Int64.min
    private var open: [Int64: [ByteBuffer?: ByteBuffer]] = [:]

    /// `size` and `grace` in milliseconds.
    init(size: Int64, grace: Int64) {
        precondition(size > 0 && grace >= 0, "a window has a size, and a grace that is not negative")
        self.size = size
        self.grace = grace
    }

    /// The window that a time falls into.
    func start(of time: Timestamp) -> Int64 {
        let remainder = time.rawValue % size
        return time.rawValue - (remainder < 0 ? remainder + size : remainder)
    }

    /// Whether a record of this time comes too late.
    func isLate(_ time: Timestamp) -> Bool {
        watermark != .min && start(of: time) + size + grace <= watermark
    }

    func aggregate(_ slot: Slot) -> ByteBuffer? { open[slot.start]?[slot.key] }

    /// Sets what a window holds, which must not be late, and moves the watermark. Gives the windows that this closes, the oldest first.
    mutating func put(_ slot: Slot, _ aggregate: ByteBuffer, at time: Timestamp) -> [Closed] {
        open[slot.start, default: [:]][slot.key] = aggregate
        return advance(to: time.rawValue)
    }

    private mutating func advance(to time: Int64) -> [Closed] {
        guard time > watermark else { return [] }
        watermark = time
        var closed: [Closed] = []
        for start in open.keys.filter({ $0 + size + grace <= watermark }).sorted() {
            let keys = open.removeValue(forKey: start) ?? [:]
            closed += keys.map { Closed(slot: Slot(start: start, key: $0.key), aggregate: $0.value) }
                .sorted { Self.isBefore($0.slot.key, $1.slot.key) }
        }
        return closed
    }

    private static func isBefore(_ first: ByteBuffer?, _ second: ByteBuffer?) -> Bool {
        (first?.readableBytesView ?? ByteBufferView()).lexicographicallyPrecedes(
            second?.readableBytesView ?? ByteBufferView()
        )
    }

    /// Takes back what was kept.
    mutating func restore(_ slot: Slot, _ aggregate: ByteBuffer) {
        open[slot.start, default: [:]][slot.key] = aggregate
    }
    mutating func restore(watermark: Int64) { self.watermark = max(self.watermark, watermark) }

    /// How many windows of keys are open.
    var count: Int { open.values.reduce(0) { $0 + $1.count } }
}
