// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Names of the files of a partition's folder. Those of Kafka are Kafka's; ours are ones that Kafka ignores.
enum FileName {
    static let log = ".log"
    static let offsetIndex = ".index"
    static let timeIndex = ".timeindex"
    static let transactionIndex = ".txnindex"
    static let producerSnapshot = ".snapshot"
    /// Ours: length and checksums of a sealed segment.
    static let footer = ".footer"
    /// Ours: damage that was found in a sealed segment.
    static let damage = ".damage"
    /// Ours: what a recovery cut off the end of a log, kept aside.
    static let torn = ".torn"
    /// What belongs to a segment besides its log.
    static let besideLog = [offsetIndex, timeIndex, transactionIndex, footer, damage]
    static let deleted = ".deleted"
    static let cleaned = ".cleaned"
    static let swap = ".swap"
    static let temporary = ".tmp"
    /// The metadata as a whole, beside the metadata log.
    static let metadataSnapshot = ".checkpoint"
    static let leaderEpochs = "leader-epoch-checkpoint"
    static let partitionMetadata = "partition.metadata"

    // In the data folder.
    static let lock = ".lock"
    static let cleanShutdown = ".kafka_cleanshutdown"
    static let recoveryPoints = "recovery-point-offset-checkpoint"
    static let logStarts = "log-start-offset-checkpoint"
    static let cleanerOffsets = "cleaner-offset-checkpoint"
    /// Ours: where recovery may start, with what it needs to start there.
    static let checkpoint = "mdc-checkpoint"
    /// Ours: space that is given up when the disk is full.
    static let ballast = ".mdc-ballast"

    /// The 20 digits that begin the names of a segment's files.
    static func digits(_ offset: Offset) -> String {
        let text = String(offset.rawValue)
        return String(repeating: "0", count: max(0, 20 - text.utf8.count)) + text
    }

    /// The offset in a name of 20 digits and `suffix`; nil where the name is another, or the offset beyond all logs.
    static func offset(in name: String, suffix: String) -> Offset? {
        guard name.hasSuffix(suffix), name.utf8.count == 20 + suffix.utf8.count,
            let value = Int64(name.utf8.prefix(20).allSatisfy({ (48...57).contains($0) }) ? name.prefix(20) : ""),
            value <= Offset.limit.rawValue
        else { return nil }
        return Offset(value)
    }
}

extension Offset {
    /// No log gets so far. What is read from a disk and lies beyond is damage; what lies before can be counted on from
    /// without overflow.
    static let limit = Offset(Int64.max - (1 << 33))
}

/// Big-endian numbers in byte arrays, as Kafka writes them.
extension Array where Element == UInt8 {
    mutating func appendInteger<T: FixedWidthInteger>(_ value: T) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }

    func integer<T: FixedWidthInteger>(at position: Int, as _: T.Type = T.self) -> T {
        withUnsafeBytes { T(bigEndian: $0.loadUnaligned(fromByteOffset: position, as: T.self)) }
    }

    var checksum: UInt32 { withUnsafeBytes { CRC32C.compute($0) } }

    func checksum(from start: Int) -> UInt32 {
        withUnsafeBytes { CRC32C.compute(UnsafeRawBufferPointer(rebasing: $0[start...])) }
    }
}
