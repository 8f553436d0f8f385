// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The active controller: wishes go in, records come out. It has no clock, disk or network of its own.
///
/// `image` is ahead of what is committed: it has everything that was proposed. Who stops being the active controller
/// throws it away.
struct ControllerState {
    /// What a wish became.
    struct Outcome: Equatable, Sendable {
        var records: [MetadataRecord] = []
        /// What the wish is answered with, where it asks for a number.
        var value: Int64 = 0
    }

    private(set) var image: MetadataImage
    /// When each broker that is not fenced will be, unless it is heard from, in milliseconds of the controller's clock.
    private(set) var leases: [Int32: Int64] = [:]
    private let sessionMilliseconds: Int64
    /// The node that decides: while it does so, it is not gone, however busy it is.
    private let node: Int32
    private var nextBalance: Int64
    private static let balanceMilliseconds: Int64 = 3_000
    private static let balanceLimit = 1_000
    /// Producer ids that one wish may ask for.
    private static let producerIDLimit: Int64 = 1_000_000

    /// Begins with what is committed; every broker gets a whole lease.
    init(image: MetadataImage, node: Int32, sessionMilliseconds: Int64, now: Int64) {
        self.image = image
        self.node = node
        self.sessionMilliseconds = sessionMilliseconds
        nextBalance = now + Self.balanceMilliseconds
        for broker in image.brokers.values where !broker.isFenced { leases[broker.id] = now + sessionMilliseconds }
    }

    /// Decides about a wish. Nothing has changed where it is refused.
    mutating func perform(
        _ change: ControllerChange,
        _ configuration: BrokerConfiguration,
        now: Int64
    ) throws(Refusal) -> Outcome {
        let outcome = try decide(change, configuration, now: now)
        apply(outcome.records)
        return outcome
    }

    private mutating func apply(_ records: [MetadataRecord]) {
        for record in records { image.apply(record) }
    }

    private mutating func decide(
        _ change: ControllerChange,
        _ configuration: BrokerConfiguration,
        now: Int64
    ) throws(Refusal) -> Outcome {
        switch change {
        case .createCluster(let id): return Outcome(records: image.clusterID.isEmpty ? [.clusterCreated(id: id)] : [])
        case .createTopic(let new, let id, let isInternal):
            return Outcome(records: try create(new, id, isInternal: isInternal, configuration))
        case .deleteTopic(let id): return Outcome(records: try delete(id))
        case .addPartitions(let topic, let count, let assignments):
            return Outcome(records: try grow(topic, to: count, assignments))
        case .configure(let resource, let changes): return Outcome(records: try configure(resource, changes))
        case .alterQuotas(let entity, let changes):
            // What is removed and was not there changes nothing.
            return Outcome(
                records: changes.sorted { $0.key.rawValue < $1.key.rawValue }.compactMap { key, value in
                    value == nil && image.quotas.entries[entity]?[key] == nil
                        ? nil : .quotaChanged(entity, key, value: value)
                }
            )
        case .reserveProducerIDs(let count):
            let first = image.nextProducerID
            guard count <= Self.producerIDLimit, first <= .max - Self.producerIDLimit else {
                throw Refusal(code: .invalidRequest, message: "\(count) producer ids are too many")
            }
            return Outcome(records: [.producerIDsReserved(next: first + max(1, count))], value: first)
        case .registerBroker(let broker): return try register(broker, now: now)
        case .heartbeat(let id, let epoch, let isReady, let isLeaving):
            return try heartbeat(id, epoch, isReady: isReady, isLeaving: isLeaving, now: now)
        case .unregisterBroker(let id):
            guard let broker = image.brokers[id] else {
                throw Refusal(code: .brokerIdNotRegistered, message: "there is no broker \(id)")
            }
            guard broker.isFenced else {
                throw Refusal(code: .invalidRequest, message: "broker \(id) runs; stop it first")
            }
            return Outcome(records: [.brokerUnregistered(id: id)])
        case .alterPartition(let change): return Outcome(records: try alter(change))
        case .electLeader(let topic, let partition, let isUnclean):
            return Outcome(records: try electLeader(topic, partition, isUnclean: isUnclean))
        case .reassign(let topic, let partition, let replicas):
            return Outcome(records: try reassign(topic, partition, replicas))
        case .updateFeatures(let updates): return Outcome(records: try updateFeatures(updates))
        case .addVoter, .removeVoter:
            throw Refusal(code: .invalidRequest, message: "the quorum itself decides who votes")
        }
    }

    // MARK: Time

    /// Fences who was not heard from, and gives leaderships back to preferred replicas; a little at a time.
    mutating func tick(now: Int64) -> [MetadataRecord] {
        var records: [MetadataRecord] = []
        for (id, deadline) in leases.sorted(by: { $0.key < $1.key }) where deadline <= now && id != node {
            records += fence(id)
        }
        apply(records)
        guard now >= nextBalance else { return records }
        nextBalance = now + Self.balanceMilliseconds
        let moves = preferredLeaders()
        apply(moves)
        return records + moves
    }

    /// When something is due at the earliest.
    var nextDeadline: Int64 { leases.values.reduce(nextBalance) { min($0, $1) } }

    /// A node that joined at run time says where its controller listens, or (nil) has gone for good.
    mutating func note(_ endpoint: ControllerEndpoint?, of node: Int32) -> [MetadataRecord] {
        guard image.controllers[node] != endpoint else { return [] }
        let record = MetadataRecord.controllerEndpoint(
            node: node,
            host: endpoint?.host ?? "",
            port: endpoint?.port ?? 0
        )
        apply([record])
        return [record]
    }

    /// It is known that a broker's process is gone: nobody listens at its address.
    mutating func isGone(_ node: Int32) -> [MetadataRecord] {
        guard leases[node] != nil else { return [] }
        let records = fence(node)
        apply(records)
        return records
    }

    private mutating func fence(_ node: Int32) -> [MetadataRecord] {
        leases[node] = nil
        guard let broker = image.brokers[node], !broker.isFenced else { return [] }
        return [.brokerFencing(id: node, brokerEpoch: broker.epoch, isFenced: true)]
    }

    private func preferredLeaders() -> [MetadataRecord] {
        var records: [MetadataRecord] = []
        for topic in image.topics.values.sorted(by: { $0.name < $1.name }) {
            for (index, partition) in topic.partitions.enumerated() {
                guard let preferred = partition.replicas.first, partition.leader != -1, partition.leader != preferred,
                    partition.isr.contains(preferred), image.isActive(preferred)
                else { continue }
                records.append(
                    .partitionState(id: topic.id, partition: Int32(index), state: partition.led(by: preferred))
                )
                if records.count == Self.balanceLimit { return records }
            }
        }
        return records
    }

    // MARK: Brokers

    private mutating func register(_ broker: BrokerImage, now: Int64) throws(Refusal) -> Outcome {
        if let known = image.brokers[broker.id] {
            if known.incarnation == broker.incarnation { return Outcome(value: known.epoch) }
            // The same folder cannot be in use twice: its former process is gone.
            guard known.isFenced || known.directory == broker.directory else {
                throw Refusal(
                    code: .duplicateBrokerRegistration,
                    message:
                        "a broker with the id \(broker.id) runs already, at \(known.host):\(known.port); give each "
                        + "node an id of its own"
                )
            }
        }
        try checkFeatures(of: broker)
        var registered = broker
        registered.epoch = (image.brokerEpochs.values.max() ?? -1) + 1
        registered.isFenced = true
        leases[broker.id] = nil
        return Outcome(records: [.brokerRegistered(registered)], value: registered.epoch)
    }

    /// Answered with 1 where the broker may lead, 0 where it is fenced.
    private mutating func heartbeat(
        _ id: Int32,
        _ epoch: Int64,
        isReady: Bool,
        isLeaving: Bool,
        now: Int64
    ) throws(Refusal) -> Outcome {
        guard let broker = image.brokers[id] else {
            throw Refusal(code: .brokerIdNotRegistered, message: "broker \(id) has not registered")
        }
        guard broker.epoch == epoch else {
            throw Refusal(
                code: .staleBrokerEpoch,
                message: "broker \(id) has the epoch \(broker.epoch), not \(epoch): it has registered anew"
            )
        }
        if isLeaving {
            return Outcome(records: fence(id))
        }
        if broker.isFenced {
            guard isReady else { return Outcome() }
            leases[id] = now + sessionMilliseconds
            return Outcome(records: [.brokerFencing(id: id, brokerEpoch: epoch, isFenced: false)], value: 1)
        }
        leases[id] = now + sessionMilliseconds
        return Outcome(value: 1)
    }
}

extension PartitionImage {
    /// The same partition under another leader.
    func led(by node: Int32) -> PartitionImage {
        var next = self
        next.leader = node
        next.leaderEpoch += 1
        next.partitionEpoch += 1
        return next
    }
}
