// SPDX-License-Identifier: Apache-2.0

import MDCModel

@testable import MDCBroker
@testable import MDCLog

/// Three replicas of one partition over a network that loses, delays and repeats, on disks that forget what was not
/// synced, under a controller that is always right (an oracle) but heard late. A seed decides everything.
///
/// Checked all the time: what was acknowledged is in the log of whoever leads from then on; a reader below a high
/// watermark sees the same record at the same offset for ever; the same (epoch, offset) never holds two values; one
/// leader acknowledges in an epoch; after healing all logs are equal and have everything that was acknowledged.
struct ReplicationSimulation {
    struct Violation: Error, CustomStringConvertible {
        var description: String
    }

    /// A record: who wrote it in which epoch.
    struct Entry: Equatable {
        var epoch: Int32
        var value: Int
    }

    /// What the oracle has committed.
    struct State: Equatable {
        var leader: Int32
        var leaderEpoch: Int32 = 0
        var partitionEpoch: Int32 = 0
        var inSync: [Int32]
    }

    /// A broker run and its log.
    struct Node {
        var isUp = true
        var brokerEpoch: Int64 = 1
        var entries: [Entry] = []
        var durable = 0
        var epochs = LeaderEpochs()
        /// As the epochs were when last synced.
        var durableEpochs = LeaderEpochs()
        var highWatermark = 0
        /// The newest state it has applied.
        var applied: State?
        var leader: LeaderReplica?
        var follower: FollowerReplica?
        /// A fetch is under way since.
        var fetchSentAt: Int64?
        var waitsForSync = false
        var retryAt: Int64 = 0
        /// Writes that wait for the high watermark: offset after the record, and the record.
        var waiting: [(end: Int, entry: Entry)] = []
        /// A run of its own, in which messages to an earlier run are lost.
        var run = 0
        /// The partition's epoch when this run registered: what was decided before is not for it.
        var registeredAt: Int32 = 0

        var log: FollowerReplica.Log {
            let epochs = epochs
            let end = entries.count
            return FollowerReplica.Log(
                start: 0,
                end: Offset(Int64(end)),
                durableEnd: Offset(Int64(durable)),
                lastEpoch: entries.last.map { LeaderEpoch($0.epoch) } ?? .unknown,
                endOfEpoch: { epochs.end(of: $0, logEnd: Offset(Int64(end))) }
            )
        }
    }

    enum Message {
        case state(State)
        case fetch(from: Int32, brokerEpoch: Int64, FollowerReplica.Position)
        case answer(
            from: Int32,
            FollowerReplica.Answer,
            [Entry],
            to: FollowerReplica.Position
        )
        case proposal(from: Int32, LeaderReplica.Proposal)
        case verdict(LeaderReplica.Proposal, LeaderReplica.Verdict)
    }

    struct Parcel {
        var at: Int64
        var to: Int32
        var run: Int
        var message: Message
    }

    static let controller: Int32 = -1
    let seed: UInt64
    let bugs: PlantedReplicationBugs
    /// The oracle's own mistakes: a restarted leader keeps its epoch; a node with an empty disk stays in sync.
    let keepsEpochOfRestarted: Bool
    let trustsEmptyDisk: Bool
    /// A restarted node acts on what was decided before it registered.
    let actsOnOldMetadata: Bool

    private var random: SplitMix
    private var now: Int64 = 0
    private var nodes: [Int32: Node] = [:]
    private var parcels: [Parcel] = []
    private var state: State
    private var nextValue = 1
    private var isHealed = false
    /// One-way cuts.
    private var cuts: Set<[Int32]> = []
    // What was seen.
    private var acknowledged: [Int: Entry] = [:]
    private var read: [Int: Entry] = [:]
    private var written: [Int: [Int32: Int]] = [:]
    /// What disks held that were lost: a promise was kept that was broken by that alone.
    private var lostDisks: [Int32: [Entry]] = [:]
    private var acknowledgers: [Int32: Int32] = [:]
    private(set) var trace: [String] = []
    private(set) var acknowledgedCount = 0
    private(set) var elections = 0

    init(
        seed: UInt64,
        bugs: PlantedReplicationBugs = [],
        keepsEpochOfRestarted: Bool = false,
        trustsEmptyDisk: Bool = false,
        actsOnOldMetadata: Bool = false
    ) {
        self.seed = seed
        self.bugs = bugs
        self.keepsEpochOfRestarted = keepsEpochOfRestarted
        self.trustsEmptyDisk = trustsEmptyDisk
        self.actsOnOldMetadata = actsOnOldMetadata
        random = SplitMix(state: seed)
        state = State(leader: 0, inSync: [0, 1, 2])
        for id in Int32(0)...2 { nodes[id] = Node() }
    }

    private mutating func note(_ text: String) {
        trace.append("\(now): \(text)")
        if trace.count > 60 { trace.removeFirst() }
    }

    private mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }

    // MARK: Running

    mutating func run(steps: Int) throws {
        publish()
        for _ in 0..<steps {
            now += Int64.random(in: 1...40, using: &random)
            disturb()
            try step()
        }
        isHealed = true
        cuts = []
        for id in Int32(0)...2 where nodes[id]?.isUp == false { restart(id) }
        for _ in 0..<1500 {
            now += 20
            try step()
        }
        try checkHealed()
    }

    private mutating func step() throws {
        elect()
        try deliver()
        for id in Int32(0)...2 where nodes[id]?.isUp == true {
            if chance(60) { try sync(id) }
            if !isHealed, chance(40) { try produce(id) }
            try tick(id)
            fetch(id)
        }
    }

    // MARK: Faults

    private mutating func disturb() {
        if chance(2) { cuts = [] }
        if chance(2) {
            let ends: [Int32] = [-1, 0, 1, 2]
            guard let from = ends.randomElement(using: &random), let to = ends.randomElement(using: &random) else {
                return
            }
            cuts.insert([from, to])
        }
        guard let id = [Int32(0), 1, 2].randomElement(using: &random) else { return }
        if chance(2), nodes[id]?.isUp == true { crash(id) }
        if chance(6), nodes[id]?.isUp == false {
            let others = state.inSync.contains { $0 != id && nodes[$0]?.isUp == true }
            if chance(12), others, state.leader != id { wipe(id) }
            restart(id)
        }
        // All at once.
        if Int.random(in: 0..<400, using: &random) == 0 {
            for id in Int32(0)...2 where nodes[id]?.isUp == true { crash(id) }
        }
    }

    private mutating func crash(_ id: Int32) {
        guard var node = nodes[id] else { return }
        let kept = Int.random(in: node.durable...max(node.durable, node.entries.count), using: &random)
        note("node \(id) crashes; \(node.entries.count) written, \(node.durable) durable, \(kept) kept")
        node.entries.removeSubrange(kept...)
        node.durable = kept
        node.epochs = node.durableEpochs
        _ = node.epochs.truncate(to: Offset(Int64(kept)))
        // Epochs with records are found in the records.
        for (offset, entry) in node.entries.enumerated() {
            _ = node.epochs.begin(LeaderEpoch(entry.epoch), at: Offset(Int64(offset)))
        }
        node.durableEpochs = node.epochs
        node.isUp = false
        stop(&node)
        nodes[id] = node
    }

    private mutating func stop(_ node: inout Node) {
        node.leader = nil
        node.follower = nil
        node.applied = nil
        node.waiting = []
        node.fetchSentAt = nil
        node.waitsForSync = false
        node.highWatermark = 0
        node.run += 1
    }

    private mutating func wipe(_ id: Int32) {
        note("node \(id) loses its disk")
        lostDisks[id] = nodes[id]?.entries
        nodes[id]?.entries = []
        nodes[id]?.durable = 0
        nodes[id]?.epochs = LeaderEpochs()
        nodes[id]?.durableEpochs = LeaderEpochs()
        guard !trustsEmptyDisk else { return }
        state.inSync.removeAll { $0 == id }
        state.partitionEpoch += 1
        publish()
    }

    private mutating func restart(_ id: Int32) {
        nodes[id]?.isUp = true
        nodes[id]?.brokerEpoch += 1
        note("node \(id) starts")
        // A registration: whoever led leads no longer, or in a new epoch.
        if state.leader == id, !keepsEpochOfRestarted { choose() }
        nodes[id]?.registeredAt = state.partitionEpoch
        publish(to: id)
    }

    // MARK: The oracle

    private mutating func elect() {
        guard state.leader >= 0 else {
            if state.inSync.contains(where: { nodes[$0]?.isUp == true }) { choose() }
            return
        }
        if nodes[state.leader]?.isUp != true {
            if chance(10) { choose() }
        } else if !isHealed, chance(1), chance(40) {
            choose()
        }
    }

    private mutating func choose() {
        let candidates = state.inSync.filter { nodes[$0]?.isUp == true }
        let next = candidates.randomElement(using: &random) ?? -1
        state.leader = next
        state.leaderEpoch += 1
        state.partitionEpoch += 1
        if next >= 0 {
            elections += 1
            let alive = state.inSync.filter { nodes[$0]?.isUp == true }
            if chance(60), !alive.isEmpty { state.inSync = alive }
        }
        note("oracle: \(state)")
        publish()
    }

    private mutating func publish(to only: Int32? = nil) {
        for id in Int32(0)...2 where only == nil || only == id {
            send(.state(state), from: Self.controller, to: id, always: true)
        }
    }

    private mutating func judge(_ proposal: LeaderReplica.Proposal, from id: Int32) -> LeaderReplica.Verdict {
        guard proposal.leaderEpoch == state.leaderEpoch, proposal.partitionEpoch == state.partitionEpoch,
            state.leader == id
        else { return .outdated }
        for member in proposal.inSync where member.node != id {
            guard let node = nodes[member.node] else { return .refused }
            let isNew = !state.inSync.contains(member.node)
            if isNew, !node.isUp || member.brokerEpoch != node.brokerEpoch { return .refused }
        }
        state.inSync = proposal.inSync.map(\.node)
        state.partitionEpoch += 1
        note("oracle: in sync \(state.inSync), partition epoch \(state.partitionEpoch)")
        publish()
        return .committed(inSync: state.inSync, partitionEpoch: state.partitionEpoch)
    }

    // MARK: The network

    private mutating func send(_ message: Message, from: Int32, to: Int32, always: Bool = false) {
        let isCut = cuts.contains([from, to])
        // What the oracle says arrives in the end, like metadata.
        if !always, isCut || (!isHealed && chance(5)) { return }
        var delay = Int64.random(in: 1...30, using: &random)
        if !isHealed, chance(always ? 30 : 4) { delay += Int64.random(in: 1...1500, using: &random) }
        if always && isCut { delay += 2000 }
        let run = nodes[to]?.run ?? 0
        parcels.append(Parcel(at: now + delay, to: to, run: run, message: message))
        if !always, !isHealed, chance(2) {
            parcels.append(Parcel(at: now + delay + 300, to: to, run: run, message: message))
        }
    }

    private mutating func deliver() throws {
        let due = parcels.filter { $0.at <= now }.sorted { $0.at < $1.at }
        parcels.removeAll { $0.at <= now }
        for parcel in due {
            if parcel.to == Self.controller {
                guard case .proposal(let from, let proposal) = parcel.message else { continue }
                let verdict = judge(proposal, from: from)
                send(.verdict(proposal, verdict), from: Self.controller, to: from)
                continue
            }
            guard let node = nodes[parcel.to], node.isUp else { continue }
            switch parcel.message {
            // Followers' requests find whoever listens; the rest belongs to a run.
            case .fetch(let from, let brokerEpoch, let position):
                try serve(parcel.to, from, brokerEpoch, position)
            case .state(let state): try apply(state, on: parcel.to)
            case .answer(let from, let answer, let entries, let asked) where parcel.run == node.run:
                try take(answer, entries, to: asked, from: from, on: parcel.to)
            case .verdict(let proposal, let verdict) where parcel.run == node.run:
                guard let outcome = nodes[parcel.to]?.leader?.answered(proposal, verdict, now: now) else { continue }
                try carryOut(outcome, on: parcel.to)
            default: break
            }
        }
    }

    // MARK: A node

    private mutating func apply(_ state: State, on id: Int32) throws {
        guard var node = nodes[id], state.partitionEpoch >= node.registeredAt || actsOnOldMetadata else { return }
        if let applied = node.applied {
            guard state.partitionEpoch > applied.partitionEpoch else { return }
            if state.leaderEpoch == applied.leaderEpoch {
                nodes[id]?.applied = state
                let outcome = nodes[id]?.leader?.update(
                    partitionEpoch: state.partitionEpoch,
                    replicas: [0, 1, 2],
                    inSync: state.inSync,
                    now: now
                )
                if let outcome { try carryOut(outcome, on: id) }
                return
            }
        }
        node.applied = state
        node.waiting = []
        node.fetchSentAt = nil
        node.waitsForSync = false
        node.retryAt = 0
        if state.leader == id {
            node.follower = nil
            _ = node.epochs.begin(LeaderEpoch(state.leaderEpoch), at: Offset(Int64(node.entries.count)))
            var leader = LeaderReplica(
                node: id,
                leaderEpoch: state.leaderEpoch,
                partitionEpoch: state.partitionEpoch,
                replicas: [0, 1, 2],
                inSync: state.inSync,
                highWatermark: Offset(Int64(node.highWatermark)),
                logEnd: Offset(Int64(node.entries.count)),
                durableEnd: Offset(Int64(node.durable)),
                settings: LeaderReplica.Settings(minInSync: 2),
                now: now
            )
            leader.bugs = bugs
            node.leader = leader
        } else {
            node.leader = nil
            if bugs.contains(.truncatesToHighWatermark), node.entries.count > node.highWatermark {
                cut(&node, to: node.highWatermark)
            }
            _ = node.epochs.truncate(to: Offset(Int64(node.entries.count)))
            node.follower =
                state.leader < 0 ? nil : FollowerReplica(leader: state.leader, leaderEpoch: state.leaderEpoch)
            node.follower?.bugs = bugs
        }
        nodes[id] = node
        note("node \(id) applies \(state); \(node.entries.count) records, \(node.durable) durable")
        if state.leader == id { try checkNewLeader(id, state) }
    }

    private func cut(_ node: inout Node, to end: Int) {
        node.entries.removeSubrange(min(end, node.entries.count)...)
        node.durable = min(node.durable, node.entries.count)
        _ = node.epochs.truncate(to: Offset(Int64(node.entries.count)))
        node.durableEpochs = node.epochs
        node.highWatermark = min(node.highWatermark, end)
    }

    private mutating func produce(_ id: Int32) throws {
        guard var node = nodes[id], let leader = node.leader, !leader.isBelowMinimum else { return }
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            let entry = Entry(epoch: leader.leaderEpoch, value: nextValue)
            nextValue += 1
            try checkWrite(entry, at: node.entries.count)
            node.entries.append(entry)
            node.waiting.append((node.entries.count, entry))
        }
        node.leader?.appended(to: Offset(Int64(node.entries.count)))
        nodes[id] = node
    }

    private mutating func sync(_ id: Int32) throws {
        guard var node = nodes[id] else { return }
        node.durable = node.entries.count
        node.durableEpochs = node.epochs
        node.waitsForSync = false
        let outcome = node.leader?.durable(to: Offset(Int64(node.durable)))
        if let mark = node.follower?.highWatermark(node.log) { raise(&node, to: Int(mark.rawValue)) }
        nodes[id] = node
        if let outcome { try carryOut(outcome, on: id) }
        try checkReads(id)
    }

    private func raise(_ node: inout Node, to mark: Int) {
        node.highWatermark = max(node.highWatermark, min(mark, node.entries.count))
    }

    private mutating func tick(_ id: Int32) throws {
        let brokers = nodes
        let outcome = nodes[id]?.leader?.tick(now: now) { other, epoch in
            brokers[other]?.isUp == true && brokers[other]?.brokerEpoch == epoch
        }
        if let outcome { try carryOut(outcome, on: id) }
        // Lost on the way: it is proposed again.
        if let pending = nodes[id]?.leader?.pending, chance(5) {
            send(.proposal(from: id, pending), from: id, to: Self.controller)
        }
    }

    private mutating func fetch(_ id: Int32) {
        guard var node = nodes[id], let follower = node.follower, !node.waitsForSync, now >= node.retryAt else {
            return
        }
        if let sent = node.fetchSentAt, now - sent < 500 { return }
        node.fetchSentAt = now
        nodes[id] = node
        send(
            .fetch(from: id, brokerEpoch: node.brokerEpoch, follower.position(node.log)),
            from: id,
            to: follower.leader
        )
    }

    private mutating func serve(
        _ id: Int32,
        _ from: Int32,
        _ brokerEpoch: Int64,
        _ asked: FollowerReplica.Position
    ) throws {
        guard let node = nodes[id] else { return }
        var answer = FollowerReplica.Answer()
        var records: [Entry] = []
        if let leader = node.leader {
            if asked.leaderEpoch != leader.leaderEpoch {
                answer.error = asked.leaderEpoch < leader.leaderEpoch ? .fencedLeaderEpoch : .unknownLeaderEpoch
            } else {
                try answerFetch(id, from, brokerEpoch, asked, &answer, &records)
            }
        } else {
            answer.error = .notLeaderOrFollower
        }
        send(.answer(from: id, answer, records, to: asked), from: id, to: from)
    }

    private mutating func answerFetch(
        _ id: Int32,
        _ from: Int32,
        _ brokerEpoch: Int64,
        _ asked: FollowerReplica.Position,
        _ answer: inout FollowerReplica.Answer,
        _ records: inout [Entry]
    ) throws {
        guard let node = nodes[id] else { return }
        let end = Offset(Int64(node.entries.count))
        if asked.lastEpoch >= 0 {
            let (epoch, epochEnd) = node.epochs.end(of: asked.lastEpoch, logEnd: end)
            if epoch == .unknown || epochEnd < asked.offset || epoch < asked.lastEpoch {
                answer.divergence = (epoch, epochEnd)
                return
            }
        }
        guard asked.offset <= end else {
            answer.error = .offsetOutOfRange
            answer.logStart = 0
            return
        }
        let brokers = nodes
        var outcome = LeaderReplica.Outcome()
        do {
            let found = try nodes[id]?.leader?.fetched(
                by: from,
                brokerEpoch: brokerEpoch,
                from: asked.offset,
                logStart: asked.logStart,
                logEnd: end,
                now: now
            ) { other, epoch in
                let broker = brokers[other]
                return broker?.isUp == true && (broker?.brokerEpoch == epoch || bugs.contains(.ignoresBrokerEpoch))
            }
            if let found { outcome = found }
        } catch {
            answer.error = .staleBrokerEpoch
            return
        }
        if bugs.contains(.ignoresBrokerEpoch), var proposal = outcome.proposal {
            proposal.inSync = proposal.inSync.map {
                .init(node: $0.node, brokerEpoch: brokers[$0.node]?.brokerEpoch ?? -1)
            }
            outcome.proposal = proposal
        }
        try carryOut(outcome, on: id)
        answer.highWatermark = nodes[id]?.leader?.highWatermark ?? -1
        answer.logStart = 0
        let start = Int(asked.offset.rawValue)
        records = Array(node.entries[start..<min(node.entries.count, start + 4)])
        answer.hasRecords = !records.isEmpty
    }

    private mutating func take(
        _ answer: FollowerReplica.Answer,
        _ records: [Entry],
        to asked: FollowerReplica.Position,
        from: Int32,
        on id: Int32
    ) throws {
        guard var node = nodes[id], var follower = node.follower, follower.leader == from else { return }
        node.fetchSentAt = nil
        let action = follower.answered(answer, to: asked, node.log)
        node.follower = follower
        switch action {
        case .append:
            guard asked.offset.rawValue == Int64(node.entries.count) else { break }
            for record in records {
                let offset = Offset(Int64(node.entries.count))
                try checkWrite(record, at: node.entries.count)
                _ = node.epochs.begin(LeaderEpoch(record.epoch), at: offset)
                node.entries.append(record)
            }
            node.waitsForSync = !bugs.contains(.fetchesFromWrittenEnd)
        case .truncate(let to):
            note("node \(id) cuts \(node.entries.count) to \(to)")
            cut(&node, to: Int(to.rawValue))
        case .reset(let to):
            note("node \(id) begins anew at \(to)")
            cut(&node, to: 0)
        case .retry: node.retryAt = now + follower.pauseMilliseconds(random: 0.5)
        case .refuse: node.retryAt = now + follower.pauseMilliseconds(random: 0.5)
        case .none: break
        }
        if let mark = follower.highWatermark(node.log) { raise(&node, to: Int(mark.rawValue)) }
        nodes[id] = node
        try checkReads(id)
    }

    private mutating func carryOut(_ outcome: LeaderReplica.Outcome, on id: Int32) throws {
        if let proposal = outcome.proposal { send(.proposal(from: id, proposal), from: id, to: Self.controller) }
        guard let mark = outcome.highWatermark, var node = nodes[id] else { return }
        raise(&node, to: Int(mark.rawValue))
        let ready = node.waiting.filter { $0.end <= node.highWatermark }
        node.waiting.removeAll { $0.end <= node.highWatermark }
        nodes[id] = node
        for (end, entry) in ready { try acknowledge(entry, at: end - 1, by: id) }
        try checkReads(id)
    }

    // MARK: What must hold

    private mutating func acknowledge(_ entry: Entry, at offset: Int, by id: Int32) throws {
        acknowledgedCount += 1
        // G1: on the disks of as many replicas as were promised.
        let holders = nodes.count { id, node in
            let lost = lostDisks[id] ?? []
            return (offset < node.durable && node.entries[offset] == entry)
                || (offset < lost.count && lost[offset] == entry)
        }
        guard holders >= 2 else {
            throw Violation(description: "\(entry) is acknowledged at \(offset) and on \(holders) disk")
        }
        if let other = acknowledgers[entry.epoch], other != id {
            throw Violation(description: "nodes \(other) and \(id) both acknowledge in epoch \(entry.epoch)")
        }
        acknowledgers[entry.epoch] = id
        if let other = acknowledged[offset], other != entry {
            throw Violation(description: "\(other) and \(entry) were both acknowledged at offset \(offset)")
        }
        acknowledged[offset] = entry
        // Who leads by now, without this node knowing, has it as well.
        if state.leader >= 0, state.leader != id, nodes[state.leader]?.applied == state {
            try checkHas(state.leader, offset, entry)
        }
    }

    private func checkHas(_ id: Int32, _ offset: Int, _ entry: Entry) throws {
        guard let node = nodes[id] else { return }
        guard offset < node.entries.count, node.entries[offset] == entry else {
            let there = offset < node.entries.count ? "\(node.entries[offset])" : "nothing"
            throw Violation(
                description: "leader \(id) has \(there) at offset \(offset), where \(entry) was acknowledged"
            )
        }
    }

    private func checkNewLeader(_ id: Int32, _ state: State) throws {
        // An old state, heard late, makes no leader of anything.
        guard state.leaderEpoch == self.state.leaderEpoch else { return }
        for (offset, entry) in acknowledged { try checkHas(id, offset, entry) }
    }

    private mutating func checkReads(_ id: Int32) throws {
        guard let node = nodes[id] else { return }
        for offset in 0..<min(node.highWatermark, node.entries.count) {
            if let before = read[offset], before != node.entries[offset] {
                throw Violation(
                    description:
                        "a reader of node \(id) sees \(node.entries[offset]) at \(offset), before it was \(before)"
                )
            }
            read[offset] = node.entries[offset]
        }
    }

    private mutating func checkWrite(_ entry: Entry, at offset: Int) throws {
        if let value = written[offset]?[entry.epoch], value != entry.value {
            throw Violation(
                description:
                    "epoch \(entry.epoch), offset \(offset) is \(value) on one node and \(entry.value) on another"
            )
        }
        written[offset, default: [:]][entry.epoch] = entry.value
    }

    private func checkHealed() throws {
        guard let leader = nodes[state.leader], leader.leader != nil else {
            throw Violation(description: "nobody leads after healing: \(state)")
        }
        for (offset, entry) in acknowledged { try checkHas(state.leader, offset, entry) }
        for (id, node) in nodes where node.entries != leader.entries {
            throw Violation(description: "after healing node \(id) differs from its leader \(state.leader)")
        }
        guard Set(state.inSync) == [0, 1, 2], leader.highWatermark == leader.entries.count else {
            throw Violation(
                description: "after healing in sync are \(state.inSync), high watermark \(leader.highWatermark) of "
                    + "\(leader.entries.count)"
            )
        }
    }
}
