// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

/// Partition folders that a real Kafka wrote and closed: opened, read, continued, and their derived files made anew.
@Suite struct KafkaFolderTests {
    private func open(_ folder: TemporaryFolder, _ kafka: KafkaFolder) throws -> TestNode {
        var settings = LogSettings()
        settings.indexIntervalBytes = kafka.indexInterval
        settings.retentionMilliseconds = -1
        return try TestNode(folder, clock: ManualClock(1_795_415_300_000), settings: settings)
    }

    private func log(_ node: TestNode, _ kafka: KafkaFolder) throws -> PartitionLog {
        try #require(node.manager.partition(kafka.topicPartition))
    }

    private func end(_ kafka: KafkaFolder) throws -> Offset {
        Offset(try #require(try kafka.dump().last).number("lastOffset") + 1)
    }

    private func expectSound(_ path: String) throws {
        var checker = LogChecker(directory: path)
        checker.decodesRecords = true
        let report = try checker.run()
        #expect(report.isSound, "\(report)")
        #expect(report.notes.isEmpty)
    }

    /// The log shows exactly what Kafka's dump shows: every field of every batch and record.
    private func expectEqual(_ log: PartitionLog, _ dump: [DumpedBatch]) throws {
        let batches = try log.batches()
        try #require(batches.count == dump.count)
        for ((file, position, reader), expected) in zip(batches, dump) {
            let header = reader.header
            let digits = String(expected.segment)
            let name = String(repeating: "0", count: 20 - digits.count) + digits + ".log"
            #expect(file.hasSuffix("/" + name))
            #expect(Int64(position) == (try expected.number("position")))
            #expect(header.baseOffset.rawValue == (try expected.number("baseOffset")))
            #expect(header.lastOffset.rawValue == (try expected.number("lastOffset")))
            #expect(Int64(header.recordCount) == (try expected.number("count")))
            #expect(Int64(header.baseSequence) == (try expected.number("baseSequence")))
            #expect(Int64(header.lastSequence) == (try expected.number("lastSequence")))
            #expect(header.producerID.rawValue == (try expected.number("producerId")))
            #expect(Int64(header.producerEpoch) == (try expected.number("producerEpoch")))
            #expect(Int64(header.partitionLeaderEpoch.rawValue) == (try expected.number("partitionLeaderEpoch")))
            #expect("\(header.attributes.isTransactional)" == expected["isTransactional"])
            #expect("\(header.attributes.isControl)" == expected["isControl"])
            #expect(header.maxTimestamp.rawValue == (try expected.number("CreateTime")))
            #expect(Int64(header.sizeInBytes) == (try expected.number("size")))
            #expect(Int64(header.magic) == (try expected.number("magic")))
            #expect("\(try #require(header.attributes.codec))" == expected["compresscodec"])
            #expect(Int64(header.crc) == (try expected.number("crc")))
            let horizon = header.attributes.hasDeleteHorizon ? "[\(header.baseTimestamp.rawValue)]" : ".empty"
            #expect("OptionalLong\(horizon)" == expected["deleteHorizonMs"])
            try expectEqual(reader, expected)
        }
    }

    private func expectEqual(_ reader: RecordBatchReader, _ expected: DumpedBatch) throws {
        let records = try reader.records()
        try #require(records.count == expected.records.count)
        for (record, expected) in zip(records, expected.records) {
            #expect(record.offset.rawValue == expected.offset)
            #expect(record.timestamp.rawValue == expected.timestamp)
            #expect(record.key?.readableBytes ?? -1 == expected.keySize)
            #expect(record.value?.readableBytes ?? -1 == expected.valueSize)
            #expect(record.headers.map(\.key) == expected.headerKeys)
            if reader.header.attributes.isControl {
                let control = try #require(try reader.controlRecord())
                #expect(control.kind == (expected.marker == "COMMIT" ? .commit : .abort))
                #expect(control.coordinatorEpoch == expected.coordinatorEpoch)
            } else {
                #expect(record.key.map { String(buffer: $0) } == expected.key)
                #expect(record.value.map { String(buffer: $0) } == expected.payload)
            }
        }
    }

    @Test(arguments: KafkaFolder.all, [true, false])
    func isReadBackRecordForRecord(_ kafka: KafkaFolder, isClean: Bool) throws {
        try expectSound(kafka.path)
        let dump = try kafka.dump()
        let end = try end(kafka)
        let folder = try kafka.dataFolder(isClean: isClean, end: isClean ? end : nil)
        let node = try open(folder, kafka)
        let log = try log(node, kafka)
        #expect(log.damage.isEmpty && log.offlineReason == nil)
        #expect(log.logStartOffset == 0 && log.logEndOffset == end && log.syncedEndOffset == end)
        #expect(log.latestEpoch == 0)
        #expect(node.manager.recoveryReports.isEmpty == isClean)
        for report in node.manager.recoveryReports { #expect(report.cutBytes == 0 && report.damage.isEmpty) }
        let metadata = String(decoding: try kafka.bytes("partition.metadata"), as: UTF8.self)
        #expect(metadata.hasSuffix("topic_id: \(log.topicID)"))
        try expectEqual(log, dump)
        try expectLookups(log, dump)
        #expect(log.lastStableOffset == end)
    }

    /// A partition that is moved into a data folder at rest, of this engine or of Kafka, comes without a recovery point: all of
    /// it is verified, nothing is cut.
    @Test(arguments: KafkaFolder.all, [true, false])
    func isScannedWhereItWasMovedIn(_ kafka: KafkaFolder, isOurs: Bool) throws {
        let folder = TemporaryFolder()
        if isOurs {
            let node = try TestNode(folder)
            try node.make().append(try BatchMaker().batch(["a"]))
            node.manager.runSyncRound()
            try node.manager.close()
        } else {
            try folder.write(".kafka_cleanshutdown", Array(#"{"version":0,"brokerEpoch":-1}"#.utf8))
            try folder.write("recovery-point-offset-checkpoint", Array("0\n1\nother 0 7\n".utf8))
        }
        try folder.insertCopy(of: kafka.path, as: kafka.name)
        let damaged = try folder.copy()
        let node = try open(folder, kafka)
        let moved = try log(node, kafka)
        #expect(moved.damage.isEmpty && moved.offlineReason == nil)
        let report = try #require(
            node.manager.recoveryReports.first { $0.topicPartition == kafka.topicPartition }
        )
        #expect(report.cutBytes == 0 && report.tornFiles.isEmpty)
        #expect(report.scannedBytes == moved.sizeInBytes)
        try expectEqual(moved, try kafka.dump())
        try node.manager.close()
        // Known from now on.
        let again = try open(folder, kafka)
        #expect(again.manager.recoveryReports.isEmpty)
        try expectEqual(try log(again, kafka), try kafka.dump())
        // A batch's checksum is wrong, in the last byte of the first segment that has any.
        let name = try #require(try kafka.files(".log").first { try !kafka.bytes($0).isEmpty })
        var bytes = try kafka.bytes(name)
        bytes[bytes.count - 1] ^= 1
        try damaged.write("\(kafka.name)/\(name)", bytes)
        let wrong = try log(try open(damaged, kafka), kafka)
        if try kafka.files(".log").last == name {
            // As far as anybody knows a torn tail.
            #expect(wrong.logEndOffset < moved.logEndOffset)
        } else {
            #expect(wrong.damage.count == 1 && wrong.offlineReason?.code == .damaged)
            #expect(wrong.logEndOffset == moved.logEndOffset)
        }
    }

    /// ListOffsets by time, against a search through all records that the dump shows.
    private func expectLookups(_ log: PartitionLog, _ dump: [DumpedBatch]) throws {
        let records = dump.flatMap(\.records)
        for time in Set(records.map(\.timestamp)).flatMap({ [$0 - 1, $0, $0 + 1] }) {
            let first = records.first { $0.timestamp >= time }
            let found = try log.offset(for: .timestamp(Timestamp(time)))
            #expect(found?.offset.rawValue == first?.offset)
            #expect(found?.timestamp.rawValue == first?.timestamp)
        }
        let newest = try #require(records.map(\.timestamp).max())
        let found = try #require(try log.offset(for: .maxTimestamp))
        #expect(found.timestamp.rawValue == newest)
        #expect(found.offset.rawValue == records.first { $0.timestamp == newest }?.offset)
    }

    @Test(arguments: [true, false])
    func transactionsAreAsKafkaSawThem(isClean: Bool) throws {
        let kafka = KafkaFolder.payments
        let node = try open(try kafka.dataFolder(isClean: isClean), kafka)
        let log = try log(node, kafka)
        // What the index of Kafka's lists, in its words.
        let listed = try kafka.text("state.txt").split(separator: "\n").filter { $0.hasPrefix("version:") }
        let aborted = log.abortedTransactions(in: 0..<log.logEndOffset)
        #expect(
            aborted.map { transaction in
                "version: 0 producerId: \(transaction.producerID) firstOffset: \(transaction.firstOffset) "
                    + "lastOffset: \(transaction.lastOffset) lastStableOffset: \(transaction.lastStableOffset)"
            } == listed.map(String.init)
        )
        #expect(aborted.count == 5)
        // What a read-committed consumer keeps by that list is what the markers in the dump say.
        var committed: [Int64] = []
        var open: [Int64] = []
        for batch in try kafka.dump() {
            if batch.isControl {
                if batch.records[0].marker == "COMMIT" { committed += open }
                open = []
            } else {
                open += batch.records.map(\.offset)
            }
        }
        let kept = try log.records().map(\.offset).filter { offset in
            !aborted.contains { $0.firstOffset <= offset && offset <= $0.lastOffset }
        }
        #expect(kept.map(\.rawValue) == committed)
        #expect(open.isEmpty && committed.count == 72)
        let producer = try #require(log.activeProducers.first)
        #expect(log.activeProducers.count == 1 && producer.producerID == 11 && producer.lastSequence == 111)
        #expect(producer.currentTransactionFirstOffset == nil && producer.coordinatorEpoch == 0)
    }

    @Test(arguments: KafkaFolder.all, [true, false])
    func survivesAppendingAndReopening(_ kafka: KafkaFolder, isClean: Bool) throws {
        let folder = try kafka.dataFolder(isClean: isClean)
        let dump = try kafka.dump()
        let end = try end(kafka)
        let node = try open(folder, kafka)
        let log = try log(node, kafka)
        // The last producer's last batch, sent again, is known; the next one goes on from it.
        let last = try log.batches().map(\.batch).last { $0.header.isIdempotent && !$0.header.attributes.isControl }
        if kafka.name == KafkaFolder.orders.name {
            let batch = try #require(last)
            var sent = batch.bytes
            sent.setInteger(Int64(0), at: sent.readerIndex)
            let again = try log.append(sent)
            #expect(again.isDuplicate && again.firstOffset == batch.header.baseOffset)
        }
        let id = last?.header.producerID ?? 4000
        var maker = BatchMaker.idempotent(id, sequence: last.map { $0.header.lastSequence + 1 } ?? 0)
        var values: [String] = []
        for codec in CompressionCodec.allCases {
            maker.settings.codec = codec
            values += ["\(codec) one", "\(codec) two"]
            let result = try log.append(try maker.batch(Array(values.suffix(2))))
            #expect(result.firstOffset == end + Int64(values.count - 2))
            maker.settings.baseSequence += 2
        }
        #expect(throws: LogError.self) { try log.append(try maker.gap.batch(["gap"])) }
        node.manager.runSyncRound()
        let killed = try folder.copy()
        try node.manager.close()
        for folder in [killed, folder] {
            let node = try open(folder, kafka)
            let log = try self.log(node, kafka)
            #expect(log.damage.isEmpty && log.logEndOffset == end + Int64(values.count))
            #expect(try log.values(from: end) == values)
            #expect(try log.batches().count == dump.count + CompressionCodec.allCases.count)
            let producer = try #require(log.activeProducers.first { $0.producerID == id })
            #expect(producer.lastSequence == maker.settings.baseSequence - 1)
            try log.append(try maker.batch(["and on"]))
            try log.truncate(to: end)
            try expectEqual(log, dump)
            try node.manager.close()
            try expectSound(folder.path)
        }
    }
}

extension BatchMaker {
    /// The same with a hole in the sequence.
    fileprivate var gap: BatchMaker {
        var other = self
        other.settings.baseSequence += 1
        return other
    }
}
