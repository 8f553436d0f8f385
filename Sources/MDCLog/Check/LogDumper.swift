// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Prints the files of a partition: batches and records of a segment, entries of indexes, snapshots, checkpoints.
public struct LogDumper {
    /// How it prints.
    public enum Format: Hashable, Sendable {
        /// A line of `name: value` pairs each.
        case text
        /// One JSON object a line.
        case json
    }

    /// The file, or a partition's folder, whose files are then printed in order.
    public let path: String
    public var format: Format = .text
    /// Whether the records of a segment are printed, not just its batches.
    public var printsRecords = true
    private let fileSystem: any FileSystem

    /// Makes a dumper of a file, or of a partition's folder.
    public init(path: String, fileSystem: any FileSystem = POSIXFileSystem()) {
        self.path = path
        self.fileSystem = fileSystem
    }

    /// Prints, a line at a time without its line break. Throws `.notFound` where there is nothing, `.invalidRecord`
    /// where the file is of no known kind. Damage is printed, not thrown.
    public func run(_ write: (String) -> Void) throws(LogError) {
        do throws(FileSystemError) {
            guard let attributes = try fileSystem.attributes(path) else {
                throw FileSystemError(.notFound, call: "stat", path: path, reason: "there is no such file")
            }
            guard attributes.isDirectory else {
                try dump(path, write)
                return
            }
            for name in try fileSystem.list(path).filter({ !$0.isDirectory }).map(\.name).sorted()
            where Self.isKnown(name) {
                line([("file", .text(name))], write)
                try dump("\(path)/\(name)", write)
            }
        } catch {
            throw LogError(error, while: "printing \(path)")
        }
    }

    private static let suffixes = [
        FileName.log, FileName.offsetIndex, FileName.timeIndex, FileName.transactionIndex, FileName.producerSnapshot,
        FileName.footer,
    ]

    private static func isKnown(_ name: String) -> Bool {
        name == FileName.leaderEpochs || TornTail.offset(in: name) != nil
            || suffixes.contains { FileName.offset(in: name, suffix: $0) != nil }
    }

    private func dump(_ path: String, _ write: (String) -> Void) throws(FileSystemError) {
        let name = path.split(separator: "/").last.map(String.init) ?? path
        func offset(_ suffix: String) -> Offset? { FileName.offset(in: name, suffix: suffix) }
        if let base = offset(FileName.log) { return try dumpLog(path, base, write) }
        if TornTail.offset(in: name) != nil { return try dumpTorn(path, write) }
        let bytes = try fileSystem.readSmallFile(path) ?? []
        if let base = offset(FileName.offsetIndex) {
            dumpOffsetIndex(bytes, base, write)
        } else if let base = offset(FileName.timeIndex) {
            dumpTimeIndex(bytes, base, write)
        } else if let base = offset(FileName.transactionIndex) {
            dumpTransactionIndex(bytes, base, write)
        } else if offset(FileName.producerSnapshot) != nil {
            dumpSnapshot(bytes, write)
        } else if offset(FileName.footer) != nil {
            dumpFooter(bytes, write)
        } else if name == FileName.leaderEpochs {
            guard let epochs = LeaderEpochs(decoding: bytes) else { return damaged("cannot be read", write) }
            for entry in epochs.entries {
                line([("epoch", .number(Int64(entry.epoch.rawValue))), ("startOffset", .of(entry.startOffset))], write)
            }
        } else {
            throw FileSystemError(
                .other,
                call: "dump",
                path: path,
                reason: "not a file of a log: expected one of \(Self.suffixes.joined(separator: " "))"
            )
        }
    }

    // MARK: Lines

    private enum Value {
        case number(Int64)
        case flag(Bool)
        case text(String)
        case bytes(UnsafeRawBufferPointer)
        case null
        static func of(_ offset: Offset) -> Value { .number(offset.rawValue) }
        static func of(_ time: Timestamp) -> Value { .number(time.rawValue) }
    }

    private func line(_ fields: [(String, Value)], _ write: (String) -> Void) {
        var text = format == .json ? "{" : ""
        for (index, (name, value)) in fields.enumerated() {
            if index > 0 { text += format == .json ? "," : " " }
            text += format == .json ? "\"\(name)\":" : "\(name): "
            switch value {
            case .number(let number): text += String(number)
            case .flag(let flag): text += flag ? "true" : "false"
            case .text(let string): text += format == .json ? Self.quoted(string.utf8) : string
            case .null: text += "null"
            case .bytes(let bytes):
                if format == .json {
                    text += Self.quoted(bytes)
                } else {
                    text += String(decoding: bytes, as: UTF8.self)
                }
            }
        }
        write(format == .json ? text + "}" : text)
    }

    /// A JSON string; bytes that are no UTF-8 become the replacement character.
    private static func quoted(_ bytes: some Collection<UInt8>) -> String {
        var text = "\""
        for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            default:
                if scalar.value < 0x20 {
                    let hex = String(scalar.value, radix: 16)
                    text += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
                } else {
                    text.unicodeScalars.append(scalar)
                }
            }
        }
        return text + "\""
    }

    private func damaged(_ message: String, _ write: (String) -> Void) { line([("damaged", .text(message))], write) }

    // MARK: Logs

    private func dumpLog(_ path: String, _ base: Offset, _ write: (String) -> Void) throws(FileSystemError) {
        let file = try fileSystem.open(path, [])
        let size = try file.size()
        var scanner = BatchScanner(file: file, from: 0, to: size, nextOffset: base)
        do throws(LogError) {
            let end = try scanner.scan { header, position, bytes throws(LogError) in
                batch(header, position, write)
                if printsRecords { try records(header, bytes, write) }
                return true
            }
            switch end {
            case .complete: break
            case .zeros: line([("reservedBytes", .number(Int64(size - scanner.position)))], write)
            case .invalid(let reason): damaged("at byte \(scanner.position): \(reason)", write)
            }
        } catch {
            damaged("at byte \(scanner.position): \(error.message)", write)
        }
    }

    /// What a recovery cut off a log: the batches that read well, with whatever stands between them left out.
    private func dumpTorn(_ path: String, _ write: (String) -> Void) throws(FileSystemError) {
        let file = try fileSystem.open(path, [])
        let size = try file.size()
        var search = BatchSearch(file: file, from: 0, to: size)
        do throws(LogError) {
            while let found = try search.next() {
                batch(found.header, found.position, write)
                guard printsRecords else { continue }
                var bytes = [UInt8](repeating: 0, count: found.header.sizeInBytes)
                var failure: LogError?
                do throws(FileSystemError) { _ = try file.readFully(into: &bytes, at: found.position) } catch {
                    throw LogError(error, while: "printing \(path)")
                }
                bytes.withUnsafeBytes { bytes in
                    do throws(LogError) { try records(found.header, bytes, write) } catch { failure = error }
                }
                if let failure { throw failure }
            }
        } catch {
            damaged(error.message, write)
        }
    }

    private func batch(_ header: RecordBatchHeader, _ position: Int, _ write: (String) -> Void) {
        let attributes = header.attributes
        let codec = CompressionCodec(rawValue: UInt8(attributes.compressionNumber))
        line(
            [
                ("baseOffset", .of(header.baseOffset)), ("lastOffset", .of(header.lastOffset)),
                ("count", .number(Int64(header.recordCount))),
                ("baseSequence", .number(Int64(header.baseSequence))),
                ("lastSequence", .number(Int64(header.lastSequence))),
                ("producerId", .number(header.producerID.rawValue)),
                ("producerEpoch", .number(Int64(header.producerEpoch))),
                ("partitionLeaderEpoch", .number(Int64(header.partitionLeaderEpoch.rawValue))),
                ("isTransactional", .flag(attributes.isTransactional)), ("isControl", .flag(attributes.isControl)),
                ("deleteHorizon", attributes.hasDeleteHorizon ? .of(header.baseTimestamp) : .null),
                ("position", .number(Int64(position))),
                (attributes.isLogAppendTime ? "logAppendTime" : "createTime", .of(header.maxTimestamp)),
                ("size", .number(Int64(header.sizeInBytes))), ("codec", .text(codec.map { "\($0)" } ?? "unknown")),
                ("crc", .number(Int64(header.crc))),
            ],
            write
        )
    }

    private func records(
        _ header: RecordBatchHeader,
        _ bytes: UnsafeRawBufferPointer,
        _ write: (String) -> Void
    ) throws(LogError) {
        var scratch = ByteBuffer()
        try RecordWalk.forEach(in: bytes, header: header, scratch: &scratch) { record throws(LogError) in
            var fields: [(String, Value)] = [
                ("offset", .of(record.offset(in: header))), ("timestamp", .of(record.timestamp(in: header))),
                ("sequence", .number(header.baseSequence < 0 ? -1 : Int64(sequence(header, record)))),
                ("keySize", .number(Int64(record.key?.count ?? -1))),
                ("valueSize", .number(Int64(record.value?.count ?? -1))),
            ]
            if header.attributes.isControl {
                if let marker = TransactionMarker(controlBatch: bytes) {
                    fields.append(("endTransaction", .text(marker.isCommit ? "COMMIT" : "ABORT")))
                    fields.append(("coordinatorEpoch", .number(Int64(marker.coordinatorEpoch))))
                }
            } else {
                var headers: [String] = []
                record.forEachHeader { name, value in
                    let value = value.map { String(decoding: $0, as: UTF8.self) } ?? "null"
                    headers.append("\(String(decoding: name, as: UTF8.self))=\(value)")
                }
                if !headers.isEmpty { fields.append(("headers", .text(headers.joined(separator: ",")))) }
                fields.append(("key", record.key.map { .bytes($0) } ?? .null))
                fields.append(("value", record.value.map { .bytes($0) } ?? .null))
            }
            line(fields, write)
            return true
        }
    }

    private func sequence(_ header: RecordBatchHeader, _ record: RecordView) -> Int32 {
        (header.baseSequence &+ record.offsetDelta) & Int32.max
    }

    // MARK: Derived files

    private func dumpOffsetIndex(_ bytes: [UInt8], _ base: Offset, _ write: (String) -> Void) {
        guard let index = OffsetIndex(baseOffset: base, decoding: bytes, logSize: .max) else {
            return damaged("the entries contradict each other", write)
        }
        for entry in index.entries {
            line(
                [("offset", .of(base + Int64(entry.relativeOffset))), ("position", .number(Int64(entry.position)))],
                write
            )
        }
    }

    private func dumpTimeIndex(_ bytes: [UInt8], _ base: Offset, _ write: (String) -> Void) {
        guard let index = TimeIndex(baseOffset: base, decoding: bytes) else {
            return damaged("the entries contradict each other", write)
        }
        for entry in index.entries {
            line([("timestamp", .of(entry.timestamp)), ("offset", .of(entry.offset(from: base)))], write)
        }
    }

    private func dumpTransactionIndex(_ bytes: [UInt8], _ base: Offset, _ write: (String) -> Void) {
        guard let entries = TransactionIndex.decode(bytes, baseOffset: base) else {
            return damaged("the entries contradict each other", write)
        }
        for entry in entries {
            line(
                [
                    ("producerId", .number(entry.producerID.rawValue)), ("firstOffset", .of(entry.firstOffset)),
                    ("lastOffset", .of(entry.lastOffset)), ("lastStableOffset", .of(entry.lastStableOffset)),
                ],
                write
            )
        }
    }

    private func dumpSnapshot(_ bytes: [UInt8], _ write: (String) -> Void) {
        guard let table = ProducerSnapshot.decode(bytes, now: .none) else {
            return damaged("the checksum or length is wrong", write)
        }
        for (id, entry) in table.entries.sorted(by: { $0.key < $1.key }) {
            let last = entry.batches.last
            line(
                [
                    ("producerId", .number(id.rawValue)), ("producerEpoch", .number(Int64(entry.epoch))),
                    ("coordinatorEpoch", .number(Int64(entry.coordinatorEpoch))),
                    ("currentTxnFirstOffset", entry.currentTransactionFirstOffset.map { .of($0) } ?? .null),
                    ("lastTimestamp", .of(entry.lastTimestamp)),
                    ("firstSequence", .number(Int64(last?.firstSequence ?? -1))),
                    ("lastSequence", .number(Int64(last?.lastSequence ?? -1))),
                    ("lastOffset", .of(last?.lastOffset ?? -1)),
                    ("offsetDelta", .number(Int64(last?.offsetDelta ?? 0))),
                ],
                write
            )
        }
    }

    private func dumpFooter(_ bytes: [UInt8], _ write: (String) -> Void) {
        guard let footer = SegmentFooter(decoding: bytes) else { return damaged("the checksum is wrong", write) }
        line(
            [
                ("length", .number(Int64(footer.length))), ("endOffset", .of(footer.endOffset)),
                ("blockSize", .number(Int64(SegmentFooter.blockSize))),
                ("blocks", .number(Int64(footer.blocks.count))),
            ],
            write
        )
    }
}
