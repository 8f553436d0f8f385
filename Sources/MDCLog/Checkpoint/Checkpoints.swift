// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Kafka's checkpoint of one offset per partition: `recovery-point-offset-checkpoint` and its like.
enum OffsetCheckpoint {
    /// Version (0), number of entries, and a line `topic partition offset` each.
    static func encode(_ offsets: [TopicPartition: Offset]) -> [UInt8] {
        var text = "0\n\(offsets.count)\n"
        for (partition, offset) in offsets.sorted(by: { $0.key < $1.key }) {
            text += "\(partition.topic) \(partition.partition) \(offset)\n"
        }
        return Array(text.utf8)
    }

    /// Reads a checkpoint; nil where it is damaged.
    static func decode(_ bytes: [UInt8]) -> [TopicPartition: Offset]? {
        let lines = bytes.split(separator: UInt8(ascii: "\n"))
        guard lines.count >= 2, lines[0].elementsEqual("0".utf8),
            let count = Int(String(decoding: lines[1], as: UTF8.self)), count == lines.count - 2
        else { return nil }
        var offsets: [TopicPartition: Offset] = [:]
        for line in lines.dropFirst(2) {
            let words = line.split(separator: UInt8(ascii: " ")).map { String(decoding: $0, as: UTF8.self) }
            guard words.count == 3, let partition = Int32(words[1]), let offset = Int64(words[2]),
                (0...Offset.limit.rawValue).contains(offset)
            else {
                return nil
            }
            offsets[TopicPartition(topic: words[0], partition: PartitionID(partition))] = Offset(offset)
        }
        return offsets
    }
}

/// Where the recovery of a partition may start, and what must be true of its files for that.
struct PartitionCheckpoint: Sendable, Equatable {
    var logStartOffset: Offset
    /// Everything before it is on stable storage, and valid unless the disk rots.
    var recoveryOffset: Offset
    /// The segment that held it, and where in it.
    var segmentBase: Offset
    var position: Int
    /// Of that segment up to the position.
    var maxTimestamp: Timestamp
    var offsetOfMaxTimestamp: Offset
    /// Its index files up to the position: entries and their checksums. The files themselves may be older or torn; then
    /// the segment is read from its start.
    var offsetIndexEntries: Int
    var offsetIndexChecksum: UInt32
    var timeIndexEntries: Int
    var timeIndexChecksum: UInt32
    /// Aborted transactions in the whole log up to the recovery offset.
    var abortedTransactions: Int
    /// Whether no producer had a state at the recovery offset, so that no snapshot is needed.
    var hasNoProducers: Bool
}

/// Our checkpoint of a data folder: `mdc-checkpoint`. A lost one costs time at the next start, nothing else.
enum NodeCheckpoint {
    private static let title = "mdc-checkpoint 1"

    /// A title, a line of 14 words for each partition, and a last line with the CRC-32C of all before.
    static func encode(_ partitions: [TopicPartition: PartitionCheckpoint]) -> [UInt8] {
        var text = title + "\n"
        for (key, value) in partitions.sorted(by: { $0.key < $1.key }) {
            text += "\(key.topic) \(key.partition) \(value.logStartOffset) \(value.recoveryOffset) "
            text += "\(value.segmentBase) \(value.position) \(value.maxTimestamp) \(value.offsetOfMaxTimestamp) "
            text += "\(value.offsetIndexEntries) \(value.offsetIndexChecksum) \(value.timeIndexEntries) "
            text += "\(value.timeIndexChecksum) \(value.abortedTransactions) \(value.hasNoProducers ? 1 : 0)\n"
        }
        var bytes = Array(text.utf8)
        bytes.append(contentsOf: "crc \(bytes.checksum)\n".utf8)
        return bytes
    }

    /// Reads a checkpoint; nil where it is damaged.
    static func decode(_ bytes: [UInt8]) -> [TopicPartition: PartitionCheckpoint]? {
        guard bytes.last == UInt8(ascii: "\n"),
            let lastLine = bytes.dropLast().lastIndex(of: UInt8(ascii: "\n")).map({ $0 + 1 }),
            bytes[lastLine...].elementsEqual("crc \([UInt8](bytes[..<lastLine]).checksum)\n".utf8)
        else { return nil }
        let lines = bytes[..<lastLine].split(separator: UInt8(ascii: "\n"))
        guard let first = lines.first, first.elementsEqual(title.utf8) else { return nil }
        var partitions: [TopicPartition: PartitionCheckpoint] = [:]
        partitions.reserveCapacity(lines.count)
        for line in lines.dropFirst() {
            let words = line.split(separator: UInt8(ascii: " "))
            guard words.count == 14 else { return nil }
            let numbers = words.dropFirst().compactMap { Int64(String(decoding: $0, as: UTF8.self)) }
            guard numbers.count == 13, let partition = Int32(exactly: numbers[0]),
                [1, 2, 3, 6].allSatisfy({ (0...Offset.limit.rawValue).contains(numbers[$0]) }),
                (-1...Int64(Int32.max)).contains(numbers[4]),
                [7, 9, 11].allSatisfy({ (0...Int64(Int32.max)).contains(numbers[$0]) })
            else { return nil }
            let key = TopicPartition(
                topic: String(decoding: words[0], as: UTF8.self),
                partition: PartitionID(partition)
            )
            partitions[key] = PartitionCheckpoint(
                logStartOffset: Offset(numbers[1]),
                recoveryOffset: Offset(numbers[2]),
                segmentBase: Offset(numbers[3]),
                position: Int(numbers[4]),
                maxTimestamp: Timestamp(numbers[5]),
                offsetOfMaxTimestamp: Offset(numbers[6]),
                offsetIndexEntries: Int(numbers[7]),
                offsetIndexChecksum: UInt32(truncatingIfNeeded: numbers[8]),
                timeIndexEntries: Int(numbers[9]),
                timeIndexChecksum: UInt32(truncatingIfNeeded: numbers[10]),
                abortedTransactions: Int(numbers[11]),
                hasNoProducers: numbers[12] == 1
            )
        }
        return partitions
    }
}

/// The topic's id in a partition's folder: Kafka's `partition.metadata`.
enum PartitionMetadataFile {
    static func encode(_ id: TopicID) -> [UInt8] { Array("version: 0\ntopic_id: \(id)".utf8) }

    /// Reads the file; nil where it is damaged.
    static func decode(_ bytes: [UInt8]) -> TopicID? {
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let text = String(decoding: line, as: UTF8.self)
            if text.hasPrefix("topic_id: ") { return TopicID(String(text.dropFirst("topic_id: ".utf8.count))) }
        }
        return nil
    }
}

/// The file that says that a data folder was closed in order: Kafka's `.kafka_cleanshutdown`.
enum CleanShutdownMarker {
    static let content = Array("{\"version\":0,\"brokerEpoch\":-1}".utf8)
}
