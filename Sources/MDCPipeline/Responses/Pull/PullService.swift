// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
public import Logging
public import MDCClient
import MDCModel
import Metrics
public import NIOCore
public import ServiceLifecycle

/// When a provider is asked for its report, and for which time: `[provider.<name>.pull]`.
struct PullPlan: Sendable {
    var provider: String
    var channel: Channel
    var source: ReportPull
    var schedule: CronSchedule
    var zone: TimeZone
    /// How far back a pull reaches.
    var windowMilliseconds: Int64
    /// Younger messages are left alone: their callbacks may be on the way.
    var graceMilliseconds: Int64
    var tls: ProviderTLS?
}

/// Asks providers for their reports by schedule, writes the receipts of what their callbacks did not tell, and says how far push and
/// pull are apart: in metrics and on `mdc.providers`.
///
/// What is on the log decides: a pull that ends midway, or is made twice, finds what it has written and leaves it.
public final class PullService: Service {
    /// Messages that are looked at in one pull.
    static let messagesMax = 100_000
    /// Entries of a report that are looked for beyond its time.
    private static let eldersMax = 5_000

    private let plans: [PullPlan]
    private let store: MessageStore
    private let receipts: any ReceiptSink
    private let writer: RecordWriter
    private let group: any EventLoopGroup
    private let logger: Logger

    /// - Returns: nil if no provider is to be asked.
    /// - Throws: ``PipelineError`` with code `configuration` if the centre has no store.
    public convenience init?(
        _ settings: [ProviderSettings],
        center: MessageCenter,
        producer: Producer,
        group: any EventLoopGroup,
        logger: Logger
    ) throws {
        let plans = settings.compactMap(\.pull)
        guard !plans.isEmpty else { return nil }
        guard let store = center.store else {
            throw PipelineError(.configuration, "pulls need the role store in their process; add it")
        }
        self.init(plans, store: store, receipts: center.receipts, producer: producer, group: group, logger: logger)
    }

    init(
        _ plans: [PullPlan],
        store: MessageStore,
        receipts: any ReceiptSink,
        producer: Producer,
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.plans = plans
        self.store = store
        self.receipts = receipts
        writer = RecordWriter(producer: producer, logger: logger)
        self.group = group
        self.logger = logger
    }

    /// Works until graceful shutdown or cancellation.
    public func run() async throws {
        await withTaskGroup(of: Void.self) { tasks in
            for plan in plans { tasks.addTask { [self] in await follow(plan) } }
            tasks.addTask { try? await gracefulShutdown() }
            await tasks.next()
            tasks.cancelAll()
        }
    }

    private func follow(_ plan: PullPlan) async {
        while !Task.isCancelled, let due = plan.schedule.next(after: SystemTime.now(), in: plan.zone) {
            do {
                try await Task.sleep(for: .milliseconds(max(0, due - SystemTime.now())))
                _ = try await pull(plan, now: SystemTime.now())
            } catch is CancellationError {
                return
            } catch {
                logger.error("a pull failed", metadata: ["provider": "\(plan.provider)", "error": "\(error)"])
            }
        }
    }

    /// Asks once. - Throws: what kept the outcome from the log; that a provider does not answer is an outcome.
    @discardableResult
    func pull(_ plan: PullPlan, now: Timestamp) async throws -> ProviderDrift {
        var drift = ProviderDrift(
            provider: plan.provider,
            at: now,
            from: now + -plan.windowMilliseconds,
            to: now + -plan.graceMilliseconds
        )
        let known = try await known(plan, drift)
        let client = HTTPExchange.makeClient(
            group: group,
            connections: 2,
            connectTimeout: .seconds(5),
            tls: try plan.tls?.makeConfiguration()
        )
        do {
            let reports = try await plan.source.reports(
                provider: plan.provider,
                from: drift.from,
                to: drift.to,
                ids: known.compactMap(\.providerMessageID),
                client: client,
                now: now
            )
            let elders = try await elders(plan, known, reports)
            let missed = drift.compare(known, elders: elders, with: reports)
            for start in stride(from: 0, to: missed.count, by: 1_000) {
                try await receipts.append(Array(missed[start..<min(start + 1_000, missed.count)]))
            }
        } catch {
            drift.failure = error is CancellationError ? "stopped" : "\(error)"
        }
        try? await client.shutdown()
        try await say(drift)
        return drift
    }

    /// Messages that the provider took in the window.
    private func known(_ plan: PullPlan, _ drift: ProviderDrift) async throws -> [StoredMessage] {
        let condition = MessageCondition.all([
            .compare(.channel, .equal, .text(plan.channel.rawValue)), .compare(.provider, .equal, .text(plan.provider)),
            .compare(.createdAt, .greaterOrEqual, .integer(drift.from.rawValue)),
            .compare(.createdAt, .less, .integer(drift.to.rawValue)),
        ])
        var known: [StoredMessage] = []
        for page in 1...(Self.messagesMax / 1_000) {
            let some = try await store.found(
                MessageQuery(condition, order: [.init(.createdAt, descending: true)], page: page, pageSize: 1_000)
            )
            known += some.filter { $0.providerMessageID != nil }
            if some.count < 1_000 { break }
        }
        return known
    }

    /// Messages of which the report speaks, and which were submitted at another time: those that waited, or were tried again.
    private func elders(
        _ plan: PullPlan,
        _ known: [StoredMessage],
        _ reports: [ProviderReceipt]
    ) async throws -> [StoredMessage] {
        let ids = Set(known.compactMap(\.providerMessageID))
        let missing = reports.map(\.providerMessageID).filter { !ids.contains($0) }.prefix(Self.eldersMax)
        var found: [StoredMessage] = []
        for start in stride(from: 0, to: missing.count, by: 500) {
            let some = missing[start..<min(start + 500, missing.count)].map { MessageCondition.Value.text($0) }
            let condition = MessageCondition.all([
                .compare(.channel, .equal, .text(plan.channel.rawValue)), .oneOf(.providerMessageID, some),
            ])
            found += try await store.found(MessageQuery(condition, pageSize: 1_000))
        }
        return found
    }

    private func say(_ drift: ProviderDrift) async throws {
        let counts = [
            ("agreed", drift.agreed), ("missed", drift.missed), ("contradicting", drift.contradicting),
            ("unknown", drift.unknown), ("absent", drift.absent), ("failed", drift.failure == nil ? 0 : 1),
        ]
        for (kind, count) in counts {
            let dimensions = [("provider", drift.provider), ("kind", kind)]
            Counter(label: "mdc_provider_pull_total", dimensions: dimensions).increment(by: Int64(count))
            if kind != "agreed" { Gauge(label: "mdc_provider_drift", dimensions: dimensions).record(count) }
        }
        let notice = ProviderNotice(
            provider: drift.provider,
            kind: .drift,
            state: drift.failure != nil ? "failed" : drift.isDrifting ? "drifting" : "agreeing",
            reason: encodeJSON(drift),
            at: drift.at,
            by: "pull"
        )
        try await writer.write([Records.notice(notice)])
    }
}
