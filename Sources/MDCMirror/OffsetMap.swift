// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Records with neighbouring offsets on both sides.
public struct OffsetRun: Sendable, Hashable {
    /// Offset of the first at the source.
    public var source: Offset
    /// Offset of the first at the target.
    public var target: Offset
    /// How many there are.
    public var count: Int64

    /// Makes a run.
    public init(source: Offset, target: Offset, count: Int64) {
        self.source = source
        self.target = target
        self.count = count
    }

    /// The source offset behind the last.
    public var sourceEnd: Offset { source + count }
    /// The target offset behind the last.
    public var targetEnd: Offset { target + count }
}

/// Which offset at the target belongs to one at the source, for one partition: pure, in bounded memory.
///
/// Runs are numbered from 0 in the order of their offsets. Those of each level (trailing zero bits of the number) share a ring of slots, so that
/// the youngest are all there and of the older ones ever fewer. What is not there is answered by the end of the run before it, which is never too far.
public struct OffsetMap: Sendable, Equatable {
    /// Slots of each level.
    public static let slots = 256
    /// The highest level; number 0 and all multiples of 2^20 share it.
    public static let topLevel = 20

    /// A run and its number.
    public struct Entry: Sendable, Hashable {
        /// The run's number.
        public var number: UInt64
        /// The run.
        public var run: OffsetRun

        /// Makes an entry.
        public init(number: UInt64, run: OffsetRun) {
            self.number = number
            self.run = run
        }

        /// The level that keeps it.
        public var level: Int {
            number == 0 ? OffsetMap.topLevel : min(number.trailingZeroBitCount, OffsetMap.topLevel)
        }
        /// How far apart the numbers of its level are.
        var spacing: UInt64 { 1 << UInt64(level == OffsetMap.topLevel ? level : level + 1) }
        /// Its place in the ring of its level.
        public var slot: Int {
            // Number 0 stays for good: it says where the mirror began.
            number == 0 ? OffsetMap.slots : Int(number / spacing % UInt64(OffsetMap.slots))
        }
    }

    /// What is kept, by number.
    public private(set) var entries: [Entry] = []
    /// The number of the next run.
    public private(set) var next: UInt64 = 0

    /// An empty map.
    public init() {}

    /// Adds the runs of a transaction, in order of their offsets. Returns them with their numbers, to be stored.
    public mutating func append(_ runs: [OffsetRun]) -> [Entry] {
        runs.map { run in
            let entry = Entry(number: next, run: run)
            insert(entry)
            return entry
        }
    }

    /// Puts an entry back that was stored, in any order; it takes the place of an older one in its slot.
    public mutating func insert(_ entry: Entry) {
        next = max(next, entry.number + 1)
        let period = UInt64(Self.slots) * entry.spacing
        if entry.number > period {
            // Where the one before it in the slot is; it need not be there.
            let replaced = entry.number - period
            let index = position(of: replaced)
            if replaced > 0, index < entries.count, entries[index].number == replaced { entries.remove(at: index) }
        }
        let index = position(of: entry.number)
        if index < entries.count, entries[index].number == entry.number {
            entries[index] = entry
        } else {
            entries.insert(entry, at: index)
        }
    }

    private func position(of number: UInt64) -> Int {
        partition { $0.number >= number }
    }

    /// The first index at which `isBehind` holds; it holds from there on.
    private func partition(_ isBehind: (Entry) -> Bool) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if isBehind(entries[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// Where a reader that is at `source` goes on at the target: the offset of that record or of one before it, never behind it. Nil
    /// where nothing was mirrored yet.
    public func translate(_ source: Offset) -> Offset? {
        guard let first = entries.first else { return nil }
        let index = partition { $0.run.source > source }
        // Older than all that was mirrored: it begins with the first that was.
        guard index > 0 else { return first.run.target }
        let run = entries[index - 1].run
        return source < run.sourceEnd ? run.target + (source - run.source) : run.targetEnd
    }

    /// The other way: where a reader that is at `target` goes on at the source, never behind what it has not read. Nil where nothing was mirrored.
    public func translateBack(_ target: Offset) -> Offset? {
        guard let first = entries.first else { return nil }
        let index = partition { $0.run.target > target }
        guard index > 0 else { return first.run.source }
        let run = entries[index - 1].run
        return target < run.targetEnd ? run.source + (target - run.target) : run.sourceEnd
    }

    /// The target offset behind all that was mirrored.
    public var targetEnd: Offset? { entries.last?.run.targetEnd }

    /// The runs of records that were written to one partition in one transaction, in order of the source; those whose target offset is not
    /// known (below 0) end a run.
    public static func runs(_ placed: [(source: Offset, target: Offset)]) -> [OffsetRun] {
        var runs: [OffsetRun] = []
        for (source, target) in placed where target >= 0 {
            if let last = runs.last, last.sourceEnd == source, last.targetEnd == target {
                runs[runs.count - 1].count += 1
            } else {
                runs.append(OffsetRun(source: source, target: target, count: 1))
            }
        }
        return runs
    }
}
