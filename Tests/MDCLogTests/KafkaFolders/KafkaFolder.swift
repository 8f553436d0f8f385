// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

/// A partition folder that Apache Kafka wrote, and what Kafka's own dump tool says of it.
struct KafkaFolder: CustomTestStringConvertible, Sendable {
    let name: String
    /// `index.interval.bytes` of the topic.
    let indexInterval: Int
    var testDescription: String { name }

    /// Five codecs, idempotent producers, null keys and values, headers.
    static let orders = KafkaFolder(name: "orders-0", indexInterval: 512)
    /// Transactions, some of them aborted.
    static let payments = KafkaFolder(name: "payments-0", indexInterval: 4096)
    /// Compacted, with segments that were emptied.
    static let profiles = KafkaFolder(name: "profiles-0", indexInterval: 4096)
    static let all = [orders, payments, profiles]

    static let root =
        "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/") + "/Fixtures/kafka-log-dirs"

    var topicPartition: TopicPartition {
        TopicPartition(topic: String(name.split(separator: "-")[0]), partition: 0)
    }

    var path: String { "\(Self.root)/\(name)" }

    func text(_ suffix: String) throws -> String {
        String(decoding: try TemporaryFolder.bytes(at: "\(Self.root)/\(name).\(suffix)"), as: UTF8.self)
    }

    /// The names of its files with this ending.
    func files(_ suffix: String) throws -> [String] {
        try POSIXFileSystem().list(path).map(\.name).filter { $0.hasSuffix(suffix) }.sorted()
    }

    func bytes(_ file: String) throws -> [UInt8] { try TemporaryFolder.bytes(at: "\(path)/\(file)") }

    /// A data folder that holds a copy of it, as Kafka leaves it after an orderly stop or after a kill.
    func dataFolder(isClean: Bool, end: Offset? = nil, without suffixes: [String] = []) throws -> TemporaryFolder {
        let folder = TemporaryFolder()
        try folder.insertCopy(of: path, as: name)
        let fileSystem = POSIXFileSystem()
        for file in try folder.names(name) where suffixes.contains(where: { file.hasSuffix($0) }) {
            try fileSystem.unlink("\(folder.path)/\(name)/\(file)")
        }
        if isClean {
            try folder.write(".kafka_cleanshutdown", Array(#"{"version":0,"brokerEpoch":-1}"#.utf8))
        }
        if let end {
            let line = "\(topicPartition.topic) 0 \(end)"
            try folder.write("recovery-point-offset-checkpoint", Array("0\n1\n\(line)\n".utf8))
        }
        return folder
    }

    func dump() throws -> [DumpedBatch] { try DumpedBatch.parse(try text("dump.txt")) }
}

/// A batch as Kafka's dump tool prints it.
struct DumpedBatch {
    struct Record {
        var offset: Int64
        var timestamp: Int64
        var keySize: Int
        var valueSize: Int
        var sequence: Int32
        var headerKeys: [String]
        var key: String?
        var payload: String?
        var marker: String?
        var coordinatorEpoch: Int32?
    }
    /// Base offset of its segment.
    var segment: Int64
    var line: String
    var records: [Record] = []

    subscript(_ field: String) -> String { Self.field(field, line) ?? "" }
    func number(_ field: String) throws -> Int64 { try #require(Int64(self[field])) }
    var isControl: Bool { self["isControl"] == "true" }

    static func field(_ name: String, _ line: String) -> String? {
        let parts = line.split(separator: " ", omittingEmptySubsequences: false)
        guard let at = parts.firstIndex(of: "\(name):"), at + 1 < parts.count else { return nil }
        return String(parts[at + 1])
    }

    static func parse(_ text: String) throws -> [DumpedBatch] {
        var batches: [DumpedBatch] = []
        var segment: Int64 = 0
        for line in text.split(separator: "\n").map(String.init) {
            if line.hasPrefix("Log starting offset:") {
                segment = try #require(Int64(field("offset", line) ?? ""))
            } else if line.hasPrefix("baseOffset:") {
                batches.append(DumpedBatch(segment: segment, line: line))
            } else if line.hasPrefix("| offset:") {
                batches[batches.count - 1].records.append(try record(line))
            } else {
                #expect(line.hasPrefix("Dumping"), "an unknown line: \(line)")
            }
        }
        return batches
    }

    private static func record(_ line: String) throws -> Record {
        func number(_ name: String) throws -> Int64 { try #require(Int64(field(name, line) ?? "")) }
        let headers = try #require(field("headerKeys", line)).dropFirst().dropLast()
        return Record(
            offset: try number("offset"),
            timestamp: try number("CreateTime"),
            keySize: Int(try number("keySize")),
            valueSize: Int(try number("valueSize")),
            sequence: Int32(try number("sequence")),
            headerKeys: headers.split(separator: ",").map(String.init),
            key: field("key", line),
            payload: field("payload", line),
            marker: field("endTxnMarker", line),
            coordinatorEpoch: field("coordinatorEpoch", line).flatMap { Int32($0) }
        )
    }
}

extension PartitionLog {
    /// All batches, with their positions in their segments' files.
    func batches() throws -> [(file: String, position: Int, batch: RecordBatchReader)] {
        var batches: [(String, Int, RecordBatchReader)] = []
        var position = logStartOffset
        while true {
            let read = try read(from: position, maxBytes: 1 << 20, minOneBatch: true, upTo: logEndOffset)
            guard let slice = read.slices.first else { return batches }
            var buffer = ByteBuffer()
            try read.copy(into: &buffer)
            var iterator = RecordBatchIterator(buffer)
            var at = slice.position
            while let batch = try iterator.next() {
                batches.append((slice.file.path, at, try batch.reader()))
                at += batch.header.sizeInBytes
            }
            position = read.nextOffset
        }
    }
}
