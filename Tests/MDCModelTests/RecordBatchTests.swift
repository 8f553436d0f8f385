// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

/// Batches made by seed.
enum RandomBatch {
    static func buffer(_ size: Int, _ random: inout Seeded) -> ByteBuffer {
        // Half of them compress well.
        Bool.random(using: &random)
            ? ByteBuffer(bytes: random.bytes(size))
            : ByteBuffer(repeating: UInt8.random(in: 0...255, using: &random), count: size)
    }

    static func records(_ random: inout Seeded, most: Int = 30, largest: Int = 2000) -> [Record] {
        let base = Int64.random(in: 0...(1 << 42), using: &random)
        return (0..<Int.random(in: 1...most, using: &random)).map { index in
            func some() -> ByteBuffer? {
                Int.random(in: 0..<5, using: &random) == 0
                    ? nil : buffer(Int.random(in: 0...largest, using: &random), &random)
            }
            let headers = (0..<Int.random(in: 0...3, using: &random)).map {
                RecordHeader(key: "h\($0)é", value: some())
            }
            return Record(
                offset: Offset(Int64(index)),
                timestamp: Timestamp(base + Int64.random(in: -500...500, using: &random)),
                key: some(),
                value: some(),
                headers: headers
            )
        }
    }

    static func encode(_ records: [Record], _ codec: CompressionCodec) throws -> ByteBuffer {
        var builder = RecordBatchBuilder(.init(codec: codec))
        for record in records {
            builder.append(key: record.key, value: record.value, headers: record.headers, timestamp: record.timestamp)
        }
        let most = builder.maximumSizeInBytes
        let batch = try builder.build()
        #expect(batch.readableBytes <= most)
        return batch
    }
}

@Suite struct RecordBatchTests {
    @Test(arguments: CompressionCodec.allCases)
    func randomBatchesComeBack(_ codec: CompressionCodec) throws {
        for seed in 0..<60 {
            var random = Seeded(seed: UInt64(seed))
            let records = RandomBatch.records(&random, largest: seed % 10 == 0 ? 60_000 : 300)
            let batch = try RandomBatch.encode(records, codec)
            var rules = RecordBatchValidator.Rules.client
            rules.checksRecords = true
            // Timestamps here may lie before the first one, but never does the largest.
            let header = try RecordBatchValidator.validate(batch, rules: rules)
            #expect(header.sizeInBytes == batch.readableBytes)
            #expect(header.maxTimestamp == records.map(\.timestamp).max())
            #expect(try RecordBatchReader(batch).records() == records, "seed \(seed)")
        }
    }

    @Test(arguments: CompressionCodec.allCases)
    func truncationAnywhereIsRefused(_ codec: CompressionCodec) throws {
        var random = Seeded(seed: 7)
        let batch = try RandomBatch.encode(RandomBatch.records(&random, most: 5, largest: 60), codec)
        for length in 0..<batch.readableBytes {
            let cut = try #require(batch.getSlice(at: 0, length: length))
            #expect(throws: RecordBatchError.self) { try RecordBatchValidator.validate(cut) }
            #expect(throws: RecordBatchError.self) { try RecordBatchReader(cut) }
            var iterator = RecordBatchIterator(cut)
            #expect(try iterator.next() == nil)
            #expect(iterator.truncatedBytes == length)
        }
    }

    /// Every bit of the checksummed part, of the checksum, the magic and the length is guarded.
    @Test(arguments: CompressionCodec.allCases)
    func anyFlippedBitIsRefused(_ codec: CompressionCodec) throws {
        var random = Seeded(seed: 8)
        let batch = try RandomBatch.encode(RandomBatch.records(&random, most: 4, largest: 40), codec)
        for bit in 64..<batch.readableBytes * 8 where !(96..<128).contains(bit) {
            var flipped = batch
            let byte = try #require(flipped.getInteger(at: bit / 8, as: UInt8.self))
            flipped.setInteger(byte ^ (1 << UInt8(bit % 8)), at: bit / 8)
            #expect(throws: RecordBatchError.self, "bit \(bit)") { try RecordBatchValidator.validate(flipped) }
        }
    }

    /// Damage that a checksum does not show, since it was made before: errors, never a crash, never endless.
    @Test(arguments: CompressionCodec.allCases)
    func hostileRecordsUnderAGoodChecksumDoNotCrash(_ codec: CompressionCodec) throws {
        var rules = RecordBatchValidator.Rules.client
        rules.checksRecords = true
        rules.decompressionLimit = 1 << 20
        var refused = 0
        for seed in 0..<400 {
            var random = Seeded(seed: UInt64(seed))
            var batch = try RandomBatch.encode(RandomBatch.records(&random, most: 5, largest: 50), codec)
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = Int.random(in: 61..<batch.readableBytes, using: &random)
                batch.setInteger(UInt8.random(in: 0...255, using: &random), at: at)
            }
            fixChecksum(&batch)
            do {
                try RecordBatchValidator.validate(batch, rules: rules)
            } catch {
                refused += 1
            }
            _ = try? RecordBatchReader(batch).records()
        }
        #expect(refused > 40)
    }

    @Test(arguments: [CompressionCodec.gzip, .snappy, .lz4, .zstd])
    func bombsAreRefused(_ codec: CompressionCodec) throws {
        var compressed = ByteBuffer()
        let zeros = ByteBuffer(repeating: 0, count: 32 << 20)
        try zeros.withUnsafeReadableBytes { try codec.compress($0, into: &compressed) }
        for limit in [0, 1, 1000, 1 << 20, (32 << 20) - 1] {
            var out = ByteBuffer(string: "before")
            let error = #expect(throws: CompressionError.self) {
                try compressed.withUnsafeReadableBytes { try codec.decompress($0, into: &out, limit: limit) }
            }
            #expect(error?.code == .limitExceeded)
            #expect(out == ByteBuffer(string: "before"))
            #expect(out.capacity <= 4 * limit + (4 << 20))
        }
        var out = ByteBuffer()
        try compressed.withUnsafeReadableBytes { try codec.decompress($0, into: &out, limit: 32 << 20) }
        #expect(out == zeros)
    }

    @Test func rawSnappyAndItsFalseClaimsAreTold() throws {
        // "abc" raw: its length, then a literal of three.
        var out = ByteBuffer()
        try [UInt8]([3, 2 << 2, 0x61, 0x62, 0x63]).withUnsafeBytes {
            try CompressionCodec.snappy.decompress($0, into: &out, limit: 10)
        }
        #expect(out == ByteBuffer(string: "abc"))
        // Five bytes that claim 64 MiB.
        #expect(throws: CompressionError.self) {
            try [UInt8]([0x80, 0x80, 0x80, 0x20, 0]).withUnsafeBytes {
                try CompressionCodec.snappy.decompress($0, into: &out, limit: 1 << 30)
            }
        }
        #expect(out.capacity < 1 << 20)
    }

    @Test(arguments: CompressionCodec.allCases)
    func levelsAreKept(_ codec: CompressionCodec) throws {
        var out = ByteBuffer()
        let text = ByteBuffer(string: String(repeating: "level ", count: 1000))
        if let levels = codec.levels {
            for level in Set([levels.lowerBound, 1, 3, levels.upperBound]) {
                var back = ByteBuffer()
                out.clear()
                try text.withUnsafeReadableBytes { try codec.compress($0, into: &out, level: level) }
                try out.withUnsafeReadableBytes { try codec.decompress($0, into: &back, limit: 100_000) }
                #expect(back == text)
            }
        }
        #expect(throws: CompressionError.self) {
            try text.withUnsafeReadableBytes { try codec.compress($0, into: &out, level: 1000) }
        }
    }

    @Test func varints() {
        let numbers: [Int64] = [
            0, -1, 1, 63, -64, 64, -65, 8191, 8192, Int64(Int32.max), Int64(Int32.min), Int64(Int32.max) + 1, .max,
            .min,
        ]
        for number in numbers {
            var bytes = [UInt8](repeating: 0xEE, count: 10)
            var end = 0
            bytes.withUnsafeMutableBytes { Varint.write(number, to: $0, at: &end) }
            #expect(end == Varint.size(number))
            bytes.withUnsafeBytes { whole in
                var position = 0
                #expect(Varint.read64(whole, at: &position) == number)
                #expect(position == end)
                position = 0
                #expect(Varint.read32(whole, at: &position) == Int32(exactly: number))
                for length in 0..<end {
                    position = 0
                    #expect(Varint.read64(UnsafeRawBufferPointer(rebasing: whole[..<length]), at: &position) == nil)
                    #expect(position == 0)
                }
            }
        }
        // Too long, or bits beyond the width.
        for bytes in [[UInt8](repeating: 0x80, count: 11), [255, 255, 255, 255, 255, 255, 255, 255, 255, 2]] {
            var position = 0
            #expect(bytes.withUnsafeBytes { Varint.read64($0, at: &position) } == nil)
        }
        for bytes: [UInt8] in [[255, 255, 255, 255, 0x1F], [0x80, 0x80, 0x80, 0x80, 0x80, 0]] {
            var position = 0
            #expect(bytes.withUnsafeBytes { Varint.read32($0, at: &position) } == nil)
        }
    }

    @Test func iteratorWalksManyBatches() throws {
        var random = Seeded(seed: 3)
        var all = ByteBuffer()
        var sizes: [Int] = []
        for codec in CompressionCodec.allCases {
            var batch = try RandomBatch.encode(RandomBatch.records(&random), codec)
            sizes.append(batch.readableBytes)
            all.writeBuffer(&batch)
        }
        all.writeBytes([0, 0, 0])
        var iterator = RecordBatchIterator(all)
        var found: [Int] = []
        while let batch = try iterator.next() {
            found.append(batch.bytes.readableBytes)
            _ = try batch.reader().records()
        }
        #expect(found == sizes)
        #expect(iterator.truncatedBytes == 3)
    }

    @Test func copyingRecordsKeepsOffsetsAndHeaders() throws {
        var random = Seeded(seed: 4)
        let records = RandomBatch.records(&random, most: 30)
        let source = try RecordBatchReader(RandomBatch.encode(records, .zstd))
        var builder = RecordBatchBuilder(.init(codec: .lz4))
        builder.settings.deleteHorizon = 5
        try source.forEachRecord { record in
            if record.offsetDelta % 2 == 0 {
                builder.append(record, baseTimestamp: source.header.baseTimestamp, offsetDelta: record.offsetDelta)
            }
        }
        builder.lastOffsetDelta = source.header.lastOffsetDelta
        let copy = try RecordBatchReader(builder.build())
        #expect(copy.header.lastOffset == source.header.lastOffset)
        #expect(copy.header.baseTimestamp == 5)
        #expect(try copy.records() == records.filter { $0.offset.rawValue % 2 == 0 })
        #expect(throws: RecordBatchError.self) { try RecordBatchValidator.validate(copy.bytes) }
        try RecordBatchValidator.validate(copy.bytes, rules: .log)
    }

    private func fixChecksum(_ batch: inout ByteBuffer) {
        let crc = batch.withUnsafeReadableBytes { CRC32C.compute(UnsafeRawBufferPointer(rebasing: $0[21...])) }
        batch.setInteger(crc, at: 17)
    }

    /// Each field set to something impossible, with the checksum made right: refused, and the field is named.
    @Test func eachHeaderFieldIsJudged() throws {
        var builder = RecordBatchBuilder()
        builder.append(key: nil, value: ByteBuffer(string: "x"), timestamp: 100)
        builder.append(key: nil, value: ByteBuffer(string: "y"), timestamp: 200)
        let good = try builder.build()
        typealias Change = (inout RecordBatchHeader) -> Void
        let cases: [(String, Change)] = [
            ("magic", { $0.magic = 1 }),
            ("batchLength", { $0.batchLength = 48 }),
            ("batchLength", { $0.batchLength = -1 }),
            ("batchLength", { $0.batchLength = .max }),
            ("codec", { $0.attributes = .init(rawValue: 5) }),
            ("attributes", { $0.attributes = .init(rawValue: 0x80) }),
            ("attributes", { $0.attributes = .init(rawValue: .min) }),
            ("control", { $0.attributes = .init(rawValue: 0x20) }),
            ("delete horizon", { $0.attributes = .init(rawValue: 0x40) }),
            ("log append time", { $0.attributes = .init(rawValue: 0x08) }),
            ("producerId", { $0.attributes = .init(rawValue: 0x10) }),
            ("lastOffsetDelta", { $0.lastOffsetDelta = -1 }),
            ("lastOffsetDelta", { $0.lastOffsetDelta = 2 }),
            ("recordCount", { $0.recordCount = 0 }),
            ("recordCount", { $0.recordCount = -1 }),
            (
                "recordCount",
                {
                    $0.recordCount = .max; $0.lastOffsetDelta = .max - 1
                }
            ),
            ("baseOffset", { $0.baseOffset = .init(.max) }),
            ("baseOffset", { $0.baseOffset = -2 }),
            ("baseTimestamp", { $0.baseTimestamp = -2 }),
            ("maxTimestamp", { $0.maxTimestamp = 99 }),
            ("producerId", { $0.producerID = -2 }),
            ("producerEpoch", { $0.producerID = 1 }),
            (
                "baseSequence",
                {
                    $0.producerID = 1; $0.producerEpoch = 0
                }
            ),
        ]
        for (field, change) in cases {
            var batch = good
            var header = try RecordBatchValidator.validate(good)
            change(&header)
            batch.withUnsafeMutableReadableBytes { header.write(to: $0) }
            fixChecksum(&batch)
            let error = #expect(throws: RecordBatchError.self) { try RecordBatchValidator.validate(batch) }
            #expect(error?.message.contains(field) == true, "\(field): \(error?.message ?? "")")
        }
        var rules = RecordBatchValidator.Rules.client
        rules.maximumSizeInBytes = 10
        #expect(throws: RecordBatchError.self) { try RecordBatchValidator.validate(good, rules: rules) }
        rules = .client
        rules.requiresKeys = true
        #expect(throws: RecordBatchError.self) { try RecordBatchValidator.validate(good, rules: rules) }
    }

    @Test func logAppendTimeIsSetWithTheChecksum() throws {
        var random = Seeded(seed: 5)
        var batch = try RandomBatch.encode(RandomBatch.records(&random), .gzip)
        var header = try RecordBatchValidator.validate(batch)
        header.attributes = .init(codec: .gzip, isLogAppendTime: true)
        header.maxTimestamp = 77
        batch.withUnsafeMutableReadableBytes { bytes in
            header.crc = header.checksum(records: UnsafeRawBufferPointer(rebasing: bytes[61...]))
            header.write(to: bytes)
        }
        #expect(try RecordBatchReader(batch).records().allSatisfy { $0.timestamp == 77 })
    }
}
