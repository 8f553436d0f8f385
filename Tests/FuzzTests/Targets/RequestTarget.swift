// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Logging
import MDCBroker
import MDCModel
import MDCProtocol
import MDCTesting
import NIOCore
import Synchronization

extension FuzzTarget {
    /// The whole request path of a node in this process: bytes on a socket, frames, decoding, handlers, log, answers.
    static let request = FuzzTarget(name: "request", run: RequestTarget.run, seeds: RequestTarget.seeds)

    /// The APIs that the nodes of the request target announced, and those that were answered in a version of theirs.
    static var reachedAPIs: (announced: Set<Int16>, answered: Set<Int16>) { RequestTarget.reached.withLock { $0 } }
}

/// Input: requests, one after the other: API (a byte), version (a byte; its highest bit: send what follows as it is),
/// length (two bytes), body. Length, header and correlation id of a request are put before its body.
private enum RequestTarget {
    private struct State {
        var node: FuzzedNode?
        var runs = 0
    }
    private static let state = Mutex(State())
    fileprivate static let reached = Mutex<(announced: Set<Int16>, answered: Set<Int16>)>(([], []))
    /// A node that has seen so many inputs makes place for a fresh one.
    private static let runsPerNode = 2000

    /// What reads the answers of an API.
    private static let answers: [Int16: any ResponseMessage.Type] = Dictionary(
        MessageTypes.all.compactMap { $0 as? any ResponseMessage.Type }.map { ($0.apiKey.rawValue, $0) },
        uniquingKeysWith: { first, _ in first }
    )

    static func run(_ bytes: [UInt8]) {
        let node = state.withLock { state -> FuzzedNode in
            if state.runs % runsPerNode == 0 { state.node = nil }
            state.runs += 1
            if let node = state.node { return node }
            let node = FuzzedNode()
            // The last node's folder goes with the process.
            if state.runs == 1 { atexit { RequestTarget.state.withLock { $0.node = nil } } }
            state.node = node
            return node
        }
        let (stream, expected) = compose(bytes)
        guard let socket = LoopbackSocket(port: node.port) else { fatalError("the node takes no connections") }
        guard socket.send(stream) else { return }
        // Long polls and groups that wait are not waited for.
        var received: [UInt8] = []
        var next = 0
        while next < expected.count, let chunk = socket.receive() {
            received += chunk
            while let frame = cutFrame(&received) {
                require(next < expected.count, "an answer that nobody asked for")
                check(frame, expected[next])
                next += 1
            }
        }
    }

    private struct Expected {
        var key: Int16
        var version: Int16
        var correlation: Int32
    }

    private static func cutFrame(_ bytes: inout [UInt8]) -> ByteBuffer? {
        guard bytes.count >= 4 else { return nil }
        let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard bytes.count >= 4 + length else { return nil }
        defer { bytes.removeFirst(4 + length) }
        return ByteBuffer(bytes: bytes[4..<4 + length])
    }

    /// An answer comes in the order of its request, and reads as one to its end.
    private static func check(_ frame: ByteBuffer, _ expected: Expected) {
        guard let type = answers[expected.key] else { fatalError("an answer of the unknown API \(expected.key)") }
        func read<Response: ResponseMessage>(_ type: Response.Type, version: Int16) -> Bool {
            var frame = frame
            guard
                let header = try? ResponseHeader(
                    readingHeadOf: &frame,
                    apiKey: APIKey(rawValue: expected.key),
                    apiVersion: version
                )
            else { return false }
            require(
                header.correlationId == expected.correlation,
                "answer \(header.correlationId) of API \(expected.key) in the place of \(expected.correlation)"
            )
            guard let response = try? Response(reading: &frame, version: version) else { return false }
            note(response, expected)
            return true
        }
        if type.validVersions.contains(expected.version), read(type, version: expected.version) { return }
        // ApiVersions and Produce answer versions that they do not know in one that everybody reads.
        if read(type, version: 0) { return }
        fatalError("the answer to API \(expected.key) version \(expected.version) cannot be read")
    }

    private static func note(_ response: any ResponseMessage, _ expected: Expected) {
        reached.withLock { reached in
            if let response = response as? ApiVersionsResponse, response.errorCode == 0 {
                reached.announced.formUnion(response.apiKeys.map(\.apiKey))
            }
            reached.answered.insert(expected.key)
        }
    }

    /// The bytes to send, and which answers can come.
    private static func compose(_ bytes: [UInt8]) -> (stream: [UInt8], expected: [Expected]) {
        var source = ByteSource(bytes)
        var stream: [UInt8] = []
        var expected: [Expected] = []
        while !source.isEmpty, expected.count < 16 {
            let (key, version) = (Int16(source.byte()), source.byte())
            let body = source.take(Int(source.integer(UInt16.self)))
            if version & 0x80 != 0 {
                // Nothing can be said of what comes after bytes that may be anything.
                return (stream + body + source.rest(), expected)
            }
            let request = Expected(key: key, version: Int16(version), correlation: Int32(expected.count) + 7)
            if key == APIKey.produce.rawValue, asksForNoAnswer(body, request.version) {
                return (stream + frame(request, body), expected)
            }
            let bytes = frame(request, body)
            // Nothing asks for an answer where the header cannot be written.
            guard !bytes.isEmpty else { continue }
            stream += bytes
            expected.append(request)
        }
        return (stream, expected)
    }

    private static func asksForNoAnswer(_ body: [UInt8], _ version: Int16) -> Bool {
        guard let view = try? ProduceRequestView(ByteBuffer(bytes: body), version: version) else { return false }
        return view.acks == 0
    }

    private static func frame(_ request: Expected, _ body: [UInt8]) -> [UInt8] {
        let header = RequestHeader(
            apiKey: APIKey(rawValue: request.key),
            apiVersion: request.version,
            correlationId: request.correlation,
            clientId: "fuzz"
        )
        guard let head = try? header.encoded(version: header.headerVersion) else { return [] }
        let length = head.readableBytes + body.count
        return [0, UInt8(length >> 16), UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length)]
            + head.readableBytesView + body
    }

    // MARK: Seeds

    static func seeds() throws -> [FuzzSeed] {
        var seeds = try RequestScripts.all()
        for vector in try MessageVectors.load(directory: MessageVectors.defaultDirectory) {
            guard let type = vector.type as? any RequestMessage.Type, vector.bytes.readableBytes < 512,
                APIVersions.entry(for: type.apiKey) != nil, type.apiKey.rawValue < 256
            else { continue }
            let name = vector.name.split(separator: " ").joined(separator: "-")
            seeds.append(
                FuzzSeed(name: name, bytes: entry(type.apiKey, vector.version, Array(vector.bytes.readableBytesView)))
            )
        }
        return seeds
    }

    static func entry(_ key: APIKey, _ version: Int16, _ body: [UInt8]) -> [UInt8] {
        [UInt8(key.rawValue), UInt8(version), UInt8(body.count >> 8), UInt8(truncatingIfNeeded: body.count)] + body
    }
}

/// Sequences of requests that reach something: a topic with records in it, a group with a member.
private enum RequestScripts {
    private static func entry<Request: RequestMessage>(_ request: Request, _ version: Int16) throws -> [UInt8] {
        let body = try request.encoded(version: version)
        return RequestTarget.entry(Request.apiKey, version, Array(body.readableBytesView))
    }

    static func all() throws -> [FuzzSeed] {
        let create = try entry(
            CreateTopicsRequest(topics: [.init(name: "t", numPartitions: 2, replicationFactor: 1)], timeoutMs: 1000),
            7
        )
        return [
            FuzzSeed(name: "script-records", bytes: try create + records()),
            FuzzSeed(name: "script-transactional-records", bytes: try create + idempotent()),
            FuzzSeed(name: "script-classic-group", bytes: try create + classicGroup()),
            FuzzSeed(name: "script-consumer-group", bytes: try create + consumerGroup()),
            FuzzSeed(name: "script-administration", bytes: try create + administration()),
            FuzzSeed(
                name: "script-versions",
                bytes: try entry(ApiVersionsRequest(clientSoftwareName: "fuzz", clientSoftwareVersion: "1"), 4)
            ),
            FuzzSeed(name: "script-share-group", bytes: try create + shareGroup()),
            FuzzSeed(name: "script-share-fetch", bytes: try create + shareFetch()),
            FuzzSeed(name: "script-share-state", bytes: try create + shareState()),
            FuzzSeed(name: "script-raw", bytes: [0, 0x80, 0, 6, 0, 0, 0, 2, 0, 18]),
        ]
    }

    private static func produce(_ settings: RecordBatchBuilder.Settings, _ version: Int16) throws -> [UInt8] {
        var builder = RecordBatchBuilder(settings)
        builder.append(
            key: ByteBuffer(string: "k"),
            value: ByteBuffer(string: "value"),
            timestamp: 1_700_000_000_000
        )
        let records = try builder.build()
        let topic = ProduceRequest.TopicProduceData(name: "t", partitionData: [.init(index: 0, records: records)])
        return try entry(ProduceRequest(acks: -1, timeoutMs: 1000, topicData: [topic]), version)
    }

    private static func fetch(_ version: Int16) throws -> [UInt8] {
        let partition = FetchRequest.FetchPartition(partition: 0, fetchOffset: 0, partitionMaxBytes: 4096)
        let topic = FetchRequest.FetchTopic(topic: "t", partitions: [partition])
        return try entry(FetchRequest(maxWaitMs: 0, minBytes: 0, maxBytes: 65536, topics: [topic]), version)
    }

    private static func records() throws -> [UInt8] {
        var bytes: [UInt8] = []
        for (codec, version) in zip(CompressionCodec.allCases, [3, 5, 7, 9, 12] as [Int16]) {
            bytes += try produce(.init(codec: codec), version)
        }
        for version: Int16 in [4, 7, 11, 12] { bytes += try fetch(version) }
        let position = ListOffsetsRequest.ListOffsetsPartition(partitionIndex: 0, timestamp: -1)
        bytes += try entry(ListOffsetsRequest(topics: [.init(name: "t", partitions: [position])]), 7)
        bytes += try entry(
            DeleteRecordsRequest(topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, offset: 2)])]),
            2
        )
        return bytes
    }

    private static func idempotent() throws -> [UInt8] {
        var settings = RecordBatchBuilder.Settings()
        settings.producerID = 0
        settings.producerEpoch = 0
        settings.baseSequence = 0
        settings.isTransactional = true
        return try entry(InitProducerIdRequest(transactionalId: nil, transactionTimeoutMs: 1000), 4)
            + entry(InitProducerIdRequest(transactionalId: "x", transactionTimeoutMs: 1000), 4)
            + produce(settings, 9) + fetch(12)
    }

    private static func classicGroup() throws -> [UInt8] {
        let join = JoinGroupRequest(
            groupId: "g",
            sessionTimeoutMs: 10_000,
            rebalanceTimeoutMs: 10_000,
            memberId: "",
            protocolType: "consumer",
            protocols: [.init(name: "range", metadata: ByteBuffer(bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))]
        )
        let partition = OffsetCommitRequest.OffsetCommitRequestPartition(
            partitionIndex: 0,
            committedOffset: 5
        )
        let commit = OffsetCommitRequest(groupId: "g", topics: [.init(name: "t", partitions: [partition])])
        return try entry(join, 2) + entry(SyncGroupRequest(groupId: "g", generationId: 1, memberId: "m"), 3)
            + entry(HeartbeatRequest(groupId: "g", generationId: 1, memberId: "m"), 3)
            + entry(commit, 8) + entry(OffsetFetchRequest(groups: [.init(groupId: "g", topics: nil)]), 8)
            + entry(LeaveGroupRequest(groupId: "g", members: [.init(memberId: "m")]), 4)
            + entry(DescribeGroupsRequest(groups: ["g"]), 5) + entry(ListGroupsRequest(), 4)
            + entry(DeleteGroupsRequest(groupsNames: ["g"]), 2)
    }

    private static func consumerGroup() throws -> [UInt8] {
        let heartbeat = ConsumerGroupHeartbeatRequest(
            groupId: "c",
            memberId: "member",
            memberEpoch: 0,
            rebalanceTimeoutMs: 10_000,
            subscribedTopicNames: ["t"],
            topicPartitions: []
        )
        return try entry(heartbeat, 0) + entry(ConsumerGroupDescribeRequest(groupIds: ["c"]), 0)
    }

    /// No node knows this topic by its id: it is drawn when a topic is made.
    private static let topicID = KafkaUUID(high: 1, low: 2)

    private static func shareGroup() throws -> [UInt8] {
        let heartbeat = ShareGroupHeartbeatRequest(groupId: "s", memberId: "member", subscribedTopicNames: ["t"])
        return try entry(heartbeat, 1) + entry(ShareGroupDescribeRequest(groupIds: ["s"]), 1)
            + entry(
                AlterShareGroupOffsetsRequest(
                    groupId: "s",
                    topics: [.init(topicName: "t", partitions: [.init(partitionIndex: 0, startOffset: 3)])]
                ),
                0
            )
            + entry(
                DescribeShareGroupOffsetsRequest(
                    groups: [.init(groupId: "s", topics: [.init(topicName: "t", partitions: [0])])]
                ),
                1
            )
            + entry(DeleteShareGroupOffsetsRequest(groupId: "s", topics: [.init(topicName: "t")]), 0)
            + entry(ListConfigResourcesRequest(), 1)
    }

    private static func shareFetch() throws -> [UInt8] {
        let fetch = ShareFetchRequest(
            groupId: "s",
            memberId: "member",
            maxRecords: 10,
            batchSize: 5,
            topics: [.init(topicId: topicID, partitions: [.init(partitionIndex: 0)])]
        )
        let acknowledge = ShareAcknowledgeRequest(
            groupId: "s",
            memberId: "member",
            shareSessionEpoch: 1,
            topics: [
                .init(
                    topicId: topicID,
                    partitions: [
                        .init(
                            partitionIndex: 0,
                            acknowledgementBatches: [.init(firstOffset: 0, lastOffset: 1, acknowledgeTypes: [1, 2])]
                        )
                    ]
                )
            ]
        )
        return try entry(fetch, 1) + entry(fetch, 2) + entry(acknowledge, 1) + entry(acknowledge, 2)
    }

    private static func shareState() throws -> [UInt8] {
        let batches = [WriteShareGroupStateRequest.StateBatch(firstOffset: 0, lastOffset: 4, deliveryState: 2)]
        return try entry(
            InitializeShareGroupStateRequest(
                groupId: "s",
                topics: [.init(topicId: topicID, partitions: [.init(partition: 0, stateEpoch: 1)])]
            ),
            0
        )
            + entry(
                WriteShareGroupStateRequest(
                    groupId: "s",
                    topics: [
                        .init(topicId: topicID, partitions: [.init(partition: 0, stateEpoch: 1, stateBatches: batches)])
                    ]
                ),
                1
            )
            + entry(
                ReadShareGroupStateRequest(
                    groupId: "s",
                    topics: [.init(topicId: topicID, partitions: [.init(partition: 0)])]
                ),
                0
            )
            + entry(
                ReadShareGroupStateSummaryRequest(
                    groupId: "s",
                    topics: [.init(topicId: topicID, partitions: [.init(partition: 0)])]
                ),
                1
            )
            + entry(
                DeleteShareGroupStateRequest(
                    groupId: "s",
                    topics: [.init(topicId: topicID, partitions: [.init(partition: 0)])]
                ),
                0
            )
    }

    private static func administration() throws -> [UInt8] {
        try entry(MetadataRequest(topics: nil), 12) + entry(DescribeClusterRequest(), 1)
            + entry(CreatePartitionsRequest(topics: [.init(name: "t", count: 3)], timeoutMs: 1000), 3)
            + entry(DescribeConfigsRequest(resources: [.init(resourceType: 2, resourceName: "t")]), 4)
            + entry(
                IncrementalAlterConfigsRequest(
                    resources: [
                        .init(
                            resourceType: 2,
                            resourceName: "t",
                            configs: [.init(name: "retention.ms", configOperation: 0, value: "1000")]
                        )
                    ]
                ),
                1
            )
            + entry(DescribeLogDirsRequest(topics: nil), 4)
            + entry(DescribeProducersRequest(topics: [.init(name: "t", partitionIndexes: [0])]), 0)
            + entry(DeleteTopicsRequest(topics: [.init(name: "t")], timeoutMs: 1000), 6)
    }
}
