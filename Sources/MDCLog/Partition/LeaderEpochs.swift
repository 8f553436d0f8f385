// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Where each leader epoch began: the content of `leader-epoch-checkpoint`. Source: KIP-101, KIP-279.
struct LeaderEpochs: Sendable, Equatable {
    struct Entry: Sendable, Equatable {
        var epoch: LeaderEpoch
        var startOffset: Offset
    }

    /// Growing in both fields.
    private(set) var entries: [Entry] = []

    init() {}

    var latest: LeaderEpoch { entries.last?.epoch ?? .unknown }

    /// Takes note that `epoch` began at `offset`; tells whether that was news.
    mutating func begin(_ epoch: LeaderEpoch, at offset: Offset) -> Bool {
        guard epoch > latest else { return false }
        // An epoch that got no record is forgotten once a later one begins at the same offset or before.
        while let last = entries.last, last.startOffset >= offset { entries.removeLast() }
        entries.append(Entry(epoch: epoch, startOffset: offset))
        return true
    }

    /// The largest epoch up to `epoch` and the offset where it ended; (-1, -1) where nothing is known of it.
    func end(of epoch: LeaderEpoch, logEnd: Offset) -> (LeaderEpoch, Offset) {
        guard epoch >= 0, let last = entries.last else { return (.unknown, -1) }
        if epoch == last.epoch { return (epoch, logEnd) }
        let next = entries.partitionPoint { $0.epoch > epoch }
        if next == entries.count { return (.unknown, -1) }
        return (next == 0 ? epoch : entries[next - 1].epoch, entries[next].startOffset)
    }

    /// The epoch in which `offset` was appended.
    func epoch(at offset: Offset) -> LeaderEpoch {
        let next = entries.partitionPoint { $0.startOffset > offset }
        return next == 0 ? .unknown : entries[next - 1].epoch
    }

    /// Forgets epochs that began at or after `offset`.
    mutating func truncate(to offset: Offset) -> Bool {
        let count = entries.count
        entries.removeAll { $0.startOffset >= offset }
        return entries.count != count
    }

    /// Forgets epochs that ended at or before `offset`; the one that covers it now begins there.
    mutating func removeBefore(_ offset: Offset) -> Bool {
        let covering = entries.partitionPoint { $0.startOffset > offset }
        guard covering > 0, covering > 1 || entries[0].startOffset < offset else { return false }
        entries.removeFirst(covering - 1)
        entries[0].startOffset = offset
        return true
    }

    // MARK: File

    /// Version (0), number of entries, and a line `epoch startOffset` each.
    func encode() -> [UInt8] {
        var text = "0\n\(entries.count)\n"
        for entry in entries { text += "\(entry.epoch) \(entry.startOffset)\n" }
        return Array(text.utf8)
    }

    /// Reads a checkpoint; nil where it is damaged.
    init?(decoding bytes: [UInt8]) {
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: true)
        guard lines.count >= 2, lines[0].elementsEqual("0".utf8),
            let count = Int(String(decoding: lines[1], as: UTF8.self)), count == lines.count - 2
        else { return nil }
        for line in lines.dropFirst(2) {
            let words = line.split(separator: UInt8(ascii: " "))
            guard words.count == 2, let epoch = Int32(String(decoding: words[0], as: UTF8.self)),
                let offset = Int64(String(decoding: words[1], as: UTF8.self)), epoch >= 0, offset >= 0
            else { return nil }
            if let last = entries.last, last.epoch.rawValue >= epoch || last.startOffset.rawValue > offset {
                return nil
            }
            entries.append(Entry(epoch: LeaderEpoch(epoch), startOffset: Offset(offset)))
        }
    }
}
