// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import NIOCore
import Synchronization
import Testing

@testable import MDCPipeline

/// Figures of the lanes, by `make lane-figures`: how long a critical message takes to its provider while nothing else is to be
/// done and behind many bulk ones, at a provider of limited rate; and what share each lane gets while all have enough.
@Suite("lane figures", .serialized)
struct LaneFigures {
    private final class Sink: Provider {
        let name = "sink"
        let channel = Channel.sms
        let sendsReceipts = false
        let concurrency = 64
        private let seen = Mutex<(times: [String: Int64], lanes: [String: Int])>(([:], [:]))

        func send(_ message: Message, attempt: Int) async -> SendOutcome {
            let now = SystemTime.monotonicNanoseconds()
            seen.withLock { seen in
                seen.times[message.id] = now
                seen.lanes[message.lane, default: 0] += 1
            }
            try? await Task.sleep(for: .milliseconds(5))
            return .accepted(providerMessageID: message.id)
        }

        func time(_ id: String) -> Int64? { seen.withLock { $0.times[id] } }
        var lanes: [String: Int] { seen.withLock { $0.lanes } }
    }

    private static func draft(_ lane: String, _ number: Int) -> MessageDraft {
        MessageDraft(channel: .sms, lane: lane, to: "+919876500000", content: MessageContent(text: "Hello \(number)"))
    }

    private static func waits(_ center: MessageCenter, _ sink: Sink, count: Int) async throws -> [Int64] {
        var waits: [Int64] = []
        for number in 0..<count {
            let start = SystemTime.monotonicNanoseconds()
            let id = try await center.messages.submit(draft("critical", number)).messageID
            while sink.time(id) == nil { try await Task.sleep(for: .milliseconds(1)) }
            waits.append(((sink.time(id) ?? 0) - start) / 1_000)
            try await Task.sleep(for: .milliseconds(20))
        }
        return waits.sorted()
    }

    @Test("a critical message behind bulk, and the shares of the lanes", .timeLimit(.minutes(60)))
    func figures() async throws {
        let environment = ProcessInfo.processInfo.environment
        guard let count = environment["MDC_LANE_MESSAGES"].flatMap({ Int($0) }) else {
            print("skipped: figures depend on the machine; `make lane-figures` prints them")
            return
        }
        let rate = environment["MDC_LANE_RATE"].flatMap { Double($0) } ?? 500
        try await Bench.with { bench, _ in
            let sink = Sink()
            let center = try MessageCenter(
                MessageCenterConfiguration(
                    client: bench.client,
                    roles: [.dispatcher],
                    ratesPerSecond: [.sms: rate]
                ),
                providers: [sink],
                eventLoopGroup: bench.group,
                logger: bench.logger
            )
            let run = Task { try await center.run() }
            try await center.whenReady()
            _ = try await Self.waits(center, sink, count: 20)
            let idle = try await Self.waits(center, sink, count: 200)
            func submit(_ lane: String) async {
                for start in stride(from: 0, to: count, by: 500) {
                    _ = await center.messages.submit((start..<start + 500).map { Self.draft(lane, $0) })
                }
            }
            await submit("bulk")
            let behind = try await Self.waits(center, sink, count: 200)
            for (name, waits) in [("idle", idle), ("behind \(count) bulk", behind)] {
                print(
                    "lane_critical_submit_to_provider (\(name)): p50 \(waits.percentile(50) ?? 0) µs, "
                        + "p99 \(waits.percentile(99) ?? 0) µs"
                )
            }
            for lane in ["critical", "high", "normal"] { await submit(lane) }
            let before = sink.lanes
            try await Task.sleep(for: .seconds(20))
            let after = sink.lanes
            let counts = ["critical", "high", "normal", "bulk"].map { ($0, (after[$0] ?? 0) - (before[$0] ?? 0)) }
            let total = counts.reduce(0) { $0 + $1.1 }
            for ((lane, sent), weight) in zip(counts, [8, 4, 2, 1]) {
                let share = Double(sent) * 100 / Double(max(1, total))
                print(
                    "lane_throughput (\(lane)): \(sent / 20) messages/s, "
                        + String(format: "%.1f %% of all, its weight is %.1f %%", share, Double(weight) * 100 / 15)
                )
            }
            center.stop()
            try await run.value
        }
    }
}
