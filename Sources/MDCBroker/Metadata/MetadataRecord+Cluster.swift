// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// A node's copy of the metadata log, as the quorum knows it.
struct QuorumMember: Hashable, Sendable {
    var node: Int32
    /// `.zero` where it is not known yet.
    var directory: KafkaUUID
}

/// The records that clusters need, from kind 10 on.
extension MetadataRecord {
    func encodeCluster(_ writer: inout MessageWriter) throws(ProtocolError) {
        switch self {
        case .partitionState(let id, let partition, let state):
            writer.integer(10 as UInt8)
            writer.uuid(id)
            writer.integer(partition)
            try state.encode(&writer)
        case .brokerRegistered(let broker):
            writer.integer(11 as UInt8)
            try broker.encode(&writer)
        case .brokerFencing(let id, let brokerEpoch, let isFenced):
            writer.integer(12 as UInt8)
            writer.integer(id)
            writer.integer(brokerEpoch)
            writer.bool(isFenced)
        case .brokerUnregistered(let id):
            writer.integer(13 as UInt8)
            writer.integer(id)
        case .quorum(let voters, let observers):
            writer.integer(14 as UInt8)
            try QuorumMember.write(voters, &writer)
            try QuorumMember.write(observers, &writer)
        case .featureLevel(let name, let level, let epoch):
            writer.integer(15 as UInt8)
            try writer.string("name", name, flexible: true)
            writer.integer(level)
            writer.integer(epoch)
        case .controllerEndpoint(let node, let host, let port):
            writer.integer(16 as UInt8)
            writer.integer(node)
            try writer.string("host", host, flexible: true)
            writer.integer(port)
        default: preconditionFailure("\(self) is not a record of clusters")
        }
    }

    static func readCluster(_ kind: UInt8, _ reader: inout MessageReader) throws(ProtocolError) -> MetadataRecord? {
        switch kind {
        case 10:
            .partitionState(
                id: try reader.uuid("id"),
                partition: try reader.integer("partition"),
                state: try PartitionImage(&reader)
            )
        case 11: .brokerRegistered(try BrokerImage(&reader))
        case 12:
            .brokerFencing(
                id: try reader.integer("id"),
                brokerEpoch: try reader.integer("brokerEpoch"),
                isFenced: try reader.bool("isFenced")
            )
        case 13: .brokerUnregistered(id: try reader.integer("id"))
        case 14: .quorum(voters: try QuorumMember.read(&reader), observers: try QuorumMember.read(&reader))
        case 15:
            .featureLevel(
                name: try reader.string("name", flexible: true),
                level: try reader.integer("level"),
                epoch: try reader.integer("epoch")
            )
        case 16:
            .controllerEndpoint(
                node: try reader.integer("node"),
                host: try reader.string("host", flexible: true),
                port: try reader.integer("port")
            )
        default: nil
        }
    }
}

extension QuorumMember {
    static func write(_ members: [QuorumMember], _ writer: inout MessageWriter) throws(ProtocolError) {
        try writer.arrayCount("members", members.count, flexible: true)
        for member in members {
            writer.integer(member.node)
            writer.uuid(member.directory)
        }
    }

    static func read(_ reader: inout MessageReader) throws(ProtocolError) -> [QuorumMember] {
        var members: [QuorumMember] = []
        for _ in 0..<(try reader.arrayCount("members", flexible: true, minimumSize: 20) ?? 0) {
            members.append(QuorumMember(node: try reader.integer("node"), directory: try reader.uuid("directory")))
        }
        return members
    }
}

extension PartitionImage {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        for nodes in [replicas, isr, elr, addingReplicas, removingReplicas] {
            try writer.array("nodes", nodes, flexible: true)
        }
        writer.integer(leader)
        writer.integer(leaderEpoch)
        writer.integer(partitionEpoch)
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        replicas = try reader.array("replicas", of: Int32.self, flexible: true)
        isr = try reader.array("isr", of: Int32.self, flexible: true)
        elr = try reader.array("elr", of: Int32.self, flexible: true)
        addingReplicas = try reader.array("addingReplicas", of: Int32.self, flexible: true)
        removingReplicas = try reader.array("removingReplicas", of: Int32.self, flexible: true)
        leader = try reader.integer("leader")
        leaderEpoch = try reader.integer("leaderEpoch")
        partitionEpoch = try reader.integer("partitionEpoch")
    }
}

extension BrokerImage {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        writer.integer(id)
        writer.integer(epoch)
        writer.uuid(incarnation)
        writer.uuid(directory)
        try writer.string("host", host, flexible: true)
        writer.integer(port)
        try writer.nullableString("rack", rack, flexible: true)
        writer.bool(isFenced)
        // A node that has the base levels is written as in the first release.
        guard !features.isEmpty else { return }
        try writer.arrayCount("features", features.count, flexible: true)
        for (name, levels) in features.sorted(by: { $0.key < $1.key }) {
            try writer.string("name", name, flexible: true)
            writer.integer(levels.lowerBound)
            writer.integer(levels.upperBound)
        }
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        id = try reader.integer("id")
        epoch = try reader.integer("epoch")
        incarnation = try reader.uuid("incarnation")
        directory = try reader.uuid("directory")
        host = try reader.string("host", flexible: true)
        port = try reader.integer("port")
        rack = try reader.nullableString("rack", flexible: true)
        isFenced = try reader.bool("isFenced")
        guard reader.remaining > 0 else { return }
        let count = try reader.arrayCount("features", flexible: true, minimumSize: 5) ?? 0
        guard count > 0 else {
            throw ProtocolError(.malformed, field: "features", detail: "an empty list is not written")
        }
        for _ in 0..<count {
            let name = try reader.string("name", flexible: true)
            let lowest: Int16 = try reader.integer("lowest")
            let highest: Int16 = try reader.integer("highest")
            guard lowest <= highest else {
                throw ProtocolError(.malformed, field: "features", detail: "\(lowest) is above \(highest)")
            }
            features[name] = lowest...highest
        }
    }
}
