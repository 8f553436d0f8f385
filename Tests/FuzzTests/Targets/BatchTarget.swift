// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCTesting
import NIOCore

extension FuzzTarget {
    /// Record batches as a producer, a follower or a disk may present them; codecs on their own.
    static let batch = FuzzTarget(name: "batch", run: BatchTarget.run, seeds: BatchTarget.seeds)
}

/// Input: a byte of choices, then one or more batches (or bytes for a codec).
private enum BatchTarget {
    /// What decompression may give at most.
    private static let limit = 1 << 20

    static func run(_ bytes: [UInt8]) {
        var source = ByteSource(bytes)
        let choice = source.byte()
        var rest = source.rest()
        // Half of the inputs get right checksums, or hardly one would come further than that.
        if choice & 0x80 != 0 { Checksums.repairBatches(&rest) }
        let buffer = ByteBuffer(bytes: rest)
        if choice & 0x40 != 0 {
            compress(rest, CompressionCodec(rawValue: choice & 7) ?? .none)
        } else {
            validate(buffer, choice)
            walk(buffer)
        }
    }

    private static func validate(_ buffer: ByteBuffer, _ choice: UInt8) {
        var rules: RecordBatchValidator.Rules = [.client, .coordinator, .log][Int(choice & 3) % 3]
        rules.checksRecords = true
        rules.requiresKeys = choice & 4 != 0
        rules.decompressionLimit = limit
        guard let header = try? RecordBatchValidator.validate(buffer, rules: rules) else { return }
        // What the validator lets through with its records checked can be read to the last record.
        do {
            let reader = try RecordBatchReader(buffer, decompressionLimit: limit)
            let records = try reader.records()
            require(reader.header == header, "validator and reader see different headers")
            require(records.count == Int(header.recordCount), "\(records.count) records, not \(header.recordCount)")
            if rules.requiresKeys && !header.attributes.isControl {
                require(records.allSatisfy { $0.key != nil }, "a record without a key was let through")
            }
            if header.recordCount > 0 {
                require(header.nextOffset > header.baseOffset, "a batch that ends before it begins")
            }
            for record in records {
                require(
                    record.offset >= header.baseOffset && record.offset <= header.lastOffset,
                    "offset \(record.offset) is outside of \(header.baseOffset) to \(header.lastOffset)"
                )
            }
        } catch {
            fatalError("the validator let through what cannot be read: \(error)")
        }
    }

    /// Reads everything without having validated it, as a consumer does.
    private static func walk(_ buffer: ByteBuffer) {
        var iterator = RecordBatchIterator(buffer)
        var scratch = ByteBuffer()
        var size = 0
        while let slice = try? iterator.next() {
            size += slice.bytes.readableBytes
            require(size <= buffer.readableBytes, "the batches are larger than their buffer")
            for verifies in [true, false] {
                guard let reader = try? slice.reader(verifyChecksum: verifies, decompressionLimit: limit) else {
                    continue
                }
                _ = try? reader.controlRecord()
                let records = try? reader.records()
                var count = 0
                let isWhole = (try? reader.forEachRecord(scratch: &scratch) { _ in count += 1 }) != nil
                require(isWhole == (records != nil), "records() and forEachRecord disagree")
                if let records { require(records.count == count, "\(records.count) records, or \(count)") }
                require(scratch.readableBytes <= limit, "\(scratch.readableBytes) bytes came of a decompression")
            }
        }
    }

    private static func compress(_ bytes: [UInt8], _ codec: CompressionCodec) {
        var out = ByteBuffer()
        try? bytes.withUnsafeBytes { try codec.decompress($0, into: &out, limit: limit) }
        require(out.readableBytes <= limit, "\(codec) gave \(out.readableBytes) bytes of at most \(limit)")
        var compressed = ByteBuffer()
        var back = ByteBuffer()
        do {
            try bytes.withUnsafeBytes { try codec.compress($0, into: &compressed, level: nil) }
            try compressed.withUnsafeReadableBytes { try codec.decompress($0, into: &back, limit: bytes.count) }
        } catch {
            fatalError("\(codec) cannot read what it wrote: \(error)")
        }
        require(back.readableBytesView.elementsEqual(bytes), "\(codec) gives back other bytes")
    }

    static func seeds() throws -> [FuzzSeed] {
        var seeds: [FuzzSeed] = []
        for (number, vector) in try RecordBatchVectors.load(directory: MessageVectors.defaultDirectory).enumerated() {
            let bytes = Array(vector.bytes.readableBytesView)
            seeds.append(FuzzSeed(name: "vector-\(number)", bytes: [UInt8(number % 3)] + bytes))
            seeds.append(FuzzSeed(name: "repaired-\(number)", bytes: [0x80 | UInt8(number % 8)] + bytes))
        }
        let text = Array(String(repeating: "value of a record, ", count: 8).utf8)
        for codec in CompressionCodec.allCases {
            var out = ByteBuffer()
            try text.withUnsafeBytes { try codec.compress($0, into: &out, level: nil) }
            seeds.append(FuzzSeed(name: "\(codec)", bytes: [0x40 | codec.rawValue] + Array(out.readableBytesView)))
        }
        return seeds
    }
}

/// Puts right checksums where a fuzzer cannot guess them.
enum Checksums {
    static func crc(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.withUnsafeBytes { CRC32C.compute($0) }
    }

    static func put(_ value: UInt32, in bytes: inout [UInt8], at position: Int) {
        for index in 0..<4 { bytes[position + index] = UInt8(truncatingIfNeeded: value >> UInt32((3 - index) * 8)) }
    }

    /// Of all batches that follow each other from the start.
    static func repairBatches(_ bytes: inout [UInt8]) {
        typealias Layout = RecordBatchHeader.Layout
        var position = 0
        while position + Layout.size <= bytes.count {
            let length = bytes[position + 8..<position + 12].reduce(0) { $0 << 8 | Int($1) }
            let end = position + Layout.logOverhead + length
            guard length >= Layout.size - Layout.logOverhead, end <= bytes.count else { return }
            put(crc(bytes[position + Layout.checksummedFrom..<end]), in: &bytes, at: position + Layout.crc)
            position = end
        }
    }
}
