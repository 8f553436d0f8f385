// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import MDCRaft
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Synchronization

/// The metadata log of one node on its disk: entries as record batches in `__cluster_metadata-0`, epoch and vote in the file
/// `quorum-state`, snapshots beside them.
///
/// Entry `i` is the record at offset `i - 1`; the batch's leader epoch is the entry's. What is behind the newest snapshot is
/// in memory too, so that Raft never waits for a read. Writing happens on a thread of its own; what is readable here changes
/// only when it is durable, by ``publish(_:)`` on the thread of the driver.
final class QuorumLog: RaftLogStorage, Sendable {
    /// What one `RaftReady` wants on the disk.
    struct Work: Sendable {
        var chunks: [RaftMessage.SnapshotChunk] = []
        var install: RaftSnapshotMetadata?
        var entries: [RaftEntry] = []
        var hardState: RaftHardState?
        var mustSync = false

        var isEmpty: Bool { chunks.isEmpty && install == nil && entries.isEmpty && hardState == nil }
    }

    /// What the disk now has.
    struct Written: Sendable {
        var work: Work
        /// The image of a snapshot that was installed.
        var image: MetadataImage?
    }

    private struct State {
        var hardState = RaftHardState()
        var snapshot = RaftSnapshotMetadata()
        var entries: [RaftEntry] = []
        var bytes = 0
        var snapshotBytes = 0
        /// The newest snapshot's bytes, where somebody gets them.
        var sending: (index: RaftIndex, bytes: ByteBuffer)?
    }

    private let log: PartitionLog
    private let fileSystem: any FileSystem
    private let folder: String
    private let thread: any WorkQueue
    private let logger: Logger
    private let state: Mutex<State>
    /// Of the disk's thread: a snapshot that arrives, and what `quorum-state` says.
    private let incoming = Mutex<[UInt8]>([])
    private let written: Mutex<RaftHardState>
    /// The image of the newest snapshot when the log was opened.
    let startImage: MetadataImage

    static let stateFile = "quorum-state"
    private static let entryVersion: UInt8 = 2
    /// What a batch takes beside its entry, about.
    private static let overhead = 72
    private var batchOverhead: Int { Self.overhead }
    private static let maxSnapshotBytes = 1 << 30

    /// Opens what `log`'s folder has. A folder of a release without a quorum is taken over: its records become the first
    /// snapshot.
    /// - Parameters:
    ///   - voters: of a quorum that begins here; those of the folder outweigh them.
    init(
        log: PartitionLog,
        fileSystem: any FileSystem,
        voters: [RaftReplica],
        thread: any WorkQueue,
        now: Timestamp,
        logger: Logger
    ) throws(BrokerError) {
        self.log = log
        self.fileSystem = fileSystem
        self.thread = thread
        self.logger = logger
        folder = "\(log.dataDirectory)/\(MetadataStore.topicPartition.topic)-0"
        do {
            let (state, image) = try Self.load(log, folder, fileSystem, voters, now, logger)
            written = Mutex(state.hardState)
            self.state = Mutex(state)
            startImage = image
        } catch {
            throw BrokerError(.metadata, "the metadata in \(log.dataDirectory) cannot be read", cause: error)
        }
    }

    // MARK: Raft reads

    var hardState: RaftHardState { state.withLock { $0.hardState } }
    var snapshot: RaftSnapshotMetadata { state.withLock { $0.snapshot } }
    var firstIndex: RaftIndex { state.withLock { $0.snapshot.index + 1 } }
    var lastIndex: RaftIndex { state.withLock { $0.snapshot.index + RaftIndex($0.entries.count) } }
    /// Bytes of the newest snapshot, and of the entries behind it.
    var sizes: (snapshot: Int, log: Int) { state.withLock { ($0.snapshotBytes, $0.bytes) } }

    func epoch(at index: RaftIndex) -> RaftEpoch? {
        state.withLock { state in
            if index == state.snapshot.index { return state.snapshot.epoch }
            let position = index - state.snapshot.index - 1
            guard position >= 0, position < RaftIndex(state.entries.count) else { return nil }
            return state.entries[Int(position)].epoch
        }
    }

    func entries(in range: Range<RaftIndex>, maxBytes: Int) -> [RaftEntry] {
        state.withLock { state in
            let first = Int(range.lowerBound - state.snapshot.index - 1)
            let end = Int(range.upperBound - state.snapshot.index - 1)
            guard first >= 0, end <= state.entries.count, first < end else { return [] }
            var bytes = 0
            var count = 0
            for entry in state.entries[first..<end] {
                bytes += entry.size
                if bytes > maxBytes && count > 0 { break }
                count += 1
            }
            return Array(state.entries[first..<(first + count)])
        }
    }

    func snapshotBytes(of index: RaftIndex, from position: Int64, maxBytes: Int) -> (bytes: [UInt8], isLast: Bool)? {
        state.withLock { state in
            guard state.snapshot.index == index else { return nil }
            if state.sending?.index != index {
                let name = MetadataSnapshot.name(end: Offset(index), epoch: state.snapshot.epoch)
                guard let bytes = try? MetadataSnapshot.read(name, folder: folder, fileSystem) else { return nil }
                state.sending = (index, bytes)
            }
            guard let all = state.sending?.bytes, position >= 0, position <= Int64(all.readableBytes) else {
                return nil
            }
            let count = min(maxBytes, all.readableBytes - Int(position))
            let piece = all.getBytes(at: all.readerIndex + Int(position), length: count) ?? []
            return (piece, Int(position) + count == all.readableBytes)
        }
    }

    // MARK: Writing

    /// Writes, away from the caller's thread; `done` comes once, from any thread, when all is as durable as asked for.
    /// - Parameter isRepeated: the same work once more, after an error of which ``isFull(_:)`` says that this is right.
    func write(
        _ work: Work,
        isRepeated: Bool = false,
        now: Timestamp,
        _ done: @escaping @Sendable (Result<Written, any Error>) -> Void
    ) {
        thread.submit { _ in
            do {
                let (written, mustWait) = try self.perform(work, isRepeated, now)
                guard mustWait else { return done(.success(written)) }
                self.log.whenDurable(upTo: self.log.logEndOffset) { result in
                    // Never to be repeated, whatever it says: what is on the disk is unknown.
                    done(
                        result.map { written }
                            .mapError { BrokerError(.metadata, "the metadata log cannot be synced", cause: $0) }
                    )
                }
            } catch {
                done(.failure(error))
            }
        }
    }

    /// Whether nothing but room on the disk was missing: every step before has been done, or can be done again.
    static func isFull(_ error: any Error) -> Bool {
        (error as? LogError)?.code == .noSpace || (error as? FileSystemError)?.kind == .noSpace
    }

    private func perform(_ work: Work, _ isRepeated: Bool, _ now: Timestamp) throws -> (Written, mustWait: Bool) {
        var result = Written(work: work)
        // Pieces of a snapshot are kept in memory: they have arrived.
        if !isRepeated { for chunk in work.chunks { try receive(chunk) } }
        if let snapshot = work.install { result.image = try install(snapshot) }
        if let first = work.entries.first {
            let offset = Offset(first.index - 1)
            if offset < log.logEndOffset { try log.truncate(to: offset) }
            guard log.logEndOffset == offset else {
                throw BrokerError(
                    .metadata,
                    "the metadata log ends at \(log.logEndOffset), not before entry \(first.index)"
                )
            }
            try append(work.entries, now)
        }
        if let hardState = work.hardState {
            let known = written.withLock { $0 }
            // What is committed is found out again.
            if known.epoch != hardState.epoch || known.vote != hardState.vote {
                try MetadataSnapshot.put(Self.encode(hardState), "\(folder)/\(Self.stateFile)", folder, fileSystem)
                written.withLock { $0 = hardState }
            }
        }
        return (result, work.mustSync && !work.entries.isEmpty)
    }

    private func append(_ entries: [RaftEntry], _ now: Timestamp) throws {
        var start = 0
        // What is appended at once fits a segment.
        let limit = min(1 << 20, log.settings.segmentBytes / 2)
        while start < entries.count {
            let epoch = entries[start].epoch
            var batches = ByteBuffer()
            var end = start
            while end < entries.count, entries[end].epoch == epoch,
                batches.readableBytes == 0 || batches.readableBytes + entries[end].size + Self.overhead < limit
            {
                var writer = MessageWriter()
                writer.integer(Self.entryVersion)
                try entries[end].encodePayload(&writer)
                var builder = RecordBatchBuilder()
                builder.append(key: nil, value: writer.buffer, headers: [], timestamp: now)
                batches.writeImmutableBuffer(try builder.build())
                end += 1
            }
            try append(batches, epoch, now)
            start = end
        }
    }

    /// One entry alone may be larger than a segment, such as that of a topic with thousands of partitions: it gets one for
    /// itself.
    private func append(_ batches: ByteBuffer, _ epoch: RaftEpoch, _ now: Timestamp) throws {
        let settings = log.settings
        let isLarge = batches.readableBytes > settings.segmentBytes
        if isLarge {
            var wide = settings
            wide.segmentBytes = batches.readableBytes
            try log.update(settings: wide)
        }
        // Nobody else changes the settings of this log once the node runs, and nobody else appends.
        defer { if isLarge { try? log.update(settings: settings) } }
        _ = try log.append(batches, as: .coordinator, leaderEpoch: LeaderEpoch(epoch), now: now)
    }

    private func receive(_ chunk: RaftMessage.SnapshotChunk) throws {
        try incoming.withLock { bytes in
            if chunk.position == 0 { bytes = [] }
            guard chunk.position == Int64(bytes.count), bytes.count + chunk.bytes.count <= Self.maxSnapshotBytes else {
                throw BrokerError(.metadata, "a piece of a snapshot came out of order, or it is too large")
            }
            bytes += chunk.bytes
        }
    }

    private func install(_ snapshot: RaftSnapshotMetadata) throws -> MetadataImage {
        let bytes = incoming.withLock { ByteBuffer(bytes: $0) }
        let image = try MetadataSnapshot.decode(bytes)
        try MetadataSnapshot.write(
            bytes,
            end: Offset(snapshot.index),
            epoch: snapshot.epoch,
            folder: folder,
            fileSystem
        )
        try log.reset(to: Offset(snapshot.index))
        try MetadataSnapshot.removeOld(before: Offset(snapshot.index), folder: folder, fileSystem)
        incoming.withLock { $0 = [] }
        return image
    }

    /// Makes what was written readable; on the driver's thread.
    func publish(_ written: Written) {
        state.withLock { state in
            let work = written.work
            if let snapshot = work.install {
                state.snapshot = snapshot
                state.entries = []
                state.bytes = 0
                state.sending = nil
            }
            if let first = work.entries.first {
                let keep = Int(first.index - state.snapshot.index - 1)
                for entry in state.entries[keep...] { state.bytes -= entry.size + batchOverhead }
                state.entries.removeSubrange(keep...)
                state.entries += work.entries
                for entry in work.entries { state.bytes += entry.size + batchOverhead }
            }
            if let hardState = work.hardState { state.hardState = hardState }
        }
    }

    // MARK: Snapshots

    /// Writes `image`, which is that of `snapshot`, and drops the log before it; on a thread of its own. `done` says whether.
    func makeSnapshot(
        _ image: MetadataImage,
        _ snapshot: RaftSnapshotMetadata,
        keeping kept: Set<TopicID>,
        now: Timestamp,
        _ done: @escaping @Sendable (Result<Int, any Error>) -> Void
    ) {
        thread.submit { _ in
            do {
                var records = MetadataSnapshot.records(of: image, keeping: kept)
                records.append(
                    .quorum(
                        voters: snapshot.membership.voters.map(\.member),
                        observers: snapshot.membership.observers.map(\.member)
                    )
                )
                let bytes = try MetadataSnapshot.encode(records, now: now)
                let end = Offset(snapshot.index)
                try MetadataSnapshot.write(
                    bytes,
                    end: end,
                    epoch: snapshot.epoch,
                    folder: self.folder,
                    self.fileSystem
                )
                try self.log.deleteRecords(before: end)
                try MetadataSnapshot.removeOld(before: end, folder: self.folder, self.fileSystem)
                done(.success(bytes.readableBytes))
            } catch {
                done(.failure(error))
            }
        }
    }

    /// A snapshot is on the disk; on the driver's thread.
    func publish(_ snapshot: RaftSnapshotMetadata, bytes: Int) {
        state.withLock { state in
            guard snapshot.index > state.snapshot.index else { return }
            let gone = Int(snapshot.index - state.snapshot.index)
            for entry in state.entries.prefix(gone) { state.bytes -= entry.size + batchOverhead }
            state.entries.removeFirst(min(gone, state.entries.count))
            state.snapshot = snapshot
            state.snapshotBytes = bytes
            state.sending = nil
        }
    }
}

// MARK: - Opening

extension QuorumLog {
    private static func load(
        _ log: PartitionLog,
        _ folder: String,
        _ fileSystem: any FileSystem,
        _ voters: [RaftReplica],
        _ now: Timestamp,
        _ logger: Logger
    ) throws -> (State, MetadataImage) {
        var state = State()
        var image = MetadataImage()
        let start = log.logStartOffset
        var covered = start == 0
        for file in MetadataSnapshot.files(try fileSystem.list(folder).map(\.name)) {
            // An older one leads on only where the log still has what follows it.
            if file.end < start { break }
            do {
                let bytes = try MetadataSnapshot.read(file.name, folder: folder, fileSystem)
                var membership: RaftMembership?
                image = try MetadataSnapshot.decode(bytes) { membership = RaftMembership($0, $1) }
                state.snapshot = RaftSnapshotMetadata(
                    index: file.end.rawValue,
                    epoch: file.epoch,
                    membership: membership ?? RaftMembership(voters: voters)
                )
                state.snapshotBytes = bytes.readableBytes
                covered = true
                break
            } catch {
                logger.error(
                    "a snapshot of the metadata cannot be read; the one before it is tried",
                    metadata: ["file": "\(file.name)", "error": "\(error)"]
                )
            }
        }
        guard covered else {
            throw BrokerError(
                .metadata,
                "the metadata log begins at \(start), but no sound snapshot covers what was before; restore the folder "
                    + "\(folder) from a backup"
            )
        }
        if state.snapshot.index == 0 { state.snapshot.membership = RaftMembership(voters: voters) }
        let isNew = try readState(&state, folder, fileSystem)
        let end = Offset(state.snapshot.index)
        if end > log.logEndOffset {
            // The power failed between the two steps of installing a snapshot.
            guard state.snapshot.epoch > 0 else {
                throw BrokerError(
                    .metadata,
                    "the metadata log ends at \(log.logEndOffset), before its snapshot (\(end)); restore the folder "
                        + "\(folder) from a backup"
                )
            }
            try log.reset(to: end)
        }
        let isOld = try replay(log, &state, &image)
        if isNew, state.snapshot.epoch > 0 || state.entries.contains(where: { $0.epoch > 0 }) {
            throw BrokerError(
                .metadata,
                "\(folder) has lost \(stateFile), so that this node no longer knows what it voted for; start it with an "
                    + "empty data folder and let it copy everything"
            )
        }
        if isOld { try takeOver(log, &state, image, folder, fileSystem, now) }
        return (state, image)
    }

    /// Reads the entries behind the snapshot; true where they are records of a release without a quorum, which are in the
    /// image then.
    private static func replay(_ log: PartitionLog, _ state: inout State, _ image: inout MetadataImage) throws -> Bool {
        var isOld = false
        var offset = Offset(state.snapshot.index)
        while offset < log.logEndOffset {
            let read = try log.read(from: offset, maxBytes: 1 << 20, minOneBatch: true, upTo: log.logEndOffset)
            guard !read.slices.isEmpty else { break }
            var bytes = ByteBuffer()
            try read.copy(into: &bytes)
            var batches = RecordBatchIterator(bytes)
            while let batch = try batches.next() {
                let epoch = batch.header.partitionLeaderEpoch
                for record in try batch.reader().records() {
                    // A read begins with the batch that holds the offset.
                    guard record.offset >= offset, let value = record.value else { continue }
                    if value.getInteger(at: value.readerIndex, as: UInt8.self) != entryVersion {
                        image.apply(try MetadataRecord(value))
                        isOld = true
                        continue
                    }
                    var reader = MessageReader(value)
                    _ = try reader.integer("version") as UInt8
                    let entry = RaftEntry(
                        index: record.offset.rawValue + 1,
                        epoch: epoch.rawValue,
                        payload: try RaftEntry.readPayload(&reader)
                    )
                    state.entries.append(entry)
                    state.bytes += entry.size + overhead
                }
            }
            offset = read.nextOffset
        }
        guard !isOld || state.entries.isEmpty else {
            throw BrokerError(.metadata, "the metadata log mixes two forms; restore the folder from a backup")
        }
        return isOld
    }

    /// Makes the first snapshot of a quorum from the records of a node of its own.
    private static func takeOver(
        _ log: PartitionLog,
        _ state: inout State,
        _ image: MetadataImage,
        _ folder: String,
        _ fileSystem: any FileSystem,
        _ now: Timestamp
    ) throws {
        let end = log.logEndOffset
        var records = MetadataSnapshot.records(of: image, keeping: image.deleted)
        let membership = state.snapshot.membership
        records.append(.quorum(voters: membership.voters.map(\.member), observers: []))
        let bytes = try MetadataSnapshot.encode(records, now: now)
        try MetadataSnapshot.write(bytes, end: end, epoch: 0, folder: folder, fileSystem)
        try log.deleteRecords(before: end)
        try MetadataSnapshot.removeOld(before: end, folder: folder, fileSystem)
        state.snapshot = RaftSnapshotMetadata(index: end.rawValue, epoch: 0, membership: membership)
        state.snapshotBytes = bytes.readableBytes
    }

    // MARK: quorum-state

    /// Version, epoch, vote (node, directory), checksum, a line each.
    static func encode(_ state: RaftHardState) -> ByteBuffer {
        let vote = state.vote.map { "\($0.node.rawValue) \($0.directory)" } ?? "none"
        let text = "1\n\(state.epoch)\n\(vote)\n"
        let sum = text.utf8.reduce(UInt64(14_695_981_039_346_656_037)) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 }
        return ByteBuffer(string: text + "\(sum)\n")
    }

    static func decodeState(_ text: String) -> RaftHardState? {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard lines.count == 5, lines[0] == "1", let epoch = RaftEpoch(lines[1]) else { return nil }
        var state = RaftHardState(epoch: epoch)
        if lines[2] != "none" {
            let words = lines[2].split(separator: " ")
            guard words.count == 2, let node = Int32(words[0]), let directory = KafkaUUID(String(words[1])) else {
                return nil
            }
            state.vote = RaftReplica(node: BrokerID(node), directory: directory)
        }
        return encode(state) == ByteBuffer(string: text) ? state : nil
    }

    /// True where there is none.
    private static func readState(_ state: inout State, _ folder: String, _ fileSystem: any FileSystem) throws -> Bool {
        guard try fileSystem.attributes("\(folder)/\(stateFile)") != nil else { return true }
        let bytes = try MetadataSnapshot.read(stateFile, folder: folder, fileSystem)
        guard let read = decodeState(String(buffer: bytes)) else {
            throw BrokerError(
                .metadata,
                "\(folder)/\(stateFile) is damaged, so that this node no longer knows what it voted for; start it with an "
                    + "empty data folder and let it copy everything"
            )
        }
        state.hardState = read
        return false
    }
}

extension RaftMembership {
    init(_ voters: [QuorumMember], _ observers: [QuorumMember]) {
        self.init(voters: voters.map(RaftReplica.init), observers: observers.map(RaftReplica.init))
    }
}

extension BrokerConfiguration {
    /// Of the metadata log.
    var metadataLogSettings: LogSettings {
        var settings = LogSettings()
        // Whole segments go when a snapshot covers them.
        settings.segmentBytes = max(16_384, min(metadataSnapshotBytes / 4, 64 << 20))
        settings.retentionMilliseconds = -1
        settings.retentionBytes = -1
        settings.segmentMilliseconds = .max
        settings.maxMessageBytes = 64 << 20
        settings.durability = .fsync
        return settings
    }
}
