// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCRaft

/// A cluster under faults, all from one seed: messages lost, doubled, delayed and reordered, partitions in one or both
/// directions, crashes at every point of the driver's work, power loss of all nodes, emptied disks, slow disks, clocks that
/// drift, snapshots, transfers and changes of the membership.
struct Simulation {
    private struct Envelope {
        var message: RaftMessage
        var due: Int
    }
    private struct Link: Hashable {
        var from: BrokerID
        var to: BrokerID
    }

    private(set) var cluster: Cluster
    private(set) var checker = Checker()
    /// Messages, ticks and `ready()`s handled.
    private(set) var operations = 0
    /// Disks emptied.
    private(set) var wipes = 0
    private var random: RaftRandom
    private var flight: [Envelope] = []
    private var cut: Set<Link> = []
    private var busyUntil: [BrokerID: Int] = [:]
    private var down: [BrokerID: Int] = [:]
    private var round = 0
    private var isHealed = false
    private var nextContext: UInt64 = 0
    private var nextValue: UInt32 = 0
    private let lossPercent: Int
    private let faultPercent: Int
    private let changesMembership: Bool

    init(seed: UInt64, fault: RaftPlantedFault? = nil) {
        random = RaftRandom(seed: seed)
        var options = RaftOptions()
        options.electionTicks = 8
        options.readMode = seed % 2 == 0 ? .safe : .lease
        options.leaseMarginTicks = 3
        options.maxAppendBytes = 120
        options.maxInflightMessages = 1 + random.below(6)
        options.maxApplyBytes = 200
        options.snapshotChunkBytes = 24
        options.maxUncommittedBytes = 2000
        options.promotionLagEntries = 8
        lossPercent = [0, 2, 10, 25][random.below(4)]
        faultPercent = [2, 6, 12][random.below(3)]
        changesMembership = seed % 3 != 0
        cluster = Cluster(
            voters: seed % 5 == 0 ? 5 : 3,
            options: options,
            seed: seed,
            fault: fault,
            pinned: seed % 7 != 0
        )
        if changesMembership {
            for id in cluster.ids.count + 1...cluster.ids.count + 2 { cluster.join(BrokerID(Int32(id))) }
        }
    }

    /// Runs `rounds` ticks with faults, then heals everything and waits for progress. Returns what was broken, if anything.
    mutating func run(rounds: Int) -> String? {
        while round < rounds, checker.violation == nil {
            injectFaults()
            workload()
            step()
        }
        if checker.violation == nil { checkRecovery() }
        checker.checkMachines(cluster)
        return checker.violation
    }

    // MARK: - One tick

    private mutating func step() {
        round += 1
        for id in cluster.ids where cluster.isUp(id) {
            // Node 2's clock is slow, node 3's fast, by one tick in 16.
            if id == 2, round % 16 == 0 { continue }
            cluster.tick(id)
            if id == 3, round % 16 == 0 { cluster.tick(id) }
            operations += 1
        }
        for _ in 0..<3 {
            collect()
            let due = flight.filter { $0.due <= round }
            flight.removeAll { $0.due <= round }
            for envelope in due where cluster.isUp(envelope.message.to.node) {
                cluster.deliver(envelope.message)
                operations += 1
            }
            for id in cluster.ids { work(id) }
            checker.check(&cluster)
            if checker.violation != nil { return }
        }
    }

    private mutating func work(_ id: BrokerID) {
        guard cluster.isUp(id) else { return }
        if let busy = busyUntil[id] {
            if random.below(2) == 0 { cluster.network.append(contentsOf: cluster.members[id]!.node!.takeMessages()) }
            guard busy <= round else { return }
            busyUntil[id] = nil
            cluster.persist(id)
            cluster.finish(id)
        }
        guard cluster.begin(id) else { return }
        operations += 1
        if !isHealed, random.below(100) < 4 { return busyUntil[id] = round + 1 + random.below(3) }
        cluster.persist(id)
        if !isHealed, random.below(1000) < faultPercent { return crash(id) }
        cluster.finish(id)
    }

    /// Gives messages that have left their fate.
    private mutating func collect() {
        for message in cluster.network {
            if cut.contains(Link(from: message.from.node, to: message.to.node)) { continue }
            if !isHealed, random.below(100) < lossPercent { continue }
            let copies = !isHealed && random.below(100) < 3 ? 2 : 1
            for _ in 0..<copies {
                let isLate = !isHealed && random.below(100) < 10
                flight.append(Envelope(message: message, due: round + (isLate ? 1 + random.below(12) : 0)))
            }
        }
        cluster.network.removeAll(keepingCapacity: true)
        if flight.count > 1, random.below(4) == 0 {
            flight.swapAt(random.below(flight.count), random.below(flight.count))
        }
    }

    // MARK: - Faults

    private mutating func injectFaults() {
        for id in cluster.ids where !cluster.isUp(id) && (down[id] ?? 0) <= round { start(id) }
        guard random.below(100) < faultPercent else { return }
        let id = cluster.ids[random.below(cluster.ids.count)]
        switch random.below(12) {
        case 0, 1: crash(id)
        case 2: if let leader = cluster.leader { crash(leader) }
        case 3: for id in cluster.ids { crash(id) }
        case 4, 5: partition()
        case 6: if let leader = cluster.leader { cutOff(leader, outgoing: random.below(2) == 0) }
        case 7, 8: cut = []
        case 9, 10: wipe(id)
        default: transfer(to: id)
        }
    }

    private mutating func crash(_ id: BrokerID) {
        cluster.stop(id)
        busyUntil[id] = nil
        down[id] = round + random.below(12)
    }

    private mutating func start(_ id: BrokerID) {
        cluster.start(id)
        checker.restarted(id, at: cluster.members[id]!.machine.applied)
    }

    private mutating func partition() {
        cut = []
        let side = Set(cluster.ids.filter { _ in random.below(2) == 0 })
        for from in cluster.ids {
            for to in cluster.ids where side.contains(from) != side.contains(to) {
                cut.insert(Link(from: from, to: to))
            }
        }
    }

    private mutating func cutOff(_ id: BrokerID, outgoing: Bool) {
        for other in cluster.ids where other != id {
            cut.insert(outgoing ? Link(from: id, to: other) : Link(from: other, to: id))
        }
    }

    /// Empties a disk, if all other voters still have theirs: one copy may be lost at a time.
    private mutating func wipe(_ id: BrokerID) {
        guard let leader = cluster.leader, let status = cluster.members[leader]!.node?.status,
            status.isMembershipCommitted, status.membership.voters.count >= 3,
            status.membership.voters.allSatisfy({ cluster.members[$0.node]!.replica == $0 }),
            cluster.members.values.allSatisfy({ $0.node == nil || $0.node!.status.membership == status.membership })
        else { return }
        busyUntil[id] = nil
        cluster.wipe(id)
        wipes += 1
        checker.restarted(id, at: 0)
    }

    private mutating func transfer(to id: BrokerID) {
        guard let leader = cluster.leader else { return }
        try? cluster.members[leader]!.node!.transferLeadership(to: cluster.replica(id))
    }

    // MARK: - Work

    private mutating func workload() {
        for id in cluster.ids where cluster.members[id]!.node?.status.softState.role == .leader {
            for _ in 0..<random.below(3) { propose(at: id) }
        }
        if random.below(3) == 0 { read(at: cluster.ids[random.below(cluster.ids.count)]) }
        if round % 10 == 0 { administrate() }
        if random.below(25) == 0 { snapshot(cluster.ids[random.below(cluster.ids.count)]) }
    }

    private mutating func snapshot(_ id: BrokerID) { cluster.snapshot(id, keeping: RaftIndex(random.below(4))) }

    private mutating func propose(at id: BrokerID) {
        nextValue += 1
        let value = (0..<4).map { UInt8(truncatingIfNeeded: nextValue >> (24 - 8 * $0)) }
        let padding = [UInt8](repeating: 7, count: random.below(30))
        _ = try? cluster.members[id]!.node!.propose([UInt8(random.below(8))] + value + padding)
    }

    private mutating func read(at id: BrokerID) {
        guard cluster.isUp(id) else { return }
        nextContext += 1
        checker.readStarts(nextContext)
        try? cluster.members[id]!.node!.readIndex(context: nextContext)
    }

    /// What an operator does: pins directories, replaces emptied disks, adds and removes nodes.
    private mutating func administrate() {
        guard let leader = cluster.leader, let membership = cluster.members[leader]!.node?.membership else { return }
        var changes: [RaftMembershipChange] = []
        for voter in membership.voters {
            let replica = cluster.replica(voter.node)
            if !voter.isPinned { changes.append(.pinDirectory(replica)) }
            if voter.isPinned, replica != voter { changes.append(.removeVoter(voter)) }
        }
        for observer in membership.observers {
            changes.append(
                cluster.replica(observer.node) == observer ? .promote(observer) : .removeObserver(observer)
            )
        }
        for id in cluster.ids where membership.member(matching: cluster.replica(id)) == nil {
            if !membership.voters.contains(where: { $0.node == id }) {
                changes.append(.addObserver(cluster.replica(id)))
            }
        }
        if changesMembership, !isHealed, membership.voters.count > 3, random.below(3) == 0 {
            changes.append(.removeVoter(membership.voters[random.below(membership.voters.count)]))
        }
        guard !changes.isEmpty else { return }
        _ = try? cluster.members[leader]!.node!.proposeChange(changes[random.below(changes.count)])
        if cluster.fault == .concurrentChanges || cluster.fault == .changeBeforeLeaderEntry {
            _ = try? cluster.members[leader]!.node!.proposeChange(changes[random.below(changes.count)])
        }
    }

    // MARK: - Healing

    /// Everything works again: there must be a leader, and what it is given must reach every member.
    private mutating func checkRecovery() {
        isHealed = true
        cut = []
        for id in cluster.ids where !cluster.isUp(id) { start(id) }
        var target: RaftIndex?
        for attempt in 0..<600 {
            if attempt % 10 == 0 { administrate() }
            step()
            if checker.violation != nil { return }
            guard let leader = cluster.leader, let node = cluster.members[leader]!.node else { continue }
            if target == nil, attempt > 20 { target = try? cluster.members[leader]!.node!.propose([0, 0, 0, 0, 1]) }
            guard let target, attempt > 40 else { continue }
            let membership = node.membership
            let members = (membership.voters + membership.observers).map { cluster.members[$0.node]! }
            if members.allSatisfy({ $0.machine.applied >= target }), membership.observers.isEmpty { return }
        }
        checker.fail("liveness: no progress on all members within 600 ticks after healing")
    }

    /// How the nodes stand, for the report of a failure.
    var summary: String {
        cluster.ids.map { id in
            guard let status = cluster.members[id]!.node?.status else { return "n\(id) down" }
            return "n\(id) \(status.softState.role.rawValue) epoch \(status.softState.epoch) commit \(status.commit)"
                + " applied \(status.applied) last \(status.lastIndex) \(status.membership)"
        }.joined(separator: "\n")
    }
}
