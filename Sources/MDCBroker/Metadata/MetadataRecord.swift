// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What a configuration belongs to, with the numbers of the protocol.
enum ConfigResource: Hashable, Sendable {
    case topic(String)
    /// A node, or all nodes where nil.
    case broker(Int32?)
    case group(String)
}

/// One change of the cluster's metadata, as it stands in the metadata log. A batch of the log is one change as a whole.
///
/// A record's value is a version byte, a kind byte, then its fields in the order of the case, in the flexible encoding of the
/// protocol. A reader refuses versions and kinds that it does not know.
enum MetadataRecord: Equatable, Sendable {
    /// First record of every log.
    case clusterCreated(id: String)
    /// A node began to run: every partition that it leads gets the next leader epoch.
    case nodeStarted(id: Int32, brokerEpoch: Int64)
    /// `replicas` lists, for each partition, its replicas; the first leads.
    case topicCreated(name: String, id: TopicID, replicas: [[Int32]], configs: [String: String])
    /// More partitions behind the last.
    case partitionsAdded(id: TopicID, replicas: [[Int32]])
    case partitionChanged(id: TopicID, partition: Int32, leader: Int32, leaderEpoch: Int32, inSync: [Int32])
    case topicDeleted(id: TopicID)
    /// A nil value removes the override.
    case configChanged(ConfigResource, key: String, value: String?)
    /// Producer ids below `next` may have been given out.
    case producerIDsReserved(next: Int64)
    /// A nil value removes the quota.
    case quotaChanged(QuotaEntity, QuotaKey, value: Double?)
    /// Last record of a snapshot: so many are before it.
    case snapshotEnd(records: Int64)
    /// A partition is now as `state` says.
    case partitionState(id: TopicID, partition: Int32, state: PartitionImage)
    /// A broker has begun to run; it is fenced until it has caught up.
    case brokerRegistered(BrokerImage)
    /// A broker is fenced, and leads nothing any more, or is not fenced any more.
    case brokerFencing(id: Int32, brokerEpoch: Int64, isFenced: Bool)
    /// A broker is forgotten.
    case brokerUnregistered(id: Int32)
    /// Who decides about the metadata; in snapshots only.
    case quorum(voters: [QuorumMember], observers: [QuorumMember])
    /// The level of a feature that is in force; `epoch` counts such decisions.
    case featureLevel(name: String, level: Int16, epoch: Int64)
    /// Where the controller of a node that joined at run time listens; port 0 where it has gone.
    case controllerEndpoint(node: Int32, host: String, port: Int32)

    private static let version: UInt8 = 1

    func encoded() throws(ProtocolError) -> ByteBuffer {
        var writer = MessageWriter()
        writer.integer(Self.version)
        switch self {
        case .clusterCreated(let id):
            writer.integer(0 as UInt8)
            try writer.string("id", id, flexible: true)
        case .nodeStarted(let id, let brokerEpoch):
            writer.integer(1 as UInt8)
            writer.integer(id)
            writer.integer(brokerEpoch)
        case .topicCreated(let name, let id, let replicas, let configs):
            writer.integer(2 as UInt8)
            try writer.string("name", name, flexible: true)
            writer.uuid(id)
            try Self.write(replicas, &writer)
            try writer.arrayCount("configs", configs.count, flexible: true)
            for (key, value) in configs.sorted(by: { $0.key < $1.key }) {
                try writer.string("key", key, flexible: true)
                try writer.string("value", value, flexible: true)
            }
        case .partitionsAdded(let id, let replicas):
            writer.integer(3 as UInt8)
            writer.uuid(id)
            try Self.write(replicas, &writer)
        case .partitionChanged(let id, let partition, let leader, let leaderEpoch, let inSync):
            writer.integer(4 as UInt8)
            writer.uuid(id)
            writer.integer(partition)
            writer.integer(leader)
            writer.integer(leaderEpoch)
            try writer.array("inSync", inSync, flexible: true)
        case .topicDeleted(let id):
            writer.integer(5 as UInt8)
            writer.uuid(id)
        case .configChanged(let resource, let key, let value):
            writer.integer(6 as UInt8)
            switch resource {
            case .topic(let name):
                writer.integer(2 as UInt8)
                try writer.string("name", name, flexible: true)
            case .broker(let id):
                writer.integer(4 as UInt8)
                try writer.string("name", id.map(String.init) ?? "", flexible: true)
            case .group(let name):
                writer.integer(32 as UInt8)
                try writer.string("name", name, flexible: true)
            }
            try writer.string("key", key, flexible: true)
            try writer.nullableString("value", value, flexible: true)
        case .producerIDsReserved(let next):
            writer.integer(7 as UInt8)
            writer.integer(next)
        case .quotaChanged(let entity, let key, let value):
            writer.integer(8 as UInt8)
            try writer.arrayCount("entity", entity.parts.count, flexible: true)
            for (type, name) in entity.parts {
                try writer.string("type", type, flexible: true)
                try writer.nullableString("name", name, flexible: true)
            }
            try writer.string("key", key.rawValue, flexible: true)
            writer.integer((value == nil ? 0 : 1) as UInt8)
            writer.integer(value?.bitPattern ?? 0)
        case .snapshotEnd(let records):
            writer.integer(9 as UInt8)
            writer.integer(records)
        case .partitionState, .brokerRegistered, .brokerFencing, .brokerUnregistered, .quorum,
            .featureLevel, .controllerEndpoint:
            try encodeCluster(&writer)
        }
        return writer.buffer
    }

    private static func write(_ replicas: [[Int32]], _ writer: inout MessageWriter) throws(ProtocolError) {
        try writer.arrayCount("replicas", replicas.count, flexible: true)
        for nodes in replicas { try writer.array("nodes", nodes, flexible: true) }
    }

    private static func readReplicas(_ reader: inout MessageReader) throws(ProtocolError) -> [[Int32]] {
        var replicas: [[Int32]] = []
        for _ in 0..<(try reader.arrayCount("replicas", flexible: true, minimumSize: 1) ?? 0) {
            replicas.append(try reader.array("nodes", of: Int32.self, flexible: true))
        }
        return replicas
    }

    init(_ value: ByteBuffer) throws(ProtocolError) {
        var reader = MessageReader(value)
        let version: UInt8 = try reader.integer("version")
        let kind: UInt8 = try reader.integer("kind")
        guard version == Self.version else { throw Self.unknown("version \(version)") }
        switch kind {
        case 0: self = .clusterCreated(id: try reader.string("id", flexible: true))
        case 1: self = .nodeStarted(id: try reader.integer("id"), brokerEpoch: try reader.integer("brokerEpoch"))
        case 2:
            let name = try reader.string("name", flexible: true)
            let id = try reader.uuid("id")
            let replicas = try Self.readReplicas(&reader)
            var configs: [String: String] = [:]
            for _ in 0..<(try reader.arrayCount("configs", flexible: true, minimumSize: 2) ?? 0) {
                let key = try reader.string("key", flexible: true)
                configs[key] = try reader.string("value", flexible: true)
            }
            self = .topicCreated(name: name, id: id, replicas: replicas, configs: configs)
        case 3: self = .partitionsAdded(id: try reader.uuid("id"), replicas: try Self.readReplicas(&reader))
        case 4:
            self = .partitionChanged(
                id: try reader.uuid("id"),
                partition: try reader.integer("partition"),
                leader: try reader.integer("leader"),
                leaderEpoch: try reader.integer("leaderEpoch"),
                inSync: try reader.array("inSync", of: Int32.self, flexible: true)
            )
        case 5: self = .topicDeleted(id: try reader.uuid("id"))
        case 6:
            let type: UInt8 = try reader.integer("type")
            let name = try reader.string("name", flexible: true)
            let resource: ConfigResource =
                switch type {
                case 2: .topic(name)
                case 32: .group(name)
                default: .broker(Int32(name))
                }
            self = .configChanged(
                resource,
                key: try reader.string("key", flexible: true),
                value: try reader.nullableString("value", flexible: true)
            )
        case 7: self = .producerIDsReserved(next: try reader.integer("next"))
        case 8: self = try Self.readQuota(&reader)
        case 9: self = .snapshotEnd(records: try reader.integer("records"))
        default:
            guard let record = try Self.readCluster(kind, &reader) else { throw Self.unknown("kind \(kind)") }
            self = record
        }
        try reader.finish("MetadataRecord")
    }

    private static func readQuota(_ reader: inout MessageReader) throws(ProtocolError) -> MetadataRecord {
        var entity = QuotaEntity()
        for _ in 0..<(try reader.arrayCount("entity", flexible: true, minimumSize: 2) ?? 0) {
            let type = try reader.string("type", flexible: true)
            entity[type] = try reader.nullableString("name", flexible: true).map { .named($0) } ?? .everyone
        }
        let name = try reader.string("key", flexible: true)
        guard let key = QuotaKey(rawValue: name) else { throw unknown("the quota \(name)") }
        let isSet: UInt8 = try reader.integer("isSet")
        let bits: UInt64 = try reader.integer("value")
        return .quotaChanged(entity, key, value: isSet == 0 ? nil : Double(bitPattern: bits))
    }

    private static func unknown(_ what: String) -> ProtocolError {
        ProtocolError(
            .malformed,
            field: "MetadataRecord",
            detail: "\(what) is not known; was the folder written by a newer release?"
        )
    }
}
