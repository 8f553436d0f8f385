// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// Who appends, which decides what is checked.
public enum AppendOrigin: Hashable, Sendable {
    /// A producer: every batch is validated, sequences deduplicated, offsets assigned.
    case client
    /// A coordinator of this node (group offsets, transaction state, transaction markers): as a client, but control
    /// batches are allowed and sequences are not checked.
    case coordinator
    /// A follower copying its leader: offsets and epochs are the leader's and must continue the log.
    case replica
}

/// What an append did.
public struct AppendResult: Hashable, Sendable {
    /// Offset of the first record.
    public var firstOffset: Offset
    /// Offset of the last record.
    public var lastOffset: Offset
    /// The time that the records carry where the topic uses log-append time, else `.none`.
    public var logAppendTime: Timestamp
    /// The log's first offset.
    public var logStartOffset: Offset
    /// Whether the batch was appended before (same producer and sequence); the offsets are those of then.
    public var isDuplicate: Bool
}

/// A run of whole record batches in a segment file.
public struct FileSlice: Sendable {
    /// The file; open for as long as the slice lives, whatever happens to the segment.
    public let file: any StorageFile
    /// Where the run starts.
    public let position: Int
    /// Its bytes.
    public let length: Int

    /// The descriptor for `sendfile`; -1 on a simulated disk.
    public var descriptor: Int32 { file.descriptor }
    /// Whether the first and the last page are in memory, so that reading will not wait for the disk.
    public var isResident: Bool {
        length == 0 || (file.isResident(at: position) && file.isResident(at: position + length - 1))
    }
    /// Asks for the run to be read into memory, without waiting.
    public func prefetch() { file.readAhead(at: position, count: length) }
}

/// What a read found: whole batches, without having read their records.
public struct LogRead: Sendable {
    /// Offset of the first batch of the slices: at or before the offset asked for. Nil where there is nothing.
    public var firstOffset: Offset?
    /// The batches, in order. One slice a read: a read ends with its segment.
    public var slices: [FileSlice]
    /// The offset to read from next: after the last batch of the slices; the offset asked for where there are none.
    public var nextOffset: Offset
    /// Sum of the slices' lengths.
    public var sizeInBytes: Int { slices.reduce(0) { $0 + $1.length } }
    /// Whether every slice can be read without waiting for the disk.
    public var isResident: Bool { slices.allSatisfy(\.isResident) }

    /// Reads the batches to the end of `buffer`. Blocks where pages are cold.
    public func copy(into buffer: inout ByteBuffer) throws(LogError) {
        for slice in slices {
            buffer.reserveCapacity(minimumWritableBytes: slice.length)
            var failure: FileSystemError?
            var count = 0
            buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: slice.length) { bytes in
                do throws(FileSystemError) {
                    count = try slice.file.readFully(
                        into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<slice.length]),
                        at: slice.position
                    )
                } catch {
                    failure = error
                }
                return count
            }
            if let failure { throw LogError(failure, while: "reading records") }
            guard count == slice.length else { throw Self.tooShort(slice, after: slice.position + count) }
        }
    }

    /// Brings the slices into memory without keeping them: sent from the file soon after, they do not wait for the disk.
    /// Blocks where pages are cold.
    public func load() throws(LogError) {
        for slice in slices {
            var failure: LogError?
            withUnsafeTemporaryAllocation(byteCount: min(slice.length, 256 << 10), alignment: 4096) { window in
                var position = slice.position
                let end = slice.position + slice.length
                while position < end && failure == nil {
                    let wanted = UnsafeMutableRawBufferPointer(rebasing: window[..<min(window.count, end - position)])
                    do throws(FileSystemError) {
                        let count = try slice.file.readFully(into: wanted, at: position)
                        position += count
                        if count < wanted.count { failure = Self.tooShort(slice, after: position) }
                    } catch {
                        failure = LogError(error, while: "reading records")
                    }
                }
            }
            if let failure { throw failure }
        }
    }

    private static func tooShort(_ slice: FileSlice, after position: Int) -> LogError {
        LogError(
            .damaged,
            "\(slice.file.path) ends after \(position) bytes; batches up to \(slice.position + slice.length) were expected"
        )
    }
}

/// What `PartitionLog.offset(for:)` looks for. Source: ListOffsets.
public enum OffsetLookup: Hashable, Sendable {
    /// The first offset of the log (-2).
    case earliest
    /// The end of the log (-1).
    case latest
    /// The first record whose timestamp is at least this.
    case timestamp(Timestamp)
    /// The record with the largest timestamp (-3).
    case maxTimestamp
    /// The first offset on this node's disk (-4); the log has no other tier, so it is the earliest.
    case earliestLocal
}

/// A position in the log as ListOffsets reports it.
public struct OffsetAndTimestamp: Hashable, Sendable {
    public var offset: Offset
    /// The record's timestamp; `.none` for `earliest` and `latest`.
    public var timestamp: Timestamp
    /// Epoch of the leader that appended there.
    public var leaderEpoch: LeaderEpoch
    /// Makes a position.
    public init(offset: Offset, timestamp: Timestamp, leaderEpoch: LeaderEpoch) {
        self.offset = offset
        self.timestamp = timestamp
        self.leaderEpoch = leaderEpoch
    }
}

/// A transaction that was aborted: its records are to be skipped by read-committed consumers.
public struct AbortedTransaction: Hashable, Sendable {
    public var producerID: ProducerID
    /// Offset of its first record.
    public var firstOffset: Offset
    /// Offset of the abort marker.
    public var lastOffset: Offset
    /// The last stable offset after the marker.
    public var lastStableOffset: Offset
    /// Makes an entry.
    public init(producerID: ProducerID, firstOffset: Offset, lastOffset: Offset, lastStableOffset: Offset) {
        self.producerID = producerID
        self.firstOffset = firstOffset
        self.lastOffset = lastOffset
        self.lastStableOffset = lastStableOffset
    }
}

/// Damage that was found below the durable point. It is reported and left as it is.
public struct DamageReport: Hashable, Sendable, CustomStringConvertible {
    public var topicPartition: TopicPartition
    /// The damaged file.
    public var path: String
    /// Where in the file.
    public var position: Int
    /// The first offset that cannot be vouched for.
    public var firstOffset: Offset
    /// The first offset after the damage that reads well, or where the log should continue.
    public var nextOffset: Offset?
    /// What is wrong.
    public var reason: String

    public var description: String {
        "\(path) at byte \(position), offsets \(firstOffset) to \(nextOffset.map { "\($0.rawValue - 1)" } ?? "?"): \(reason)"
    }
}

/// What recovery did to one partition.
public struct RecoveryReport: Hashable, Sendable {
    public var topicPartition: TopicPartition
    /// Bytes that were scanned.
    public var scannedBytes = 0
    /// Bytes of a torn, never acknowledged tail that were cut (not counting reserved space).
    public var cutBytes = 0
    /// Batches that read well behind the place where the log was cut: proof that the end was not just torn, though not of
    /// damage, since a system that goes down may have written later pages before earlier ones.
    public var cutBatches = 0
    /// First and last offset of these batches.
    public var cutOffsets: ClosedRange<Offset>?
    /// Where the bytes that were cut are kept.
    public var tornFiles: [String] = []
    /// Cuts that could not be kept for lack of space.
    public var tornFilesLost = 0
    /// The end of the log after recovery.
    public var logEndOffset: Offset = 0
    /// Derived files that were made anew.
    public var rebuiltFiles: [String] = []
    /// Damage that was found.
    public var damage: [DamageReport] = []
}

/// The producers with a state in a partition. Source: DescribeProducers.
public struct ActiveProducer: Hashable, Sendable {
    public var producerID: ProducerID
    public var producerEpoch: Int16
    public var lastSequence: Int32
    public var lastTimestamp: Timestamp
    public var coordinatorEpoch: Int32
    /// First offset of its open transaction.
    public var currentTransactionFirstOffset: Offset?
}

/// Disk usage of a partition.
public struct PartitionUsage: Hashable, Sendable {
    public var topicPartition: TopicPartition
    /// The data folder that holds it.
    public var directory: String
    /// Bytes of records.
    public var sizeInBytes: Int
    /// Number of segments.
    public var segments: Int
}

/// Disk usage of a data folder.
public struct DirectoryUsage: Hashable, Sendable {
    public var path: String
    /// Bytes of records of all its partitions.
    public var sizeInBytes: Int
    public var partitions: Int
    /// Bytes that are free on its file system; nil where the disk does not say.
    public var availableBytes: UInt64?
    public var totalBytes: UInt64?
    /// Why it accepts no appends; nil where it does.
    public var offlineReason: String?
}
