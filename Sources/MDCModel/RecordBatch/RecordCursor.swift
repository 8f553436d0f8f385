// SPDX-License-Identifier: Apache-2.0

/// A record in place: the numbers, and pointers into the batch. Valid only as long as the bytes it was read from,
/// that is, inside the closure or loop that got it.
public struct RecordView {
    /// The offset, relative to the batch's base offset.
    public let offsetDelta: Int32
    /// The timestamp, relative to the batch's base timestamp, in milliseconds; may be negative.
    public let timestampDelta: Int64
    /// The key; nil where it is null.
    public let key: UnsafeRawBufferPointer?
    /// The value; nil where it is null.
    public let value: UnsafeRawBufferPointer?
    /// Number of headers.
    public let headerCount: Int32
    /// The encoded headers; `forEachHeader` walks them.
    public let encodedHeaders: UnsafeRawBufferPointer
    /// The record's place in the (decompressed) records: from its length prefix to its end.
    public let range: Range<Int>

    /// Calls `body` with the name and value of each header, in order. The record was checked when it was read, so
    /// this cannot fail by itself.
    @inlinable public func forEachHeader<Failure: Error>(
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) throws(Failure) -> Void
    ) throws(Failure) {
        var position = 0
        for _ in 0..<headerCount {
            guard let keySize = Varint.read32(encodedHeaders, at: &position) else { return }
            let key = UnsafeRawBufferPointer(rebasing: encodedHeaders[position..<position + Int(keySize)])
            position += Int(keySize)
            guard let valueSize = Varint.read32(encodedHeaders, at: &position) else { return }
            if valueSize < 0 {
                try body(key, nil)
            } else {
                let end = position + Int(valueSize)
                try body(key, UnsafeRawBufferPointer(rebasing: encodedHeaders[position..<end]))
                position = end
            }
        }
    }
}

/// Walks decompressed records, checking every length against what is left and every offset against the header. It
/// allocates nothing.
///
/// A record: length, attributes (one unused byte), timestamp delta, offset delta, key, value, headers; lengths,
/// deltas and counts are varints, -1 stands for null.
public struct RecordCursor {
    /// How far it has come.
    struct State: Sendable {
        var position = 0
        var index: Int32 = 0
        var previousDelta: Int32 = -1
    }

    private let bytes: UnsafeRawBufferPointer
    private let recordCount: Int32
    private let lastOffsetDelta: Int32
    private(set) var state: State

    /// Walks `bytes`, the decompressed records of the batch with this header, which must outlive the cursor.
    public init(_ bytes: UnsafeRawBufferPointer, header: RecordBatchHeader) {
        self.init(bytes, header: header, state: State())
    }

    init(_ bytes: UnsafeRawBufferPointer, header: RecordBatchHeader, state: State) {
        self.bytes = bytes
        self.state = state
        self.recordCount = header.recordCount
        self.lastOffsetDelta = header.lastOffsetDelta
    }

    /// The next record; nil after the last. Throws `.invalidRecord` where the bytes are not what the header promises.
    public mutating func next() throws(RecordBatchError) -> RecordView? {
        guard state.index < recordCount else {
            guard state.position == bytes.count else {
                throw fault("\(bytes.count - state.position) bytes follow the last of \(recordCount) records")
            }
            return nil
        }
        let start = state.position
        guard let length = Varint.read32(bytes, at: &state.position) else {
            throw fault("its length is cut off or no varint")
        }
        guard length >= 0, Int(length) <= bytes.count - state.position else {
            throw fault("its length is \(length), but \(bytes.count - state.position) bytes are left")
        }
        let end = state.position + Int(length)
        let record = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
        let view = try parse(record, from: state.position - start, range: start..<end)
        state.position = end
        state.index += 1
        state.previousDelta = view.offsetDelta
        return view
    }

    private func parse(
        _ record: UnsafeRawBufferPointer,
        from start: Int,
        range: Range<Int>
    ) throws(RecordBatchError) -> RecordView {
        // The byte at `start` holds attributes, none of which is defined.
        var position = start + 1
        guard position <= record.count else { throw fault("its length is 0") }
        guard let timestampDelta = Varint.read64(record, at: &position) else {
            throw fault("its timestamp delta is cut off or no varint")
        }
        guard let offsetDelta = Varint.read32(record, at: &position) else {
            throw fault("its offset delta is cut off or no varint")
        }
        guard offsetDelta > state.previousDelta, offsetDelta <= lastOffsetDelta else {
            throw fault(
                "its offset delta is \(offsetDelta), after \(state.previousDelta) and with lastOffsetDelta \(lastOffsetDelta)"
            )
        }
        let key = try readBytes(record, &position, "key")
        let value = try readBytes(record, &position, "value")
        guard let headerCount = Varint.read32(record, at: &position) else {
            throw fault("its number of headers is cut off or no varint")
        }
        // A header takes two bytes at least.
        guard headerCount >= 0, Int(headerCount) <= (record.count - position) / 2 else {
            throw fault("its number of headers is \(headerCount), but \(record.count - position) bytes are left")
        }
        let headersFrom = position
        for _ in 0..<headerCount {
            guard try readBytes(record, &position, "header name") != nil else { throw fault("a header's name is null") }
            _ = try readBytes(record, &position, "header value")
        }
        guard position == record.count else {
            throw fault("\(record.count - position) bytes of it follow its last header")
        }
        return RecordView(
            offsetDelta: offsetDelta,
            timestampDelta: timestampDelta,
            key: key,
            value: value,
            headerCount: headerCount,
            encodedHeaders: UnsafeRawBufferPointer(rebasing: record[headersFrom...]),
            range: range
        )
    }

    @inline(__always)
    private func readBytes(
        _ record: UnsafeRawBufferPointer,
        _ position: inout Int,
        _ field: StaticString
    ) throws(RecordBatchError) -> UnsafeRawBufferPointer? {
        guard let size = Varint.read32(record, at: &position) else {
            throw fault("the size of its \(field) is cut off or no varint")
        }
        if size == -1 { return nil }
        guard size >= 0, Int(size) <= record.count - position else {
            throw fault("the size of its \(field) is \(size), but \(record.count - position) bytes are left")
        }
        let end = position + Int(size)
        defer { position = end }
        return UnsafeRawBufferPointer(rebasing: record[position..<end])
    }

    private func fault(_ what: String) -> RecordBatchError {
        RecordBatchError(
            .invalidRecord,
            "record \(state.index) of \(recordCount), at byte \(state.position) of the records: \(what)"
        )
    }
}
