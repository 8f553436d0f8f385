// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import NIOConcurrencyHelpers
import NIOCore
import Synchronization

/// The metadata log and the image it adds up to.
///
/// Changes are made one at a time, by the broker's control thread: appended, synced, applied. Readers take the image as it is.
/// When the log has grown by so many bytes, the image is written as a snapshot, and the log's records before it go. A crash
/// between any two steps leaves a snapshot and the records behind it, or all records: the log loses its start only when a
/// snapshot that covers it is durable.
final class MetadataStore: Sendable {
    /// The log that holds the metadata.
    static let topicPartition = TopicPartition(topic: "__cluster_metadata", partition: 0)
    /// Its id is fixed, as in Kafka.
    static let topicID = TopicID(high: 0, low: 1)

    private struct State {
        var image: MetadataImage
        /// Bytes of the records behind the newest snapshot.
        var bytesSinceSnapshot = 0
        var snapshotBytes = 0
        var snapshotEnd: Offset = 0
        /// Whether a snapshot is worth trying again.
        var retryAt = 0
    }

    private let log: PartitionLog
    private let fileSystem: any FileSystem
    private let folder: String
    private let logger: Logger
    /// Bytes after which a snapshot is made.
    private let threshold: Int
    private let state: Mutex<State>
    /// Ids of topics whose folders are still there.
    private let leftovers = Mutex<@Sendable () -> Set<TopicID>>({ [] })

    /// Reads the newest snapshot and the log behind it.
    /// - Throws: `.metadata` where that cannot be read.
    init(log: PartitionLog, fileSystem: any FileSystem, snapshotBytes: Int, logger: Logger) throws(BrokerError) {
        self.log = log
        self.fileSystem = fileSystem
        self.logger = logger
        threshold = snapshotBytes
        folder = "\(log.dataDirectory)/\(Self.topicPartition.topic)-0"
        do {
            state = Mutex(try Self.load(log, folder, fileSystem, logger))
        } catch {
            throw BrokerError(.metadata, "the metadata in \(log.dataDirectory) cannot be read", cause: error)
        }
    }

    /// The metadata now.
    var image: MetadataImage { state.withLock { $0.image } }
    /// The offset up to which the newest snapshot goes; 0 where there is none.
    var snapshotEnd: Offset { state.withLock { $0.snapshotEnd } }
    /// Bytes of the newest snapshot, and of the records behind it.
    var sizes: (snapshot: Int, log: Int) { state.withLock { ($0.snapshotBytes, $0.bytesSinceSnapshot) } }

    /// Sets what names the topics whose folders are still there: a snapshot forgets the other deleted ones.
    func leftoverTopics(_ find: @escaping @Sendable () -> Set<TopicID>) { leftovers.withLock { $0 = find } }

    // MARK: Reading

    private static func load(
        _ log: PartitionLog,
        _ folder: String,
        _ fileSystem: any FileSystem,
        _ logger: Logger
    ) throws -> State {
        var state = State(image: MetadataImage())
        let start = log.logStartOffset
        for file in MetadataSnapshot.files(try fileSystem.list(folder).map(\.name)) {
            // An older one leads on only where the log still has what follows it.
            if file.end < start { break }
            do {
                let bytes = try MetadataSnapshot.read(file.name, folder: folder, fileSystem)
                state.image = try MetadataSnapshot.decode(bytes)
                state.snapshotBytes = bytes.readableBytes
                state.snapshotEnd = file.end
                break
            } catch {
                logger.error(
                    "a snapshot of the metadata cannot be read; the one before it is tried",
                    metadata: ["file": "\(file.name)", "error": "\(error)"]
                )
            }
        }
        guard state.snapshotEnd >= start else {
            throw BrokerError(
                .metadata,
                "the metadata log begins at \(start), but no sound snapshot covers what was before; restore the folder "
                    + "\(folder) from a backup"
            )
        }
        guard state.snapshotEnd <= log.logEndOffset else {
            throw BrokerError(
                .metadata,
                "the metadata log ends at \(log.logEndOffset), before its snapshot (\(state.snapshotEnd)); restore the "
                    + "folder \(folder) from a backup"
            )
        }
        try replay(log, &state)
        return state
    }

    private static func replay(_ log: PartitionLog, _ state: inout State) throws {
        var offset = state.snapshotEnd
        while offset < log.logEndOffset {
            let read = try log.read(from: offset, maxBytes: 1 << 20, minOneBatch: true, upTo: log.logEndOffset)
            guard !read.slices.isEmpty else { break }
            var bytes = ByteBuffer()
            try read.copy(into: &bytes)
            state.bytesSinceSnapshot += bytes.readableBytes
            var batches = RecordBatchIterator(bytes)
            while let batch = try batches.next() {
                for record in try batch.reader().records() {
                    // A read begins with the batch that holds the offset.
                    guard record.offset >= offset, let value = record.value else { continue }
                    state.image.apply(try MetadataRecord(value))
                }
            }
            offset = read.nextOffset
        }
    }

    // MARK: Changing

    /// Makes a change: durable first, then visible. Blocks; only from the control thread.
    func commit(_ records: [MetadataRecord], now: Timestamp) throws(BrokerError) {
        guard !records.isEmpty else { return }
        let bytes: Int
        do {
            var builder = RecordBatchBuilder()
            for record in records {
                builder.append(key: nil, value: try record.encoded(), headers: [], timestamp: now)
            }
            let batch = try builder.build()
            bytes = batch.readableBytes
            let result = try log.append(batch, as: .coordinator, leaderEpoch: 0, now: now)
            try wait(for: result.lastOffset + 1)
        } catch {
            throw BrokerError(.metadata, "the change of the metadata was not written", cause: error)
        }
        let isDue = state.withLock { state in
            for record in records { state.image.apply(record) }
            state.bytesSinceSnapshot += bytes
            // A large image is not written again for a few changes.
            return state.bytesSinceSnapshot >= max(threshold, 2 * state.snapshotBytes, state.retryAt)
        }
        if isDue { snapshotOrWarn(now) }
    }

    private func snapshotOrWarn(_ now: Timestamp) {
        do {
            try snapshot(now: now)
        } catch {
            // Nothing is lost: the log has everything. The next try comes when it has grown some more.
            logger.warning("no snapshot of the metadata was made", metadata: ["error": "\(error)"])
            state.withLock { $0.retryAt = $0.bytesSinceSnapshot + threshold / 4 }
        }
    }

    /// Writes the image, then drops the records that it covers. Blocks; only from the control thread.
    func snapshot(now: Timestamp) throws {
        let kept = leftovers.withLock { $0 }()
        let image = image
        let end = log.durableEndOffset
        let bytes = try MetadataSnapshot.encode(MetadataSnapshot.records(of: image, keeping: kept), now: now)
        try MetadataSnapshot.write(bytes, end: end, folder: folder, fileSystem)
        state.withLock { state in
            state.image.forgetDeleted(keeping: kept)
            state.bytesSinceSnapshot = 0
            state.snapshotBytes = bytes.readableBytes
            state.snapshotEnd = end
            state.retryAt = 0
        }
        try log.deleteRecords(before: end)
        try MetadataSnapshot.removeOld(before: end, folder: folder, fileSystem)
        logger.info(
            "the metadata were written as a snapshot",
            metadata: ["offset": "\(end)", "bytes": "\(bytes.readableBytes)"]
        )
    }

    private func wait(for offset: Offset) throws {
        let done = ConditionLock<Int>(value: 0)
        let outcome = Mutex<Result<Void, LogError>>(.success(()))
        log.whenDurable(upTo: offset) { result in
            outcome.withLock { $0 = result }
            done.lock()
            done.unlock(withValue: 1)
        }
        done.lock(whenValue: 1)
        done.unlock()
        try outcome.withLock { $0 }.get()
    }
}
