// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// G9: whatever one client sends, the node stays up, its memory bounded, the others served.
@Suite("Hostile input", .serialized)
struct HostileInputTests {
    private func serves(_ fixture: BrokerFixture) throws {
        let client = try fixture.connect()
        let answer = try client.call(MetadataRequest(topics: nil), version: 12)
        #expect(answer.brokers.count == 1)
    }

    @Test("Lengths beyond the limit, negative lengths and unknown APIs close one connection")
    func lengths() async throws {
        try await BrokerFixture.with { fixture in
            let inputs: [[UInt8]] = [
                [0x7F, 0xFF, 0xFF, 0xFF, 0, 0], [0xFF, 0xFF, 0xFF, 0xFF], [0x80, 0, 0, 0],
                Array("GET / HTTP/1.1\r\n\r\n".utf8), [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3],
                [0, 0, 0, 10, 0, 99, 0, 0, 0, 0, 0, 1, 0xFF, 0xFF], [0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xFF, 0xFF],
                [0, 0, 0, 0], [0, 0, 0, 3, 0, 18, 0],
            ]
            for input in inputs {
                let client = try fixture.connect()
                try client.send(input)
                #expect(try client.isClosedByPeer(), "\(input)")
            }
            try serves(fixture)
        }
    }

    @Test(
        "Random bodies of every API and version are answered or close one connection",
        arguments: [1, 2, 3] as [UInt64]
    )
    func randomBodies(_ seed: UInt64) async throws {
        try await BrokerFixture.with({ $0.autoCreateTopics = false }) { fixture in
            var random = SplitMix(state: seed)
            for _ in 0..<600 {
                let client = try RawKafkaConnection(port: fixture.addresses.listen.port, timeoutSeconds: 1)
                let count = Int(random.next() % 60)
                // Small bytes, so that counts are plausible and decoding gets far.
                let body = (0..<count).map { _ in
                    UInt8(truncatingIfNeeded: random.next() % (random.next() % 4 == 0 ? 256 : 4))
                }
                let key = UInt8(random.next() % 80)
                let version = UInt8(random.next() % 14)
                var frame: [UInt8] = [0, key, 0, version, 0, 0, 0, 1, 0xFF, 0xFF]
                frame += body
                try client.send([0, 0, 0, UInt8(frame.count)] + frame)
            }
            try serves(fixture)
        }
    }

    @Test("A topic without partitions in Produce is no reason to stop")
    func topicsWithoutPartitions() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            for topics in [["t"], ["t", "u"]] {
                let bad = try fixture.connect()
                try bad.send(
                    ProduceRequest(
                        acks: -1,
                        timeoutMs: 1000,
                        topicData: topics.map { .init(name: $0, partitionData: []) }
                    ),
                    version: 9
                )
                #expect(try bad.isClosedByPeer())
            }
            try serves(fixture)
        }
    }

    @Test("A flood of connections is bounded, and the next is served when they go")
    func flood() async throws {
        try await BrokerFixture.with({ $0.maxConnections = 300 }) { fixture in
            let before = mdc_resident_bytes()
            var clients: [RawKafkaConnection] = []
            for _ in 0..<400 {
                guard let client = try? fixture.connect() else { continue }
                // A frame of 100 MB is promised and 8 KiB of it sent.
                try? client.send([5, 0xF5, 0xE1, 0] + [UInt8](repeating: 1, count: 8192))
                clients.append(client)
            }
            let grown = mdc_resident_bytes() - before
            #expect(grown < 200 << 20, "\(grown) bytes for \(clients.count) connections")
            clients.removeAll()
            // The node notices the closed ones in its own time.
            for attempt in 0..<100 {
                do {
                    try serves(fixture)
                    break
                } catch {
                    if attempt == 99 { throw error }
                    try await Task.sleep(for: .milliseconds(50))
                }
            }
        }
    }

    @Test("Half sent large requests do not add up beyond the bound")
    func halfRequests() async throws {
        try await BrokerFixture.with({
            $0.requestMaxBytes = 8 << 20
            $0.queuedMaxRequestBytes = 8 << 20
        }) { fixture in
            var clients: [RawKafkaConnection] = []
            let chunk = [UInt8](repeating: 0, count: 256 << 10)
            for _ in 0..<60 {
                let client = try RawKafkaConnection(port: fixture.addresses.listen.port, timeoutSeconds: 1)
                try client.send([0, 0x7F, 0, 0])
                // The node stops reading some of them: then the send runs into its limit, as it should.
                try? client.send(chunk)
                clients.append(client)
            }
            try serves(fixture)
            #expect(clients.count == 60)
        }
    }
}

/// A small seeded generator.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
