// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// How the quorum is, as its leader knows it.
struct QuorumDescription: Equatable, Sendable {
    /// One copy of the metadata log.
    struct Replica: Equatable, Sendable {
        var member: QuorumMember
        var isVoter: Bool
        /// The offset behind the last record that is on its disk.
        var logEnd: Int64
        /// When a heartbeat was sent that it answered; milliseconds since 1970, -1 for never.
        var lastHeard: Int64
        /// When it last had everything; milliseconds since 1970, -1 for never.
        var lastCaughtUp: Int64
    }

    var leader: Int32
    var epoch: Int32
    /// The offset behind the last committed record.
    var highWatermark: Int64
    var replicas: [Replica]
}

extension QuorumDescription {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        writer.integer(leader)
        writer.integer(epoch)
        writer.integer(highWatermark)
        try writer.arrayCount("replicas", replicas.count, flexible: true)
        for replica in replicas {
            writer.integer(replica.member.node)
            writer.uuid(replica.member.directory)
            writer.bool(replica.isVoter)
            writer.integer(replica.logEnd)
            writer.integer(replica.lastHeard)
            writer.integer(replica.lastCaughtUp)
        }
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        leader = try reader.integer("leader")
        epoch = try reader.integer("epoch")
        highWatermark = try reader.integer("highWatermark")
        replicas = []
        for _ in 0..<(try reader.arrayCount("replicas", flexible: true, minimumSize: 45) ?? 0) {
            let member = QuorumMember(node: try reader.integer("node"), directory: try reader.uuid("directory"))
            replicas.append(
                Replica(
                    member: member,
                    isVoter: try reader.bool("isVoter"),
                    logEnd: try reader.integer("logEnd"),
                    lastHeard: try reader.integer("lastHeard"),
                    lastCaughtUp: try reader.integer("lastCaughtUp")
                )
            )
        }
    }
}

extension ControllerEndpoint {
    init(_ reader: inout MessageReader) throws(ProtocolError) {
        host = try reader.string("host", flexible: true)
        port = try reader.integer("port")
        guard (1...65_535).contains(port), !host.isEmpty else {
            throw ProtocolError(.malformed, field: "ControllerEndpoint", detail: "\(host):\(port) is no address")
        }
    }
}
