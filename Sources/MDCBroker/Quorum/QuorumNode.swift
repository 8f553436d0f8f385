// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCModel
import MDCRaft
import NIOCore
import NIOPosix
import Synchronization

/// Drives Raft and, on the node that leads, the active controller: one event loop for messages and time, one thread for the
/// disk. See docs/raft.md for the order of things.
final class QuorumNode: @unchecked Sendable {
    // Sendable: what is not a `let` is touched on `eventLoop` alone, but for `published`.

    /// What others see, at any time and from any thread.
    struct Status: Sendable {
        var raft: RaftStatus
        var snapshotBytes: Int
        var logBytes: Int
        var isActiveController: Bool
        var epoch: Int { Int(raft.softState.epoch) }
        var committed: Int { Int(raft.commit) }
        /// The node that leads the quorum; -1 for none.
        var leader: Int32 { raft.softState.leader?.node.rawValue ?? -1 }
    }

    struct Waiter {
        var index: RaftIndex
        var epoch: RaftEpoch
        var value: Int64
        var answer: @Sendable (QuorumAnswer) -> Void
    }

    static let tickMilliseconds: Int64 = 50

    let eventLoop: any EventLoop
    let replica: RaftReplica
    let log: QuorumLog
    let store: MetadataStore
    let live: LiveConfiguration
    let transport: any QuorumTransporting
    private let environment: NodeEnvironment
    let logger: Logger
    private let leftovers: @Sendable () -> Set<TopicID>
    var node: RaftNode<QuorumLog>
    var controller: ControllerState?
    var waiters: [Waiter] = []
    private var isPersisting = false
    /// The metadata log waits for room on the disk. Until then this node says nothing and hears nothing, as if it were gone: who
    /// depends on it finds another, its own epoch and vote stay what the disk says.
    private var isFull = false
    private var isPumping = false
    private var isSnapshotting = false
    var isStopped = false
    private var ticker: RepeatedTask?
    var lastProposed: RaftIndex = 0
    /// The epoch in which this node, leading, has applied its first entry.
    private var startedEpoch: RaftEpoch = -1
    /// The epoch whose leader's process is known to be gone.
    private var orphanedEpoch: RaftEpoch = -1
    private var applied: RaftIndex
    private var appliedEpoch: RaftEpoch
    private let published: Mutex<Status>
    /// When each replica last had everything, in ticks of this node that leads.
    var caughtUp: [RaftReplica: Int64] = [:]
    /// The end of the log at the last tick.
    var lastTickEnd: RaftIndex = 0

    /// - Parameters:
    ///   - voters: all of them; this node may be one.
    ///   - leftovers: deleted topics whose folders are still there.
    ///   - transport: connections to the others; nil for those of the machine.
    init(
        replica: RaftReplica,
        log: QuorumLog,
        store: MetadataStore,
        live: LiveConfiguration,
        eventLoop: any EventLoop,
        leftovers: @escaping @Sendable () -> Set<TopicID>,
        transport: (any QuorumTransporting)? = nil,
        environment: NodeEnvironment = .system,
        logger: Logger
    ) throws(BrokerError) {
        self.replica = replica
        self.log = log
        self.store = store
        self.live = live
        self.eventLoop = eventLoop
        self.leftovers = leftovers
        self.logger = logger
        self.environment = environment
        self.transport =
            transport
            ?? QuorumTransport(
                eventLoop: eventLoop,
                peers: live.started.voters.filter { $0.id != replica.node.rawValue },
                logger: logger
            )
        var options = RaftOptions()
        options.electionTicks = max(6, Int(live.started.electionTimeoutMilliseconds / Self.tickMilliseconds))
        do {
            node = try RaftNode(replica: replica, options: options, storage: log, seed: environment.random())
        } catch {
            throw BrokerError(.metadata, error.message, cause: error)
        }
        applied = log.snapshot.index
        appliedEpoch = log.snapshot.epoch
        let sizes = log.sizes
        published = Mutex(
            Status(raft: node.status, snapshotBytes: sizes.snapshot, logBytes: sizes.log, isActiveController: false)
        )
    }

    var status: Status { published.withLock { $0 } }

    func now() -> Int64 { environment.monotonic() }
    func wall() -> Timestamp { environment.wall() }

    // MARK: Life

    /// Listens, and takes part from now on.
    func start() async throws(BrokerError) {
        try await transport.start(live.started.controllerListen, delegate: self)
        begin()
    }

    /// Takes part from now on, on a transport that is there already.
    func begin() {
        eventLoop.execute {
            self.learnEndpoints()
            // A quorum of one needs no timeout.
            if self.node.membership.voters.count == 1 { self.node.tick() }
            self.pump()
            self.ticker = self.eventLoop.scheduleRepeatedTask(
                initialDelay: .milliseconds(Self.tickMilliseconds),
                delay: .milliseconds(Self.tickMilliseconds)
            ) { _ in self.tick() }
        }
    }

    /// Hands over where this node leads, and takes no part any more.
    func stop() async {
        try? await eventLoop.submit { self.handOver() }.get()
        // The order to campaign is on its way; nothing depends on its arrival.
        if live.started.isClustered {
            try? await eventLoop.scheduleTask(in: .milliseconds(50)) {}.futureResult.get()
        }
        try? await eventLoop.submit { self.takeNoPart() }.get()
    }

    /// Has another node campaign, where this one leads; on the event loop.
    func handOver() {
        guard node.status.softState.role == .leader, let best = bestPeer() else { return }
        try? node.transferLeadership(to: best)
        pump()
    }

    /// Ends; on the event loop.
    func takeNoPart() {
        isStopped = true
        ticker?.cancel()
        loseLeadership()
        transport.close()
    }

    private func bestPeer() -> RaftReplica? {
        node.status.peers.filter {
            $0.isVoter && $0.replica != replica && transport.isConnected($0.replica.node.rawValue)
        }
        .max { $0.match < $1.match }?.replica
    }

    private func tick() {
        guard !isStopped else { return }
        // Time goes on for a node whose disk is full too: its lease must end.
        node.tick()
        guard !isFull else { return pump() }
        if node.status.softState.role == .leader {
            pinDirectories()
            admitNodes()
            noteProgress()
        }
        if controller == nil, mayBeActive { becomeActive() }
        if var state = controller {
            let records = state.tick(now: now())
            controller = state
            if !records.isEmpty { propose(records, value: 0) { _ in } }
        }
        pump()
    }

    /// Until it is written down, an emptied disk is not noticed.
    private func pinDirectories() {
        let status = node.status
        guard status.isMembershipCommitted else { return }
        for peer in status.peers where peer.replica.isPinned {
            let unpinned = RaftReplica(node: peer.replica.node, directory: .zero)
            guard status.membership.voters.contains(unpinned) else { continue }
            _ = try? node.proposeChange(.pinDirectory(peer.replica))
            return
        }
    }

    // MARK: Raft

    /// Does what Raft wants done.
    func pump() {
        guard !isPumping, !isStopped else { return }
        isPumping = true
        defer {
            isPumping = false
            publishStatus()
        }
        while !isPersisting {
            guard let ready = node.ready() else { return }
            for message in ready.messages { transport.send(message) }
            let work = QuorumLog.Work(
                chunks: ready.snapshotChunks,
                install: ready.snapshotToInstall,
                entries: ready.entries,
                hardState: ready.hardState,
                mustSync: ready.mustSync
            )
            apply(ready.committed)
            if let state = ready.softState { roleChanged(state) }
            if !work.isEmpty && (ready.mustSync || !work.chunks.isEmpty || work.install != nil) {
                isPersisting = true
                let after = ready.messagesAfterPersistence
                persist(work, isRepeated: false, after)
            } else {
                log.publish(QuorumLog.Written(work: work, image: nil))
                for message in ready.messagesAfterPersistence { transport.send(message) }
                node.advance()
            }
        }
        let messages = node.takeMessages()
        guard !isFull else { return }
        for message in messages { transport.send(message) }
    }

    private func persist(_ work: QuorumLog.Work, isRepeated: Bool, _ after: [RaftMessage]) {
        log.write(work, isRepeated: isRepeated, now: wall()) { result in
            self.eventLoop.execute { self.persisted(result, work, after) }
        }
    }

    /// A full disk is no reason to stop: what was not written is known, and is written when there is room.
    private func waitForSpace(_ error: any Error, _ work: QuorumLog.Work, _ after: [RaftMessage]) {
        if !isFull {
            isFull = true
            logger.error(
                "the metadata log cannot be written; the node takes no part in the cluster until there is room",
                metadata: ["error": "\(error)"]
            )
            loseLeadership()
            publishStatus()
        }
        eventLoop.scheduleTask(in: .milliseconds(500)) {
            guard !self.isStopped else { return }
            self.persist(work, isRepeated: true, after)
        }
    }

    private func persisted(
        _ result: Result<QuorumLog.Written, any Error>,
        _ work: QuorumLog.Work,
        _ after: [RaftMessage]
    ) {
        guard !isStopped else { return }
        if case .failure(let error) = result, QuorumLog.isFull(error) { return waitForSpace(error, work, after) }
        isPersisting = false
        if isFull {
            isFull = false
            logger.info("there is room for the metadata log again")
        }
        switch result {
        case .failure(let error):
            // What may be on the disk and what not is unknown: a restart finds out (docs/raft.md).
            logger.critical("the metadata log cannot be written; the node stops", metadata: ["error": "\(error)"])
            isStopped = true
            environment.stop("the metadata log cannot be written: \(error)")
        case .success(let written):
            log.publish(written)
            if let image = written.image, let snapshot = written.work.install {
                applied = snapshot.index
                appliedEpoch = snapshot.epoch
                store.replace(image, index: snapshot.index)
                learnEndpoints(image)
            }
            for message in after { transport.send(message) }
            node.advance()
            pump()
        }
    }

    private func apply(_ entries: [RaftEntry]) {
        guard !entries.isEmpty else { return }
        var records: [MetadataRecord] = []
        for entry in entries {
            applied = entry.index
            appliedEpoch = entry.epoch
            guard case .data(let bytes) = entry.payload else { continue }
            do {
                records += try MetadataBatch.decode(bytes)
            } catch {
                logger.critical(
                    "the metadata log has a change that this release does not know; run the newer one",
                    metadata: ["index": "\(entry.index)", "error": "\(error)"]
                )
                isStopped = true
                return environment.stop("the metadata cannot be applied: \(error)")
            }
        }
        store.apply(records, index: applied)
        learnEndpoints(records)
        let ready = waiters.prefix { $0.index <= applied }
        waiters.removeFirst(ready.count)
        for waiter in ready {
            // The entry at that index may be another leader's.
            let isOwn = entries.first { $0.index == waiter.index }.map { $0.epoch == waiter.epoch } ?? true
            waiter.answer(isOwn ? .done(index: waiter.index, value: waiter.value) : .refused(notController))
        }
        let state = node.status.softState
        if state.role == .leader, entries.contains(where: { $0.payload == .leaderChange && $0.epoch == state.epoch }) {
            startedEpoch = state.epoch
        }
        if controller == nil, mayBeActive { becomeActive() }
        snapshotIfDue()
    }

    private func snapshotIfDue() {
        let sizes = log.sizes
        let threshold = max(live.started.metadataSnapshotBytes, 2 * sizes.snapshot)
        guard !isSnapshotting, sizes.log >= threshold, applied > log.snapshot.index else { return }
        isSnapshotting = true
        let snapshot = RaftSnapshotMetadata(index: applied, epoch: appliedEpoch, membership: node.appliedMembership)
        let kept = leftovers()
        log.makeSnapshot(store.image, snapshot, keeping: kept, now: wall()) { result in
            self.eventLoop.execute {
                self.isSnapshotting = false
                switch result {
                case .success(let bytes):
                    self.log.publish(snapshot, bytes: bytes)
                    self.store.forgetDeleted(keeping: kept)
                    self.logger.info(
                        "the metadata were written as a snapshot",
                        metadata: ["index": "\(snapshot.index)", "bytes": "\(bytes)"]
                    )
                case .failure(let error):
                    // Nothing is lost: the log has everything.
                    self.logger.warning("no snapshot of the metadata was made", metadata: ["error": "\(error)"])
                }
            }
        }
    }

    private func publishStatus() {
        let raft = node.status
        let sizes = log.sizes
        let isActive = controller != nil
        published.withLock {
            $0 = Status(
                raft: raft,
                snapshotBytes: sizes.snapshot,
                logBytes: sizes.log,
                isActiveController: isActive
            )
        }
    }

    // MARK: Controller

    private func roleChanged(_ state: RaftSoftState) {
        logger.info(
            "the metadata quorum",
            metadata: [
                "role": "\(state.role.rawValue)", "epoch": "\(state.epoch)",
                "leader": "\(state.leader.map { "\($0.node)" } ?? "none")",
            ]
        )
        if state.role != .leader { loseLeadership() }
    }

    private func becomeActive() {
        controller = ControllerState(
            image: store.image,
            node: replica.node.rawValue,
            sessionMilliseconds: live.current.brokerSessionMilliseconds,
            now: now()
        )
        lastProposed = applied
        logger.info("this node is the active controller", metadata: ["index": "\(applied)"])
        if store.image.clusterID.isEmpty {
            var random = environment.generator
            perform(.createCluster(id: KafkaUUID.random(using: &random).description)) { _ in }
        }
    }

    private func loseLeadership() {
        controller = nil
        let failed = waiters
        waiters = []
        for waiter in failed { waiter.answer(.refused(notController)) }
    }

    private static let diskIsFull = Refusal(
        code: .notController,
        message: "the disk is full, so that the metadata log cannot be written; free some space"
    )

    var notController: Refusal {
        let leader = node.status.softState.leader.map { "node \($0.node) is" } ?? "there is none now"
        return Refusal(code: .notController, message: "this node is not the active controller; \(leader); try again")
    }

    /// Asks whoever is the active controller, once. From any thread; `answer` comes from any.
    func submit(_ change: ControllerChange, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        eventLoop.execute {
            // No sign of life either: what this node leads goes to nodes that can write.
            if self.isFull { return answer(.refused(Self.diskIsFull)) }
            if self.controller != nil { return self.perform(change, answer) }
            let state = self.node.status.softState
            guard let leader = state.leader, leader.node != self.replica.node else {
                return answer(.refused(self.notController))
            }
            self.transport.ask(leader.node.rawValue, change, answer)
        }
    }

    private func perform(_ change: ControllerChange, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        guard var state = controller else { return answer(.refused(notController)) }
        switch change {
        case .addVoter(let member): return changeVoters(adding: member, answer)
        case .removeVoter(let member): return changeVoters(removing: member, answer)
        default: break
        }
        do throws(Refusal) {
            let outcome = try state.perform(change, live.current, now: now())
            if case .heartbeat = change, outcome.records.isEmpty {
                controller = state
                return answer(.done(index: 0, value: outcome.value))
            }
            controller = state
            propose(outcome.records, value: outcome.value, answer)
            pump()
        } catch {
            answer(.refused(error))
        }
    }

    /// What was decided becomes an entry; if that is not possible, the decisions since are void.
    func propose(
        _ records: [MetadataRecord],
        value: Int64,
        _ answer: @escaping @Sendable (QuorumAnswer) -> Void
    ) {
        let epoch = node.status.softState.epoch
        if records.isEmpty {
            // What it is based on may not be committed yet.
            if lastProposed <= applied { return answer(.done(index: applied, value: value)) }
            waiters.append(Waiter(index: lastProposed, epoch: epoch, value: value, answer: answer))
            return
        }
        do {
            lastProposed = try node.propose(try MetadataBatch.encode(records))
            waiters.append(Waiter(index: lastProposed, epoch: epoch, value: value, answer: answer))
        } catch {
            logger.warning("a change of the metadata was not proposed", metadata: ["error": "\(error)"])
            answer(.refused(Refusal(code: .notController, message: "the quorum takes no change now; try again")))
            // The image is ahead of the log by what was just refused; ``tick()`` begins anew from what is committed.
            loseLeadership()
        }
    }

    /// Whether this node leads, and its image has everything that is in the log.
    private var mayBeActive: Bool {
        let status = node.status
        return !isFull && status.softState.role == .leader && startedEpoch == status.softState.epoch
            && status.lastIndex == applied
    }
}

extension QuorumNode: QuorumTransportDelegate {
    var hello: QuorumHello {
        var hello = QuorumHello(
            node: replica.node.rawValue,
            directory: replica.directory,
            clusterID: store.image.clusterID
        )
        if !live.started.voters.contains(where: { $0.id == hello.node }) { hello.listen = ownEndpoint }
        return hello
    }

    func received(_ message: RaftMessage) {
        guard !isStopped, !isFull else { return }
        node.step(message)
        pump()
    }

    func received(_ change: ControllerChange, _ answer: @escaping @Sendable (QuorumAnswer) -> Void) {
        guard !isStopped else { return answer(.refused(notController)) }
        perform(change, answer)
    }

    func isGone(_ id: Int32) {
        guard !isStopped, !isFull else { return }
        if var state = controller {
            let records = state.isGone(id)
            controller = state
            if !records.isEmpty {
                logger.info("a node's process is gone; it is fenced", metadata: ["node": "\(id)"])
                propose(records, value: 0) { _ in }
            }
        }
        // The leader's process is gone, so nobody keeps its lease: the time until it would end need not pass.
        let state = node.status.softState
        if state.role == .follower, state.leader?.node.rawValue == id, orphanedEpoch != state.epoch {
            orphanedEpoch = state.epoch
            for _ in 0..<node.options.electionTicks { node.tick() }
        }
        pump()
    }
}
