// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// Sessions over a real broker: polls that find nothing look at nothing, and still miss nothing.
@Suite("Fetch sessions and their partitions")
struct FetchSessionWatchTests {
    /// A client of one session.
    private final class Poller {
        let client: RawKafkaConnection
        let topic: TopicID
        var session: Int32 = 0
        var epoch: Int32 = 0

        init(_ client: RawKafkaConnection, _ topic: TopicID) {
            self.client = client
            self.topic = topic
        }

        func request(_ offsets: [Int32: Int64] = [:], wait: Int32 = 0, minBytes: Int32 = 1) -> FetchRequest {
            let partitions = offsets.sorted { $0.key < $1.key }.map {
                FetchRequest.FetchPartition(partition: $0.key, fetchOffset: $0.value, partitionMaxBytes: 1 << 20)
            }
            return FetchRequest(
                maxWaitMs: wait,
                minBytes: minBytes,
                maxBytes: 1 << 20,
                sessionId: session,
                sessionEpoch: epoch,
                topics: partitions.isEmpty ? [] : [.init(topicId: topic, partitions: partitions)]
            )
        }

        func took(_ response: FetchResponse) -> [Int32: FetchResponse.PartitionData] {
            session = response.sessionId
            epoch += 1
            var found: [Int32: FetchResponse.PartitionData] = [:]
            for data in response.responses.flatMap(\.partitions) { found[data.partitionIndex] = data }
            return found
        }

        func poll(
            _ offsets: [Int32: Int64] = [:],
            wait: Int32 = 0
        ) throws -> [Int32: FetchResponse.PartitionData] {
            took(try client.call(request(offsets, wait: wait), version: 18))
        }
    }

    private func begin(_ fixture: BrokerFixture, partitions: Int32) throws -> (RawKafkaConnection, Poller) {
        let client = try fixture.connect()
        let id = try client.createTopic("t", partitions: partitions).topicId
        let poller = Poller(try fixture.connect(), id)
        var offsets: [Int32: Int64] = [:]
        for index in 0..<partitions { offsets[index] = 0 }
        #expect(try poller.poll(offsets).count == Int(partitions))
        return (client, poller)
    }

    @Test("A quiet session tells of the one partition that got records, and is quiet again")
    func news() async throws {
        try await BrokerFixture.with { fixture in
            let (client, poller) = try begin(fixture, partitions: 5)
            for _ in 0..<3 { #expect(try poller.poll().isEmpty) }
            #expect(try client.produce("t", RawKafkaConnection.batch(["one"]), partition: 3).errorCode == 0)
            let found = try poller.poll()
            #expect(found.keys.sorted() == [3])
            #expect(try RawKafkaConnection.values(try #require(found[3])) == ["one"])
            // Not read on: told again.
            #expect(try poller.poll().keys.sorted() == [3])
            #expect(try poller.poll([3: 1]).isEmpty)
            #expect(try poller.poll().isEmpty)
            // Read again from the beginning.
            #expect(try poller.poll([3: 0])[3]?.highWatermark == 1)
        }
    }

    @Test("A quiet session that waits is woken by whichever partition advances, each time")
    func woken() async throws {
        try await BrokerFixture.with { fixture in
            let (client, poller) = try begin(fixture, partitions: 4)
            #expect(try poller.poll().isEmpty)
            for (round, index) in [Int32(2), 0, 3, 3, 1].enumerated() {
                // An answer within the client's time limit, which is shorter than the wait, is one that was woken.
                let correlation = try poller.client.send(poller.request(wait: 3_600_000), version: 18)
                let value = "value \(round)"
                #expect(try client.produce("t", RawKafkaConnection.batch([value]), partition: index).errorCode == 0)
                let answer = try poller.client.receive(FetchResponse.self, version: 18, correlation: correlation)
                let found = poller.took(answer)
                #expect(found.keys.sorted() == [index])
                let data = try #require(found[index])
                #expect(try RawKafkaConnection.values(data).last == value)
                #expect(try poller.poll([index: data.highWatermark]).isEmpty)
            }
        }
    }

    @Test("A session learns that records were deleted before its offset, and that its topic was")
    func deletions() async throws {
        try await BrokerFixture.with { fixture in
            let (client, poller) = try begin(fixture, partitions: 2)
            #expect(try client.produce("t", RawKafkaConnection.batch(["a", "b"]), partition: 1).errorCode == 0)
            #expect(try poller.poll()[1]?.highWatermark == 2)
            #expect(try poller.poll([1: 2]).isEmpty)
            let correlation = try poller.client.send(poller.request(wait: 3_600_000), version: 18)
            let deleted = try client.call(
                DeleteTopicsRequest(topicNames: ["t"], timeoutMs: 30_000),
                version: 4
            )
            #expect(deleted.responses[0].errorCode == 0)
            let answer = try poller.client.receive(FetchResponse.self, version: 18, correlation: correlation)
            let found = poller.took(answer)
            #expect(!found.isEmpty)
            #expect(found.values.allSatisfy { $0.errorCode == ErrorCode.unknownTopicId.rawValue })
        }
    }

    @Test("A session that ends leaves nothing behind at its partitions")
    func forgotten() async throws {
        try await BrokerFixture.with({ $0.fetchSessionSlots = 1 }) { fixture in
            let (_, poller) = try begin(fixture, partitions: 2)
            #expect(try poller.poll().isEmpty)
            poller.epoch = -1
            #expect(try poller.poll([0: 0]).count == 1)
            // The slot is free: another session is made, and works.
            poller.session = 0
            poller.epoch = 0
            #expect(try poller.poll([0: 0, 1: 0]).count == 2)
            #expect(poller.session != 0)
            #expect(try poller.poll().isEmpty)
        }
    }
}
