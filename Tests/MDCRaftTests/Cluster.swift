// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCRaft

/// Nodes with their disks and state machines, and the messages between them: the driver that scripts and simulation share.
struct Cluster {
    struct Member {
        var replica: RaftReplica
        var node: RaftNode<MemoryStorage>?
        /// The disk while the node is down.
        var storage: MemoryStorage
        var machine = StateMachine()
        var starts: UInt64 = 0
        /// Where a `ready()` stands that is not advanced yet.
        var working: RaftReady?
    }

    /// What happened, for checkers.
    enum Event {
        case persisted(BrokerID, [RaftEntry], previousEpoch: RaftEpoch?)
        case applied(BrokerID, RaftEntry, commit: RaftIndex)
        case installed(BrokerID, RaftSnapshotMetadata)
        case soft(BrokerID, RaftSoftState)
        case read(BrokerID, RaftReadState)
        case readFailed(BrokerID, UInt64)
    }

    var options: RaftOptions
    var members: [BrokerID: Member] = [:]
    var ids: [BrokerID] { members.keys.sorted() }
    var fault: RaftPlantedFault?
    /// Messages that have left and not arrived.
    var network: [RaftMessage] = []
    var events: [Event] = []
    let seed: UInt64
    private var directories: UInt64 = 0

    init(voters: Int, options: RaftOptions, seed: UInt64, fault: RaftPlantedFault? = nil, pinned: Bool = true) {
        self.options = options
        self.seed = seed
        self.fault = fault
        let replicas = (1...voters).map { RaftReplica(node: BrokerID(Int32($0)), directory: newDirectory()) }
        let known = pinned ? replicas : replicas.map { RaftReplica(node: $0.node, directory: .zero) }
        for replica in replicas {
            members[replica.node] = Member(
                replica: replica,
                storage: MemoryStorage(membership: RaftMembership(voters: known))
            )
            start(replica.node)
        }
    }

    private mutating func newDirectory() -> KafkaUUID {
        directories += 1
        return KafkaUUID(high: 0xD1, low: directories)
    }

    // MARK: - Nodes

    /// A node that has nothing and waits to be added.
    mutating func join(_ id: BrokerID) {
        let replica = RaftReplica(node: id, directory: newDirectory())
        members[id] = Member(replica: replica, storage: MemoryStorage(membership: RaftMembership()))
        start(id)
    }

    /// The node's disk is replaced by an empty one; it comes back as another replica.
    mutating func wipe(_ id: BrokerID) {
        stop(id)
        join(id)
    }

    mutating func start(_ id: BrokerID) {
        guard var member = members[id], member.node == nil else { return }
        member.starts += 1
        member.machine = StateMachine(bytes: member.storage.contents.snapshotBytes)
        member.node = try! RaftNode(
            replica: member.replica,
            options: options,
            storage: member.storage,
            applied: member.machine.applied,
            seed: seed &* 31 &+ UInt64(id.rawValue) &* 1_000_003 &+ member.starts
        )
        #if DEBUG
            member.node!.plant(fault)
        #endif
        members[id] = member
    }

    /// Power fails at one node.
    mutating func stop(_ id: BrokerID) {
        guard let node = members[id]?.node else { return }
        members[id]!.storage = node.storage
        members[id]!.storage.crash()
        members[id]!.node = nil
        members[id]!.working = nil
    }

    func isUp(_ id: BrokerID) -> Bool { members[id]?.node != nil }

    func replica(_ id: BrokerID) -> RaftReplica { members[id]!.replica }

    /// The node that leads the highest epoch.
    var leader: BrokerID? {
        ids.filter { members[$0]!.node?.status.softState.role == .leader }
            .max { members[$0]!.node!.status.softState.epoch < members[$1]!.node!.status.softState.epoch }
    }

    // MARK: - The driver's work, in steps that a crash can come between

    /// Takes the next `ready()` and does what may be done before the disk has anything.
    mutating func begin(_ id: BrokerID) -> Bool {
        guard members[id]?.node != nil, members[id]!.working == nil, let ready = members[id]!.node!.ready() else {
            return false
        }
        members[id]!.working = ready
        network.append(contentsOf: ready.messages)
        if let softState = ready.softState { events.append(.soft(id, softState)) }
        for read in ready.readStates { events.append(.read(id, read)) }
        for context in ready.failedReads { events.append(.readFailed(id, context)) }
        return true
    }

    /// Writes; durable only if the node asks for it.
    mutating func persist(_ id: BrokerID) {
        guard let ready = members[id]?.working else { return }
        for chunk in ready.snapshotChunks { members[id]!.node!.storage.write(chunk) }
        if let snapshot = ready.snapshotToInstall {
            members[id]!.node!.storage.install(snapshot)
            members[id]!.machine = StateMachine(bytes: members[id]!.node!.storage.contents.snapshotBytes)
        }
        members[id]!.node!.storage.append(ready.entries)
        if let hardState = ready.hardState { members[id]!.node!.storage.write(hardState) }
        if ready.mustSync { members[id]!.node!.storage.sync() }
        if let first = ready.entries.first {
            let previousEpoch = members[id]!.node!.storage.epoch(at: first.index - 1)
            events.append(.persisted(id, ready.entries, previousEpoch: previousEpoch))
        }
        if let snapshot = ready.snapshotToInstall { events.append(.installed(id, snapshot)) }
    }

    /// Sends what waited for the disk, applies, and advances.
    mutating func finish(_ id: BrokerID) {
        guard let ready = members[id]?.working else { return }
        network.append(contentsOf: ready.messagesAfterPersistence)
        for entry in ready.committed {
            members[id]!.machine.apply(entry)
            events.append(.applied(id, entry, commit: members[id]!.node!.storage.hardState.commit))
        }
        members[id]!.working = nil
        members[id]!.node!.advance()
    }

    /// All three steps, as often as there is something to do.
    mutating func work(_ id: BrokerID) {
        while begin(id) {
            persist(id)
            finish(id)
        }
    }

    mutating func deliver(_ message: RaftMessage) { members[message.to.node]?.node?.step(message) }

    mutating func tick(_ id: BrokerID) { members[id]?.node?.tick() }

    /// Makes a snapshot of what is applied, and drops the log but for `keeping` entries.
    mutating func snapshot(_ id: BrokerID, keeping: RaftIndex) {
        guard let member = members[id], let node = member.node, member.working == nil else { return }
        // What a fault applied too early must not become the base of a log.
        let index = min(member.machine.applied, node.status.commit)
        guard index == member.machine.applied, index > node.storage.snapshot.index,
            let epoch = node.storage.epoch(at: index)
        else { return }
        members[id]!.node!.storage.makeSnapshot(
            RaftSnapshotMetadata(index: index, epoch: epoch, membership: node.appliedMembership),
            bytes: member.machine.bytes,
            keeping: keeping
        )
    }

    /// The first invariant that a node with a planted fault noticed to be broken.
    var violation: String? {
        #if DEBUG
            for id in ids { if let violation = members[id]!.node?.violation { return violation } }
        #endif
        return nil
    }
}
