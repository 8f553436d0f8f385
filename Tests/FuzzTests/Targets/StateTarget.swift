// SPDX-License-Identifier: Apache-2.0

import MDCModel

@testable import MDCLog

extension FuzzTarget {
    /// The small files beside the log: producer snapshots, checkpoints, epochs, footers, transaction indexes, file names.
    static let state = FuzzTarget(name: "state", run: StateTarget.run, seeds: StateTarget.seeds)
}

/// Input: a byte that says which file, then its bytes.
private enum StateTarget {
    static func run(_ bytes: [UInt8]) {
        var source = ByteSource(bytes)
        let choice = source.byte()
        var rest = source.rest()
        switch choice % 8 {
        case 0:
            if choice & 0x80 != 0, rest.count >= 6 { Checksums.put(rest.checksum(from: 6), in: &rest, at: 2) }
            guard let table = ProducerSnapshot.decode(rest, now: 5) else { return }
            let encoded = ProducerSnapshot.encode(table)
            guard let again = ProducerSnapshot.decode(encoded, now: 5) else { fatalError("an own snapshot is refused") }
            require(ProducerSnapshot.encode(again) == encoded, "a snapshot is encoded in two ways")
            use(table)
        case 1:
            guard let epochs = LeaderEpochs(decoding: rest) else { return }
            require(LeaderEpochs(decoding: epochs.encode()) == epochs, "epochs come back different")
            for entry in epochs.entries {
                _ = epochs.end(of: entry.epoch, logEnd: 100)
                require(epochs.epoch(at: entry.startOffset) == entry.epoch, "an epoch is not found at its start")
                var copy = epochs
                _ = copy.truncate(to: entry.startOffset)
                _ = copy.removeBefore(entry.startOffset)
                _ = copy.begin(entry.epoch, at: entry.startOffset)
            }
        case 2:
            guard let offsets = OffsetCheckpoint.decode(rest) else { return }
            // A topic's name has no blank; what is written here is read back.
            require(OffsetCheckpoint.decode(OffsetCheckpoint.encode(offsets)) == offsets, "offsets come back different")
        case 3:
            if choice & 0x80 != 0 { rest.append(contentsOf: "crc \(rest.checksum)\n".utf8) }
            guard let points = NodeCheckpoint.decode(rest) else { return }
            require(NodeCheckpoint.decode(NodeCheckpoint.encode(points)) == points, "a checkpoint comes back different")
        case 4:
            if choice & 0x80 != 0, rest.count >= 4 {
                Checksums.put([UInt8](rest.dropLast(4)).checksum, in: &rest, at: rest.count - 4)
            }
            guard let footer = SegmentFooter(decoding: rest) else { return }
            require(footer.encode() == rest, "a footer is encoded in two ways")
        case 5:
            guard let entries = TransactionIndex.decode(rest, baseOffset: 10) else { return }
            require(TransactionIndex.encode(entries) == rest, "a transaction index is encoded in two ways")
        case 6:
            guard let id = PartitionMetadataFile.decode(rest) else { return }
            require(PartitionMetadataFile.decode(PartitionMetadataFile.encode(id)) == id, "an id comes back different")
        default:
            let name = String(decoding: rest, as: UTF8.self)
            if let offset = FileName.offset(in: name, suffix: FileName.log) {
                require(FileName.digits(offset) + FileName.log == name, "a name stands for another file")
            }
            if let found = DirectoryLoader.topicPartition(name) {
                require(found.partition >= 0 && !found.topic.isEmpty, "a folder stands for no partition")
            }
        }
    }

    /// Goes on with the producers of a snapshot as an append would.
    private static func use(_ table: ProducerTable) {
        var table = table
        for (id, entry) in table.entries {
            for delta: Int32 in [0, 1, .max] {
                let header = RecordBatchHeader(
                    baseOffset: 1_000_000_000_000,
                    batchLength: 49,
                    partitionLeaderEpoch: 0,
                    crc: 0,
                    attributes: .init(rawValue: 0x10),
                    lastOffsetDelta: 0,
                    baseTimestamp: 0,
                    maxTimestamp: 0,
                    producerID: id,
                    producerEpoch: entry.epoch,
                    baseSequence: (entry.batches.last?.lastSequence ?? 0) &+ delta & .max,
                    recordCount: 1
                )
                _ = table.replay(header, marker: nil, now: 6)
            }
        }
        _ = table.firstOpenOffset
        _ = table.expire(before: 6)
    }

    static func seeds() throws -> [FuzzSeed] {
        var seeds: [FuzzSeed] = []
        for (path, bytes) in try LogFolders.sample(isClean: true).sorted(by: { $0.key < $1.key }) {
            let name = String(path.split(separator: "/").last ?? "")
            let kind: UInt8?
            switch true {
            case name.hasSuffix(FileName.producerSnapshot): kind = 0x80
            case name == FileName.leaderEpochs: kind = 1
            case name == FileName.recoveryPoints: kind = 2
            case name == FileName.checkpoint: kind = 3
            case name.hasSuffix(FileName.footer): kind = 0x84
            case name.hasSuffix(FileName.transactionIndex): kind = 5
            case name == FileName.partitionMetadata: kind = 6
            default: kind = nil
            }
            if let kind { seeds.append(FuzzSeed(name: name, bytes: [kind] + bytes)) }
        }
        seeds.append(FuzzSeed(name: "file-name", bytes: [7] + Array("00000000000000000042.log".utf8)))
        seeds.append(FuzzSeed(name: "folder-name", bytes: [7] + Array("topic-with-dashes-12".utf8)))
        let points = "mdc-checkpoint 1\nt 0 1 2 3 4 5 6 7 8 9 10 11 1\n"
        seeds.append(FuzzSeed(name: "checkpoint", bytes: [0x83] + Array(points.utf8)))
        return seeds
    }
}
