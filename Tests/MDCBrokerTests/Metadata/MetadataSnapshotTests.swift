// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import MDCRaft
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Testing

@testable import MDCBroker

@Suite("Snapshots of the metadata", .serialized)
struct MetadataSnapshotTests {
    private static let quiet: Logger = {
        var logger = Logger(label: "metadata")
        logger.logLevel = .critical
        return logger
    }()

    /// What an image says, in an order of its own.
    private static func facts(_ image: MetadataImage) -> [String] {
        MetadataSnapshot.records(of: image, keeping: image.deleted).map { "\($0)" }.sorted()
    }

    private static func image(topics: Int, seed: UInt64) -> [MetadataRecord] {
        var random = SplitMix(state: seed)
        var records: [MetadataRecord] = [
            .clusterCreated(id: "cluster"), .nodeStarted(id: 1, brokerEpoch: 0),
        ]
        for index in 0..<topics {
            let id = TopicID.random(using: &random)
            let count = Int(random.next() % 5 + 1)
            records.append(
                .topicCreated(
                    name: "topic-\(index)",
                    id: id,
                    replicas: Array(repeating: [1], count: count),
                    configs: index % 3 == 0 ? ["retention.ms": "\(index)"] : [:]
                )
            )
            if index % 4 == 0 { records.append(.topicDeleted(id: id)) }
            if index % 5 == 0 { records.append(.partitionsAdded(id: id, replicas: [[1]])) }
            if index % 7 == 0 {
                records.append(.nodeStarted(id: 1, brokerEpoch: Int64(index)))
            }
        }
        records += [
            .configChanged(.broker(nil), key: "num.partitions", value: "3"),
            .configChanged(.broker(1), key: "log.retention.ms", value: "9"),
            .configChanged(.group("g"), key: "share.auto.offset.reset", value: "earliest"),
            .quotaChanged(.init(user: .everyone), .producerByteRate, value: 12),
            .producerIDsReserved(next: 3000),
            .featureLevel(name: "transaction.version", level: 1, epoch: 4),
            .controllerEndpoint(node: 4, host: "h", port: 9),
        ]
        return records
    }

    @Test("The image of a snapshot is the image it was made of", arguments: [UInt64(1), 2, 3])
    func roundTrip(_ seed: UInt64) throws {
        var image = MetadataImage()
        for record in Self.image(topics: 300, seed: seed) { image.apply(record) }
        let bytes = try MetadataSnapshot.encode(
            MetadataSnapshot.records(of: image, keeping: image.deleted),
            now: 1
        )
        let read = try MetadataSnapshot.decode(bytes)
        #expect(Self.facts(read) == Self.facts(image))
        #expect(read.topics == image.topics && read.names == image.names && read.deleted == image.deleted)
    }

    @Test("A snapshot that was cut or damaged is not taken for one")
    func damage() throws {
        var image = MetadataImage()
        for record in Self.image(topics: 300, seed: 4) { image.apply(record) }
        let bytes = try MetadataSnapshot.encode(MetadataSnapshot.records(of: image, keeping: []), now: 1)
        var random = SplitMix(state: 5)
        for _ in 0..<50 {
            let cut = Int(random.next() % UInt64(bytes.readableBytes))
            #expect(throws: (any Error).self) {
                try MetadataSnapshot.decode(bytes.getSlice(at: bytes.readerIndex, length: cut) ?? ByteBuffer())
            }
            // The first 12 bytes of a batch, its offset and length, are not in its checksum.
            var flipped = bytes
            let position = bytes.readerIndex + 21 + Int(random.next() % 500)
            let byte: UInt8 = flipped.getInteger(at: position) ?? 0
            flipped.setInteger(byte ^ (1 << UInt8(random.next() % 8)), at: position)
            #expect(throws: (any Error).self) { try MetadataSnapshot.decode(flipped) }
        }
    }

    private struct Node {
        let logs: LogManager
        let store: Journal
    }

    /// A metadata log that one node writes to, without a quorum: what the log and its snapshots keep.
    private final class Journal {
        let log: QuorumLog
        private(set) var image: MetadataImage
        private let threshold: Int

        init(_ log: QuorumLog, threshold: Int) throws {
            self.log = log
            self.threshold = threshold
            image = log.startImage
            for entry in log.entries(in: log.firstIndex..<(log.lastIndex + 1), maxBytes: .max) {
                guard case .data(let bytes) = entry.payload else { continue }
                for record in try MetadataBatch.decode(bytes) { image.apply(record) }
            }
        }

        var sizes: (snapshot: Int, log: Int) { log.sizes }
        var snapshotEnd: Int64 { log.snapshot.index }

        private func wait<Value: Sendable>(
            _ start: (@escaping @Sendable (Result<Value, any Error>) -> Void) -> Void
        ) throws -> Value {
            let done = ConditionLock<Int>(value: 0)
            let outcome = NIOLockedValueBox<Result<Value, any Error>?>(nil)
            start { result in
                outcome.withLockedValue { $0 = result }
                done.lock()
                done.unlock(withValue: 1)
            }
            done.lock(whenValue: 1)
            done.unlock()
            return try #require(outcome.withLockedValue { $0 }).get()
        }

        func commit(_ records: [MetadataRecord], now: Timestamp) throws {
            var work = QuorumLog.Work()
            work.entries = [
                RaftEntry(index: log.lastIndex + 1, epoch: 1, payload: .data(try MetadataBatch.encode(records)))
            ]
            work.hardState = RaftHardState(epoch: 1)
            work.mustSync = true
            log.publish(try wait { log.write(work, now: now, $0) })
            for record in records { image.apply(record) }
            if log.sizes.log >= max(threshold, 2 * log.sizes.snapshot) { try snapshot(now: now) }
        }

        func snapshot(now: Timestamp) throws {
            let snapshot = RaftSnapshotMetadata(
                index: log.lastIndex,
                epoch: 1,
                membership: log.snapshot.membership
            )
            let bytes = try wait { log.makeSnapshot(image, snapshot, keeping: [], now: now, $0) }
            log.publish(snapshot, bytes: bytes)
            image.forgetDeleted(keeping: [])
        }
    }

    private static let disk: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: 1)
        pool.start()
        return pool
    }()

    private static func open(_ folder: String, _ fileSystem: any FileSystem, threshold: Int = 1 << 30) throws -> Node {
        let logs = try LogManager.open(
            configuration: LogConfiguration(directories: [folder]),
            fileSystem: fileSystem,
            logger: quiet
        )
        var settings = LogSettings()
        settings.retentionMilliseconds = -1
        settings.segmentBytes = 4096
        settings.fileDeleteDelayMilliseconds = 0
        let name = MetadataStore.topicPartition
        let log =
            try logs.partition(name) ?? logs.createPartition(name, topicID: MetadataStore.topicID, settings: settings)
        try log.update(settings: settings)
        do {
            let quorum = try QuorumLog(
                log: log,
                fileSystem: fileSystem,
                voters: [RaftReplica(node: 1, directory: KafkaUUID(high: 1, low: 2))],
                thread: disk,
                now: 1,
                logger: quiet
            )
            return Node(logs: logs, store: try Journal(quorum, threshold: threshold))
        } catch {
            try logs.close()
            throw error
        }
    }

    @Test("The folder of a release without a quorum is taken over: its records become the first snapshot")
    func takenOver() throws {
        let fixture = BrokerFixture()
        let folder = fixture.directory + "/data"
        try POSIXFileSystem().makeDirectory(folder)
        let records = Self.image(topics: 30, seed: 9)
        var expected = MetadataImage()
        let logs = try LogManager.open(
            configuration: LogConfiguration(directories: [folder]),
            fileSystem: POSIXFileSystem(),
            logger: Self.quiet
        )
        let log = try logs.createPartition(
            MetadataStore.topicPartition,
            topicID: MetadataStore.topicID,
            settings: LogSettings()
        )
        // As that release wrote them: a record is a change, with no entry of a quorum around it.
        for record in records {
            var builder = RecordBatchBuilder()
            builder.append(key: nil, value: try record.encoded(), headers: [], timestamp: 1)
            var bytes = ByteBuffer()
            bytes.writeImmutableBuffer(try builder.build())
            _ = try log.append(bytes, as: .coordinator, leaderEpoch: LeaderEpoch(0), now: 1)
            expected.apply(record)
        }
        try logs.close()
        for start in 0..<3 {
            let node = try Self.open(folder, POSIXFileSystem())
            #expect(Self.facts(node.store.image) == Self.facts(expected), "start \(start)")
            #expect(node.store.snapshotEnd == Int64(records.count))
            let change = MetadataRecord.producerIDsReserved(next: Int64(10_000 + start))
            try node.store.commit([change], now: 1)
            expected.apply(change)
            try node.logs.close()
        }
    }

    @Test("Killed at any step of a snapshot, the node has all its metadata when it starts again")
    func kills() throws {
        let fixture = BrokerFixture()
        let folder = fixture.directory + "/data"
        try POSIXFileSystem().makeDirectory(folder)
        let fileSystem = SteppedFileSystem()
        let node = try Self.open(folder, fileSystem)
        for record in Self.image(topics: 20, seed: 6) { try node.store.commit([record], now: 1) }
        try node.store.commit(Self.image(topics: 40, seed: 16), now: 1)
        var steps = 0
        // The second snapshot takes the place of the first.
        for round in 0..<2 {
            let expected = Self.facts(node.store.image)
            fileSystem.arm(folder)
            try node.store.snapshot(now: 2)
            let copies = fileSystem.disarm()
            #expect(copies.count > 6, "a snapshot takes several steps")
            steps += copies.count
            for (index, copy) in copies.enumerated() {
                let restarted = try Self.open(copy, POSIXFileSystem())
                #expect(Self.facts(restarted.store.image).filter(Self.lasts) == expected.filter(Self.lasts), "\(copy)")
                guard index % 6 == 0 else {
                    try restarted.logs.close()
                    continue
                }
                // It goes on from there.
                try restarted.store.commit([.producerIDsReserved(next: 1_000_000)], now: 3)
                try restarted.store.snapshot(now: 3)
                try restarted.logs.close()
                let again = try Self.open(copy, POSIXFileSystem())
                #expect(again.store.image.nextProducerID == 1_000_000)
                #expect(again.store.image.topics.count == node.store.image.topics.count)
                try again.logs.close()
                #expect(LogChecker.problems(in: copy).count == 0, "\(copy)")
            }
            for index in 0..<10 {
                try node.store.commit([.configChanged(.broker(1), key: "k\(round)-\(index)", value: "v")], now: 2)
            }
        }
        #expect(steps > 12)
        #expect(node.store.snapshotEnd > 0)
        try node.logs.close()
    }

    /// Deleted topics are forgotten by a snapshot when their folders are gone.
    private static func lasts(_ fact: String) -> Bool { !fact.hasPrefix("topicDeleted") }

    @Test("The log is cut by size, keeps what came since, and starts from the snapshot")
    func bySize() throws {
        let fixture = BrokerFixture()
        let folder = fixture.directory + "/data"
        try POSIXFileSystem().makeDirectory(folder)
        let node = try Self.open(folder, POSIXFileSystem(), threshold: 10_000)
        try node.store.commit(Self.image(topics: 10, seed: 7), now: 1)
        var largest = 0
        for index in 0..<600 {
            try node.store.commit([.configChanged(.broker(1), key: "num.partitions", value: "\(index)")], now: 1)
            largest = max(largest, node.store.sizes.log)
        }
        #expect(largest < 20_000)
        #expect(node.store.snapshotEnd > 200)
        try node.logs.close()
        let names = try POSIXFileSystem().list("\(folder)/__cluster_metadata-0").map(\.name)
        #expect(MetadataSnapshot.files(names).count == 1)
        let again = try Self.open(folder, POSIXFileSystem())
        #expect(again.store.image.brokerConfigs[1]?["num.partitions"] == "599")
        #expect(again.store.image.topics.count == node.store.image.topics.count)
        try again.logs.close()
    }

    @Test("A change that is larger than a segment is written, kept over starts and covered by snapshots")
    func largerThanASegment() throws {
        let fixture = BrokerFixture()
        let folder = fixture.directory + "/data"
        try POSIXFileSystem().makeDirectory(folder)
        // A segment has 4 KiB.
        let large = (0..<3).map { number in
            MetadataRecord.topicCreated(
                name: "large-\(number)",
                id: TopicID(high: 7, low: UInt64(number)),
                replicas: Array(repeating: [1, 2, 3], count: 5_000),
                configs: [:]
            )
        }
        #expect(try MetadataBatch.encode([large[0]]).count > 3 * 4096)
        let node = try Self.open(folder, POSIXFileSystem())
        for record in Self.image(topics: 5, seed: 21) { try node.store.commit([record], now: 1) }
        for record in large {
            try node.store.commit([record], now: 1)
            try node.store.commit([.producerIDsReserved(next: 5_000)], now: 1)
        }
        let expected = Self.facts(node.store.image)
        try node.logs.close()
        #expect(LogChecker.problems(in: folder).count == 0)
        let again = try Self.open(folder, POSIXFileSystem())
        #expect(Self.facts(again.store.image) == expected)
        try again.store.commit([large[0]], now: 2)
        try again.store.snapshot(now: 2)
        try again.store.commit([.producerIDsReserved(next: 6_000)], now: 2)
        try again.logs.close()
        let last = try Self.open(folder, POSIXFileSystem())
        #expect(last.store.image.nextProducerID == 6_000)
        #expect(last.store.image.topic("large-2")?.partitions.count == 5_000)
        try last.logs.close()
    }

    @Test("Without a sound snapshot for what the log has lost, the node does not start on half its metadata")
    func noHalf() throws {
        let fixture = BrokerFixture()
        let folder = fixture.directory + "/data"
        try POSIXFileSystem().makeDirectory(folder)
        let node = try Self.open(folder, POSIXFileSystem())
        for record in Self.image(topics: 20, seed: 8) { try node.store.commit([record], now: 1) }
        try node.store.snapshot(now: 1)
        try node.logs.close()
        let metadata = "\(folder)/__cluster_metadata-0"
        let name = try #require(
            MetadataSnapshot.files(try POSIXFileSystem().list(metadata).map(\.name)).first?.name
        )
        let file = try POSIXFileSystem().open("\(metadata)/\(name)", .write)
        try file.truncate(to: try file.size() - 1)
        #expect(throws: BrokerError.self) { try Self.open(folder, POSIXFileSystem()) }
        try POSIXFileSystem().unlink("\(metadata)/\(name)")
        #expect(throws: BrokerError.self) { try Self.open(folder, POSIXFileSystem()) }
    }

    @Test("A node with a small limit keeps topics, settings and leader epochs over snapshots and restarts")
    func node() async throws {
        let fixture = BrokerFixture { $0.metadataSnapshotBytes = 16_384 }
        try await fixture.start()
        var client = try fixture.connect()
        let id = try client.createTopic("kept", partitions: 3).topicId
        var lastEpoch: Int32 = 0
        for round in 0..<3 {
            for index in 0..<24 {
                try client.createTopic("t\(round)-\(index)", configs: ["retention.ms": "\(index + 1)"])
                if index % 2 == 0 {
                    _ = try client.call(
                        DeleteTopicsRequest(topics: [.init(name: "t\(round)-\(index)")], timeoutMs: 1000),
                        version: 6
                    )
                }
            }
            for index in 0..<60 {
                _ = try client.call(
                    IncrementalAlterConfigsRequest(
                        resources: [
                            .init(
                                resourceType: 4,
                                resourceName: "1",
                                configs: [
                                    .init(name: "log.retention.ms", configOperation: 0, value: "\(index + 1_000_000)")
                                ]
                            )
                        ]
                    ),
                    version: 1
                )
            }
            try await fixture.stop()
            try await fixture.start()
            client = try fixture.connect()
            let metadata = try client.call(MetadataRequest(topics: nil), version: 12)
            #expect(metadata.topics.count == 1 + 12 * (round + 1))
            let kept = metadata.topics.first { $0.name == "kept" }
            #expect(kept?.topicId == id)
            // Each run of the node leads in an epoch of its own.
            let epochs = try #require(kept?.partitions.map(\.leaderEpoch))
            #expect(epochs.allSatisfy { $0 > lastEpoch })
            lastEpoch = try #require(epochs.max())
        }
        try await fixture.stop()
        let names = try POSIXFileSystem().list("\(fixture.directory)/data/__cluster_metadata-0").map(\.name)
        #expect(MetadataSnapshot.files(names).count == 1)
        #expect(LogChecker.problems(in: fixture.directory + "/data").isEmpty)
    }
}

extension LogChecker {
    /// What a check of a folder finds.
    static func problems(in folder: String) -> [String] {
        do {
            return try LogChecker(directory: folder).run().problems.map(\.description)
        } catch {
            return ["\(error)"]
        }
    }
}
