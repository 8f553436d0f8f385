// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCClient
import MDCModel

/// A message that a dispatcher has read from a lane.
struct DispatchItem: Sendable {
    var message: Message
    var lane: Int
    var partition: TopicPartition
    var offset: Int64
    /// Which assignment of the partition it was read under.
    var generation: Int
    /// A predecessor may have sent it.
    var isDoubtful: Bool
    /// The provider that it goes by, as an index; and what the router said.
    var provider = 0
    var route: Router.Decision?
    /// It has passed the limits of its tenant and sender.
    var isPaced = false
}

/// A point in time on both clocks.
struct Moment: Sendable {
    var wall: Timestamp
    /// Of a clock that never goes back.
    var nanoseconds: Int64

    static func now() -> Moment {
        Moment(wall: SystemTime.now(), nanoseconds: SystemTime.monotonicNanoseconds())
    }
}

/// The memory of a dispatcher: lanes with their waiting messages, partitions with their commit trackers, worker slots.
///
/// Pure but for its size. A message goes through it as: `offer` (read; waits in `pending`), `declare` (its partition's
/// commit will say that it may have been sent), `release` (that commit is durable; it may start), `start` (a worker has
/// it), `free` (the worker's slot is free again), `complete` (its result is durable).
struct DispatchState: Sendable {
    struct LaneQueue: Sendable {
        var pending: Deque<DispatchItem> = []
        /// Bytes of files that come with what is pending.
        var pendingBytes = 0
        var declared: [DispatchItem] = []
        /// By provider.
        var ready: [Deque<DispatchItem>]
        /// Over the limit of its tenant or sender; and when it may go on.
        var parked: [(due: Int64, item: DispatchItem)] = []

        init(providers: Int) { ready = Array(repeating: [], count: providers) }

        var readyCount: Int { ready.reduce(parked.count) { $0 + $1.count } }
        var count: Int { pending.count + declared.count + readyCount }
    }

    struct Partition: Sendable {
        var tracker: CommitTracker
        var lane: Int
        var generation: Int
        /// Taken and not done: when each was taken, to know from when on results must be looked for after a crash.
        var takenAt: Deque<(offset: Int64, at: Timestamp)> = []
        var running = 0
        var isDirty = false
        var isPaused = false
    }

    private(set) var lanes: [LaneQueue]
    private(set) var partitions: [TopicPartition: Partition] = [:]
    var window: AttemptWindow
    var providers: ProviderDesk
    private var turn = 0
    private var generation = 0
    /// Messages of a lane that may be started before the next commit.
    private let readyMax: Int
    /// Bytes of files of a lane in memory; beyond, its partitions are paused.
    private static let pendingBytesMax = 64 << 20
    /// Messages of a lane in memory; beyond, its partitions are paused.
    private let queuedMax: Int

    init(weights: [Int], providers: ProviderDesk, queuedMax: Int = 2_000, windowCapacity: Int = 200_000) {
        self.providers = providers
        lanes = weights.map { _ in LaneQueue(providers: providers.count) }
        window = AttemptWindow(capacity: windowCapacity)
        readyMax = max(64, providers.slots)
        self.queuedMax = queuedMax
    }

    /// One provider without limits.
    init(weights: [Int], slots: Int, queuedMax: Int = 2_000, windowCapacity: Int = 200_000) {
        let desk = ProviderDesk(
            channel: .sms,
            providers: [(name: "provider", slots: slots)],
            weights: weights,
            configuration: RoutingConfiguration(),
            nowNanoseconds: 0
        )
        self.init(weights: weights, providers: desk, queuedMax: queuedMax, windowCapacity: windowCapacity)
    }

    // MARK: - Partitions

    mutating func assign(_ partition: TopicPartition, lane: Int, tracker: CommitTracker) {
        generation += 1
        partitions[partition] = Partition(tracker: tracker, lane: lane, generation: generation)
    }

    /// Forgets what waits of a partition; what runs goes on. What has not started is taken back from the declaration.
    mutating func withdraw(_ partition: TopicPartition) {
        guard let lane = partitions[partition]?.lane else { return }
        var firstUnstarted = Int64.max
        func keep(_ item: DispatchItem) -> Bool {
            guard item.partition == partition else { return true }
            firstUnstarted = min(firstUnstarted, item.offset)
            return false
        }
        lanes[lane].pending = Deque(lanes[lane].pending.filter(keep))
        lanes[lane].pendingBytes = lanes[lane].pending.reduce(0) { $0 + $1.message.attachmentBytes }
        lanes[lane].declared = lanes[lane].declared.filter(keep)
        lanes[lane].parked = lanes[lane].parked.filter { keep($0.item) }
        for provider in lanes[lane].ready.indices {
            let before = lanes[lane].ready[provider].count
            lanes[lane].ready[provider] = Deque(lanes[lane].ready[provider].filter(keep))
            providers.schedulers[provider].withdrawn(lane, count: before - lanes[lane].ready[provider].count)
        }
        guard firstUnstarted < .max else { return }
        partitions[partition]?.tracker.untake(from: firstUnstarted)
        partitions[partition]?.isDirty = true
    }

    mutating func drop(_ partition: TopicPartition) {
        withdraw(partition)
        partitions[partition] = nil
    }

    func running(_ partition: TopicPartition) -> Int { partitions[partition]?.running ?? 0 }

    // MARK: - A message's way

    /// Notes a record that was read: where it stands, nil if there is nothing to do about it.
    mutating func read(_ partition: TopicPartition, offset: Int64) -> CommitTracker.Origin? {
        guard partitions[partition] != nil else { return nil }
        partitions[partition]?.isDirty = true
        return partitions[partition]?.tracker.read(offset)
    }

    mutating func offer(_ message: Message, _ partition: TopicPartition, offset: Int64, isDoubtful: Bool) {
        guard let known = partitions[partition] else { return }
        lanes[known.lane].pendingBytes += message.attachmentBytes
        lanes[known.lane].pending.append(
            DispatchItem(
                message: message,
                lane: known.lane,
                partition: partition,
                offset: offset,
                generation: known.generation,
                isDoubtful: isDoubtful
            )
        )
    }

    /// What became of a wish to call an attempt back.
    enum CancelResult: Sendable, Equatable {
        /// It waited, and waits no more; it counts as done.
        case taken
        /// It is not here: it waits for a timer, or is done. Should it come, it is dropped.
        case unseen
        case started
    }

    /// Calls an attempt back, if it has not been started.
    mutating func cancel(_ messageID: String, attempt: Int) -> CancelResult {
        guard window.insert(messageID, attempt: attempt) else { return .started }
        func isIt(_ item: DispatchItem) -> Bool {
            item.message.id == messageID && item.message.attempt == attempt
        }
        for lane in lanes.indices {
            if let index = lanes[lane].pending.firstIndex(where: isIt) {
                let item = lanes[lane].pending.remove(at: index)
                lanes[lane].pendingBytes -= item.message.attachmentBytes
                complete(item)
                return .taken
            }
            // Further on, the window lets it be completed when its turn comes.
            if lanes[lane].declared.contains(where: isIt) || lanes[lane].parked.contains(where: { isIt($0.item) })
                || lanes[lane].ready.contains(where: { $0.contains(where: isIt) })
            {
                return .taken
            }
        }
        return .unseen
    }

    /// Whether a commit would let messages start.
    var wantsCommit: Bool {
        lanes.contains { !$0.pending.isEmpty && $0.declared.isEmpty && $0.readyCount < readyMax }
    }

    /// Declares the next messages of each lane; what to commit so that they may start.
    mutating func declare(now: Timestamp) -> [TopicPartition: OffsetAndMetadata] {
        for lane in lanes.indices {
            while lanes[lane].readyCount + lanes[lane].declared.count < readyMax,
                let item = lanes[lane].pending.popFirst()
            {
                lanes[lane].declared.append(item)
                lanes[lane].pendingBytes -= item.message.attachmentBytes
                partitions[item.partition]?.tracker.take(through: item.offset)
                partitions[item.partition]?.takenAt.append((item.offset, now))
                partitions[item.partition]?.isDirty = true
            }
        }
        var commits: [TopicPartition: OffsetAndMetadata] = [:]
        for key in partitions.keys where partitions[key]?.isDirty == true {
            commits[key] = commit(key)
            partitions[key]?.isDirty = false
        }
        return commits
    }

    /// What to commit for a partition now.
    mutating func commit(_ key: TopicPartition) -> OffsetAndMetadata? {
        guard var partition = partitions[key] else { return nil }
        while let first = partition.takenAt.first, first.offset < partition.tracker.committable {
            partition.takenAt.removeFirst()
        }
        partitions[key] = partition
        let since = partition.takenAt.first?.at ?? 0
        return OffsetAndMetadata(
            Offset(partition.tracker.committable),
            metadata: CommitMetadata(since: since, tracker: partition.tracker.metadata).description
        )
    }

    /// The commit is durable: what it declared may start.
    mutating func release(now: Moment = .now()) {
        for lane in lanes.indices where !lanes[lane].declared.isEmpty {
            for item in lanes[lane].declared { enqueue(item, now: now) }
            lanes[lane].declared = []
        }
    }

    /// Puts a message into the queue of the provider that the router chooses now.
    private mutating func enqueue(_ item: DispatchItem, now: Moment) {
        var item = item
        let decision = providers.route(item.message, now: now.wall)
        item.provider = decision.provider
        item.route = decision
        lanes[item.lane].ready[item.provider].append(item)
        providers.schedulers[item.provider].enqueued(item.lane)
    }

    /// Asks the router again about what waits for a provider, after that one went out of service or came back.
    mutating func reroute(from provider: Int, now: Moment) {
        for lane in lanes.indices {
            let waiting = lanes[lane].ready[provider]
            guard !waiting.isEmpty else { continue }
            lanes[lane].ready[provider] = []
            providers.schedulers[provider].withdrawn(lane, count: waiting.count)
            for item in waiting { enqueue(item, now: now) }
        }
    }

    /// Brings back what was over a limit and no longer is.
    private mutating func unpark(now: Moment) {
        for lane in lanes.indices where !lanes[lane].parked.isEmpty {
            let due = lanes[lane].parked.filter { $0.due <= now.nanoseconds }
            guard !due.isEmpty else { continue }
            lanes[lane].parked.removeAll { $0.due <= now.nanoseconds }
            for (_, item) in due { enqueue(item, now: now) }
        }
    }

    /// Whether something waits that time alone will let start.
    var waitsForTime: Bool {
        lanes.contains { !$0.parked.isEmpty || $0.ready.contains { !$0.isEmpty } }
    }

    /// The commit failed: it is declared again with the next.
    mutating func unrelease(_ keys: some Sequence<TopicPartition>) {
        for key in keys { partitions[key]?.isDirty = true }
    }

    /// The next message to send, if its provider has a slot free and may be asked. Attempts that were started before are
    /// completed on the way.
    mutating func start(now: Moment = .now()) -> DispatchItem? {
        unpark(now: now)
        for step in 0..<providers.count {
            let provider = (turn + step) % providers.count
            if let item = start(provider, now: now) {
                turn = (provider + 1) % providers.count
                return item
            }
        }
        return nil
    }

    private mutating func start(_ provider: Int, now: Moment) -> DispatchItem? {
        while providers.mayStart(provider, now: now), let lane = providers.schedulers[provider].next() {
            guard var item = lanes[lane].ready[provider].popFirst() else {
                preconditionFailure("the scheduler counts what is ready")
            }
            guard partitions[item.partition]?.generation == item.generation else {
                providers.schedulers[provider].finished(lane)
                continue
            }
            if !item.isPaced {
                item.isPaced = true
                let wait = providers.pace(item.message, sender: item.route?.sender, nowNanoseconds: now.nanoseconds)
                if wait > 0 {
                    providers.schedulers[provider].finished(lane)
                    lanes[lane].parked.append((now.nanoseconds + wait, item))
                    continue
                }
            }
            guard window.insert(item.message.id, attempt: item.message.attempt) else {
                providers.schedulers[provider].finished(lane)
                complete(item)
                continue
            }
            providers.started(provider, now: now)
            partitions[item.partition]?.running += 1
            return item
        }
        return nil
    }

    /// The send is over.
    mutating func free(_ item: DispatchItem) {
        providers.schedulers[item.provider].finished(item.lane)
    }

    /// The result of a started message is durable.
    mutating func finish(_ item: DispatchItem) {
        guard partitions[item.partition]?.generation == item.generation else { return }
        partitions[item.partition]?.running -= 1
        complete(item)
    }

    private mutating func complete(_ item: DispatchItem) {
        complete(item.partition, offset: item.offset)
    }

    /// A record is dealt with.
    mutating func complete(_ partition: TopicPartition, offset: Int64) {
        partitions[partition]?.tracker.complete(offset)
        partitions[partition]?.isDirty = true
    }

    // MARK: - Flow control

    /// Which partitions to pause and to resume: a full lane, or a partition with too wide a span of open records.
    mutating func flowControl() -> (pause: [TopicPartition], resume: [TopicPartition]) {
        var pause: [TopicPartition] = []
        var resume: [TopicPartition] = []
        for (key, partition) in partitions {
            let count = lanes[partition.lane].count
            let bytes = lanes[partition.lane].pendingBytes
            let isFull =
                count >= queuedMax || bytes >= Self.pendingBytesMax
                || partition.tracker.span >= CommitTracker.spanMax / 2
            let hasRoom =
                count < queuedMax / 2 && bytes < Self.pendingBytesMax / 2
                && partition.tracker.span < CommitTracker.spanMax / 4
            if isFull, !partition.isPaused {
                partitions[key]?.isPaused = true
                pause.append(key)
            } else if hasRoom, partition.isPaused {
                partitions[key]?.isPaused = false
                resume.append(key)
            }
        }
        return (pause, resume)
    }
}

/// What a dispatcher writes beside an offset: `<ms since when the oldest open record is taken>;<tracker's metadata>`.
struct CommitMetadata: CustomStringConvertible {
    var since: Timestamp
    var tracker: String

    init(since: Timestamp, tracker: String) {
        self.since = since
        self.tracker = tracker
    }

    init?(_ text: String) {
        let parts = text.split(separator: ";", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, let since = Int64(parts[0]) else { return nil }
        self.init(since: Timestamp(since), tracker: String(parts[1]))
    }

    var description: String { tracker.isEmpty ? "" : "\(since);\(tracker)" }
}
