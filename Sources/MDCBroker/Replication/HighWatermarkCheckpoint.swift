// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import Synchronization

/// High watermarks over restarts: `replication-offset-checkpoint`, as Kafka writes it. Each is a lower bound: what it covers
/// was committed, on the disk of this replica too.
///
/// The file is behind what is in memory, which does no harm, but must not be ahead of a log that was cut or made anew below
/// it: other records that come there later need not be committed. See ``lower(_:to:)``.
final class HighWatermarkCheckpoint: Sendable {
    private static let fileName = "replication-offset-checkpoint"
    private static let maximumSize = 64 << 20

    private let directory: String
    private let fileSystem: any FileSystem
    private let logger: Logger
    /// What the file says.
    private let written: Mutex<[TopicPartition: Int64]>

    /// Reads the file. One that is not there or cannot be read says nothing; that is no error, for it can be done without.
    init(directory: String, fileSystem: any FileSystem, logger: Logger) {
        self.directory = directory
        self.fileSystem = fileSystem
        self.logger = logger
        var marks: [TopicPartition: Int64] = [:]
        do {
            if let bytes = try Self.content("\(directory)/\(Self.fileName)", fileSystem) {
                if let found = Self.decode(bytes) {
                    marks = found
                } else {
                    logger.warning("\(Self.fileName) cannot be read and is written anew")
                }
            }
        } catch {
            logger.warning("\(Self.fileName) cannot be read", metadata: ["error": "\(error)"])
        }
        written = Mutex(marks)
    }

    /// What was committed of a partition when the node last said so; nil where it never did.
    subscript(partition: TopicPartition) -> Offset? { written.withLock { $0[partition] }.map { Offset($0) } }

    /// Writes what `gather` finds, if that is news. Blocks.
    func save(_ gather: () -> [TopicPartition: Offset]) {
        written.withLock { written in
            let marks = gather().mapValues(\.rawValue)
            if marks != written { replace(&written, marks) }
        }
    }

    /// The log of a partition was cut, or made anew, and nothing has been appended since: the file must not say more than
    /// `mark`. Blocks where it does.
    func lower(_ partition: TopicPartition, to mark: Offset) {
        written.withLock { written in
            guard let known = written[partition], known > mark.rawValue else { return }
            var marks = written
            marks[partition] = mark.rawValue
            replace(&written, marks)
        }
    }

    private func replace(_ written: inout [TopicPartition: Int64], _ marks: [TopicPartition: Int64]) {
        do {
            // Either the old or the new content is there after any crash.
            let temporary = "\(directory)/\(Self.fileName).tmp"
            let file = try fileSystem.open(temporary, [.write, .create])
            try file.truncate(to: 0)
            let bytes = Self.encode(marks)
            var position = 0
            while position < bytes.count {
                position += try bytes.withUnsafeBytes { all in
                    try withUnsafePointer(to: WritePiece(UnsafeRawBufferPointer(rebasing: all[position...]))) { piece in
                        try file.write(UnsafeBufferPointer(start: piece, count: 1), at: position)
                    }
                }
            }
            try file.sync()
            try fileSystem.rename(temporary, to: "\(directory)/\(Self.fileName)")
            try fileSystem.syncDirectory(directory)
            written = marks
        } catch {
            logger.warning("\(Self.fileName) cannot be written", metadata: ["error": "\(error)"])
        }
    }

    private static func content(_ path: String, _ fileSystem: any FileSystem) throws -> [UInt8]? {
        guard try fileSystem.attributes(path) != nil else { return nil }
        let file = try fileSystem.open(path, [])
        var bytes = [UInt8](repeating: 0, count: min(try file.size(), maximumSize))
        var position = 0
        while position < bytes.count {
            let count = try bytes.withUnsafeMutableBytes { all in
                try file.read(into: UnsafeMutableRawBufferPointer(rebasing: all[position...]), at: position)
            }
            if count == 0 { break }
            position += count
        }
        return Array(bytes[..<position])
    }

    // MARK: Format

    /// Version, number of lines, then topic, partition and offset of each.
    static func encode(_ marks: [TopicPartition: Int64]) -> [UInt8] {
        var text = "0\n\(marks.count)\n"
        for (partition, mark) in marks.sorted(by: { $0.key < $1.key }) {
            text += "\(partition.topic) \(partition.partition.rawValue) \(mark)\n"
        }
        return Array(text.utf8)
    }

    /// Nil where it is not such a file, or not all of one.
    static func decode(_ bytes: [UInt8]) -> [TopicPartition: Int64]? {
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        guard lines.count >= 2, lines[0] == "0", let count = Int(lines[1]), count == lines.count - 2 else { return nil }
        var marks: [TopicPartition: Int64] = [:]
        for line in lines.dropFirst(2) {
            let fields = line.split(separator: " ", omittingEmptySubsequences: false)
            guard fields.count == 3, let index = Int32(fields[1]), index >= 0, let mark = Int64(fields[2]), mark >= 0
            else { return nil }
            marks[TopicPartition(topic: String(fields[0]), partition: PartitionID(index))] = mark
        }
        return marks
    }
}
