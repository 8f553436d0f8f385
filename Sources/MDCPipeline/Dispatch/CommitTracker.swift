// SPDX-License-Identifier: Apache-2.0

import DequeModule

/// Which records of one partition are done, when they are done out of order; and what to commit.
///
/// Pure. The commit is the offset of the first record that is not done; its metadata says how far records were taken
/// (declared before they are acted upon) and which of the taken are done. A successor restores it and knows for each record
/// whether it is done, was never touched, or may have been acted upon.
public struct CommitTracker: Sendable, Equatable {
    /// The offset that is committed: all before it is done.
    public private(set) var committable: Int64
    /// Records before this offset may have been acted upon.
    public private(set) var taken: Int64
    /// Offsets from `committable` on that are tracked, in order, and whether each is done.
    private var window: Deque<Entry> = []
    /// Done offsets of a predecessor, not yet read again.
    private var restoredDone: Set<Int64> = []
    /// Before this offset, what is not done may have been acted upon by a predecessor.
    private let doubtfulBefore: Int64

    private struct Entry: Sendable, Equatable {
        var offset: Int64
        var isDone: Bool
    }

    /// The most offsets between the commit and `taken` that metadata can describe: 2048 bits, 344 characters.
    public static let spanMax: Int64 = 2048

    /// Starts at an offset with nothing taken.
    public init(start: Int64) {
        committable = start
        taken = start
        doubtfulBefore = start
    }

    /// Restores what a predecessor committed; metadata that is not ours counts as none.
    public init(committed: Int64, metadata: String?) {
        committable = committed
        guard let metadata, let (taken, done) = Self.decode(metadata, base: committed), taken >= committed else {
            self.taken = committed
            doubtfulBefore = committed
            return
        }
        self.taken = taken
        doubtfulBefore = taken
        restoredDone = done
    }

    /// How a record that was read relates to a predecessor.
    public enum Origin: Sendable, Equatable {
        /// Done: nothing to do.
        case done
        /// Never acted upon.
        case new
        /// Taken by a predecessor that did not finish it.
        case doubtful
    }

    /// Whether a predecessor left records in doubt.
    public var hasDoubtful: Bool { doubtfulBefore > committable }

    /// Notes a record that was read. Offsets must come in order; gaps (compaction, control records) are fine.
    public mutating func read(_ offset: Int64) -> Origin {
        guard offset >= committable, window.last.map({ offset > $0.offset }) ?? true else { return .done }
        // What lies between the commit and the first record that there is, is nothing to wait for.
        if window.isEmpty {
            committable = offset
            taken = max(taken, offset)
        }
        if restoredDone.remove(offset) != nil {
            window.append(Entry(offset: offset, isDone: true))
            drain()
            return .done
        }
        window.append(Entry(offset: offset, isDone: false))
        return offset < doubtfulBefore ? .doubtful : .new
    }

    /// Declares that records up to and including the offset may now be acted upon; counts once committed.
    public mutating func take(through offset: Int64) {
        taken = max(taken, offset + 1)
    }

    /// Takes the declaration back, for records that were not acted upon after all (a shutdown in good order).
    public mutating func untake(from offset: Int64) {
        taken = max(committable, min(taken, offset))
    }

    /// Notes that a record is done. Repeating it is harmless.
    public mutating func complete(_ offset: Int64) {
        guard let index = index(of: offset) else { return }
        window[index].isDone = true
        if index == 0 { drain() }
    }

    /// Records read and not done.
    public var openCount: Int { window.reduce(0) { $0 + ($1.isDone ? 0 : 1) } }

    /// Whether anything was read that is not committed as done.
    public var isEmpty: Bool { window.isEmpty }

    /// Offsets between the commit and the last record read: to be kept within ``spanMax``.
    public var span: Int64 { (window.last?.offset ?? committable) - committable }

    private mutating func drain() {
        while let first = window.first, first.isDone {
            window.removeFirst()
            // Up to the next tracked record there is nothing of ours to do.
            committable = window.first?.offset ?? first.offset + 1
        }
        taken = max(taken, committable)
    }

    private func index(of offset: Int64) -> Int? {
        var low = 0
        var high = window.count
        while low < high {
            let middle = (low + high) / 2
            if window[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < window.count && window[low].offset == offset ? low : nil
    }

    // MARK: - Metadata

    /// `1:<taken - committable>:<hexadecimal bitmap of done offsets from committable on>`.
    public var metadata: String {
        guard taken > committable else { return "" }
        var bits: [UInt8] = []
        for entry in window where entry.isDone { Self.set(entry.offset - committable, in: &bits) }
        for offset in restoredDone { Self.set(offset - committable, in: &bits) }
        return "1:\(taken - committable):\(Self.text(bits))"
    }

    private static func set(_ bit: Int64, in bits: inout [UInt8]) {
        guard bit >= 0, bit < spanMax else { return }
        let byte = Int(bit / 6)
        while bits.count <= byte { bits.append(0) }
        bits[byte] |= 1 << UInt8(bit % 6)
    }

    // Six bits a character, from '0' on, leaving out nothing: '0'...'o' are 64 printable characters.
    private static func text(_ bits: [UInt8]) -> String {
        String(decoding: bits.map { $0 + 0x30 }, as: UTF8.self)
    }

    private static func decode(_ metadata: String, base: Int64) -> (taken: Int64, done: Set<Int64>)? {
        guard metadata.hasPrefix("1:"), let colon = metadata.dropFirst(2).firstIndex(of: ":"),
            let span = Int64(metadata.dropFirst(2)[..<colon]), span >= 0
        else { return nil }
        var done: Set<Int64> = []
        for (index, character) in metadata[metadata.index(after: colon)...].utf8.enumerated() {
            guard character >= 0x30, character < 0x70 else { return nil }
            for bit in 0..<6 where (character - 0x30) & (1 << UInt8(bit)) != 0 {
                done.insert(base + Int64(index * 6 + bit))
            }
        }
        return (base + span, done)
    }
}
