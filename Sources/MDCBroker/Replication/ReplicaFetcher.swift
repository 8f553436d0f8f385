// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix

/// Copies partitions from one other broker: one connection, one fetch session, one fetch under way at a time.
///
/// A round is: fetch, append, wait until what was appended is on disk, fetch on from there. Cuts run on the pool; their
/// partitions leave the session until they are done. Confined to its event loop, hence unchecked.
final class ReplicaFetcher: @unchecked Sendable {
    struct Key: Hashable, Comparable {
        var topicID: TopicID
        var index: Int32

        static func < (a: Key, b: Key) -> Bool { (a.topicID, a.index) < (b.topicID, b.index) }
    }

    enum Phase: Equatable {
        case ready
        /// What was appended is on its way to the disk: the next fetch waits for it.
        case syncing
        /// A cut is under way, or a pause.
        case away
    }

    struct Entry {
        var log: PartitionLog
        var follower: FollowerReplica
        var phase = Phase.ready
        /// What the session has of it.
        var asked: FollowerReplica.Position?
        var isTrimming = false
        /// What was appended last is to be paid back, by the throttle, before more is asked for.
        var isHeldBack = false
        /// Records that the leader had and this replica had not, at the last answer.
        var lag: Int64 = 0
    }

    private static let version: Int16 = 17
    private static let maxWaitMilliseconds: Int32 = 500
    private static let partitionBytes: Int32 = 1 << 20
    private static let fetchBytes: Int32 = 16 << 20

    let remote: Int32
    let eventLoop: any EventLoop
    private let node: Int32
    private let directory: any BrokerDirectory
    private let blocking: any WorkQueue
    private let environment: NodeEnvironment
    private let throttle: ReplicationThrottle
    /// Told of a partition whose high watermark has advanced.
    private let whenAdvanced: @Sendable (Key) -> Void
    /// Told of a log that was cut or emptied, before anything is appended to it.
    private let whenCut: @Sendable (PartitionLog) -> Void
    let logger: Logger
    private(set) var entries: [Key: Entry] = [:]
    /// Keys that the session still has and must not.
    private var forgotten: Set<Key> = []
    private var connection: (any FollowerLink)?
    private var isConnected = false
    private var isStopped = false
    private var failures = 0
    private var session: (id: Int32, epoch: Int32) = (0, 0)
    private var correlation: Int32 = 0
    private var inFlight: Int32?
    private var timeout: Scheduled<Void>?
    private var retry: Scheduled<Void>?
    private var kick: Scheduled<Void>?

    init(
        remote: Int32,
        node: Int32,
        eventLoop: any EventLoop,
        directory: any BrokerDirectory,
        blocking: any WorkQueue,
        environment: NodeEnvironment,
        throttle: ReplicationThrottle,
        whenAdvanced: @escaping @Sendable (Key) -> Void,
        whenCut: @escaping @Sendable (PartitionLog) -> Void,
        logger: Logger
    ) {
        self.remote = remote
        self.node = node
        self.eventLoop = eventLoop
        self.directory = directory
        self.blocking = blocking
        self.environment = environment
        self.throttle = throttle
        self.whenAdvanced = whenAdvanced
        self.whenCut = whenCut
        self.logger = logger
    }

    // MARK: Partitions

    /// Begins to copy a partition; from any thread.
    func add(_ log: PartitionLog, _ index: Int32, _ follower: FollowerReplica) {
        eventLoop.execute {
            guard !self.isStopped else { return }
            let key = Key(topicID: log.topicID, index: index)
            if self.entries[key]?.asked != nil { self.forgotten.insert(key) }
            self.entries[key] = Entry(log: log, follower: follower)
            self.becameReady()
        }
    }

    /// Stops copying a partition; from any thread. What is on its way is refused by the log, which has another role then.
    func remove(_ topicID: TopicID, _ index: Int32) {
        eventLoop.execute {
            let key = Key(topicID: topicID, index: index)
            if self.entries.removeValue(forKey: key)?.asked != nil { self.forgotten.insert(key) }
            if self.entries.isEmpty { self.disconnect() }
        }
    }

    func stop() {
        eventLoop.execute {
            self.isStopped = true
            self.entries = [:]
            self.disconnect()
        }
    }

    private func disconnect() {
        retry?.cancel()
        kick?.cancel()
        (retry, kick) = (nil, nil)
        connection?.close()
    }

    /// A partition can be fetched that the fetch under way, if any, does not ask for: that one is given up soon, rather than
    /// waited for.
    private func becameReady() {
        guard inFlight != nil else { return pump() }
        guard kick == nil else { return }
        kick = eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) {
            self.kick = nil
            let isWaiting = self.entries.values.contains { $0.phase == .ready && $0.asked == nil }
            if self.inFlight != nil, isWaiting { self.connection?.close() } else { self.pump() }
        }
    }

    // MARK: Connection

    private func connect() {
        guard connection == nil, retry == nil, !isStopped else { return }
        guard let address = directory.endpoint(of: remote) else { return retryLater() }
        session = (0, 0)
        let made = environment.connect(
            address,
            eventLoop,
            {
                self.isConnected = true
                self.pump()
            },
            { self.received($0) },
            { self.lost() }
        )
        if !made.isClosed { connection = made }
    }

    private func lost() {
        let hadAnswers = session.id != 0
        connection = nil
        isConnected = false
        inFlight = nil
        timeout?.cancel()
        session = (0, 0)
        forgotten = []
        for key in entries.keys { entries[key]?.asked = nil }
        if hadAnswers { failures = 0 }
        guard !isStopped, !entries.isEmpty else { return }
        // At once the first time: most often it was closed here.
        if failures == 0 {
            failures = 1
            connect()
        } else {
            retryLater()
        }
    }

    private func retryLater() {
        guard retry == nil, !isStopped else { return }
        let base = Double(min(20 << min(failures, 6), 1000))
        failures += 1
        retry = eventLoop.assumeIsolated().scheduleTask(
            in: .milliseconds(Int64(base * (0.5 + environment.fraction())))
        ) {
            self.retry = nil
            if !self.entries.isEmpty { self.connect() }
        }
    }

    // MARK: Fetching

    static func view(_ log: PartitionLog) -> FollowerReplica.Log {
        FollowerReplica.Log(
            start: log.logStartOffset,
            end: log.logEndOffset,
            durableEnd: log.durableEndOffset,
            lastEpoch: log.lastRecordEpoch,
            endOfEpoch: { log.endOffset(for: $0) }
        )
    }

    /// Sends the next fetch if nothing stands in its way.
    private func pump() {
        guard inFlight == nil, !isStopped, !entries.isEmpty else { return }
        guard isConnected else { return connect() }
        var isSyncing = false
        // What was written as a leader is asked about once it is on disk.
        let unsynced = entries.filter {
            $0.value.phase == .ready && $0.value.log.durableEndOffset < $0.value.log.logEndOffset
        }
        for (key, entry) in unsynced.sorted(by: { $0.key < $1.key }) { sync(key, upTo: entry.log.logEndOffset) }
        for entry in entries.values where entry.phase == .syncing { isSyncing = true }
        guard !isSyncing, entries.values.contains(where: { $0.phase == .ready }) else { return }
        do throws(ProtocolError) {
            try send()
        } catch {
            logger.error("a fetch cannot be encoded", metadata: ["error": "\(error)"])
            connection?.close()
        }
    }

    private func send() throws(ProtocolError) {
        let isFull = session.id == 0
        if isFull {
            forgotten = []
            for key in entries.keys { entries[key]?.asked = nil }
        }
        var topics: [TopicID: [FetchRequest.FetchPartition]] = [:]
        for (key, entry) in entries {
            guard entry.phase == .ready else {
                if entry.asked != nil {
                    forgotten.insert(key)
                    entries[key]?.asked = nil
                }
                continue
            }
            let position = entry.follower.position(Self.view(entry.log))
            guard position != entry.asked else { continue }
            forgotten.remove(key)
            entries[key]?.asked = position
            topics[key.topicID, default: []].append(
                FetchRequest.FetchPartition(
                    partition: key.index,
                    currentLeaderEpoch: position.leaderEpoch,
                    fetchOffset: position.offset.rawValue,
                    lastFetchedEpoch: position.lastEpoch.rawValue,
                    logStartOffset: position.logStart.rawValue,
                    partitionMaxBytes: Self.partitionBytes
                )
            )
        }
        var gone: [TopicID: [Int32]] = [:]
        for key in forgotten { gone[key.topicID, default: []].append(key.index) }
        forgotten = []
        let request = FetchRequest(
            replicaState: .init(replicaId: node, replicaEpoch: directory.ownBrokerEpoch),
            maxWaitMs: Self.maxWaitMilliseconds,
            minBytes: 1,
            maxBytes: Self.fetchBytes,
            sessionId: session.id,
            sessionEpoch: session.epoch,
            topics: topics.map { .init(topicId: $0.key, partitions: $0.value.sorted { $0.partition < $1.partition }) }
                .sorted { $0.topicId < $1.topicId },
            forgottenTopicsData: gone.map { .init(topicId: $0.key, partitions: $0.value.sorted()) }
                .sorted { $0.topicId < $1.topicId }
        )
        correlation &+= 1
        let sent = correlation
        inFlight = sent
        connection?.send(
            try Frame.request(
                request,
                version: Self.version,
                correlationId: sent,
                clientId: "replica-\(node)",
                capacity: 256 + topics.count * 64
            )
        )
        timeout?.cancel()
        timeout = eventLoop.assumeIsolated().scheduleTask(in: .seconds(10)) {
            guard self.inFlight == sent else { return }
            self.failures = max(self.failures, 1)
            self.connection?.close()
        }
    }

    private func received(_ frame: ByteBuffer) {
        timeout?.cancel()
        var frame = frame
        let response: FetchResponse
        do throws(ProtocolError) {
            let header = try ResponseHeader(readingHeadOf: &frame, apiKey: .fetch, apiVersion: Self.version)
            guard header.correlationId == inFlight else {
                connection?.close()
                return
            }
            response = try FetchResponse(reading: &frame, version: Self.version)
        } catch {
            logger.warning("a broker's answer cannot be read", metadata: ["node": "\(remote)", "error": "\(error)"])
            failures = max(failures, 1)
            connection?.close()
            return
        }
        inFlight = nil
        guard response.errorCode == 0 else {
            // The session is unknown there: with a new one it goes on.
            session = (0, 0)
            return pump()
        }
        failures = 0
        session = response.sessionId == 0 ? (0, 0) : (response.sessionId, session.id == 0 ? 1 : session.epoch &+ 1)
        for topic in response.responses {
            for data in topic.partitions {
                take(data, Key(topicID: topic.topicId, index: data.partitionIndex))
            }
        }
        pump()
    }

    // MARK: Answers

    private func take(_ data: FetchResponse.PartitionData, _ key: Key) {
        guard var entry = entries[key], let asked = entry.asked, entry.phase == .ready else { return }
        var answer = FollowerReplica.Answer()
        answer.error = ErrorCode(rawValue: data.errorCode)
        if data.divergingEpoch.epoch != -1 || data.divergingEpoch.endOffset != -1 {
            answer.divergence = (LeaderEpoch(data.divergingEpoch.epoch), Offset(data.divergingEpoch.endOffset))
        }
        answer.highWatermark = Offset(data.highWatermark)
        answer.logStart = Offset(data.logStartOffset)
        answer.hasRecords = (data.records?.readableBytes ?? 0) > 0
        let action = entry.follower.answered(answer, to: asked, Self.view(entry.log))
        entry.lag = max(0, data.highWatermark - asked.offset.rawValue)
        entries[key] = entry
        switch action {
        case .append: append(data.records ?? ByteBuffer(), key, entry)
        case .truncate(let end):
            change(key, entry, "cut at \(end)") { log, epoch throws(LogError) in
                try log.truncate(to: end, following: epoch)
            }
        case .reset(let start):
            change(key, entry, "begun anew at \(start)") { log, epoch throws(LogError) in
                try log.reset(to: start, following: epoch)
                log.updateHighWatermark(start)
            }
        case .retry(let code): pause(key, entry, "\(code)")
        case .refuse: pause(key, entry, "the leader knows less than this replica has; nothing is thrown away")
        case .none: publish(key)
        }
    }

    private func append(_ records: ByteBuffer, _ key: Key, _ entry: Entry) {
        do throws(LogError) {
            let epoch = LeaderEpoch(entry.follower.leaderEpoch)
            let result = try entry.log.append(records, as: .replica, leaderEpoch: epoch, now: environment.wall())
            // Who is in sync has everything that is committed when it asks; it is never held back.
            if entry.lag > 0, throttle.names(key.topicID, key.index, .follower) {
                throttle.record(.follower, bytes: records.readableBytes)
                entries[key]?.isHeldBack = true
            }
            sync(key, upTo: result.lastOffset + 1)
        } catch {
            if error.code == .unexpectedOffset, beginWithin(records, key, entry) { return }
            pause(key, entry, "\(error)")
        }
    }

    /// The leader's log starts within a batch, since records were deleted: an empty log begins with that batch, as the leader's
    /// does.
    private func beginWithin(_ records: ByteBuffer, _ key: Key, _ entry: Entry) -> Bool {
        var batches = RecordBatchIterator(records)
        guard entry.log.logEndOffset == entry.log.logStartOffset, let first = try? batches.next()?.header,
            first.baseOffset < entry.log.logEndOffset, first.lastOffset >= entry.log.logEndOffset
        else { return false }
        let now = environment.wall()
        change(key, entry, "begun anew at \(first.baseOffset), with a batch", syncs: true) {
            log,
            epoch throws(LogError) in
            try log.reset(to: first.baseOffset, following: epoch)
            log.updateHighWatermark(first.baseOffset)
            _ = try log.append(records, as: .replica, leaderEpoch: epoch, now: now)
        }
        return true
    }

    /// The next fetch waits until everything before `end` is on disk.
    private func sync(_ key: Key, upTo end: Offset) {
        guard let entry = entries[key] else { return }
        if PlantedReplicationBugs.planted.contains(.fetchesFromWrittenEnd) {
            return entry.log.whenDurable(upTo: end) { _ in self.eventLoop.execute { self.publish(key) } }
        }
        entries[key]?.phase = .syncing
        let epoch = entry.follower.leaderEpoch
        entry.log.whenDurable(upTo: end) { result in
            self.eventLoop.execute {
                guard self.entries[key]?.follower.leaderEpoch == epoch, self.entries[key]?.phase == .syncing else {
                    return self.pump()
                }
                if case .failure(let error) = result, let entry = self.entries[key] {
                    self.pause(key, entry, "\(error)")
                    return self.pump()
                }
                self.entries[key]?.phase = .ready
                self.publish(key)
                if self.entries[key]?.isHeldBack == true { self.payBack(key) }
                self.pump()
            }
        }
    }

    /// A throttled replica is not asked for until the rate allows more. The fetch that is under way then goes on: there is no
    /// hurry.
    private func payBack(_ key: Key) {
        let delay = throttle.delay(.follower)
        guard delay > 0, let entry = entries[key] else {
            entries[key]?.isHeldBack = false
            entries[key]?.phase = .ready
            return
        }
        entries[key]?.phase = .away
        let epoch = entry.follower.leaderEpoch
        eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(Int64(delay))) {
            guard let entry = self.entries[key], entry.follower.leaderEpoch == epoch, entry.phase == .away,
                entry.isHeldBack
            else { return }
            self.payBack(key)
            if self.inFlight == nil { self.pump() }
        }
    }

    /// Takes over the leader's high watermark and log start, as far as this replica has come.
    private func publish(_ key: Key) {
        guard let entry = entries[key] else { return }
        let view = Self.view(entry.log)
        if let mark = entry.follower.highWatermark(view), mark > entry.log.highWatermark {
            entry.log.updateHighWatermark(mark)
            whenAdvanced(key)
        }
        guard !entry.isTrimming, let start = entry.follower.newLogStart(view) else { return }
        entries[key]?.isTrimming = true
        let log = entry.log
        blocking.submit { _ in
            try? log.deleteRecords(before: start)
            self.eventLoop.execute { self.entries[key]?.isTrimming = false }
        }
    }

    private func change(
        _ key: Key,
        _ entry: Entry,
        _ what: String,
        syncs: Bool = false,
        _ body: @escaping @Sendable (PartitionLog, LeaderEpoch) throws(LogError) -> Void
    ) {
        logger.info("a replica is \(what)", metadata: ["partition": "\(entry.log.topicPartition)"])
        entries[key]?.phase = .away
        let epoch = entry.follower.leaderEpoch
        let log = entry.log
        blocking.submit { [whenCut] _ in
            var problem: LogError?
            do throws(LogError) {
                try body(log, LeaderEpoch(epoch))
                whenCut(log)
            } catch {
                problem = error
            }
            let failure = problem
            self.eventLoop.execute {
                guard let entry = self.entries[key], entry.follower.leaderEpoch == epoch else { return }
                if let failure { return self.pause(key, entry, "\(failure)") }
                if syncs { return self.sync(key, upTo: log.logEndOffset) }
                self.entries[key]?.phase = .ready
                self.becameReady()
            }
        }
    }

    private func pause(_ key: Key, _ entry: Entry, _ reason: String) {
        let milliseconds = max(50, entry.follower.pauseMilliseconds(random: environment.fraction()))
        logger.debug(
            "a replica pauses",
            metadata: ["partition": "\(entry.log.topicPartition)", "leader": "\(remote)", "reason": "\(reason)"]
        )
        entries[key]?.phase = .away
        let epoch = entry.follower.leaderEpoch
        eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
            guard self.entries[key]?.follower.leaderEpoch == epoch, self.entries[key]?.phase == .away else { return }
            self.entries[key]?.phase = .ready
            self.becameReady()
        }
    }
}
