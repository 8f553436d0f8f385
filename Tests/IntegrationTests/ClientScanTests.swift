// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Testing

/// Reading a topic from a time to its end, as one does after a crash: new readers each time, while others append and
/// the broker comes back from a kill.
@Suite("A reader without a group", .serialized)
struct ClientScanTests {
    static let partitions: Int32 = 8

    /// Reads everything from `since` to the end as it is now; how many records came.
    private func scan(_ fixture: ClientFixture, since: Timestamp) async throws -> Int {
        let consumer = try fixture.consumer(nil)
        defer { Task { await consumer.close() } }
        let all = (0..<Self.partitions).map { TopicPartition(topic: "events", partition: PartitionID($0)) }
        let starts = try await consumer.offsetsForTimes(Dictionary(uniqueKeysWithValues: all.map { ($0, since) }))
        let ends = try await consumer.endOffsets(Array(starts.keys))
        try await consumer.assign(starts.mapValues(\.offset))
        var open = Set(starts.keys)
        var count = 0
        var progress = ContinuousClock.now
        while !open.isEmpty {
            let records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(100))
            if !records.isEmpty { progress = .now }
            count += records.count
            open = try open.filter { try consumer.position($0) ?? -1 < ends[$0] ?? 0 }
            if ContinuousClock.now - progress > .seconds(20) {
                let places = try open.map {
                    "\($0): at \(try consumer.position($0) ?? -1) of \(ends[$0] ?? -1), lag \(consumer.lag[$0] ?? -1)"
                }
                Issue.record("nothing came for twenty seconds: \(places.joined(separator: "; "))")
                return count
            }
        }
        return count
    }

    @Test("reaches the end that it was told, however often, with appends and kills beside it")
    func scans() async throws {
        let rounds = ProcessInfo.processInfo.environment["MDC_SCANS"].flatMap(Int.init) ?? 40
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("events", partitions: Self.partitions)
        let producing = Task {
            let producer = try fixture.producer()
            var index = 0
            while !Task.isCancelled {
                let value = ByteBuffer(repeating: UInt8(truncatingIfNeeded: index), count: 200 + index % 300)
                try? await producer.enqueue(
                    ProducerRecord(topic: "events", partition: Int32(index) % Self.partitions, value: value)
                )
                index += 1
                if index % 50 == 0 { try? await Task.sleep(for: .milliseconds(10)) }
            }
            try await producer.close()
        }
        var last = 0
        var since = Timestamp(Int64(Date().timeIntervalSince1970 * 1000) - 60_000)
        for round in 0..<rounds {
            if round % 8 == 7 {
                fixture.broker.kill()
                try await fixture.broker.start()
            }
            let begins = Timestamp(Int64(Date().timeIntervalSince1970 * 1000) - 1_000)
            last += try await scan(fixture, since: since)
            since = begins
        }
        #expect(last > 0)
        producing.cancel()
        try await producing.value
    }
}
