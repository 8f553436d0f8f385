// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

/// The derived files of a real Kafka's folders, deleted and made anew by this engine, equal Kafka's.
///
/// Kafka adds an index entry when it appends: at most one for each call, however many batches the call has. A follower
/// and the log cleaner append many batches at once, so their entries may be further apart than ours. The three folders
/// were written by producers, one batch a call (and what the cleaner left is smaller than one interval), so that here
/// every byte of every index has to be equal.
@Suite struct KafkaRebuildTests {
    private func open(_ folder: TemporaryFolder, _ kafka: KafkaFolder) throws -> TestNode {
        var settings = LogSettings()
        settings.indexIntervalBytes = kafka.indexInterval
        settings.retentionMilliseconds = -1
        return try TestNode(folder, clock: ManualClock(1_795_415_300_000), settings: settings)
    }

    private func expectEqualFiles(_ kafka: KafkaFolder, _ suffix: String, _ folder: TemporaryFolder) throws {
        let names = try kafka.files(suffix)
        #expect(try folder.names(kafka.name).filter { $0.hasSuffix(suffix) } == names)
        for name in names {
            #expect(try folder.bytes("\(kafka.name)/\(name)") == (try kafka.bytes(name)), "\(kafka.name)/\(name)")
        }
    }

    /// After a kill: everything that is derived is gone, and made anew by the recovery.
    @Test(arguments: KafkaFolder.all)
    func recoveryMakesTheSameIndexes(_ kafka: KafkaFolder) throws {
        let folder = try kafka.dataFolder(
            isClean: false,
            without: ["index", ".snapshot", "leader-epoch-checkpoint"]
        )
        #expect(try folder.names(kafka.name).allSatisfy { $0.hasSuffix(".log") || $0 == "partition.metadata" })
        let node = try open(folder, kafka)
        let log = try #require(node.manager.partition(kafka.topicPartition))
        #expect(log.damage.isEmpty)
        try node.manager.close()
        try expectEqualFiles(kafka, ".index", folder)
        try expectEqualFiles(kafka, ".timeindex", folder)
        try expectEqualFiles(kafka, ".txnindex", folder)
        try expectEqualSnapshots(kafka, folder)
        try expectEqualEpochs(kafka, folder, log)
        for name in try kafka.files(".log") {
            #expect(try folder.bytes("\(kafka.name)/\(name)") == (try kafka.bytes(name)))
        }
    }

    /// After an orderly stop of Kafka: the indexes are gone, and made anew when they are used.
    @Test(arguments: KafkaFolder.all)
    func useMakesTheSameIndexes(_ kafka: KafkaFolder) throws {
        let end = Offset(try #require(try kafka.dump().last).number("lastOffset") + 1)
        let folder = try kafka.dataFolder(isClean: true, end: end, without: [".index", ".timeindex"])
        let node = try open(folder, kafka)
        #expect(node.manager.recoveryReports.isEmpty)
        let log = try #require(node.manager.partition(kafka.topicPartition))
        for offset in 0..<log.logEndOffset.rawValue { _ = try log.records(from: Offset(offset), maxBytes: 1) }
        _ = try log.offset(for: .timestamp(0))
        _ = try log.offset(for: .maxTimestamp)
        try node.manager.close()
        try expectEqualFiles(kafka, ".index", folder)
        try expectEqualFiles(kafka, ".timeindex", folder)
        try expectEqualFiles(kafka, ".txnindex", folder)
        try expectEqualFiles(kafka, ".snapshot", folder)
        try expectEqualFiles(kafka, "leader-epoch-checkpoint", folder)
    }

    /// One derived file after the other is gone or has a byte changed; the next start and what it writes do not show it.
    @Test(arguments: KafkaFolder.all)
    func anyOneFileMayBeDamaged(_ kafka: KafkaFolder) throws {
        let derived = try POSIXFileSystem().list(kafka.path).map(\.name)
            .filter { !$0.hasSuffix(".log") && $0 != "partition.metadata" }.sorted()
        for name in derived {
            for isGone in [true, false] {
                let folder = try kafka.dataFolder(isClean: false)
                let path = "\(kafka.name)/\(name)"
                var bytes = try folder.bytes(path)
                if isGone {
                    try POSIXFileSystem().unlink("\(folder.path)/\(path)")
                } else {
                    guard !bytes.isEmpty else { continue }
                    bytes[bytes.count / 2] ^= 0x40
                    try folder.write(path, bytes)
                }
                let node = try open(folder, kafka)
                let log = try #require(node.manager.partition(kafka.topicPartition))
                #expect(log.damage.isEmpty)
                try node.manager.close()
                for suffix in [".index", ".timeindex", ".txnindex"] { try expectEqualFiles(kafka, suffix, folder) }
                try expectEqualSnapshots(kafka, folder, damaged: isGone ? nil : name)
            }
        }
    }

    /// The entries of all snapshots, field by field; their order is that of a hash table of Kafka's.
    private func expectEqualSnapshots(
        _ kafka: KafkaFolder,
        _ folder: TemporaryFolder,
        damaged: String? = nil
    ) throws {
        let entrySize = 46
        func entries(_ bytes: [UInt8]) throws -> [[UInt8]] {
            try #require(bytes.count >= 10 && (bytes.count - 10) % entrySize == 0)
            // Version and number of entries; the checksum goes with the order.
            #expect(bytes[0...1] == [0, 1] && bytes[6...9] == [0, 0, 0, UInt8((bytes.count - 10) / entrySize)])
            return stride(from: 10, to: bytes.count, by: entrySize).map { Array(bytes[$0..<$0 + entrySize]) }
                .sorted { $0.lexicographicallyPrecedes($1) }
        }
        let ours = try folder.names(kafka.name).filter { $0.hasSuffix(".snapshot") }
        for name in try kafka.files(".snapshot") where name != damaged {
            let expected = try entries(try kafka.bytes(name))
            if expected.isEmpty, !ours.contains(name) {
                // Kafka writes a snapshot at the end of a log that never had a producer; this engine does not.
                #expect(name == (try kafka.files(".snapshot").last))
                continue
            }
            #expect(try entries(try folder.bytes("\(kafka.name)/\(name)")) == expected, "\(kafka.name)/\(name)")
        }
    }

    /// Epochs are equal; where compaction has removed an epoch's first records, the batches that are left do not say
    /// where it began, so that it begins with the first of them, as in Kafka's own recovery.
    private func expectEqualEpochs(_ kafka: KafkaFolder, _ folder: TemporaryFolder, _ log: PartitionLog) throws {
        let expected = String(decoding: try kafka.bytes("leader-epoch-checkpoint"), as: UTF8.self)
        let ours = String(decoding: try folder.bytes("\(kafka.name)/leader-epoch-checkpoint"), as: UTF8.self)
        #expect(expected == "0\n1\n0 0\n")
        let first = try #require(try kafka.dump().first).number("baseOffset")
        #expect(ours == "0\n1\n0 \(first)\n")
        #expect(first == (kafka.name == KafkaFolder.profiles.name ? 361 : 0))
    }
}
