// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import Testing

@testable import MDCBroker

@Suite("Client quotas")
struct QuotaTests {
    private static let second: UInt64 = 1_000_000_000

    // MARK: Who has which

    @Test("The most particular quota applies, and those it covers share it")
    func precedence() {
        var table = QuotaTable()
        let key = QuotaKey.producerByteRate
        let order: [(QuotaEntity, user: String?, client: String?)] = [
            (.init(clientID: .everyone), nil, "c"), (.init(clientID: .named("c")), nil, "c"),
            (.init(user: .everyone), "u", nil), (.init(user: .everyone, clientID: .everyone), "u", "c"),
            (.init(user: .everyone, clientID: .named("c")), "u", "c"), (.init(user: .named("u")), "u", nil),
            (.init(user: .named("u"), clientID: .everyone), "u", "c"),
            (.init(user: .named("u"), clientID: .named("c")), "u", "c"),
        ]
        #expect(table.limit(key, user: "u", clientID: "c") == nil)
        for (rank, (entity, user, client)) in order.enumerated() {
            table.set(entity, key, Double(rank + 1))
            let limit = table.limit(key, user: "u", clientID: "c")
            #expect(limit?.rate == Double(rank + 1))
            #expect(limit?.share == .init(key: key, user: user, clientID: client))
        }
        #expect(table.limit(.consumerByteRate, user: "u", clientID: "c") == nil)
        for (entity, _, _) in order { table.set(entity, key, nil) }
        #expect(table == QuotaTable())
    }

    @Test("An address has its own quota of connections before that of all addresses")
    func addresses() {
        var table = QuotaTable()
        table.set(.init(ip: .everyone), .connectionCreationRate, 5)
        table.set(.init(ip: .named("10.0.0.1")), .connectionCreationRate, 7)
        #expect(table.connectionLimit(ip: "10.0.0.1")?.rate == 7)
        #expect(table.connectionLimit(ip: "10.0.0.2")?.rate == 5)
    }

    @Test("What cannot be a quota is refused")
    func validation() {
        let client = QuotaEntity(clientID: .named("c"))
        #expect(QuotaTable.problem(client, "producer_byte_rate", 10) == nil)
        #expect(QuotaTable.problem(client, "producer_byte_rate", nil) == nil)
        #expect(QuotaTable.problem(client, "request_percentage", 12.5) == nil)
        #expect(QuotaTable.problem(client, "producer_byte_rate", 10.5) != nil)
        #expect(QuotaTable.problem(client, "producer_byte_rate", 0) != nil)
        #expect(QuotaTable.problem(client, "producer_byte_rate", -.infinity) != nil)
        #expect(QuotaTable.problem(client, "connection_creation_rate", 1) != nil)
        #expect(QuotaTable.problem(client, "speed", 1) != nil)
        #expect(QuotaTable.problem(.init(ip: .everyone), "connection_creation_rate", 0) == nil)
        #expect(QuotaTable.problem(.init(ip: .everyone), "producer_byte_rate", 1) != nil)
        let bad: [[(String, String?)]] = [
            [], [("host", "x")], [("user", "a"), ("user", "b")], [("ip", "1.2.3.4"), ("user", "a")],
            [("ip", "nonsense")],
            [("user", "")],
        ]
        for parts in bad {
            #expect(throws: Refusal.self, "\(parts)") { try QuotaEntity(parts: parts.map { (type: $0.0, name: $0.1) }) }
        }
        for address in ["127.0.0.1", "::1", "fe80::1:2"] {
            #expect(throws: Never.self) { try QuotaEntity(parts: [("ip", address)]) }
        }
    }

    @Test("A filter lets through what it names; a strict one nothing else")
    func filter() throws {
        let both = QuotaEntity(user: .named("u"), clientID: .everyone)
        let user = QuotaEntity(user: .named("u"))
        func filter(_ components: [(String, Int8, String?)], strict: Bool = false) throws -> QuotaFilter {
            try QuotaFilter(
                DescribeClientQuotasRequest(
                    components: components.map { .init(entityType: $0.0, matchType: $0.1, match: $0.2) },
                    strict: strict
                )
            )
        }
        #expect(try filter([]).accepts(both))
        #expect(try !filter([], strict: true).accepts(both))
        #expect(try filter([("user", 0, "u")]).accepts(both))
        #expect(try !filter([("user", 0, "u")], strict: true).accepts(both))
        #expect(try filter([("user", 0, "u")], strict: true).accepts(user))
        #expect(try !filter([("user", 0, "v")]).accepts(user))
        #expect(try filter([("user", 2, nil), ("client-id", 1, nil)], strict: true).accepts(both))
        #expect(try !filter([("client-id", 2, nil)]).accepts(user))
        #expect(throws: Refusal.self) { try filter([("user", 0, nil)]) }
        #expect(throws: Refusal.self) { try filter([("user", 2, nil), ("user", 2, nil)]) }
        #expect(throws: Refusal.self) { try filter([("group", 2, nil)]) }
    }

    // MARK: The bucket

    @Test("A window is free, what goes beyond is waited for, and rest fills the bucket")
    func bucket() {
        var bucket = QuotaBucket(rate: 1000, window: 2, now: 0)
        let result1 = bucket.record(2000, now: 0, atMost: 60_000)
        #expect(result1 == 0)
        let result2 = bucket.record(500, now: 0, atMost: 60_000)
        #expect(result2 == 500)
        let result3 = bucket.delay(now: Self.second / 4, atMost: 60_000)
        #expect(result3 == 250)
        let result4 = bucket.delay(now: Self.second / 2, atMost: 60_000)
        #expect(result4 == 0)
        let result5 = bucket.record(1, now: Self.second / 2, atMost: 60_000)
        #expect(result5 == 1)
        let result6 = bucket.isFull(now: 10 * Self.second)
        #expect(result6)
        let result7 = bucket.record(2000, now: 10 * Self.second, atMost: 60_000)
        #expect(result7 == 0)
        let result8 = bucket.record(1_000_000, now: 10 * Self.second, atMost: 10_000)
        #expect(result8 == 10_000)
    }

    @Test("Who waits as told gets the rate in the long run, whatever the requests", arguments: 0..<8)
    func longRun(_ seed: UInt64) {
        var random = SplitMix(state: seed)
        let rate = Double(random.next() % 1_000_000 + 1000)
        var bucket = QuotaBucket(rate: rate, window: 1, now: 0)
        var now: UInt64 = 0
        var used = 0.0
        while now < 600 * Self.second {
            let amount = Double(random.next() % 200_000)
            used += amount
            now += UInt64(bucket.record(amount, now: now, atMost: .max)) * 1_000_000 + random.next() % 1_000_000
        }
        let seconds = Double(now) / 1e9
        #expect(used <= rate * (seconds + 1) + 200_000)
        #expect(used >= rate * seconds * 0.9)
    }

    @Test("A new rate keeps the share that was used")
    func change() {
        var bucket = QuotaBucket(rate: 1000, window: 1, now: 0)
        let result9 = bucket.record(2000, now: 0, atMost: 60_000)
        #expect(result9 == 1000)
        bucket.change(rate: 10, window: 1, now: 0)
        let result10 = bucket.delay(now: 0, atMost: 60_000)
        #expect(result10 == 1000)
        bucket.change(rate: 0, window: 1, now: 0)
        let result11 = bucket.delay(now: 0, atMost: 60_000)
        #expect(result11 == 60_000)
    }

    // MARK: The manager

    @Test("Clients of a default quota have a bucket each; those of one name share it; without quotas nobody waits")
    func manager() {
        let manager = QuotaManager()
        #expect(manager.record(.producerByteRate, clientID: "a", 1e9, now: 0) == 0)
        var table = QuotaTable()
        table.set(.init(clientID: .everyone), .producerByteRate, 1000)
        manager.update(table, window: 1)
        #expect(manager.record(.producerByteRate, clientID: "a", 2000, now: 0) == 1000)
        #expect(manager.record(.producerByteRate, clientID: "b", 1000, now: 0) == 0)
        #expect(manager.delay(.producerByteRate, clientID: "a", now: 0) == 1000)
        #expect(manager.delay(.consumerByteRate, clientID: "a", now: 0) == 0)
        #expect(manager.throttled[0].throttled == .init(count: 2, milliseconds: 2000))
        manager.update(QuotaTable(), window: 1)
        #expect(manager.delay(.producerByteRate, clientID: "a", now: 0) == 0)
    }

    @Test("Connections of an address are spaced, and refused where they would wait too long")
    func connections() {
        let manager = QuotaManager()
        var table = QuotaTable()
        table.set(.init(ip: .everyone), .connectionCreationRate, 1)
        manager.update(table, window: 1)
        let delays = (0..<20).map { _ in manager.connectionDelay(ip: "1.1.1.1", now: 0) }
        #expect(delays[..<4] == [0, 1000, 2000, 3000])
        #expect(delays[19] == QuotaManager.longestDelay)
        #expect(manager.connectionDelay(ip: "2.2.2.2", now: 0) == 0)
        // Those that were refused do not prolong it.
        #expect(manager.connectionDelay(ip: "1.1.1.1", now: 11 * Self.second) <= 1000)
    }

    // MARK: Over sockets

    @Test("A quota is stored, survives a restart, is told in answers and mutes the connection")
    func overSockets() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        var client = try fixture.connect()
        try client.createTopic("t")
        func alter(_ value: Double?) throws -> Int16 {
            try client.call(
                AlterClientQuotasRequest(entries: [
                    .init(
                        entity: [.init(entityType: "client-id", entityName: "raw")],
                        ops: [.init(key: "producer_byte_rate", value: value ?? 0, remove: value == nil)]
                    )
                ]),
                version: 1
            ).entries[0].errorCode
        }
        #expect(try alter(1000) == 0)
        #expect(try alter(-1) == ErrorCode.invalidRequest.rawValue)
        try await fixture.stop()
        try await fixture.start()
        client = try fixture.connect()
        let described = try client.call(DescribeClientQuotasRequest(strict: false), version: 1)
        #expect(described.entries?.first?.entity == [.init(entityType: "client-id", entityName: "raw")])
        #expect(described.entries?.first?.values == [.init(key: "producer_byte_rate", value: 1000)])
        func produce() throws -> ProduceResponse {
            try client.call(
                ProduceRequest(
                    acks: -1,
                    timeoutMs: 10_000,
                    topicData: [
                        .init(
                            name: "t",
                            partitionData: [
                                .init(
                                    index: 0,
                                    records: try RawKafkaConnection.batch([String(repeating: "x", count: 1500)])
                                )
                            ]
                        )
                    ]
                ),
                version: 9
            )
        }
        let first = try produce()
        #expect(first.responses[0].partitionResponses[0].errorCode == 0)
        #expect((400...1000).contains(first.throttleTimeMs))
        // The next request is taken when the time is over; then something is free again, so it is told about as much.
        let second = try produce()
        #expect((400...1600).contains(second.throttleTimeMs))
        #expect(try alter(nil) == 0)
        #expect(try produce().throttleTimeMs == 0)
        try await fixture.stop()
    }

    @Test("Connections beyond their address's quota wait for their turn, and are refused where it is too far off")
    func connectionsOverSockets() async throws {
        try await BrokerFixture.with { fixture in
            let first = try fixture.connect()
            func limit(_ rate: Double?) throws -> Int16 {
                try first.call(
                    AlterClientQuotasRequest(entries: [
                        .init(
                            entity: [.init(entityType: "ip", entityName: nil)],
                            ops: [.init(key: "connection_creation_rate", value: rate ?? 0, remove: rate == nil)]
                        )
                    ]),
                    version: 1
                ).entries[0].errorCode
            }
            func isServed(_ client: RawKafkaConnection) -> Bool {
                (try? client.call(ApiVersionsRequest(), version: 0))?.errorCode == 0
            }
            #expect(try limit(2) == 0)
            let crowd = try (0..<8).map { _ in try fixture.connect() }
            for client in crowd { #expect(isServed(client)) }
            // One a second: the last of so many would wait longer than anybody does.
            #expect(try limit(1) == 0)
            let flood = try (0..<60).map { _ in try fixture.connect() }
            #expect(!isServed(flood[59]))
            // Who is connected already goes on.
            #expect(crowd.allSatisfy(isServed))
            #expect(try limit(nil) == 0)
            #expect(isServed(try fixture.connect()))
        }
    }

    @Test("A fetch beyond the quota tells to wait; one of another connection meanwhile gets nothing, at once")
    func fetchQuota() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let other = try fixture.connect()
            try client.createTopic("t")
            _ = try client.produce("t", try RawKafkaConnection.batch([String(repeating: "x", count: 90_000)]))
            let altered = try client.call(
                AlterClientQuotasRequest(entries: [
                    .init(
                        entity: [.init(entityType: "client-id", entityName: nil)],
                        ops: [.init(key: "consumer_byte_rate", value: 1000, remove: false)]
                    )
                ]),
                version: 0
            )
            #expect(altered.entries[0].errorCode == 0)
            let request = FetchRequest(
                maxWaitMs: 60_000,
                minBytes: 1,
                maxBytes: 1 << 20,
                topics: [
                    .init(topic: "t", partitions: [.init(partition: 0, fetchOffset: 0, partitionMaxBytes: 1 << 20)])
                ]
            )
            let served = try client.call(request, version: 12)
            #expect(served.responses.count == 1 && served.throttleTimeMs > 7000)
            let empty = try other.call(request, version: 12)
            #expect(empty.responses.isEmpty && empty.throttleTimeMs > 0 && empty.errorCode == 0)
        }
    }

    @Test("Changes of topics beyond the quota: new versions are refused with 89, old ones served and told to wait")
    func mutationQuota() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            _ = try client.call(
                AlterClientQuotasRequest(entries: [
                    .init(
                        entity: [.init(entityType: "user", entityName: nil)],
                        ops: [.init(key: "controller_mutation_rate", value: 0.1, remove: false)]
                    )
                ]),
                version: 1
            )
            func create(_ name: String, version: Int16) throws -> CreateTopicsResponse {
                try client.call(
                    CreateTopicsRequest(
                        topics: [.init(name: name, numPartitions: 4, replicationFactor: 1)],
                        timeoutMs: 1000
                    ),
                    version: version
                )
            }
            #expect(try create("a", version: 7).topics[0].errorCode == 0)
            let refused = try create("b", version: 7)
            #expect(refused.topics[0].errorCode == ErrorCode.throttlingQuotaExceeded.rawValue)
            #expect(refused.throttleTimeMs > 0)
            let other = try fixture.connect()
            let served = try other.call(
                CreateTopicsRequest(
                    topics: [.init(name: "c", numPartitions: 1, replicationFactor: 1)],
                    timeoutMs: 1000
                ),
                version: 5
            )
            #expect(served.topics[0].errorCode == 0 && served.throttleTimeMs > 0)
        }
    }

    @Test("A quota record of the metadata log is read as it was written")
    func record() throws {
        let records: [MetadataRecord] = [
            .quotaChanged(.init(user: .everyone, clientID: .named("c")), .requestPercentage, value: 12.5),
            .quotaChanged(.init(ip: .named("::1")), .connectionCreationRate, value: nil),
            .configChanged(.group("g"), key: "k", value: "v"),
        ]
        for record in records { #expect(try MetadataRecord(record.encoded()) == record) }
    }
}
