// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite("compression.type: batches of clients get the topic's codec")
struct RecompressionTests {
    private static let values = (0..<50).map { "value \($0) " + String(repeating: "y", count: $0) }

    private func settings(_ codec: CompressionCodec?) -> LogSettings {
        var settings = LogSettings()
        settings.compression.codec = codec
        return settings
    }

    private func stored(_ node: TestNode) throws -> [RecordBatchReader] {
        var iterator = RecordBatchIterator(
            ByteBuffer(bytes: try node.folder.bytes("t-0/00000000000000000000.log").prefix(Int(node.log.sizeInBytes)))
        )
        var batches: [RecordBatchReader] = []
        // The reader verifies the checksum.
        while let batch = try iterator.next() { batches.append(try batch.reader()) }
        return batches
    }

    @Test(
        "From every codec to every codec: same records and fields, another codec",
        arguments: CompressionCodec.allCases
    )
    func everyPair(target: CompressionCodec) throws {
        let node = try TestNode()
        let log = try node.make(settings(target))
        var sequence: Int32 = 0
        for source in CompressionCodec.allCases {
            var maker = BatchMaker.idempotent(7, epoch: 3, sequence: sequence)
            maker.settings.codec = source
            let batch = try maker.batch(Self.values, timestamp: 1_700_000_000_000, step: 5)
            let result = try log.append(batch, epoch: 4)
            #expect(result.firstOffset.rawValue == Int64(sequence))
            // A repetition is known by its sequence, whatever its bytes became.
            #expect(try log.append(batch, epoch: 4).isDuplicate)
            sequence += Int32(Self.values.count)
        }
        let batches = try stored(node)
        #expect(batches.count == CompressionCodec.allCases.count)
        for (index, batch) in batches.enumerated() {
            let header = batch.header
            #expect(header.attributes.codec == target)
            #expect(header.producerID == 7 && header.producerEpoch == 3)
            #expect(header.baseSequence == Int32(index * Self.values.count) && header.recordCount == 50)
            #expect(header.partitionLeaderEpoch == 4 && header.baseOffset.rawValue == Int64(header.baseSequence))
            #expect(header.maxTimestamp == Timestamp(1_700_000_000_000 + 49 * 5))
        }
        let records = try log.records()
        #expect(records.count == 250)
        for record in records {
            let index = Int(record.offset.rawValue) % 50
            #expect(record.value.map { String(buffer: $0) } == Self.values[index])
            #expect(record.timestamp == Timestamp(1_700_000_000_000 + Int64(index) * 5))
        }
    }

    @Test("Without the setting, and with the same codec, not a byte behind the offset changes")
    func untouched() throws {
        for codec in [nil, CompressionCodec.gzip] as [CompressionCodec?] {
            let node = try TestNode()
            let log = try node.make(settings(codec))
            var maker = BatchMaker()
            maker.settings.codec = .gzip
            maker.settings.compressionLevel = 1
            let batch = try maker.batch(Self.values)
            try log.append(batch)
            #expect(
                Array(try node.folder.bytes("t-0/00000000000000000000.log")[16..<batch.readableBytes])
                    == Array(batch.readableBytesView[16...])
            )
        }
    }

    @Test("Transactional batches, several batches in one append, and log-append time go through as well")
    func fieldsAndSeveral() throws {
        var settings = settings(.zstd)
        settings.timestampType = .logAppendTime
        let node = try TestNode()
        let log = try node.make(settings)
        var both = try BatchMaker.idempotent(9, sequence: 0, isTransactional: true).batch(["a", "b"])
        var second = BatchMaker.idempotent(9, sequence: 2, isTransactional: true)
        second.settings.codec = .zstd
        both.writeImmutableBuffer(try second.batch(["c"]))
        try log.append(both, now: 1_700_000_000_777)
        #expect(log.activeProducer(9)?.currentTransactionFirstOffset == 0)
        try log.append(BatchMaker.marker(9, commit: true), as: .coordinator, now: 1_700_000_000_778)
        let batches = try stored(node)
        #expect(batches.map { $0.header.attributes.codec } == [.zstd, .zstd, CompressionCodec.none])
        #expect(
            batches.prefix(2).allSatisfy {
                $0.header.attributes.isTransactional && $0.header.attributes.isLogAppendTime
            }
        )
        #expect(try log.values() == ["a", "b", "c"])
        #expect(try log.records().allSatisfy { $0.timestamp == 1_700_000_000_777 })
    }

    @Test("What is damaged is refused, and does not get a right checksum")
    func damaged() throws {
        let node = try TestNode()
        let log = try node.make(settings(.lz4))
        var batch = try BatchMaker().batch(Self.values)
        batch.setInteger(UInt8(0x7A), at: batch.writerIndex - 3)
        #expect { try log.append(batch) } throws: { ($0 as? LogError)?.code == .corruptBatch }
        // A right checksum over records that cannot be read.
        let reader = try RecordBatchReader(try BatchMaker().batch(["a"]))
        var header = reader.header
        header.recordCount = 2
        header.lastOffsetDelta = 1
        var lying = reader.bytes
        header.crc = reader.encodedRecords.withUnsafeReadableBytes { header.checksum(records: $0) }
        lying.withUnsafeMutableReadableBytes { header.write(to: $0) }
        #expect { try log.append(lying) } throws: { ($0 as? LogError)?.code == .invalidRecord }
        #expect(log.logEndOffset == 0)
    }

    @Test("max.message.bytes holds for what came and for what it became")
    func sizes() throws {
        var settings = settings(CompressionCodec.none)
        settings.maxMessageBytes = 2_000
        let node = try TestNode()
        let log = try node.make(settings)
        var maker = BatchMaker()
        maker.settings.codec = .gzip
        let small = try maker.batch([String(repeating: "z", count: 10_000)])
        #expect(small.readableBytes < 2_000)
        #expect { try log.append(small) } throws: { ($0 as? LogError)?.code == .messageTooLarge }
        settings.compression.codec = .gzip
        try log.update(settings: settings)
        let large = try BatchMaker().batch([String(repeating: "z", count: 10_000)])
        #expect { try log.append(large) } throws: { ($0 as? LogError)?.code == .messageTooLarge }
        try log.append(small)
        #expect(log.logEndOffset == 1)
    }

    @Test("A replica's and a coordinator's batches stay as they are")
    func otherOrigins() throws {
        let node = try TestNode()
        let log = try node.make(settings(.snappy))
        try log.append(try BatchMaker().batch(["a"]), as: .coordinator)
        var copied = BatchMaker()
        copied.settings.baseOffset = 1
        copied.settings.partitionLeaderEpoch = 0
        try log.append(try copied.batch(["b"]), as: .replica)
        #expect(try stored(node).map { $0.header.attributes.codec } == [CompressionCodec.none, CompressionCodec.none])
    }

    @Test("Levels are used")
    func levels() throws {
        let text = (0..<3_000).map { String($0 &* 2_654_435_761, radix: 36) }.joined()
        func size(_ configure: (inout StoredCompression) -> Void) throws -> Int {
            var settings = LogSettings()
            configure(&settings.compression)
            let node = try TestNode()
            let log = try node.make(settings)
            try log.append(try BatchMaker().batch([text]))
            return try stored(node)[0].header.sizeInBytes
        }
        let fast = try size { ($0.codec, $0.zstdLevel) = (.zstd, -100) }
        let best = try size { ($0.codec, $0.zstdLevel) = (.zstd, 19) }
        #expect(best < fast)
        let quick = try size { ($0.codec, $0.gzipLevel) = (.gzip, 1) }
        let small = try size { ($0.codec, $0.gzipLevel) = (.gzip, 9) }
        #expect(small < quick)
        let first = try size { ($0.codec, $0.lz4Level) = (.lz4, nil) }
        let high = try size { ($0.codec, $0.lz4Level) = (.lz4, 12) }
        #expect(high < first)
    }
}
