// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCModel
import MDCRaft
import NIOCore

/// Who takes part; all on the event loop.
///
/// A node that says hello and is no member becomes an observer by itself: it gets the metadata and can carry data, but
/// decides nothing. Voters are made and unmade by operators alone.
extension QuorumNode {
    /// Where this node's controller listens, for others to connect to; nil where it does not.
    var ownEndpoint: ControllerEndpoint? {
        guard let listen = live.started.controllerListen else { return nil }
        let isWildcard = listen.host == "0.0.0.0" || listen.host == "::"
        let host = isWildcard ? (live.started.advertise ?? live.started.listen).host : listen.host
        return ControllerEndpoint(host: host, port: Int32(listen.port))
    }

    // MARK: Addresses

    /// What the log says of addresses, committed or not: without them nobody might be found who can commit.
    func learnEndpoints() {
        learnEndpoints(store.image)
        let range = log.firstIndex..<(log.lastIndex + 1)
        for entry in log.entries(in: range, maxBytes: .max) {
            guard case .data(let bytes) = entry.payload, let records = try? MetadataBatch.decode(bytes) else {
                continue
            }
            learnEndpoints(records)
        }
    }

    func learnEndpoints(_ image: MetadataImage) {
        for (node, endpoint) in image.controllers { transport.learn(node, endpoint) }
    }

    func learnEndpoints(_ records: [MetadataRecord]) {
        for case .controllerEndpoint(let node, let host, let port) in records {
            if port == 0 {
                transport.forget(node)
            } else {
                transport.learn(node, ControllerEndpoint(host: host, port: port))
            }
        }
    }

    // MARK: Observers

    /// Makes observers of who is here and no member, and forgets observers that have gone for good; on the leader, one
    /// change at a time.
    func admitNodes() {
        guard var state = controller, node.status.isMembershipCommitted else { return }
        let present = transport.present
        for hello in present {
            guard let listen = hello.listen else { continue }
            let records = state.note(listen, of: hello.node)
            guard !records.isEmpty else { continue }
            controller = state
            propose(records, value: 0) { _ in }
        }
        let membership = node.membership
        for hello in present {
            let replica = RaftReplica(node: BrokerID(hello.node), directory: hello.directory)
            guard replica.isPinned, membership.member(matching: replica) == nil else { continue }
            if (try? node.proposeChange(.addObserver(replica))) != nil {
                logger.info("a node observes the metadata from now on", metadata: ["node": "\(replica)"])
            }
            return
        }
        for observer in membership.observers {
            let id = observer.node.rawValue
            let isReplaced = present.contains { $0.node == id && $0.directory != observer.directory }
            let isGone = state.image.brokers[id] == nil && !present.contains { $0.node == id }
            guard isReplaced || isGone else { continue }
            if (try? node.proposeChange(.removeObserver(observer))) != nil {
                logger.info("a node does not observe the metadata any more", metadata: ["node": "\(observer)"])
                if isGone, !membership.voters.contains(where: { $0.node.rawValue == id }) {
                    let records = state.note(nil, of: id)
                    controller = state
                    if !records.isEmpty { propose(records, value: 0) { _ in } }
                }
            }
            return
        }
    }

    // MARK: Voters

    func changeVoters(adding member: QuorumMember, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        let membership = node.membership
        if let voter = membership.voters.first(where: { $0.node.rawValue == member.node }) {
            let isSame = member.directory == .zero || member.directory == voter.directory
            let help = isSame ? "" : "; remove that copy of it first"
            return refuse(
                .duplicateVoter,
                "node \(member.node) votes already, with directory \(voter.directory)\(help)",
                answer
            )
        }
        let found = membership.observers.first {
            $0.node.rawValue == member.node && (member.directory == .zero || member.directory == $0.directory)
        }
        guard let found else {
            return refuse(
                .voterNotFound,
                "node \(member.node) does not observe the metadata; start it with --controller-listen and the --voters of "
                    + "this cluster, and try again",
                answer
            )
        }
        change(.promote(found), answer)
    }

    func changeVoters(removing member: QuorumMember, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        let voter = node.membership.voters.first {
            $0.node.rawValue == member.node && (member.directory == .zero || member.directory == $0.directory)
        }
        guard let voter else {
            return refuse(.voterNotFound, "node \(member.node) is not a voter with that directory", answer)
        }
        change(.removeVoter(voter), answer)
    }

    private func change(_ change: RaftMembershipChange, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        let epoch = node.status.softState.epoch
        do {
            lastProposed = try node.proposeChange(change)
            waiters.append(Waiter(index: lastProposed, epoch: epoch, value: 0, answer: answer))
            logger.info("the quorum changes", metadata: ["change": "\(change)"])
            pump()
        } catch {
            switch error.code {
            case .notLeader: answer(.refused(notController))
            case .invalidChange: refuse(.invalidRequest, error.message, answer)
            default: refuse(.requestTimedOut, error.message, answer)
            }
        }
    }

    private func refuse(_ code: ErrorCode, _ message: String, _ answer: (QuorumAnswer) -> Void) {
        answer(.refused(Refusal(code: code, message: message)))
    }

    // MARK: Views

    /// Remembers who has everything.
    func noteProgress() {
        let status = node.status
        for peer in status.peers {
            guard let ticks = peer.ticksSinceAnswer, peer.match >= min(lastTickEnd, status.lastIndex) else { continue }
            caughtUp[peer.replica] = now() - Int64(clamping: ticks) * Self.tickMilliseconds
        }
        lastTickEnd = status.lastIndex
    }

    private func describe() -> QuorumDescription? {
        let status = node.status
        guard status.softState.role == .leader else { return nil }
        let wall = wall().rawValue
        let now = now()
        let members = status.membership.voters.map { ($0, true) } + status.membership.observers.map { ($0, false) }
        let replicas = members.map { member, isVoter -> QuorumDescription.Replica in
            if member.node == replica.node, member == replica || !member.isPinned {
                return .init(
                    member: replica.member,
                    isVoter: isVoter,
                    logEnd: status.lastIndex,
                    lastHeard: wall,
                    lastCaughtUp: wall
                )
            }
            // A voter without a directory shows under the one that answers for it.
            let peer = status.peers.first {
                $0.replica == member || (!member.isPinned && $0.replica.node == member.node && $0.isVoter)
            }
            let shown = peer?.replica ?? member
            return .init(
                member: shown.member,
                isVoter: isVoter,
                logEnd: peer?.match ?? -1,
                lastHeard: peer?.ticksSinceAnswer.map { wall - Int64(clamping: $0) * Self.tickMilliseconds } ?? -1,
                lastCaughtUp: caughtUp[shown].map { wall - (now - $0) } ?? -1
            )
        }
        return QuorumDescription(
            leader: replica.node.rawValue,
            epoch: status.softState.epoch,
            highWatermark: status.commit,
            replicas: replicas.sorted { ($0.member.node, $0.isVoter ? 0 : 1) < ($1.member.node, $1.isVoter ? 0 : 1) }
        )
    }

    /// How the quorum is; asked of its leader. From any thread.
    func describeQuorum(_ answer: @escaping @Sendable (QuorumDescription?) -> Void) {
        eventLoop.execute {
            if let description = self.describe() { return answer(description) }
            guard let leader = self.node.status.softState.leader, leader.node != self.replica.node else {
                return answer(nil)
            }
            self.transport.describe(leader.node.rawValue, answer)
        }
    }

    /// What another node is told that asks.
    func describe(_ answer: @escaping @Sendable (QuorumDescription?) -> Void) { answer(isStopped ? nil : describe()) }
}
