// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import MDCRaft
import NIOCore
import Testing

@testable import MDCBroker

/// Frames between controllers: what is written is read, and whatever else comes is refused in bounded memory.
@Suite("Frames of the quorum")
struct QuorumCodecTests {
    private static let replica = RaftReplica(node: BrokerID(1), directory: KafkaUUID(high: 1, low: 2))
    private static let other = RaftReplica(node: BrokerID(2), directory: KafkaUUID(high: 3, low: 4))

    private static func message(_ body: RaftMessage.Body) -> QuorumFrame {
        .raft(RaftMessage(from: replica, to: other, epoch: 5, body: body))
    }

    /// One of each kind.
    private static func samples() throws -> [ByteBuffer] {
        let membership = RaftMembership(voters: [replica, other], observers: [replica])
        let vote = RaftMessage.VoteRequest(lastIndex: 9, lastEpoch: 4, isTransfer: true)
        let heartbeat = RaftMessage.Heartbeat(commit: 7, round: 8, sentAt: 9)
        let state = PartitionImage(replicas: [1, 2, 3], isr: [1, 2], elr: [3], leader: 1, leaderEpoch: 4)
        let records = try MetadataBatch.encode([
            .partitionState(id: TopicID(high: 1, low: 1), partition: 0, state: state)
        ])
        let bodies: [RaftMessage.Body] = [
            .preVoteRequest(vote), .preVoteResponse(granted: true, candidacy: 6), .voteRequest(vote),
            .voteResponse(granted: false),
            .append(
                RaftMessage.Append(
                    previousIndex: 3,
                    previousEpoch: 4,
                    entries: [
                        RaftEntry(index: 4, epoch: 4, payload: .leaderChange),
                        RaftEntry(index: 5, epoch: 4, payload: .membership(membership)),
                        RaftEntry(index: 6, epoch: 5, payload: .data(records)),
                    ],
                    commit: 2
                )
            ),
            .appendResponse(.matched(4)),
            .appendResponse(.refused(previousIndex: 4, hintIndex: 3, hintEpoch: 2)), .appendResponse(.staleEpoch),
            .heartbeat(heartbeat), .heartbeatResponse(heartbeat),
            .snapshotChunk(
                RaftMessage.SnapshotChunk(
                    snapshot: RaftSnapshotMetadata(index: 4, epoch: 2, membership: membership),
                    position: 12,
                    bytes: [1, 2, 3],
                    isLast: true
                )
            ),
            .snapshotResponse(index: 4, nextPosition: 15), .timeoutNow, .readRequest(context: 3),
            .readResponse(context: 3, index: 9), .readResponse(context: 3, index: nil),
        ]
        var new = NewTopic(name: "t", partitions: -1, replicationFactor: -1, configs: ["retention.ms": "1"])
        new.assignments = [0: [1, 2], 1: [2, 1]]
        let changes: [ControllerChange] = [
            .createCluster(id: "c"), .createTopic(new, id: TopicID(high: 1, low: 1), isInternal: false),
            .deleteTopic(id: TopicID(high: 1, low: 1)), .addPartitions(topic: "t", count: 3, assignments: [[1], [2]]),
            .configure(.topic("t"), ["retention.ms": "1"]),
            .alterQuotas(.init(user: .everyone), [.producerByteRate: 12]), .reserveProducerIDs(count: 9),
            .registerBroker(
                BrokerImage(
                    id: 1,
                    epoch: 2,
                    incarnation: KafkaUUID(high: 1, low: 1),
                    directory: KafkaUUID(high: 2, low: 2),
                    host: "h",
                    port: 3,
                    rack: "r"
                )
            ),
            .registerBroker(
                BrokerImage(
                    id: 1,
                    epoch: 2,
                    incarnation: KafkaUUID(high: 1, low: 1),
                    directory: KafkaUUID(high: 2, low: 2),
                    host: "h",
                    port: 3,
                    features: ["a.version": 1...3]
                )
            ),
            .updateFeatures([
                FeatureUpdate(name: "a.version", level: 2, direction: .safeDowngrade),
                FeatureUpdate(name: "b.version", level: 3, direction: .upgrade),
            ]),
            .addVoter(QuorumMember(node: 4, directory: KafkaUUID(high: 1, low: 1))),
            .removeVoter(QuorumMember(node: 4, directory: .zero)),
            .heartbeat(id: 1, epoch: 2, isReady: true, isLeaving: false), .unregisterBroker(id: 3),
            .alterPartition(
                PartitionAlteration(
                    topicID: TopicID(high: 1, low: 1),
                    partition: 1,
                    leaderEpoch: 2,
                    partitionEpoch: 3,
                    isr: [1, 2],
                    epochs: [4, -1],
                    node: 1,
                    brokerEpoch: 5
                )
            ),
            .electLeader(topic: "t", partition: 0, isUnclean: true),
            .reassign(topic: "t", partition: 0, replicas: [1, 2]), .reassign(topic: "t", partition: 0, replicas: nil),
        ]
        var frames: [QuorumFrame] = [
            .hello(QuorumHello(node: 1, directory: KafkaUUID(high: 1, low: 2), clusterID: "c")),
            .hello(
                QuorumHello(
                    node: 4,
                    directory: KafkaUUID(high: 1, low: 2),
                    clusterID: "",
                    listen: ControllerEndpoint(host: "h", port: 9)
                )
            ),
            .describe(id: 8), .description(id: 8, nil),
            .description(
                id: 8,
                QuorumDescription(
                    leader: 1,
                    epoch: 2,
                    highWatermark: 3,
                    replicas: [
                        .init(
                            member: QuorumMember(node: 1, directory: KafkaUUID(high: 1, low: 1)),
                            isVoter: true,
                            logEnd: 3,
                            lastHeard: 4,
                            lastCaughtUp: -1
                        )
                    ]
                )
            ),
            .answer(id: 3, .done(index: 4, value: 5)),
            .answer(id: 3, .refused(Refusal(code: .notController, message: "no"))),
        ]
        frames += bodies.map(message)
        frames += changes.map { .request(id: 7, $0) }
        return try frames.map { try $0.encoded() }
    }

    /// What follows the length; the length must be that of the rest.
    private static func body(_ frame: ByteBuffer) -> ByteBuffer {
        var frame = frame
        let length = frame.readInteger(as: UInt32.self)
        #expect(length == UInt32(frame.readableBytes))
        return frame
    }

    @Test("Every kind of frame is read as it was written")
    func roundTrip() throws {
        for frame in try Self.samples() {
            let read = try QuorumFrame(Self.body(frame))
            #expect(try read.encoded() == frame, "\(read)")
        }
    }

    @Test("A frame that ends early, or late, is refused")
    func truncations() throws {
        for frame in try Self.samples() {
            let body = Self.body(frame)
            for length in 0..<body.readableBytes {
                let cut = try #require(body.getSlice(at: body.readerIndex, length: length))
                #expect(throws: ProtocolError.self, "\(length) of \(body.readableBytes)") { try QuorumFrame(cut) }
            }
            var longer = body
            longer.writeInteger(0 as UInt8)
            #expect(throws: ProtocolError.self) { try QuorumFrame(longer) }
        }
    }

    @Test("Changed and random bytes are read or refused, never more", arguments: [1, 2, 3] as [UInt64])
    func random(_ seed: UInt64) throws {
        var random = SplitMix(state: seed)
        var refused = 0
        func attempt(_ bytes: [UInt8]) throws {
            do throws(ProtocolError) {
                // What is taken can be said again.
                let frame = try QuorumFrame(ByteBuffer(bytes: bytes))
                _ = try frame.encoded()
            } catch {
                refused += 1
            }
        }
        for sample in try Self.samples().map(Self.body) {
            for _ in 0..<200 {
                var bytes = Array(sample.readableBytesView)
                for _ in 0...random.next() % 3 {
                    let position = Int(random.next() % UInt64(bytes.count))
                    bytes[position] = random.next() % 2 == 0 ? 0xFF : UInt8(truncatingIfNeeded: random.next())
                }
                try attempt(bytes)
            }
        }
        for _ in 0..<5000 {
            let count = Int(random.next() % 80)
            var bytes = (0..<count).map { _ in
                UInt8(truncatingIfNeeded: random.next() % (random.next() % 4 == 0 ? 256 : 4))
            }
            if !bytes.isEmpty { bytes[0] = UInt8(random.next() % 5) }
            try attempt(bytes)
        }
        #expect(refused > 1000)
    }

    @Test("Lengths and counts of two gibibytes reserve nothing and are refused")
    func lengths() throws {
        let header: [UInt8] = Array(try Self.body(Self.message(.timeoutNow).encoded()).readableBytesView.dropLast())
        // The largest length of the flexible encoding, and the one of just 2 GiB.
        for length in [[0xFF, 0xFF, 0xFF, 0xFF, 0x0F], [0x81, 0x80, 0x80, 0x80, 0x08]] as [[UInt8]] {
            let bodies: [[UInt8]] = [
                // The id of a cluster, a wish, the message of a refusal.
                [0, 1] + Array(repeating: 0, count: 20) + length,
                [2] + Array(repeating: 0, count: 8) + length,
                [3] + Array(repeating: 0, count: 8) + [0, 41] + length,
                // Entries; data of one entry; voters of one; bytes of a snapshot.
                header + [4] + Array(repeating: 0, count: 20) + length,
                header + [4] + Array(repeating: 0, count: 20) + [2, 0, 0, 0, 1, 2] + length,
                header + [4] + Array(repeating: 0, count: 20) + [2, 0, 0, 0, 1, 1] + length,
                header + [8] + Array(repeating: 0, count: 12) + [1, 1] + Array(repeating: 0, count: 8) + length,
            ]
            for body in bodies {
                #expect(throws: ProtocolError.self, "\(body)") { try QuorumFrame(ByteBuffer(bytes: body)) }
            }
            #expect(throws: ProtocolError.self) { try MetadataBatch.decode(length) }
            #expect(throws: ProtocolError.self) { try MetadataBatch.decode([2] + length) }
        }
    }

    @Test("Numbers with which a node could not reckon on are refused")
    func numbers() throws {
        let far = RaftIndex.max
        let bodies: [RaftMessage.Body] = [
            .append(RaftMessage.Append(previousIndex: far, previousEpoch: 1, entries: [], commit: 0)),
            .append(RaftMessage.Append(previousIndex: -1, previousEpoch: 1, entries: [], commit: 0)),
            .append(RaftMessage.Append(previousIndex: 0, previousEpoch: 1, entries: [], commit: far)),
            .append(RaftMessage.Append(previousIndex: 0, previousEpoch: .max, entries: [], commit: 0)),
            .appendResponse(.matched(far)), .appendResponse(.matched(-1)),
            .appendResponse(.refused(previousIndex: 0, hintIndex: far, hintEpoch: 0)),
            .heartbeat(RaftMessage.Heartbeat(commit: far, round: 0, sentAt: 0)),
            .voteRequest(RaftMessage.VoteRequest(lastIndex: 0, lastEpoch: .max, isTransfer: false)),
            .preVoteResponse(granted: true, candidacy: .max), .snapshotResponse(index: 0, nextPosition: -1),
        ]
        for body in bodies {
            let bytes = try Self.body(Self.message(body).encoded())
            #expect(throws: ProtocolError.self, "\(body)") { try QuorumFrame(bytes) }
        }
        let message = RaftMessage(from: Self.replica, to: Self.other, epoch: .max, body: .timeoutNow)
        let bytes = try Self.body(QuorumFrame.raft(message).encoded())
        #expect(throws: ProtocolError.self) { try QuorumFrame(bytes) }
    }
}
