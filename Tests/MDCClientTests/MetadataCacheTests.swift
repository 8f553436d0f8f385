// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCClient

@Suite("What the client knows of the cluster")
struct MetadataCacheTests {
    let now = NIODeadline.uptimeNanoseconds(1)
    let id = KafkaUUID(high: 1, low: 2)
    let partition = TopicPartition(topic: "t", partition: 0)

    func update(
        leader: Int32,
        epoch: Int32,
        id: KafkaUUID? = nil,
        error: ErrorCode = .none,
        brokers: [Int32] = [1, 2]
    ) -> MetadataCache.Update {
        MetadataCache.Update(
            brokers: Dictionary(
                uniqueKeysWithValues: brokers.map {
                    ($0, MetadataCache.Broker(address: BrokerAddress(host: "h", port: Int(9000 + $0)), rack: nil))
                }
            ),
            clusterID: "c",
            controllerID: 1,
            topics: [
                MetadataCache.Topic(
                    name: "t",
                    id: id ?? self.id,
                    error: error,
                    partitions: error == .none ? [MetadataCache.Partition(leader: leader, leaderEpoch: epoch)] : []
                )
            ]
        )
    }

    @Test("an older leader epoch does not undo a newer one")
    func epochsGrow() {
        var cache = MetadataCache()
        cache.apply(update(leader: 1, epoch: 5), now: now)
        cache.apply(update(leader: 2, epoch: 4), now: now)
        #expect(cache.leader(of: partition)?.broker == 1)
        #expect(cache.leader(of: partition)?.epoch == 5)
        cache.apply(update(leader: 2, epoch: 6), now: now)
        #expect(cache.leader(of: partition)?.broker == 2)
    }

    @Test("a topic that was made anew begins anew")
    func newTopicID() {
        var cache = MetadataCache()
        cache.apply(update(leader: 1, epoch: 5), now: now)
        cache.apply(update(leader: 2, epoch: 0, id: KafkaUUID(high: 9, low: 9)), now: now)
        #expect(cache.leader(of: partition)?.broker == 2)
        #expect(cache.leader(of: partition)?.epoch == 0)
    }

    @Test("a topic that is gone is forgotten; an error that passes is not")
    func errors() {
        var cache = MetadataCache()
        cache.apply(update(leader: 1, epoch: 5), now: now)
        cache.apply(update(leader: -1, epoch: -1, error: .leaderNotAvailable), now: now)
        #expect(cache.leader(of: partition)?.broker == 1)
        cache.apply(update(leader: -1, epoch: -1, error: .unknownTopicOrPartition), now: now)
        #expect(cache.topic("t") == nil)
    }

    @Test("a hint about the leader counts where it is news and the broker is known")
    func hints() {
        var cache = MetadataCache()
        cache.apply(update(leader: 1, epoch: 5), now: now)
        let new = MetadataCache.Broker(address: BrokerAddress(host: "n", port: 1), rack: nil)
        let beyond = TopicPartition(topic: "t", partition: 1)
        let old = cache.applyLeaderHint(partition, leader: 2, leaderEpoch: 5, endpoint: nil)
        let unknown = cache.applyLeaderHint(partition, leader: 3, leaderEpoch: 6, endpoint: nil)
        #expect(!old && !unknown)
        #expect(cache.leader(of: partition)?.broker == 1)
        let news = cache.applyLeaderHint(partition, leader: 2, leaderEpoch: 6, endpoint: nil)
        #expect(news)
        #expect(cache.leader(of: partition)?.broker == 2)
        let newBroker = cache.applyLeaderHint(partition, leader: 3, leaderEpoch: 7, endpoint: new)
        #expect(newBroker)
        #expect(cache.leader(of: partition)?.broker == 3)
        let outside = cache.applyLeaderHint(beyond, leader: 2, leaderEpoch: 9, endpoint: nil)
        #expect(!outside)
    }

    @Test("a leader without an address is no leader")
    func unknownBroker() {
        var cache = MetadataCache()
        cache.apply(update(leader: 7, epoch: 1), now: now)
        #expect(cache.leader(of: partition) == nil)
    }

    @Test(
        "addresses",
        arguments: [
            ("127.0.0.1:9092", "127.0.0.1", 9092), ("broker.example:1", "broker.example", 1),
            ("[::1]:9092", "::1", 9092),
        ]
    )
    func addresses(text: String, host: String, port: Int) {
        #expect(BrokerAddress(text) == BrokerAddress(host: host, port: port))
        #expect(BrokerAddress(text)?.description == text)
    }

    @Test("what is no address", arguments: ["", "host", ":9092", "host:", "host:0", "host:70000", "::1:9092", "a:b:1"])
    func badAddresses(text: String) {
        #expect(BrokerAddress(text) == nil)
        #expect(throws: ClientError.self) { try ClientConfiguration(bootstrapServers: [text]).bootstrapAddresses() }
    }

    @Test("back-off doubles, stays within its limit, and jitters by a fifth")
    func backoff() {
        let backoff = Backoff(first: .milliseconds(100), longest: .seconds(1))
        var generator = SeededGenerator(seed: 1)
        for (attempt, base) in [(0, 100.0), (1, 200), (2, 400), (3, 800), (4, 1000), (60, 1000)] {
            for _ in 0..<50 {
                let milliseconds = Double(backoff.delay(attempt: attempt, using: &generator).nanoseconds) / 1e6
                #expect(milliseconds >= base * 0.8 && milliseconds <= base * 1.2)
            }
        }
    }
}
