// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

/// The hand-written views and writers against the generated messages, over random messages of every version.
struct HotPathTests {
    static let cases: [(UInt64, Int16)] = (0..<6).flatMap { seed in (Int16(0)...18).map { (UInt64(seed), $0) } }

    private func unknown(_ random: inout SeededGenerator, _ version: Int16, _ flexible: Int16) -> [UnknownTaggedField] {
        if version < flexible || Bool.random(using: &random) { return [] }
        return [UnknownTaggedField(tag: 99, bytes: random.bytes(upTo: 200))]
    }

    @Test("ProduceRequestView sees what ProduceRequest reads", arguments: cases.filter { $0.1 <= 13 })
    func produceRequest(seed: UInt64, version: Int16) throws {
        var random = SeededGenerator(seed: seed &* 1000 &+ UInt64(version))
        var request = ProduceRequest(acks: -1, timeoutMs: random.int32())
        if version >= 3 { request.transactionalId = Bool.random(using: &random) ? nil : random.text() }
        request.unknownTaggedFields = unknown(&random, version, 9)
        for _ in 0..<random.count() {
            var topic = ProduceRequest.TopicProduceData()
            if version <= 12 { topic.name = random.text() } else { topic.topicId = random.uuid() }
            topic.unknownTaggedFields = unknown(&random, version, 9)
            for _ in 0..<random.count() {
                topic.partitionData.append(
                    .init(
                        index: random.int32(),
                        records: Bool.random(using: &random) ? nil : random.bytes(),
                        unknownTaggedFields: unknown(&random, version, 9)
                    )
                )
            }
            request.topicData.append(topic)
        }
        let bytes = try request.encoded(version: version)
        let view = try ProduceRequestView(bytes, version: version)
        #expect(view.acks == request.acks)
        #expect(view.timeoutMs == request.timeoutMs)
        #expect(view.transactionalID?.string == request.transactionalId)
        #expect(view.topicCount == request.topicData.count)
        let partitions = Array(view.partitions)
        let expected = request.topicData.enumerated().flatMap { ordinal, topic in
            topic.partitionData.map { (ordinal, topic, $0) }
        }
        #expect(partitions.count == expected.count)
        #expect(view.partitionCount == expected.count)
        #expect(view.recordBytes == expected.reduce(0) { $0 + ($1.2.records?.readableBytes ?? 0) })
        for (partition, (ordinal, topic, data)) in zip(partitions, expected) {
            #expect(partition.topic.ordinal == ordinal)
            #expect(partition.topic.name == topic.name)
            #expect(partition.topic.id == topic.topicId)
            #expect(partition.topic.partitionCount == topic.partitionData.count)
            #expect(partition.index == data.index)
            #expect(partition.records == data.records)
        }
        for length in 0..<min(bytes.readableBytes, 400) {
            let cut = try #require(bytes.getSlice(at: bytes.readerIndex, length: length))
            #expect(throws: ProtocolError.self) { _ = try ProduceRequestView(cut, version: version) }
        }
    }

    private func fetchRequest(_ random: inout SeededGenerator, _ version: Int16) -> FetchRequest {
        var request = FetchRequest(maxWaitMs: random.int32(), minBytes: random.int32())
        if version >= 12 { request.clusterId = Bool.random(using: &random) ? nil : random.text() }
        if version <= 14 { request.replicaId = random.int32() }
        if version >= 15 && Bool.random(using: &random) {
            request.replicaState = .init(replicaId: random.int32(), replicaEpoch: random.int64())
        }
        if version >= 3 { request.maxBytes = random.int32() }
        if version >= 4 { request.isolationLevel = 1 }
        if version >= 7 { (request.sessionId, request.sessionEpoch) = (random.int32(), random.int32()) }
        if version >= 11 { request.rackId = random.text() }
        request.unknownTaggedFields = unknown(&random, version, 12)
        for _ in 0..<random.count() {
            var topic = FetchRequest.FetchTopic(unknownTaggedFields: unknown(&random, version, 12))
            if version <= 12 { topic.topic = random.text() } else { topic.topicId = random.uuid() }
            for _ in 0..<random.count() {
                var partition = FetchRequest.FetchPartition(
                    partition: random.int32(),
                    fetchOffset: random.int64(),
                    partitionMaxBytes: random.int32(),
                    unknownTaggedFields: unknown(&random, version, 12)
                )
                if version >= 9 { partition.currentLeaderEpoch = random.int32() }
                if version >= 12 { partition.lastFetchedEpoch = random.int32() }
                if version >= 5 { partition.logStartOffset = random.int64() }
                if version >= 17 && Bool.random(using: &random) { partition.replicaDirectoryId = random.uuid() }
                if version >= 18 && Bool.random(using: &random) { partition.highWatermark = random.int64() }
                topic.partitions.append(partition)
            }
            request.topics.append(topic)
        }
        for _ in 0..<(version >= 7 ? random.count() : 0) {
            var topic = FetchRequest.ForgottenTopic(unknownTaggedFields: unknown(&random, version, 12))
            if version <= 12 { topic.topic = random.text() } else { topic.topicId = random.uuid() }
            topic.partitions = (0..<random.count()).map { _ in random.int32() }
            request.forgottenTopicsData.append(topic)
        }
        return request
    }

    @Test("FetchRequestView sees what FetchRequest reads", arguments: cases)
    func fetchRequest(seed: UInt64, version: Int16) throws {
        var random = SeededGenerator(seed: seed &* 2000 &+ UInt64(version))
        let request = fetchRequest(&random, version)
        let bytes = try request.encoded(version: version)
        let view = try FetchRequestView(bytes, version: version)
        #expect(view.clusterID?.string == request.clusterId)
        #expect(view.replicaID == (version <= 14 ? request.replicaId : request.replicaState.replicaId))
        #expect(view.replicaEpoch == request.replicaState.replicaEpoch)
        #expect(view.maxWaitMs == request.maxWaitMs)
        #expect(view.minBytes == request.minBytes)
        #expect(view.maxBytes == request.maxBytes)
        #expect(view.isolationLevel == request.isolationLevel)
        #expect(view.sessionID == request.sessionId)
        #expect(view.sessionEpoch == request.sessionEpoch)
        #expect(view.rackID == request.rackId)
        #expect(view.topicCount == request.topics.count)
        let expected = request.topics.flatMap { topic in topic.partitions.map { (topic, $0) } }
        let partitions = Array(view.partitions)
        #expect(partitions.count == expected.count)
        #expect(view.partitionCount == expected.count)
        for (partition, (topic, data)) in zip(partitions, expected) {
            #expect(partition.topic.name == topic.topic)
            #expect(partition.topic.id == topic.topicId)
            #expect(partition.topic.partitionCount == topic.partitions.count)
            #expect(partition.index == data.partition)
            #expect(partition.currentLeaderEpoch == data.currentLeaderEpoch)
            #expect(partition.fetchOffset == data.fetchOffset)
            #expect(partition.lastFetchedEpoch == data.lastFetchedEpoch)
            #expect(partition.logStartOffset == data.logStartOffset)
            #expect(partition.maxBytes == data.partitionMaxBytes)
            #expect(partition.replicaDirectoryID == data.replicaDirectoryId)
            #expect(partition.highWatermark == data.highWatermark)
        }
        let forgotten = request.forgottenTopicsData.flatMap { topic in topic.partitions.map { (topic, $0) } }
        #expect(view.forgottenCount == forgotten.count)
        for (partition, (topic, index)) in zip(view.forgottenPartitions, forgotten) {
            #expect(partition.topic.name == topic.topic)
            #expect(partition.topic.id == topic.topicId)
            #expect(partition.index == index)
        }
        for length in 0..<min(bytes.readableBytes, 400) {
            let cut = try #require(bytes.getSlice(at: bytes.readerIndex, length: length))
            #expect(throws: ProtocolError.self) { _ = try FetchRequestView(cut, version: version) }
        }
    }

    @Test("ProduceResponseWriter writes what ProduceResponse writes", arguments: cases.filter { $0.1 <= 13 })
    func produceResponse(seed: UInt64, version: Int16) throws {
        var random = SeededGenerator(seed: seed &* 3000 &+ UInt64(version))
        var response = ProduceResponse(throttleTimeMs: version >= 1 ? random.int32() : 0)
        for _ in 0..<random.count() {
            var topic = ProduceResponse.TopicProduceResponse()
            if version <= 12 { topic.name = random.text() } else { topic.topicId = random.uuid() }
            for _ in 0..<random.count() {
                var partition = ProduceResponse.PartitionProduceResponse(
                    index: random.int32(),
                    errorCode: 3,
                    baseOffset: random.int64(),
                    logAppendTimeMs: random.int64(),
                    logStartOffset: random.int64(),
                    errorMessage: version >= 8 ? random.text() : nil
                )
                if version >= 10 { partition.currentLeader = .init(leaderId: random.int32(), leaderEpoch: 4) }
                topic.partitionResponses.append(partition)
            }
            response.responses.append(topic)
        }
        if version >= 10 && seed % 2 == 0 {
            response.nodeEndpoints = [.init(nodeId: 1, host: String(repeating: "h", count: 200), port: 9092)]
        }
        var writer = try ProduceResponseWriter(
            version: version,
            correlationID: 77,
            topicCount: response.responses.count
        )
        for topic in response.responses {
            try writer.beginTopic(
                name: StringSlice(topic.name),
                id: topic.topicId,
                partitionCount: topic.partitionResponses.count
            )
            for partition in topic.partitionResponses { try writer.partition(partition) }
        }
        let frame = try writer.finish(throttleTimeMs: response.throttleTimeMs, nodeEndpoints: response.nodeEndpoints)
        #expect(try frame == Frame.response(response, version: version, correlationId: 77))
    }

    private func partitionData(_ random: inout SeededGenerator, _ version: Int16) -> FetchResponse.PartitionData {
        var data = FetchResponse.PartitionData(
            partitionIndex: random.int32(),
            errorCode: 1,
            highWatermark: random.int64(),
            lastStableOffset: random.int64(),
            logStartOffset: random.int64()
        )
        if version >= 4 && Bool.random(using: &random) {
            data.abortedTransactions = (0..<random.count()).map { _ in
                .init(producerId: random.int64(), firstOffset: random.int64())
            }
        }
        if version >= 11 { data.preferredReadReplica = random.int32() }
        if version >= 12 && Bool.random(using: &random) {
            data.divergingEpoch = .init(epoch: 3, endOffset: random.int64())
        }
        if version >= 12 && Bool.random(using: &random) { data.currentLeader = .init(leaderId: 2, leaderEpoch: 9) }
        if version >= 12 && Bool.random(using: &random) { data.snapshotId = .init(endOffset: random.int64(), epoch: 1) }
        data.records = Bool.random(using: &random) ? ByteBuffer() : random.bytes()
        return data
    }

    @Test("FetchResponseWriter's pieces are what FetchResponse writes", arguments: cases)
    func fetchResponse(seed: UInt64, version: Int16) throws {
        var random = SeededGenerator(seed: seed &* 4000 &+ UInt64(version))
        var response = FetchResponse(throttleTimeMs: random.int32())
        if version >= 7 { (response.errorCode, response.sessionId) = (5, random.int32()) }
        for _ in 0..<random.count() {
            var topic = FetchResponse.FetchableTopicResponse()
            if version <= 12 { topic.topic = random.text() } else { topic.topicId = random.uuid() }
            topic.partitions = (0..<random.count()).map { _ in partitionData(&random, version) }
            response.responses.append(topic)
        }
        if version >= 16 && seed % 2 == 0 {
            response.nodeEndpoints = [.init(nodeId: 1, host: String(repeating: "h", count: 200), port: 9092)]
        }
        var writer = try FetchResponseWriter<ByteBuffer>(
            version: version,
            correlationID: 78,
            throttleTimeMs: response.throttleTimeMs,
            errorCode: ErrorCode(rawValue: response.errorCode),
            sessionID: response.sessionId,
            topicCount: response.responses.count
        )
        for topic in response.responses {
            try writer.beginTopic(
                name: StringSlice(topic.topic),
                id: topic.topicId,
                partitionCount: topic.partitions.count
            )
            for partition in topic.partitions {
                try writer.partition(
                    partition,
                    records: partition.records,
                    length: partition.records?.readableBytes ?? 0
                )
            }
        }
        var sent = ByteBuffer()
        for piece in try writer.finish(nodeEndpoints: response.nodeEndpoints) {
            switch piece {
            case .bytes(let bytes):
                #expect(bytes.readableBytes > 0)
                sent.writeImmutableBuffer(bytes)
            case .records(let records, let length):
                #expect(length > 0 && length == records.readableBytes)
                sent.writeImmutableBuffer(records)
            }
        }
        #expect(try sent == Frame.response(response, version: version, correlationId: 78))
    }

    @Test("damaged requests are refused or read, never trapped on", arguments: [1, 2] as [UInt64])
    func damage(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        for version in Int16(0)...18 {
            for _ in 0..<60 {
                var bytes = try fetchRequest(&random, version).encoded(version: version)
                for _ in 0...random.count(3) {
                    let place = Int.random(in: 0..<bytes.readableBytes, using: &random)
                    bytes.setInteger(UInt8.random(in: 0...255, using: &random), at: bytes.readerIndex + place)
                }
                let view = try? FetchRequestView(bytes, version: version)
                var input = bytes
                let message = try? FetchRequest(reading: &input, version: version)
                // The view does not look at the text of names: it may accept what the message refuses for that alone.
                if message != nil { #expect(view != nil) }
                if let view {
                    #expect(Array(view.partitions).count == view.partitionCount)
                    #expect(Array(view.forgottenPartitions).count == view.forgottenCount)
                }
                if version <= 13, let view = try? ProduceRequestView(bytes, version: version) {
                    #expect(Array(view.partitions).count == view.partitionCount)
                }
            }
        }
    }

    @Test("slices compare with strings without being UTF-8")
    func stringSlice() {
        #expect(StringSlice("orders") == "orders")
        #expect(StringSlice("orders") == StringSlice("orders"))
        #expect((StringSlice("orders") == "order") == false)
        let invalid = StringSlice(ByteBuffer(bytes: [0xFF]))
        #expect(invalid.string == nil)
        #expect((invalid == "\u{FFFD}") == false)
    }
}
