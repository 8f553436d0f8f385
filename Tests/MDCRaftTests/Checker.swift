// SPDX-License-Identifier: Apache-2.0

import MDCModel

@testable import MDCRaft

/// Watches a cluster and says which promise was broken first.
///
/// Its naive model of the replicated log is one array: whatever a node applies first at an index *is* the entry there, for
/// ever and for every node.
struct Checker {
    private struct Position: Hashable {
        var index: RaftIndex
        var epoch: RaftEpoch
    }
    private struct Seen: Equatable {
        var payload: RaftEntry.Payload
        var previousEpoch: RaftEpoch?
    }

    /// The naive model.
    private(set) var model: [RaftEntry] = []
    /// The state machine that applies the model, after each entry.
    private(set) var machines: [StateMachine] = [StateMachine()]
    private(set) var violation: String?
    private(set) var elections = 0
    private(set) var reads = 0
    private(set) var installs = 0
    private var leaders: [RaftEpoch: BrokerID] = [:]
    private var seen: [Position: Seen] = [:]
    private var lastApplied: [BrokerID: RaftIndex] = [:]
    private var readFloor: [UInt64: RaftIndex] = [:]

    mutating func fail(_ message: String) { if violation == nil { violation = message } }

    /// A read starts: its answer must not be older than what any node has applied by now.
    mutating func readStarts(_ context: UInt64) { readFloor[context] = RaftIndex(model.count) }

    mutating func restarted(_ id: BrokerID, at index: RaftIndex) { lastApplied[id] = index }

    /// Takes the events that have gathered in `cluster`.
    mutating func check(_ cluster: inout Cluster) {
        for event in cluster.events { check(event, in: cluster) }
        cluster.events.removeAll(keepingCapacity: true)
        if let broken = cluster.violation { fail("invariant: \(broken)") }
    }

    private mutating func check(_ event: Cluster.Event, in cluster: Cluster) {
        switch event {
        case .soft(let id, let state):
            if state.role == .leader { checkLeader(id, state, in: cluster) }
        case .persisted(let id, let entries, let previous): checkLogMatching(id, entries, after: previous)
        case .applied(let id, let entry, let commit):
            if entry.index > commit { fail("apply before commit: n\(id) applies \(entry.index), commit is \(commit)") }
            checkApplied(id, entry)
        case .installed(let id, let snapshot):
            installs += 1
            lastApplied[id] = snapshot.index
            let machine = cluster.members[id]!.machine
            if snapshot.index > model.count {
                fail("state machine safety: n\(id) installs a snapshot of \(snapshot.index), which nobody applied")
            } else if machine != machines[Int(snapshot.index)] {
                fail("state machine safety: n\(id) installs a snapshot of \(snapshot.index) with other contents")
            }
        case .read(let id, let read):
            reads += 1
            guard let floor = readFloor.removeValue(forKey: read.context) else { return }
            if read.index < floor {
                fail("linearizable reads: n\(id) reads at \(read.index), \(floor) was applied before the read began")
            }
        case .readFailed(_, let context): readFloor[context] = nil
        }
    }

    private mutating func checkLeader(_ id: BrokerID, _ state: RaftSoftState, in cluster: Cluster) {
        if let other = leaders[state.epoch], other != id {
            return fail("election safety: n\(other) and n\(id) lead epoch \(state.epoch)")
        }
        guard leaders.updateValue(id, forKey: state.epoch) == nil, let log = cluster.members[id]!.node?.log else {
            return
        }
        elections += 1
        for entry in model where entry.index >= log.firstIndex && log.epoch(at: entry.index) != entry.epoch {
            return fail("leader completeness: n\(id) leads epoch \(state.epoch) without committed entry \(entry.index)")
        }
    }

    private mutating func checkLogMatching(_ id: BrokerID, _ entries: [RaftEntry], after previous: RaftEpoch?) {
        var previous = previous
        for entry in entries {
            let now = Seen(payload: entry.payload, previousEpoch: previous)
            let position = Position(index: entry.index, epoch: entry.epoch)
            if let before = seen[position] {
                if before != now {
                    return fail("log matching: n\(id) has another entry \(entry.index) of epoch \(entry.epoch)")
                }
            } else {
                seen[position] = now
            }
            previous = entry.epoch
        }
    }

    private mutating func checkApplied(_ id: BrokerID, _ entry: RaftEntry) {
        let before = lastApplied[id] ?? 0
        if entry.index != before + 1 { return fail("apply order: n\(id) applies \(entry.index) after \(before)") }
        lastApplied[id] = entry.index
        if entry.index <= model.count {
            let known = model[Int(entry.index) - 1]
            if known != entry {
                fail(
                    "state machine safety: n\(id) applies \(entry.index) of epoch \(entry.epoch), others epoch \(known.epoch)"
                )
            }
        } else if entry.index == model.count + 1 {
            model.append(entry)
            var machine = machines[machines.count - 1]
            machine.apply(entry)
            machines.append(machine)
        } else {
            fail("state machine safety: n\(id) applies \(entry.index), nobody applied \(model.count + 1)")
        }
    }

    /// Every state machine equals the one that applied the naive model.
    mutating func checkMachines(_ cluster: Cluster) {
        for id in cluster.ids {
            let machine = cluster.members[id]!.machine
            if machine.applied > model.count || machine != machines[Int(machine.applied)] {
                fail("naive model: the state machine of n\(id) differs at \(machine.applied)")
            }
        }
    }
}
