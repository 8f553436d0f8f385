// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Sparse map from offset to file position: the content of Kafka's `.index`.
///
/// An entry says: the batch at `position` ends with an offset of at most `base + relativeOffset`. Entries grow in
/// both fields.
struct OffsetIndex: Sendable, Equatable {
    struct Entry: Sendable, Equatable {
        var relativeOffset: Int32
        var position: Int32
    }
    static let entrySize = 8

    let baseOffset: Offset
    private(set) var entries: ContiguousArray<Entry> = []
    /// Of the encoded entries; kept up with each one, so that a checkpoint need not go over them all.
    private(set) var checksum: UInt32 = 0

    init(baseOffset: Offset) { self.baseOffset = baseOffset }

    var sizeInBytes: Int { entries.count * Self.entrySize }

    mutating func append(lastOffset: Offset, position: Int) {
        let relative = Int32(truncatingIfNeeded: lastOffset - baseOffset)
        if let last = entries.last, last.relativeOffset >= relative { return }
        let entry = Entry(relativeOffset: relative, position: Int32(truncatingIfNeeded: position))
        entries.append(entry)
        var bytes = (entry.relativeOffset.bigEndian, entry.position.bigEndian)
        checksum = withUnsafeBytes(of: &bytes) { CRC32C.extend(checksum, UnsafeRawBufferPointer($0)) }
    }

    /// Position of a batch boundary at or before the batch that holds `offset`; 0 where no entry is that early.
    func floor(of offset: Offset) -> Int {
        let relative = offset - baseOffset
        let count = entries.partitionPoint { Int64($0.relativeOffset) > relative }
        return count == 0 ? 0 : Int(entries[count - 1].position)
    }

    /// The last batch boundary at or before `position` that is known; 0 where none is.
    func boundary(atOrBefore position: Int) -> Int {
        let count = entries.partitionPoint { Int($0.position) > position }
        return count == 0 ? 0 : Int(entries[count - 1].position)
    }

    /// Position of the last entry; 0 where there is none.
    var lastPosition: Int { entries.last.map { Int($0.position) } ?? 0 }

    func encode() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(sizeInBytes)
        for entry in entries {
            bytes.appendInteger(entry.relativeOffset)
            bytes.appendInteger(entry.position)
        }
        return bytes
    }

    /// Reads an index file; nil where its entries cannot be those of a segment of `logSize` bytes.
    init?(baseOffset: Offset, decoding bytes: [UInt8], logSize: Int) {
        self.init(baseOffset: baseOffset)
        guard bytes.count % Self.entrySize == 0 else { return nil }
        entries.reserveCapacity(bytes.count / Self.entrySize)
        for start in stride(from: 0, to: bytes.count, by: Self.entrySize) {
            let entry = Entry(relativeOffset: bytes.integer(at: start), position: bytes.integer(at: start + 4))
            guard entry.relativeOffset >= 0, entry.position >= 0, Int(entry.position) < logSize else { return nil }
            if let last = entries.last,
                last.relativeOffset >= entry.relativeOffset || last.position >= entry.position
            {
                return nil
            }
            entries.append(entry)
        }
        checksum = bytes.checksum
    }
}

/// Sparse map from timestamp to offset: the content of Kafka's `.timeindex`.
///
/// An entry says: no record up to `base + relativeOffset` has a larger timestamp. Entries grow in both fields.
struct TimeIndex: Sendable, Equatable {
    struct Entry: Sendable, Equatable {
        var timestamp: Timestamp
        var relativeOffset: Int32
    }
    static let entrySize = 12

    let baseOffset: Offset
    private(set) var entries: ContiguousArray<Entry> = []
    /// Of the encoded entries; kept up with each one, so that a checkpoint need not go over them all.
    private(set) var checksum: UInt32 = 0

    init(baseOffset: Offset) { self.baseOffset = baseOffset }

    var sizeInBytes: Int { entries.count * Self.entrySize }

    /// Adds an entry unless the largest timestamp is unchanged since the last one.
    mutating func append(timestamp: Timestamp, offset: Offset) {
        let last = entries.last
        guard timestamp > last?.timestamp ?? .none else { return }
        let relative = Int32(truncatingIfNeeded: offset - baseOffset)
        if let last, last.relativeOffset >= relative { return }
        entries.append(Entry(timestamp: timestamp, relativeOffset: relative))
        var bytes = (timestamp.rawValue.bigEndian, relative.bigEndian)
        checksum = withUnsafeBytes(of: &bytes) { CRC32C.extend(checksum, UnsafeRawBufferPointer($0)) }
    }

    /// An offset before which every record is older than `timestamp`.
    func offset(before timestamp: Timestamp) -> Offset {
        let count = entries.partitionPoint { $0.timestamp >= timestamp }
        return count == 0 ? baseOffset : baseOffset + Int64(entries[count - 1].relativeOffset)
    }

    func encode() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(sizeInBytes)
        for entry in entries {
            bytes.appendInteger(entry.timestamp.rawValue)
            bytes.appendInteger(entry.relativeOffset)
        }
        return bytes
    }

    /// Reads an index file; nil where its entries contradict each other.
    init?(baseOffset: Offset, decoding bytes: [UInt8]) {
        self.init(baseOffset: baseOffset)
        guard bytes.count % Self.entrySize == 0 else { return nil }
        entries.reserveCapacity(bytes.count / Self.entrySize)
        for start in stride(from: 0, to: bytes.count, by: Self.entrySize) {
            let entry = Entry(
                timestamp: Timestamp(bytes.integer(at: start, as: Int64.self)),
                relativeOffset: bytes.integer(at: start + 8)
            )
            guard entry.relativeOffset >= 0 else { return nil }
            if let last = entries.last,
                last.timestamp >= entry.timestamp || last.relativeOffset >= entry.relativeOffset
            {
                return nil
            }
            entries.append(entry)
        }
        checksum = bytes.checksum
    }
}

/// The last batches of the active segment, exactly: what consumers at the tail read needs no walk.
struct RecentBatches: Sendable {
    struct Entry: Sendable {
        var baseOffset: Offset
        var nextOffset: Offset
        var position: Int
    }
    private static let capacity = 128
    /// A ring once it is full; `first` is the oldest.
    private var ring: ContiguousArray<Entry> = []
    private var first = 0

    var count: Int { ring.count }

    private subscript(index: Int) -> Entry {
        let place = first + index
        return ring[place < ring.count ? place : place - ring.count]
    }

    mutating func append(_ entry: Entry) {
        if ring.count < Self.capacity {
            if ring.isEmpty { ring.reserveCapacity(Self.capacity) }
            ring.append(entry)
        } else {
            ring[first] = entry
            first = first + 1 == ring.count ? 0 : first + 1
        }
    }

    mutating func removeAll() {
        ring.removeAll()
        first = 0
    }

    /// The first batch that ends after `offset`; nil where it may be older than the ring.
    func batch(holding offset: Offset) -> Entry? {
        let index = partitionPoint { $0.nextOffset > offset }
        guard index < ring.count, index > 0 || self[0].baseOffset <= offset else { return nil }
        return self[index]
    }

    /// The last batch that begins at or before `position`; nil where it is older than the ring.
    func batch(atOrBefore position: Int) -> Entry? {
        let index = partitionPoint { $0.position > position }
        return index == 0 ? nil : self[index - 1]
    }

    private func partitionPoint(_ isAfter: (Entry) -> Bool) -> Int {
        (0..<ring.count).partitionPoint { isAfter(self[$0]) }
    }
}

extension RandomAccessCollection {
    /// The first index whose element satisfies `isAfter`, where all before it do not and all from it on do.
    func partitionPoint(_ isAfter: (Element) -> Bool) -> Index {
        var low = startIndex
        var length = count
        while length > 0 {
            let half = length / 2
            let middle = index(low, offsetBy: half)
            if isAfter(self[middle]) {
                length = half
            } else {
                low = index(after: middle)
                length -= half + 1
            }
        }
        return low
    }
}
