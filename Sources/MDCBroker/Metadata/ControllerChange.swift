// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What a node asks the active controller to change. The asking node has checked what depends on its own settings; ids
/// are drawn by it, so that the controller needs no randomness.
enum ControllerChange: Equatable, Sendable {
    /// First change of a cluster.
    case createCluster(id: String)
    case createTopic(NewTopic, id: TopicID, isInternal: Bool)
    case deleteTopic(id: TopicID)
    case addPartitions(topic: String, count: Int32, assignments: [[Int32]]?)
    case configure(ConfigResource, [String: String?])
    case alterQuotas(QuotaEntity, [QuotaKey: Double?])
    /// Answered with the first of so many ids.
    case reserveProducerIDs(count: Int64)
    /// Answered with the broker's epoch. What `epoch` and `isFenced` say is not looked at.
    case registerBroker(BrokerImage)
    /// Sign of life. `isReady`: the broker has applied its own registration; `isLeaving`: it is about to stop.
    case heartbeat(id: Int32, epoch: Int64, isReady: Bool, isLeaving: Bool)
    case unregisterBroker(id: Int32)
    case alterPartition(PartitionAlteration)
    /// Preferred leaders, or with `isUnclean` any replica where no eligible one is left. Nil for all partitions.
    case electLeader(topic: String, partition: Int32, isUnclean: Bool)
    case reassign(topic: String, partition: Int32, replicas: [Int32]?)
    /// All or none.
    case updateFeatures([FeatureUpdate])
    /// Makes a voter of an observer that has caught up.
    case addVoter(QuorumMember)
    /// Takes a voter out of the quorum.
    case removeVoter(QuorumMember)
}

/// A leader's wish for another ISR.
struct PartitionAlteration: Equatable, Sendable {
    var topicID: TopicID
    var partition: Int32
    var leaderEpoch: Int32
    var partitionEpoch: Int32
    var isr: [Int32]
    /// The runs of the members whose progress the leader has seen, in the same order; -1 where it has seen none.
    var epochs: [Int64]
    var node: Int32
    var brokerEpoch: Int64
}

extension ControllerChange {
    private static let version: UInt8 = 1

    func encoded() throws(ProtocolError) -> ByteBuffer {
        var writer = MessageWriter()
        writer.integer(Self.version)
        switch self {
        case .createCluster(let id):
            writer.integer(0 as UInt8)
            try writer.string("id", id, flexible: true)
        case .createTopic(let new, let id, let isInternal):
            writer.integer(1 as UInt8)
            try Self.write(new, &writer)
            writer.uuid(id)
            writer.bool(isInternal)
        case .deleteTopic(let id):
            writer.integer(2 as UInt8)
            writer.uuid(id)
        case .addPartitions(let topic, let count, let assignments):
            writer.integer(3 as UInt8)
            try writer.string("topic", topic, flexible: true)
            writer.integer(count)
            try writer.arrayCount("assignments", assignments?.count, flexible: true)
            for nodes in assignments ?? [] { try writer.array("nodes", nodes, flexible: true) }
        case .configure(let resource, let changes):
            writer.integer(4 as UInt8)
            try writer.arrayCount("changes", changes.count, flexible: true)
            for (key, value) in changes {
                try writer.bytes(
                    "change",
                    MetadataRecord.configChanged(resource, key: key, value: value).encoded(),
                    flexible: true
                )
            }
        case .alterQuotas(let entity, let changes):
            writer.integer(5 as UInt8)
            try writer.arrayCount("changes", changes.count, flexible: true)
            for (key, value) in changes {
                try writer.bytes(
                    "change",
                    MetadataRecord.quotaChanged(entity, key, value: value).encoded(),
                    flexible: true
                )
            }
        case .reserveProducerIDs(let count):
            writer.integer(6 as UInt8)
            writer.integer(count)
        case .registerBroker(let broker):
            writer.integer(7 as UInt8)
            try broker.encode(&writer)
        case .heartbeat(let id, let epoch, let isReady, let isLeaving):
            writer.integer(8 as UInt8)
            writer.integer(id)
            writer.integer(epoch)
            writer.bool(isReady)
            writer.bool(isLeaving)
        case .unregisterBroker(let id):
            writer.integer(9 as UInt8)
            writer.integer(id)
        case .alterPartition(let change):
            writer.integer(10 as UInt8)
            try change.encode(&writer)
        case .electLeader(let topic, let partition, let isUnclean):
            writer.integer(11 as UInt8)
            try writer.string("topic", topic, flexible: true)
            writer.integer(partition)
            writer.bool(isUnclean)
        case .reassign(let topic, let partition, let replicas):
            writer.integer(12 as UInt8)
            try writer.string("topic", topic, flexible: true)
            writer.integer(partition)
            try writer.nullableArray("replicas", replicas, flexible: true)
        case .updateFeatures(let updates):
            writer.integer(13 as UInt8)
            try FeatureUpdate.write(updates, &writer)
        case .addVoter(let member):
            writer.integer(14 as UInt8)
            try QuorumMember.write([member], &writer)
        case .removeVoter(let member):
            writer.integer(15 as UInt8)
            try QuorumMember.write([member], &writer)
        }
        return writer.buffer
    }

    init(_ bytes: ByteBuffer) throws(ProtocolError) {
        var reader = MessageReader(bytes)
        let version: UInt8 = try reader.integer("version")
        guard version == Self.version else { throw Self.unknown("version \(version)") }
        let kind: UInt8 = try reader.integer("kind")
        switch kind {
        case 0: self = .createCluster(id: try reader.string("id", flexible: true))
        case 1:
            self = .createTopic(
                try Self.readNewTopic(&reader),
                id: try reader.uuid("id"),
                isInternal: try reader.bool("isInternal")
            )
        case 2: self = .deleteTopic(id: try reader.uuid("id"))
        case 3:
            let topic = try reader.string("topic", flexible: true)
            let count: Int32 = try reader.integer("count")
            var assignments: [[Int32]]?
            if let size = try reader.arrayCount("assignments", flexible: true, minimumSize: 1) {
                var all: [[Int32]] = []
                for _ in 0..<size { all.append(try reader.array("nodes", of: Int32.self, flexible: true)) }
                assignments = all
            }
            self = .addPartitions(topic: topic, count: count, assignments: assignments)
        case 4, 5: self = try Self.readChanges(kind, &reader)
        case 6: self = .reserveProducerIDs(count: try reader.integer("count"))
        case 7: self = .registerBroker(try BrokerImage(&reader))
        case 8:
            self = .heartbeat(
                id: try reader.integer("id"),
                epoch: try reader.integer("epoch"),
                isReady: try reader.bool("isReady"),
                isLeaving: try reader.bool("isLeaving")
            )
        case 9: self = .unregisterBroker(id: try reader.integer("id"))
        case 10: self = .alterPartition(try PartitionAlteration(&reader))
        case 11:
            self = .electLeader(
                topic: try reader.string("topic", flexible: true),
                partition: try reader.integer("partition"),
                isUnclean: try reader.bool("isUnclean")
            )
        case 12:
            self = .reassign(
                topic: try reader.string("topic", flexible: true),
                partition: try reader.integer("partition"),
                replicas: try reader.nullableArray("replicas", of: Int32.self, flexible: true)
            )
        case 13: self = .updateFeatures(try FeatureUpdate.read(&reader))
        case 14, 15:
            guard let member = try QuorumMember.read(&reader).first else {
                throw Self.unknown("a voter without a name")
            }
            self = kind == 14 ? .addVoter(member) : .removeVoter(member)
        default: throw Self.unknown("kind \(kind)")
        }
        try reader.finish("ControllerChange")
    }

    private static func write(_ new: NewTopic, _ writer: inout MessageWriter) throws(ProtocolError) {
        try writer.string("name", new.name, flexible: true)
        writer.integer(new.partitions)
        writer.integer(new.replicationFactor)
        try writer.arrayCount("assignments", new.assignments.count, flexible: true)
        for (index, nodes) in new.assignments {
            writer.integer(index)
            try writer.array("nodes", nodes, flexible: true)
        }
        try writer.arrayCount("configs", new.configs.count, flexible: true)
        for (key, value) in new.configs {
            try writer.string("key", key, flexible: true)
            try writer.string("value", value, flexible: true)
        }
    }

    private static func readNewTopic(_ reader: inout MessageReader) throws(ProtocolError) -> NewTopic {
        var new = NewTopic(
            name: try reader.string("name", flexible: true),
            partitions: try reader.integer("partitions"),
            replicationFactor: try reader.integer("replicationFactor")
        )
        for _ in 0..<(try reader.arrayCount("assignments", flexible: true, minimumSize: 5) ?? 0) {
            let index: Int32 = try reader.integer("index")
            new.assignments[index] = try reader.array("nodes", of: Int32.self, flexible: true)
        }
        for _ in 0..<(try reader.arrayCount("configs", flexible: true, minimumSize: 2) ?? 0) {
            let key = try reader.string("key", flexible: true)
            new.configs[key] = try reader.string("value", flexible: true)
        }
        return new
    }

    /// Settings and quotas travel as the records that they become.
    private static func readChanges(
        _ kind: UInt8,
        _ reader: inout MessageReader
    ) throws(ProtocolError) -> ControllerChange {
        var settings: (ConfigResource, [String: String?])?
        var quotas: (QuotaEntity, [QuotaKey: Double?])?
        for _ in 0..<(try reader.arrayCount("changes", flexible: true, minimumSize: 3) ?? 0) {
            switch try MetadataRecord(try reader.bytes("change", flexible: true)) {
            case .configChanged(let resource, let key, let value):
                settings = settings ?? (resource, [:])
                settings?.1[key] = .some(value)
            case .quotaChanged(let entity, let key, let value):
                quotas = quotas ?? (entity, [:])
                quotas?.1[key] = .some(value)
            default: throw unknown("another record as a change of settings")
            }
        }
        if kind == 4, let settings { return .configure(settings.0, settings.1) }
        if kind == 5, let quotas { return .alterQuotas(quotas.0, quotas.1) }
        throw unknown("a change of nothing")
    }

    private static func unknown(_ what: String) -> ProtocolError {
        ProtocolError(.malformed, field: "ControllerChange", detail: "\(what) is not known")
    }
}

extension PartitionAlteration {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        writer.uuid(topicID)
        writer.integer(partition)
        writer.integer(leaderEpoch)
        writer.integer(partitionEpoch)
        try writer.array("isr", isr, flexible: true)
        try writer.array("epochs", epochs, flexible: true)
        writer.integer(node)
        writer.integer(brokerEpoch)
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        topicID = try reader.uuid("topicID")
        partition = try reader.integer("partition")
        leaderEpoch = try reader.integer("leaderEpoch")
        partitionEpoch = try reader.integer("partitionEpoch")
        isr = try reader.array("isr", of: Int32.self, flexible: true)
        epochs = try reader.array("epochs", of: Int64.self, flexible: true)
        node = try reader.integer("node")
        brokerEpoch = try reader.integer("brokerEpoch")
    }
}
