// SPDX-License-Identifier: Apache-2.0

import MDCModel

@testable import MDCRaft

/// Runs a scenario: lines that begin with `> ` are commands, what they cause is traced under them.
///
/// Commands (nodes are `n1`, `n2`, …; a link is `n1->n2`):
/// - `cluster 3 [unpinned] [option=number …]`, `join n4`, `crash n1`, `start n1`, `wipe n1`
/// - `tick n1 8`, `campaign n1`, `transfer n1 n2`, `propose n1 text`, `read n1 7`, `snapshot n1`
/// - `change n1 add-observer|promote|remove-voter|remove-observer|pin n4`
/// - `deliver [link]`: what is under way arrives, once; `settle`: until nothing is under way; `drop link`
/// - `begin n1`, `persist n1`, `finish n1`: the driver's steps; `hold n1` stops the automatic ones, `release n1` lets them go on
/// - `cut n1`, `cut link`, `heal`, `status`, `messages on|off`
struct Script {
    private(set) var cluster: Cluster?
    private(set) var checker = Checker()
    private var fault: RaftPlantedFault?
    private var lines: [String] = []
    private var cuts: Set<String> = []
    private var held: Set<BrokerID> = []
    private var showsMessages = true
    private var reported: String?

    /// Runs the commands of `text`; the result is the text with what happens now.
    static func run(_ text: String, fault: RaftPlantedFault? = nil) -> (trace: String, violation: String?) {
        var script = Script()
        script.fault = fault
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("#") { script.lines.append(String(line)) }
            guard line.hasPrefix("> ") else { continue }
            if script.lines.last.map({ !$0.hasPrefix("#") }) ?? false { script.lines.append("") }
            script.lines.append(String(line))
            script.execute(line.dropFirst(2).split(separator: " ").map(String.init))
        }
        return (script.lines.joined(separator: "\n") + "\n", script.checker.violation)
    }

    private mutating func execute(_ words: [String]) {
        if words[0] == "cluster" { return makeCluster(words) }
        switch words[0] {
        case "join": cluster!.join(node(words[1]))
        case "crash": crash(node(words[1]))
        case "start": start(node(words[1]))
        case "wipe": wipe(node(words[1]))
        case "tick": for _ in 0..<Int(words[2])! { for id in nodes(words[1]) { cluster!.tick(id) } }
        case "campaign": cluster!.members[node(words[1])]!.node!.campaign()
        case "snapshot": cluster!.snapshot(node(words[1]), keeping: 0)
        case "deliver": deliver(words.count > 1 ? words[1] : nil)
        case "settle": settle()
        case "drop": cluster!.network.removeAll { Self.link($0) == words[1] }
        case "begin": _ = cluster!.begin(node(words[1]))
        case "persist": cluster!.persist(node(words[1]))
        case "finish": cluster!.finish(node(words[1]))
        case "hold": held.insert(node(words[1]))
        case "release": held.remove(node(words[1]))
        case "cut": cut(words[1])
        case "heal": cuts = []
        case "messages": showsMessages = words[1] == "on"
        case "status": status()
        default: request(words)
        }
        work()
    }

    private mutating func makeCluster(_ words: [String]) {
        var options = RaftOptions()
        options.electionTicks = 8
        options.leaseMarginTicks = 2
        for word in words {
            let pair = word.split(separator: "=").map(String.init)
            guard pair.count == 2 else { continue }
            switch pair[0] {
            case "appendBytes": options.maxAppendBytes = Int(pair[1])!
            case "inflight": options.maxInflightMessages = Int(pair[1])!
            case "chunk": options.snapshotChunkBytes = Int(pair[1])!
            case "uncommitted": options.maxUncommittedBytes = Int(pair[1])!
            case "reads": options.readMode = pair[1] == "lease" ? .lease : .safe
            default: preconditionFailure("unknown option \(pair[0])")
            }
        }
        cluster = Cluster(
            voters: Int(words[1])!,
            options: options,
            seed: 1,
            fault: fault,
            pinned: !words.contains("unpinned")
        )
    }

    private mutating func request(_ words: [String]) {
        let id = node(words[1])
        do throws(RaftError) {
            switch words[0] {
            case "propose": try cluster!.members[id]!.node!.propose(Array(words[2].utf8))
            case "transfer": try cluster!.members[id]!.node!.transferLeadership(to: cluster!.replica(node(words[2])))
            case "read":
                checker.readStarts(UInt64(words[2])!)
                try cluster!.members[id]!.node!.readIndex(context: UInt64(words[2])!)
            case "change": try cluster!.members[id]!.node!.proposeChange(change(words, at: id))
            default: preconditionFailure("unknown command \(words[0])")
            }
        } catch {
            lines.append("refused: \(error.code)")
        }
    }

    private func change(_ words: [String], at id: BrokerID) -> RaftMembershipChange {
        let target = cluster!.replica(node(words[3]))
        switch words[2] {
        case "add-observer": return .addObserver(target)
        case "promote": return .promote(target)
        case "remove-observer": return .removeObserver(target)
        case "pin": return .pinDirectory(target)
        case "remove-voter":
            let voters = cluster!.members[id]!.node!.membership.voters
            return .removeVoter(voters.first { $0.node == target.node } ?? target)
        default: preconditionFailure("unknown change \(words[2])")
        }
    }

    // MARK: - Nodes and links

    private func node(_ word: String) -> BrokerID { BrokerID(Int32(word.dropFirst())!) }
    private func nodes(_ word: String) -> [BrokerID] { word == "all" ? cluster!.ids : [node(word)] }
    private static func link(_ message: RaftMessage) -> String { "n\(message.from.node)->n\(message.to.node)" }

    private mutating func cut(_ word: String) {
        if word.contains("->") {
            cuts.insert(word)
        } else {
            for id in cluster!.ids { cuts.formUnion(["\(word)->n\(id)", "n\(id)->\(word)"]) }
        }
    }

    private mutating func crash(_ id: BrokerID) {
        cluster!.stop(id)
        held.remove(id)
    }

    private mutating func start(_ id: BrokerID) {
        cluster!.start(id)
        checker.restarted(id, at: cluster!.members[id]!.machine.applied)
    }

    private mutating func wipe(_ id: BrokerID) {
        cluster!.wipe(id)
        checker.restarted(id, at: 0)
    }

    // MARK: - Running

    private mutating func work() {
        for id in cluster!.ids where !held.contains(id) { cluster!.work(id) }
        report()
    }

    private mutating func deliver(_ only: String?) {
        let arriving = cluster!.network.filter { only == nil || Self.link($0) == only }
        cluster!.network.removeAll { only == nil || Self.link($0) == only }
        for message in arriving where !cuts.contains(Self.link(message)) {
            if showsMessages { lines.append(describe(message)) }
            cluster!.deliver(message)
            work()
        }
    }

    private mutating func settle() {
        for _ in 0..<200 where !cluster!.network.isEmpty { deliver(nil) }
        precondition(cluster!.network.isEmpty, "the cluster does not come to rest")
    }

    /// Traces what happened, and lets the checker see it.
    private mutating func report() {
        for event in cluster!.events {
            switch event {
            case .soft(let id, let state):
                let leader = state.leader.map { ", leader n\($0.node)" } ?? ""
                lines.append("  n\(id) is \(state.role.rawValue) in epoch \(state.epoch)\(leader)")
            case .applied(let id, let entry, _): lines.append("  n\(id) applies \(describe(entry))")
            case .installed(let id, let snapshot): lines.append("  n\(id) installs the snapshot of \(snapshot.index)")
            case .read(let id, let read): lines.append("  n\(id) may answer read \(read.context) at \(read.index)")
            case .readFailed(let id, let context): lines.append("  n\(id) fails read \(context)")
            case .persisted: break
            }
        }
        checker.check(&cluster!)
        if let violation = checker.violation, violation != reported {
            lines.append("VIOLATION \(violation)")
            reported = violation
        }
    }

    private mutating func status() {
        for id in cluster!.ids {
            guard let status = cluster!.members[id]!.node?.status else {
                lines.append("n\(id) down")
                continue
            }
            let names = { (list: [RaftReplica]) in list.map { "n\($0.node)" }.joined(separator: ",") }
            let observers =
                status.membership.observers.isEmpty ? "" : " observers \(names(status.membership.observers))"
            lines.append(
                "n\(id) \(status.softState.role.rawValue) epoch \(status.softState.epoch) last \(status.lastIndex)"
                    + " commit \(status.commit) applied \(status.applied) voters \(names(status.membership.voters))"
                    + observers
            )
        }
    }

    // MARK: - Words

    private func describe(_ entry: RaftEntry) -> String {
        switch entry.payload {
        case .leaderChange: "\(entry.index)/\(entry.epoch) leader"
        case .membership: "\(entry.index)/\(entry.epoch) membership"
        case .data(let bytes): "\(entry.index)/\(entry.epoch) '\(String(decoding: bytes, as: UTF8.self))'"
        }
    }

    private func describe(_ message: RaftMessage) -> String {
        let text =
            switch message.body {
            case .preVoteRequest(let vote): "pre-vote? log ends \(vote.lastIndex)/\(vote.lastEpoch)"
            case .preVoteResponse(let granted, let candidacy): "pre-vote \(granted ? "yes" : "no") for \(candidacy)"
            case .voteRequest(let vote):
                "vote? log ends \(vote.lastIndex)/\(vote.lastEpoch)\(vote.isTransfer ? ", transfer" : "")"
            case .voteResponse(let granted): "vote \(granted ? "yes" : "no")"
            case .append(let append):
                "append [\(append.entries.map(describe).joined(separator: ", "))]"
                    + " after \(append.previousIndex)/\(append.previousEpoch) commit \(append.commit)"
            case .appendResponse(.matched(let index)): "matched \(index)"
            case .appendResponse(.refused(let previous, let hint, let epoch)):
                "refused \(previous), try \(hint)/\(epoch)"
            case .appendResponse(.staleEpoch): "your epoch is over"
            case .heartbeat(let heartbeat): "heartbeat commit \(heartbeat.commit) round \(heartbeat.round)"
            case .heartbeatResponse(let heartbeat): "heartbeat answer round \(heartbeat.round)"
            case .snapshotChunk(let chunk):
                "snapshot \(chunk.snapshot.index)/\(chunk.snapshot.epoch) at \(chunk.position)"
                    + " +\(chunk.bytes.count)\(chunk.isLast ? " last" : "")"
            case .snapshotResponse(let index, let position): "snapshot \(index): go on at \(position)"
            case .timeoutNow: "campaign now"
            case .readRequest(let context): "read? \(context)"
            case .readResponse(let context, let index): "read \(context) at \(index.map { "\($0)" } ?? "no leader")"
            }
        return "\(Self.link(message)) epoch \(message.epoch): \(text)"
    }
}
