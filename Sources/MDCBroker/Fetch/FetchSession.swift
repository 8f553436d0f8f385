// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// A topic as a fetch names it: by name, or from version 13 by id. Shared by its partitions.
final class FetchTopic: Sendable {
    let name: String
    let bytes: StringSlice
    let id: TopicID
    /// Whether the request names topics by id. An id of zero is one that nobody has.
    let isByID: Bool

    init(name: String, id: TopicID, isByID: Bool? = nil) {
        self.name = name
        self.id = id
        self.isByID = isByID ?? (id != .zero)
        bytes = StringSlice(name)
    }
}

/// What names a partition in a fetch.
struct FetchKey: Hashable, Sendable {
    var name: String
    var id: TopicID
    var index: Int32
}

/// A partition to fetch from, with what the client last said of it.
struct FetchTarget: Sendable {
    var topic: FetchTopic
    var index: Int32
    var fetchOffset: Int64
    var maxBytes: Int32
    var currentLeaderEpoch: Int32
    var lastFetchedEpoch: Int32
    /// First offset that a follower has; -1 for a consumer.
    var logStartOffset: Int64 = -1
    /// What the client was last told; -1 before that.
    var toldHighWatermark: Int64 = -1
    var toldLogStart: Int64 = -1
    /// Found once; looked for again when the topic has been deleted.
    var partition: Partition?
    /// Whether `partition` tells the session's watch of what happens to it.
    var isWatched = false

    var key: FetchKey { FetchKey(name: topic.name, id: topic.id, index: index) }
}

/// What a response says of a partition, as far as the session cares.
struct FetchAnswer: Equatable, Sendable {
    var hasRecords: Bool
    var isError: Bool
    var highWatermark: Int64
    var logStart: Int64
    /// The answer must be sent for another reason (a diverging epoch).
    var isForced = false
}

/// The partitions that a client fetches again and again, so that it names only what changed (KIP-227). Pure.
struct FetchSession: Sendable {
    let id: Int32
    /// The epoch that the next request must have.
    private(set) var nextEpoch: Int32 = 1
    /// Whether topics go by id.
    let byID: Bool
    private(set) var targets: [FetchTarget?] = []
    private var positions: [FetchKey: Int] = [:]
    private let registration = FetchSessionRegistration()
    /// Whether the last look found nothing to tell of any partition, and nothing was asked otherwise since.
    private var isQuiet = false
    /// Where the next read begins, so that no partition starves the ones behind it.
    private var cursor = 0

    init(id: Int32, byID: Bool, targets: [FetchTarget]) {
        self.id = id
        self.byID = byID
        for target in targets { upsert(target) }
    }

    /// How many partitions it has.
    var count: Int { positions.count }

    /// Whether a request of `epoch` is the next one; moves on if so.
    mutating func advance(_ epoch: Int32) -> Bool {
        guard epoch == nextEpoch else { return false }
        nextEpoch = nextEpoch == Int32.max ? 1 : nextEpoch + 1
        return true
    }

    /// Adds a partition or changes what is asked of it.
    mutating func upsert(_ target: FetchTarget) {
        isQuiet = false
        if let position = positions[target.key], var known = targets[position] {
            known.fetchOffset = target.fetchOffset
            known.maxBytes = target.maxBytes
            known.currentLeaderEpoch = target.currentLeaderEpoch
            known.lastFetchedEpoch = target.lastFetchedEpoch
            known.logStartOffset = target.logStartOffset
            targets[position] = known
        } else {
            positions[target.key] = targets.count
            targets.append(target)
        }
    }

    mutating func forget(_ key: FetchKey) {
        guard let position = positions.removeValue(forKey: key) else { return }
        targets[position] = nil
        if targets.count > 32 && positions.count < targets.count / 2 { compact() }
    }

    private mutating func compact() {
        targets = targets.filter { $0 != nil }
        positions = [:]
        for (position, target) in targets.enumerated() { if let target { positions[target.key] = position } }
        cursor = 0
    }

    /// Learns of changes of the partitions that were noted.
    var watch: FetchSessionWatch { registration.watch }

    /// The partitions of which there may be something to tell, in the order to read them. Costs next to nothing where there
    /// was nothing the last time, and no partition has announced a change since.
    mutating func restless(readCommitted: Bool) -> [FetchTarget] {
        if isQuiet && !watch.hasChanged { return [] }
        // What changes from here on is announced again.
        watch.beginLook()
        var found: [FetchTarget] = []
        let start = cursor < targets.count ? cursor : 0
        for index in targets.indices {
            let position = index + start < targets.count ? index + start : index + start - targets.count
            guard let target = targets[position] else { continue }
            if let partition = target.partition, !target.isWatched {
                registration.add(partition)
                targets[position]?.isWatched = true
            }
            if !target.isQuiet(readCommitted: readCommitted) { found.append(target) }
        }
        isQuiet = found.isEmpty
        return found
    }

    /// All partitions, for a follower, which is answered in all of them.
    var all: [FetchTarget] { targets.compactMap { $0 } }

    /// Notes what was found for a partition; returns whether the client must be told.
    mutating func note(_ key: FetchKey, _ answer: FetchAnswer, partition: Partition?) -> Bool {
        isQuiet = false
        guard let position = positions[key], var target = targets[position] else { return true }
        let isNews =
            answer.hasRecords || answer.isError || answer.isForced
            || answer.highWatermark != target.toldHighWatermark || answer.logStart != target.toldLogStart
        if target.partition !== partition { target.isWatched = false }
        target.partition = partition
        // After an error everything is news.
        target.toldHighWatermark = answer.isError ? -1 : answer.highWatermark
        target.toldLogStart = answer.isError ? -1 : answer.logStart
        targets[position] = target
        if answer.hasRecords { cursor = position + 1 }
        return isNews
    }
}

/// The sessions of a node: bounded; when full, the one that was idle longest goes, if it was idle for long. Pure.
struct FetchSessionCache: Sendable {
    private struct Entry {
        var session: FetchSession
        var lastUsed: UInt64
    }

    /// How a fetch goes on.
    enum Verdict: Equatable, Sendable {
        /// All of its partitions, no session (id 0).
        case sessionless
        /// All of its partitions; a session begins.
        case created(Int32)
        /// The partitions of a session that was there.
        case incremental(Int32)
        /// `FETCH_SESSION_ID_NOT_FOUND`, `INVALID_FETCH_SESSION_EPOCH`, `FETCH_SESSION_TOPIC_ID_ERROR`.
        case failed(ErrorCode)
    }

    private let capacity: Int
    /// Nanoseconds that a session must have been idle to give way to another.
    private let evictable: UInt64
    private var entries: [Int32: Entry] = [:]

    init(capacity: Int, evictableAfter: UInt64 = 120_000_000_000) {
        self.capacity = capacity
        evictable = evictableAfter
    }

    var count: Int { entries.count }
    var partitionCount: Int { entries.values.reduce(0) { $0 + $1.session.count } }

    /// Takes a request: its session, epoch, partitions and forgotten ones.
    mutating func begin(
        sessionID: Int32,
        epoch: Int32,
        byID: Bool,
        targets: [FetchTarget],
        forgotten: [FetchKey],
        now: UInt64,
        random: inout some RandomNumberGenerator
    ) -> Verdict {
        if epoch == -1 || epoch == 0 {
            // A full fetch ends the session it names.
            if sessionID != 0 { entries[sessionID] = nil }
            guard epoch == 0, !targets.isEmpty, makeRoom(now) else { return .sessionless }
            var id: Int32 = 0
            while id == 0 || entries[id] != nil { id = Int32.random(in: 1...Int32.max, using: &random) }
            entries[id] = Entry(session: FetchSession(id: id, byID: byID, targets: targets), lastUsed: now)
            return .created(id)
        }
        guard var entry = entries[sessionID] else { return .failed(.fetchSessionIdNotFound) }
        guard entry.session.byID == byID else { return .failed(.fetchSessionTopicIdError) }
        guard entry.session.advance(epoch) else { return .failed(.invalidFetchSessionEpoch) }
        entries[sessionID] = nil  // so that what follows changes in place
        for target in targets { entry.session.upsert(target) }
        for key in forgotten { entry.session.forget(key) }
        entry.lastUsed = now
        if entry.session.count > 0 { entries[sessionID] = entry } else { return .sessionless }
        return .incremental(sessionID)
    }

    private mutating func makeRoom(_ now: UInt64) -> Bool {
        guard capacity > 0 else { return false }
        if entries.count < capacity { return true }
        guard let oldest = entries.min(by: { $0.value.lastUsed < $1.value.lastUsed }),
            now >= oldest.value.lastUsed + evictable
        else { return false }
        entries[oldest.key] = nil
        return true
    }

    /// The partitions of a session of which there may be something to tell, and who learns of changes of them all.
    mutating func restless(_ id: Int32, readCommitted: Bool) -> (targets: [FetchTarget], watch: FetchSessionWatch?) {
        guard let position = entries.index(forKey: id) else { return ([], nil) }
        let targets = entries.values[position].session.restless(readCommitted: readCommitted)
        return (targets, entries.values[position].session.watch)
    }

    /// All partitions of a session.
    func targets(of id: Int32) -> [FetchTarget] { entries[id]?.session.all ?? [] }

    /// Notes what was found; returns for each whether the client must be told.
    mutating func note(_ id: Int32, _ answers: [(FetchKey, FetchAnswer, Partition?)]) -> [Bool] {
        if answers.isEmpty { return [] }
        guard var entry = entries.removeValue(forKey: id) else { return answers.map { _ in true } }
        defer { entries[id] = entry }
        return answers.map { entry.session.note($0.0, $0.1, partition: $0.2) }
    }
}
