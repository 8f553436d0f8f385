// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
public import NIOCore

/// The recorded examples of record batches: each must decode to its fields and records, and encode again: to the same
/// bytes where it is not compressed, else to a batch that decodes to the same (compressors differ).
public enum RecordBatchVectors {
    /// The file's name.
    public static let fileName = "record-batch-vectors.jsonl"

    /// One line of the file.
    public struct Vector: Sendable {
        /// Which line, and which codec or marker, such as `line 3 gzip`.
        public let name: String
        /// The decoded fields.
        public let fields: [String: JSONValue]
        /// The batch.
        public let bytes: ByteBuffer

        /// Makes an example.
        public init(name: String, fields: [String: JSONValue], bytes: ByteBuffer) {
            self.name = name
            self.fields = fields
            self.bytes = bytes
        }
    }

    /// Why an example failed.
    struct Mismatch: Error, CustomStringConvertible {
        let description: String
    }

    /// Checks every line. Throws where the file cannot be read.
    public static func run(directory: String) throws -> VectorResult {
        var result = VectorResult()
        for vector in try load(directory: directory) {
            do {
                _ = try check(vector)
                result.passed += 1
            } catch {
                result.failed += 1
                result.failures.append("record batch, \(vector.name): \(error)")
            }
        }
        return result
    }

    /// Reads the file. Throws where a line is not as described.
    public static func load(directory: String) throws -> [Vector] {
        let text = try String(contentsOfFile: directory + "/" + fileName, encoding: .utf8)
        var vectors: [Vector] = []
        for (index, line) in text.split(separator: "\n").enumerated() {
            guard case .object(var fields) = try JSONValue(parsing: line), let hex = fields["bytes"]?.string else {
                throw Mismatch(description: "\(fileName) line \(index + 1): no object with bytes")
            }
            fields["bytes"] = nil
            let kind = fields["compression"]?.string ?? fields["control"]?.string ?? "?"
            vectors.append(
                Vector(
                    name: "line \(index + 1) \(kind)",
                    fields: fields,
                    bytes: try ByteBuffer(plainHexEncodedBytes: hex)
                )
            )
        }
        return vectors
    }

    /// Checks one example. Returns whether encoding gave the very same bytes, which only compressed ones need not.
    public static func check(_ vector: Vector) throws -> Bool {
        var rules = RecordBatchValidator.Rules.log
        rules.checksRecords = true
        try RecordBatchValidator.validate(vector.bytes, rules: rules)
        let reader = try RecordBatchReader(vector.bytes)
        try compare(try describe(reader), with: vector.fields)

        let encoded = try encode(reader)
        if encoded == vector.bytes { return true }
        if reader.header.attributes.codec == CompressionCodec.none {
            throw Mismatch(description: "encodes to \(encoded.hexDump(format: .compact))")
        }
        var again = try describe(try RecordBatchReader(encoded))
        again["crc"] = vector.fields["crc"]  // other compressed bytes, another checksum
        try compare(again, with: vector.fields)
        return false
    }

    private static func compare(_ decoded: [String: JSONValue], with expected: [String: JSONValue]) throws {
        for (field, value) in expected.sorted(by: { $0.key < $1.key }) where decoded[field] != value {
            let was = decoded[field].map { "\($0)" } ?? "nothing"
            throw Mismatch(description: "\(field) decodes to \(was), expected \(value)")
        }
    }

    private static func describe(_ reader: RecordBatchReader) throws -> [String: JSONValue] {
        let header = reader.header
        var fields: [String: JSONValue] = [
            "baseOffset": .integer(header.baseOffset.rawValue),
            "partitionLeaderEpoch": .integer(Int64(header.partitionLeaderEpoch.rawValue)),
            "producerId": .integer(header.producerID.rawValue),
            "producerEpoch": .integer(Int64(header.producerEpoch)),
            "crc": .integer(Int64(header.crc)),
        ]
        if let control = try reader.controlRecord() {
            fields["kind"] = .string("control")
            fields["control"] = .string("\(control.kind)".uppercased())
            fields["coordinatorEpoch"] = .integer(Int64(control.coordinatorEpoch))
            return fields
        }
        fields["kind"] = .string("data")
        fields["compression"] = .string(header.attributes.codec?.description ?? "unknown")
        fields["lastOffset"] = .integer(header.lastOffset.rawValue)
        fields["baseSequence"] = .integer(Int64(header.baseSequence))
        fields["lastSequence"] = .integer(Int64(header.lastSequence))
        fields["transactional"] = .bool(header.attributes.isTransactional)
        fields["timestampType"] = .string(header.attributes.isLogAppendTime ? "LogAppendTime" : "CreateTime")
        fields["maxTimestamp"] = .integer(header.maxTimestamp.rawValue)
        fields["records"] = .array(try reader.records().map(describe))
        return fields
    }

    private static func describe(_ record: Record) -> JSONValue {
        .object([
            "offset": .integer(record.offset.rawValue),
            "timestamp": .integer(record.timestamp.rawValue),
            "key": describe(record.key),
            "value": describe(record.value),
            "headers": .array(
                record.headers.map { .object(["key": .string($0.key), "value": describe($0.value)]) }
            ),
        ])
    }

    private static func describe(_ bytes: ByteBuffer?) -> JSONValue {
        bytes.map { .string($0.hexDump(format: .compact)) } ?? .null
    }

    private static func encode(_ reader: RecordBatchReader) throws -> ByteBuffer {
        let header = reader.header
        var encoded = ByteBuffer()
        if let control = try reader.controlRecord() {
            control.writeBatch(
                producerID: header.producerID,
                producerEpoch: header.producerEpoch,
                timestamp: header.baseTimestamp,
                baseOffset: header.baseOffset,
                partitionLeaderEpoch: header.partitionLeaderEpoch,
                into: &encoded
            )
            return encoded
        }
        var settings = RecordBatchBuilder.Settings(codec: header.attributes.codec ?? .none)
        settings.baseOffset = header.baseOffset
        settings.partitionLeaderEpoch = header.partitionLeaderEpoch
        settings.producerID = header.producerID
        settings.producerEpoch = header.producerEpoch
        settings.baseSequence = header.baseSequence
        settings.isTransactional = header.attributes.isTransactional
        settings.logAppendTime = header.attributes.isLogAppendTime ? header.maxTimestamp : nil
        var builder = RecordBatchBuilder(settings)
        // The deltas, not the records' timestamps: those are lost where the batch says log append time.
        let records = try reader.records()
        var index = 0
        try reader.forEachRecord { view in
            let record = records[index]
            index += 1
            builder.append(
                key: record.key,
                value: record.value,
                headers: record.headers,
                timestamp: header.baseTimestamp + view.timestampDelta,
                offsetDelta: view.offsetDelta
            )
        }
        try builder.build(into: &encoded)
        return encoded
    }
}

/// The recorded hashes and partitions of keys.
public enum Murmur2Vectors {
    /// The file's name.
    public static let fileName = "murmur2-vectors.txt"

    /// Checks every line. Throws where the file cannot be read. The first line names the columns: the key in hex (`-`
    /// is the empty key), its hash, and the partition of it for each column `partition_of_N`.
    public static func run(directory: String) throws -> VectorResult {
        let lines = try String(contentsOfFile: directory + "/" + fileName, encoding: .utf8).split(separator: "\n")
        let counts = (lines.first ?? "").split(separator: " ").dropFirst(2).compactMap {
            Int32($0.dropFirst("partition_of_".count))
        }
        var result = VectorResult()
        for line in lines.dropFirst() {
            let columns = line.split(separator: " ")
            let key = try ByteBuffer(plainHexEncodedBytes: columns[0] == "-" ? "" : String(columns[0]))
            let found = key.withUnsafeReadableBytes { key in
                [Murmur2.hash(key)]
                    + counts.map { Murmur2.partition(of: key, partitionCount: $0).rawValue }
            }
            if found == columns.dropFirst().compactMap({ Int32($0) }) {
                result.passed += 1
            } else {
                result.failed += 1
                result.failures.append("murmur2, \(line): found \(found)")
            }
        }
        return result
    }
}
