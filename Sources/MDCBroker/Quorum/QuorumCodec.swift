// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import MDCRaft
import NIOCore

/// What goes over a connection between controllers: a length (4 bytes), a kind, fields in the encoding of the protocol.
enum QuorumFrame: Sendable {
    /// First frame of whoever connects.
    case hello(QuorumHello)
    case raft(RaftMessage)
    /// A wish for the active controller.
    case request(id: UInt64, ControllerChange)
    case answer(id: UInt64, QuorumAnswer)
    /// A wish to know how the quorum is.
    case describe(id: UInt64)
    /// The answer; nil from a node that does not lead.
    case description(id: UInt64, QuorumDescription?)

    static let version: UInt8 = 1
    /// Of a hello that names an address.
    static let joiningVersion: UInt8 = 2
    /// The longest frame; an append has at most one entry beyond a mebibyte, and that at most 8 MiB.
    static let maxBytes = 32 << 20
    /// The longest frame of someone who has not said who he is.
    static let maxHelloBytes = 4096
}

/// Who connects.
struct QuorumHello: Equatable, Sendable {
    var node: Int32
    var directory: KafkaUUID
    /// Empty where it is not known yet.
    var clusterID: String
    /// Where its controller listens; named by a node that is not among the voters of its own settings.
    var listen: ControllerEndpoint?
}

/// What became of a wish.
enum QuorumAnswer: Equatable, Sendable {
    /// Committed; to be seen by whoever has applied `index`.
    case done(index: RaftIndex, value: Int64)
    case refused(Refusal)
}

extension QuorumFrame {
    /// The frame with its length.
    func encoded() throws(ProtocolError) -> ByteBuffer {
        var writer = MessageWriter()
        writer.integer(0 as UInt32)
        switch self {
        case .hello(let hello):
            writer.integer(0 as UInt8)
            writer.integer(hello.listen == nil ? Self.version : Self.joiningVersion)
            writer.integer(hello.node)
            writer.uuid(hello.directory)
            try writer.string("clusterID", hello.clusterID, flexible: true)
            if let listen = hello.listen {
                try writer.string("host", listen.host, flexible: true)
                writer.integer(listen.port)
            }
        case .raft(let message):
            writer.integer(1 as UInt8)
            try message.encode(&writer)
        case .request(let id, let change):
            writer.integer(2 as UInt8)
            writer.integer(id)
            try writer.bytes("change", change.encoded(), flexible: true)
        case .answer(let id, let answer):
            writer.integer(3 as UInt8)
            writer.integer(id)
            switch answer {
            case .done(let index, let value):
                writer.integer(ErrorCode.none.rawValue)
                writer.integer(index)
                writer.integer(value)
            case .refused(let refusal):
                writer.integer(refusal.code.rawValue)
                try writer.string("message", refusal.message, flexible: true)
            }
        case .describe(let id):
            writer.integer(4 as UInt8)
            writer.integer(id)
        case .description(let id, let description):
            writer.integer(5 as UInt8)
            writer.integer(id)
            writer.bool(description != nil)
            try description?.encode(&writer)
        }
        var bytes = writer.buffer
        bytes.setInteger(UInt32(bytes.readableBytes - 4), at: bytes.readerIndex)
        return bytes
    }

    /// Reads what follows the length.
    init(_ bytes: ByteBuffer) throws(ProtocolError) {
        var reader = MessageReader(bytes)
        let kind: UInt8 = try reader.integer("kind")
        switch kind {
        case 0:
            let version: UInt8 = try reader.integer("version")
            guard version == Self.version || version == Self.joiningVersion else {
                throw Self.unknown("version \(version)")
            }
            var hello = QuorumHello(
                node: try reader.integer("node"),
                directory: try reader.uuid("directory"),
                clusterID: try reader.string("clusterID", flexible: true)
            )
            if version == Self.joiningVersion { hello.listen = try ControllerEndpoint(&reader) }
            self = .hello(hello)
        case 1: self = .raft(try RaftMessage(&reader))
        case 2:
            self = .request(
                id: try reader.integer("id"),
                try ControllerChange(try reader.bytes("change", flexible: true))
            )
        case 3:
            let id: UInt64 = try reader.integer("id")
            let code: Int16 = try reader.integer("code")
            if code == ErrorCode.none.rawValue {
                self = .answer(
                    id: id,
                    .done(index: try reader.integer("index"), value: try reader.integer("value"))
                )
            } else {
                let message = try reader.string("message", flexible: true)
                self = .answer(id: id, .refused(Refusal(code: ErrorCode(rawValue: code), message: message)))
            }
        case 4: self = .describe(id: try reader.integer("id"))
        case 5:
            let id: UInt64 = try reader.integer("id")
            self = .description(
                id: id,
                try reader.bool("isKnown") ? try QuorumDescription(&reader) : nil
            )
        default: throw Self.unknown("kind \(kind)")
        }
        try reader.finish("QuorumFrame")
    }

    static func unknown(_ what: String) -> ProtocolError {
        ProtocolError(.malformed, field: "QuorumFrame", detail: "\(what) is not known")
    }
}

// MARK: - Raft

extension RaftReplica {
    func encode(_ writer: inout MessageWriter) {
        writer.integer(node.rawValue)
        writer.uuid(directory)
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        self.init(node: BrokerID(try reader.integer("node")), directory: try reader.uuid("directory"))
    }

    init(_ member: QuorumMember) { self.init(node: BrokerID(member.node), directory: member.directory) }
    var member: QuorumMember { QuorumMember(node: node.rawValue, directory: directory) }
}

extension RaftMembership {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        try QuorumMember.write(voters.map(\.member), &writer)
        try QuorumMember.write(observers.map(\.member), &writer)
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        let voters = try QuorumMember.read(&reader)
        let observers = try QuorumMember.read(&reader)
        self.init(voters: voters.map(RaftReplica.init), observers: observers.map(RaftReplica.init))
    }
}

extension RaftEntry {
    /// Kind and payload; also what stands in the metadata log.
    func encodePayload(_ writer: inout MessageWriter) throws(ProtocolError) {
        switch payload {
        case .leaderChange: writer.integer(0 as UInt8)
        case .membership(let membership):
            writer.integer(1 as UInt8)
            try membership.encode(&writer)
        case .data(let bytes):
            writer.integer(2 as UInt8)
            try writer.bytes("data", ByteBuffer(bytes: bytes), flexible: true)
        }
    }

    static func readPayload(_ reader: inout MessageReader) throws(ProtocolError) -> Payload {
        let kind: UInt8 = try reader.integer("kind")
        switch kind {
        case 0: return .leaderChange
        case 1: return .membership(try RaftMembership(&reader))
        case 2: return .data(Array(try reader.bytes("data", flexible: true).readableBytesView))
        default: throw QuorumFrame.unknown("entry kind \(kind)")
        }
    }
}

extension RaftMessage {
    func encode(_ writer: inout MessageWriter) throws(ProtocolError) {
        from.encode(&writer)
        to.encode(&writer)
        writer.integer(epoch)
        switch body {
        case .preVoteRequest(let request): Self.write(0, request, &writer)
        case .preVoteResponse(let granted, let candidacy):
            writer.integer(1 as UInt8)
            writer.bool(granted)
            writer.integer(candidacy)
        case .voteRequest(let request): Self.write(2, request, &writer)
        case .voteResponse(let granted):
            writer.integer(3 as UInt8)
            writer.bool(granted)
        case .append(let append):
            writer.integer(4 as UInt8)
            writer.integer(append.previousIndex)
            writer.integer(append.previousEpoch)
            writer.integer(append.commit)
            try writer.arrayCount("entries", append.entries.count, flexible: true)
            for entry in append.entries {
                writer.integer(entry.epoch)
                try entry.encodePayload(&writer)
            }
        case .appendResponse(let response): Self.write(response, &writer)
        case .heartbeat(let heartbeat): Self.write(6, heartbeat, &writer)
        case .heartbeatResponse(let heartbeat): Self.write(7, heartbeat, &writer)
        case .snapshotChunk(let chunk):
            writer.integer(8 as UInt8)
            writer.integer(chunk.snapshot.index)
            writer.integer(chunk.snapshot.epoch)
            try chunk.snapshot.membership.encode(&writer)
            writer.integer(chunk.position)
            try writer.bytes("bytes", ByteBuffer(bytes: chunk.bytes), flexible: true)
            writer.bool(chunk.isLast)
        case .snapshotResponse(let index, let nextPosition):
            writer.integer(9 as UInt8)
            writer.integer(index)
            writer.integer(nextPosition)
        case .timeoutNow: writer.integer(10 as UInt8)
        case .readRequest(let context):
            writer.integer(11 as UInt8)
            writer.integer(context)
        case .readResponse(let context, let index):
            writer.integer(12 as UInt8)
            writer.integer(context)
            writer.integer(index ?? -1)
        }
    }

    private static func write(_ kind: UInt8, _ request: VoteRequest, _ writer: inout MessageWriter) {
        writer.integer(kind)
        writer.integer(request.lastIndex)
        writer.integer(request.lastEpoch)
        writer.bool(request.isTransfer)
    }

    private static func write(_ kind: UInt8, _ heartbeat: Heartbeat, _ writer: inout MessageWriter) {
        writer.integer(kind)
        writer.integer(heartbeat.commit)
        writer.integer(heartbeat.round)
        writer.integer(heartbeat.sentAt)
    }

    private static func write(_ response: AppendResponse, _ writer: inout MessageWriter) {
        writer.integer(5 as UInt8)
        switch response {
        case .matched(let index):
            writer.integer(0 as UInt8)
            writer.integer(index)
        case .refused(let previous, let hint, let epoch):
            writer.integer(1 as UInt8)
            writer.integer(previous)
            writer.integer(hint)
            writer.integer(epoch)
        case .staleEpoch: writer.integer(2 as UInt8)
        }
    }

    init(_ reader: inout MessageReader) throws(ProtocolError) {
        let from = try RaftReplica(&reader)
        let to = try RaftReplica(&reader)
        let epoch = try Self.readEpoch(&reader)
        self.init(from: from, to: to, epoch: epoch, body: try Self.readBody(&reader))
    }

    /// Far from where arithmetic with it would overflow.
    private static func readEpoch(_ reader: inout MessageReader) throws(ProtocolError) -> RaftEpoch {
        let epoch: RaftEpoch = try reader.integer("epoch")
        guard (0...1 << 30).contains(epoch) else { throw QuorumFrame.unknown("epoch \(epoch)") }
        return epoch
    }

    private static func readIndex(_ reader: inout MessageReader) throws(ProtocolError) -> RaftIndex {
        let index: RaftIndex = try reader.integer("index")
        guard (0...1 << 60).contains(index) else { throw QuorumFrame.unknown("index \(index)") }
        return index
    }

    private static func readBody(_ reader: inout MessageReader) throws(ProtocolError) -> Body {
        let kind: UInt8 = try reader.integer("kind")
        switch kind {
        case 0: return .preVoteRequest(try readVote(&reader))
        case 1: return .preVoteResponse(granted: try reader.bool("granted"), candidacy: try readEpoch(&reader))
        case 2: return .voteRequest(try readVote(&reader))
        case 3: return .voteResponse(granted: try reader.bool("granted"))
        case 4: return .append(try readAppend(&reader))
        case 5: return .appendResponse(try readAppendResponse(&reader))
        case 6: return .heartbeat(try readHeartbeat(&reader))
        case 7: return .heartbeatResponse(try readHeartbeat(&reader))
        case 8:
            let snapshot = RaftSnapshotMetadata(
                index: try readIndex(&reader),
                epoch: try readEpoch(&reader),
                membership: try RaftMembership(&reader)
            )
            return .snapshotChunk(
                SnapshotChunk(
                    snapshot: snapshot,
                    position: try readIndex(&reader),
                    bytes: Array(try reader.bytes("bytes", flexible: true).readableBytesView),
                    isLast: try reader.bool("isLast")
                )
            )
        case 9:
            return .snapshotResponse(index: try readIndex(&reader), nextPosition: try readIndex(&reader))
        case 10: return .timeoutNow
        case 11: return .readRequest(context: try reader.integer("context"))
        case 12:
            let context: UInt64 = try reader.integer("context")
            let index: RaftIndex = try reader.integer("index")
            return .readResponse(context: context, index: index < 0 ? nil : index)
        default: throw QuorumFrame.unknown("message kind \(kind)")
        }
    }

    private static func readVote(_ reader: inout MessageReader) throws(ProtocolError) -> VoteRequest {
        VoteRequest(
            lastIndex: try readIndex(&reader),
            lastEpoch: try readEpoch(&reader),
            isTransfer: try reader.bool("isTransfer")
        )
    }

    private static func readHeartbeat(_ reader: inout MessageReader) throws(ProtocolError) -> Heartbeat {
        Heartbeat(
            commit: try readIndex(&reader),
            round: try reader.integer("round"),
            sentAt: try reader.integer("sentAt")
        )
    }

    private static func readAppend(_ reader: inout MessageReader) throws(ProtocolError) -> Append {
        let previousIndex = try readIndex(&reader)
        let previousEpoch = try readEpoch(&reader)
        let commit = try readIndex(&reader)
        let count = try reader.arrayCount("entries", flexible: true, minimumSize: 5) ?? 0
        var entries: [RaftEntry] = []
        entries.reserveCapacity(min(count, ProtocolLimits.reservedElements))
        for position in 0..<count {
            let epoch = try readEpoch(&reader)
            entries.append(
                RaftEntry(
                    index: previousIndex + 1 + RaftIndex(position),
                    epoch: epoch,
                    payload: try RaftEntry.readPayload(&reader)
                )
            )
        }
        return Append(previousIndex: previousIndex, previousEpoch: previousEpoch, entries: entries, commit: commit)
    }

    private static func readAppendResponse(_ reader: inout MessageReader) throws(ProtocolError) -> AppendResponse {
        let kind: UInt8 = try reader.integer("kind")
        switch kind {
        case 0: return .matched(try readIndex(&reader))
        case 1:
            return .refused(
                previousIndex: try readIndex(&reader),
                hintIndex: try readIndex(&reader),
                hintEpoch: try readEpoch(&reader)
            )
        case 2: return .staleEpoch
        default: throw QuorumFrame.unknown("append response \(kind)")
        }
    }
}

// MARK: - Proposals

/// The records of one change, as one entry of the metadata log: applied as a whole or not at all.
enum MetadataBatch {
    static func encode(_ records: [MetadataRecord]) throws(ProtocolError) -> [UInt8] {
        var writer = MessageWriter()
        try writer.arrayCount("records", records.count, flexible: true)
        for record in records { try writer.bytes("record", record.encoded(), flexible: true) }
        return Array(writer.buffer.readableBytesView)
    }

    static func decode(_ bytes: [UInt8]) throws(ProtocolError) -> [MetadataRecord] {
        var reader = MessageReader(ByteBuffer(bytes: bytes))
        var records: [MetadataRecord] = []
        for _ in 0..<(try reader.arrayCount("records", flexible: true, minimumSize: 3) ?? 0) {
            records.append(try MetadataRecord(try reader.bytes("record", flexible: true)))
        }
        try reader.finish("MetadataBatch")
        return records
    }
}
