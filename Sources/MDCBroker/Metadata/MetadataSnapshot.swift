// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOCore

/// The whole metadata as a file of record batches, in the place of the records before an offset.
///
/// The last record says how many there are, so that a file that was cut is told from a whole one; each batch has its checksum.
struct MetadataSnapshot {
    /// Name and offset of a snapshot file.
    struct File: Equatable {
        var name: String
        /// The first offset that the snapshot does not cover.
        var end: Offset
        /// Of the last entry that it covers; 0 for one of a release without a quorum.
        var epoch: Int32 = 0
    }

    private static let suffix = ".checkpoint"
    private static let recordsPerBatch = 1_000

    /// As Kafka names them: offset and epoch.
    static func name(end: Offset, epoch: Int32 = 0) -> String {
        digits(end.rawValue, 20) + "-" + digits(Int64(epoch), 10) + suffix
    }

    private static func digits(_ value: Int64, _ count: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, count - text.utf8.count)) + text
    }

    /// The snapshots among the files of a folder, newest first.
    static func files(_ names: [String]) -> [File] {
        names.compactMap { name -> File? in
            guard name.hasSuffix(suffix), name.utf8.count == 31 + suffix.utf8.count,
                let end = Int64(name.prefix(20)), end >= 0, let epoch = Int32(name.dropFirst(21).prefix(10)), epoch >= 0
            else { return nil }
            return File(name: name, end: Offset(end), epoch: epoch)
        }.sorted { $0.end > $1.end }
    }

    // MARK: Records

    /// Records that make up `image` when they are applied to an empty one; deleted topics but those in `kept` are forgotten.
    static func records(of image: MetadataImage, keeping kept: Set<TopicID>) -> [MetadataRecord] {
        var records: [MetadataRecord] = []
        if !image.clusterID.isEmpty { records.append(.clusterCreated(id: image.clusterID)) }
        // Before any topic, so that no leader epoch is raised.
        for (id, epoch) in image.brokerEpochs.sorted(by: { $0.key < $1.key }) {
            records.append(.nodeStarted(id: id, brokerEpoch: epoch))
        }
        for broker in image.brokers.values.sorted(by: { $0.id < $1.id }) { records.append(.brokerRegistered(broker)) }
        for topic in image.topics.values.sorted(by: { $0.name < $1.name }) {
            records.append(
                .topicCreated(
                    name: topic.name,
                    id: topic.id,
                    replicas: topic.partitions.map(\.replicas),
                    configs: topic.configs
                )
            )
            for (index, partition) in topic.partitions.enumerated() {
                records.append(.partitionState(id: topic.id, partition: Int32(index), state: partition))
            }
        }
        for id in image.deleted.intersection(kept) { records.append(.topicDeleted(id: id)) }
        for (id, configs) in image.brokerConfigs {
            for (key, value) in configs { records.append(.configChanged(.broker(id), key: key, value: value)) }
        }
        for (name, configs) in image.groupConfigs {
            for (key, value) in configs { records.append(.configChanged(.group(name), key: key, value: value)) }
        }
        for (entity, quotas) in image.quotas.entries {
            for (key, value) in quotas { records.append(.quotaChanged(entity, key, value: value)) }
        }
        for (name, level) in image.features.sorted(by: { $0.key < $1.key }) {
            records.append(.featureLevel(name: name, level: level, epoch: image.featuresEpoch))
        }
        for (node, endpoint) in image.controllers.sorted(by: { $0.key < $1.key }) {
            records.append(.controllerEndpoint(node: node, host: endpoint.host, port: endpoint.port))
        }
        records.append(.producerIDsReserved(next: image.nextProducerID))
        return records
    }

    // MARK: Bytes

    static func encode(_ records: [MetadataRecord], now: Timestamp) throws -> ByteBuffer {
        var bytes = ByteBuffer()
        let all = records + [.snapshotEnd(records: Int64(records.count))]
        var start = 0
        while start < all.count {
            var builder = RecordBatchBuilder()
            for record in all[start..<min(start + recordsPerBatch, all.count)] {
                builder.append(key: nil, value: try record.encoded(), headers: [], timestamp: now)
            }
            bytes.writeImmutableBuffer(try builder.build())
            start += recordsPerBatch
        }
        return bytes
    }

    /// The image of a file's bytes. Throws where they are damaged or not whole.
    ///
    /// - Parameter quorum: told the voters and observers, where the file names them.
    static func decode(
        _ bytes: ByteBuffer,
        quorum: ([QuorumMember], [QuorumMember]) -> Void = { _, _ in }
    ) throws -> MetadataImage {
        var image = MetadataImage()
        var count: Int64 = 0
        var isWhole = false
        var batches = RecordBatchIterator(bytes)
        while let batch = try batches.next() {
            for record in try batch.reader().records() {
                guard let value = record.value, !isWhole else { throw cut("records follow its end") }
                let change = try MetadataRecord(value)
                if case .snapshotEnd(let announced) = change {
                    guard announced == count else { throw cut("it has \(count) records instead of \(announced)") }
                    isWhole = true
                } else {
                    if case .quorum(let voters, let observers) = change { quorum(voters, observers) }
                    image.apply(change)
                    count += 1
                }
            }
        }
        guard isWhole else { throw cut("its end is missing") }
        return image
    }

    private static func cut(_ reason: String) -> BrokerError {
        BrokerError(.metadata, "the snapshot of the metadata is damaged: \(reason)")
    }

    // MARK: Files

    /// Puts a snapshot into `folder` so that after a crash it is there as a whole or not at all.
    static func write(
        _ bytes: ByteBuffer,
        end: Offset,
        epoch: Int32 = 0,
        folder: String,
        _ fileSystem: any FileSystem
    ) throws {
        try put(bytes, "\(folder)/\(name(end: end, epoch: epoch))", folder, fileSystem)
    }

    /// Replaces a file so that after a crash either the old or the new content is there.
    static func put(_ bytes: ByteBuffer, _ path: String, _ folder: String, _ fileSystem: any FileSystem) throws {
        let file = try fileSystem.open(path + ".tmp", [.write, .create])
        try file.truncate(to: 0)
        try bytes.withUnsafeReadableBytes { all in
            var written = 0
            while written < all.count {
                let rest = UnsafeRawBufferPointer(rebasing: all[written...])
                let count = try withUnsafePointer(to: WritePiece(rest)) { piece in
                    try file.write(UnsafeBufferPointer(start: piece, count: 1), at: written)
                }
                guard count > 0 else { throw cut("nothing was written") }
                written += count
            }
        }
        try file.sync()
        try fileSystem.rename(path + ".tmp", to: path)
        try fileSystem.syncDirectory(folder)
    }

    static func read(_ name: String, folder: String, _ fileSystem: any FileSystem) throws -> ByteBuffer {
        let file = try fileSystem.open("\(folder)/\(name)", [])
        let size = try file.size()
        var bytes = ByteBuffer()
        bytes.reserveCapacity(size)
        while bytes.readableBytes < size {
            let position = bytes.readableBytes
            let count = try bytes.writeWithUnsafeMutableBytes(minimumWritableBytes: size - position) { space in
                try file.read(into: UnsafeMutableRawBufferPointer(rebasing: space[..<(size - position)]), at: position)
            }
            if count == 0 { break }
        }
        return bytes
    }

    /// Removes snapshots older than `end` and what an interrupted write left.
    static func removeOld(before end: Offset, folder: String, _ fileSystem: any FileSystem) throws {
        let names = try fileSystem.list(folder).map(\.name)
        for file in files(names) where file.end < end { try fileSystem.unlink("\(folder)/\(file.name)") }
        // The log has temporary files of its own here, which are none of ours.
        for name in names where name.hasSuffix(suffix + ".tmp") && !files([String(name.dropLast(4))]).isEmpty {
            try fileSystem.unlink("\(folder)/\(name)")
        }
    }
}
