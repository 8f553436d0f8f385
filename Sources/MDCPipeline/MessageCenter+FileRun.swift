// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel

/// What became of the messages of a file.
public struct FileRunReport: Codable, Sendable {
    /// One lane of one channel.
    public struct LaneReport: Codable, Sendable, Hashable {
        /// The channel.
        public var channel: Channel
        /// The lane.
        public var lane: String
        /// Messages that were accepted, now or in a run before that was cut off.
        public var submitted: Int
        /// Proved to be delivered.
        public var delivered: Int
        /// Taken by a provider that offers no proof of delivery.
        public var sent: Int
        /// Refused, or all attempts failed.
        public var failed: Int
        /// Their time ran out, or no report came.
        public var expired: Int
        /// Messages that needed more than one attempt.
        public var retried: Int
        /// Messages that are not at their end: lost, if the run waited long enough.
        public var open: Int
        /// Messages that ended, by the time between the first submission and the last end.
        public var perSecond: Double
        /// From submission to the end, in milliseconds.
        public var p50Milliseconds: Int64?
        /// 99 in 100 messages were at their end after this time or earlier.
        public var p99Milliseconds: Int64?
    }

    /// A row that was not sent.
    public struct InvalidRow: Codable, Sendable, Hashable {
        /// Its line in the file, from 1.
        public var line: Int
        /// What is wrong, field by field.
        public var reason: String
    }

    /// A row that was sent with a warning.
    public struct RowWarning: Codable, Sendable, Hashable {
        /// Its line in the file, from 1.
        public var line: Int
        /// What the sender may want to know.
        public var warning: ValidationIssue
    }

    /// Rows of the file.
    public var rows = 0
    /// Different messages that were accepted.
    public var submitted = 0
    /// Of these: accepted already in a run before.
    public var resumed = 0
    /// Rows that repeat the key of another row.
    public var repeatedRows = 0
    /// Rows that were not sent.
    public var invalid: [InvalidRow] = []
    /// Rows that were sent with a warning.
    public var warnings: [RowWarning] = []
    /// By channel and lane.
    public var lanes: [LaneReport] = []
    /// Messages that are not at their end.
    public var open: [String] = []
    /// From the first row to the last end, in seconds.
    public var seconds = 0.0
    /// Over all lanes, from submission to the end, in milliseconds.
    public var p50Milliseconds: Int64?
    public var p99Milliseconds: Int64?
    /// One message with its timeline: one that was tried more than once, if there is one.
    public var example: StoredMessage?

    /// Whether every message that was accepted is at its end.
    public var isComplete: Bool { open.isEmpty }
    /// Messages that ended, per second.
    public var perSecond: Double { seconds > 0 ? Double(submitted - open.count) / seconds : 0 }
}

/// How far a run is.
public struct FileRunProgress: Sendable, Hashable {
    /// Rows read so far.
    public var rows: Int
    /// Messages accepted so far.
    public var submitted: Int
    /// Messages at their end.
    public var final: Int
    /// Whether the whole file has been read.
    public var isReadToEnd: Bool
}

extension MessageCenter {
    /// Sends the messages of a file and waits until each is at its end.
    ///
    /// A row without a key of its own gets one made of the file's content and its line. So a run that was killed can be
    /// started again with the same file: what was accepted before is not sent again, and is waited for.
    ///
    /// - Parameters:
    ///   - timeout: How long is waited, after the last row, for messages to end.
    ///   - progress: Called now and then.
    /// - Throws: ``PipelineError`` if the file cannot be read, this centre has no store, or the log fails.
    public func sendFile(
        _ path: String,
        timeout: Duration,
        progress: (@Sendable (FileRunProgress) -> Void)? = nil
    ) async throws -> FileRunReport {
        guard let store else {
            throw PipelineError(.configuration, "sending a file needs a centre with the role 'store'")
        }
        let digest = try Self.digest(path)
        let started = SystemTime.now()
        var run = FileRun()
        var chunk: [(line: Int, draft: MessageDraft)] = []
        for row in try MessageFile.read(path: path, now: started, policies: policies) {
            run.report.rows += 1
            switch row.result {
            case .failure(let problem): run.report.invalid.append(.init(line: row.line, reason: problem.description))
            case .success(var draft):
                if draft.idempotencyKey == nil { draft.idempotencyKey = "file:\(digest):\(row.line)" }
                chunk.append((row.line, draft))
            }
            if chunk.count == 500 {
                try await submit(&chunk, &run)
                try run.collect(store)
                progress?(run.progress(isReadToEnd: false))
            }
        }
        try await submit(&chunk, &run)
        progress?(run.progress(isReadToEnd: true))

        let deadline = SystemTime.now() + timeout.milliseconds
        var pause = Duration.milliseconds(20)
        while true {
            try run.collect(store)
            progress?(run.progress(isReadToEnd: true))
            if run.pending.isEmpty || SystemTime.now() >= deadline { break }
            try await Task.sleep(for: pause)
            // A large rest is asked for less often.
            pause = run.pending.count > 5_000 ? .milliseconds(200) : .milliseconds(50)
        }
        return try run.finish(store, started: started)
    }

    private func submit(_ chunk: inout [(line: Int, draft: MessageDraft)], _ run: inout FileRun) async throws {
        guard !chunk.isEmpty else { return }
        let results = await messages.submit(chunk.map(\.draft))
        for (item, result) in zip(chunk, results) {
            switch result {
            case .success(let receipt): run.accepted(item.line, receipt, item.draft)
            case .failure(let error) where error.code == .invalidMessage || error.code == .conflict:
                run.report.invalid.append(.init(line: item.line, reason: error.message))
            case .failure(let error): throw error
            }
        }
        chunk.removeAll(keepingCapacity: true)
    }

    private static func digest(_ path: String) throws -> String {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw PipelineError(.configuration, "cannot read \(path); does it exist?")
        }
        return SHA256.hash(data).prefix(8).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }
}

/// The book-keeping of one run.
private struct FileRun {
    struct Lane: Hashable {
        var channel: Channel
        var lane: String
    }

    var report = FileRunReport()
    var pending: Set<String> = []
    var lanes: [String: Lane] = [:]
    var outcomes: [MessageStore.Outcome] = []

    mutating func accepted(_ line: Int, _ receipt: SubmitReceipt, _ draft: MessageDraft) {
        report.warnings += receipt.warnings.map { FileRunReport.RowWarning(line: line, warning: $0) }
        guard lanes.updateValue(Lane(channel: draft.channel, lane: receipt.lane), forKey: receipt.messageID) == nil
        else {
            report.repeatedRows += 1
            return
        }
        report.submitted += 1
        if receipt.isDuplicate { report.resumed += 1 }
        pending.insert(receipt.messageID)
    }

    mutating func collect(_ store: MessageStore) throws {
        for outcome in try store.outcomes(of: pending) {
            pending.remove(outcome.id)
            outcomes.append(outcome)
        }
    }

    func progress(isReadToEnd: Bool) -> FileRunProgress {
        FileRunProgress(
            rows: report.rows,
            submitted: report.submitted,
            final: outcomes.count,
            isReadToEnd: isReadToEnd
        )
    }

    mutating func finish(_ store: MessageStore, started: Timestamp) throws -> FileRunReport {
        report.seconds = Double(SystemTime.now() - started) / 1_000
        report.open = pending.sorted()
        let latencies = outcomes.compactMap { outcome in outcome.finalAt.map { $0 - outcome.createdAt } }.sorted()
        (report.p50Milliseconds, report.p99Milliseconds) = (latencies.percentile(50), latencies.percentile(99))
        var byLane: [Lane: [MessageStore.Outcome]] = [:]
        for outcome in outcomes {
            byLane[lanes[outcome.id] ?? Lane(channel: outcome.channel, lane: outcome.lane), default: []].append(outcome)
        }
        let submitted = Dictionary(grouping: lanes.values) { $0 }.mapValues(\.count)
        report.lanes = submitted.keys.map { Self.report($0, submitted[$0] ?? 0, byLane[$0] ?? []) }.sorted {
            ($0.channel.order, $1.submitted, $0.lane) < ($1.channel.order, $0.submitted, $1.lane)
        }
        let example =
            outcomes.filter { $0.attempt > 1 && $0.status == .delivered }.min { $0.id < $1.id }
            ?? outcomes.first { $0.status == .delivered } ?? outcomes.first
        if let example { report.example = try store.get(example.id) }
        return report
    }

    private static func report(_ lane: Lane, _ submitted: Int, _ outcomes: [MessageStore.Outcome])
        -> FileRunReport.LaneReport
    {
        func count(_ status: MessageStatus) -> Int { outcomes.reduce(0) { $0 + ($1.status == status ? 1 : 0) } }
        let latencies = outcomes.compactMap { outcome in outcome.finalAt.map { $0 - outcome.createdAt } }.sorted()
        let first = outcomes.map(\.createdAt.rawValue).min() ?? 0
        let last = outcomes.compactMap(\.finalAt?.rawValue).max() ?? 0
        let seconds = Double(max(1, last - first)) / 1_000
        return FileRunReport.LaneReport(
            channel: lane.channel,
            lane: lane.lane,
            submitted: submitted,
            delivered: count(.delivered),
            sent: count(.sent),
            failed: count(.failed),
            expired: count(.expired),
            retried: outcomes.reduce(0) { $0 + ($1.attempt > 1 ? 1 : 0) },
            open: submitted - outcomes.count,
            perSecond: outcomes.isEmpty ? 0 : Double(outcomes.count) / seconds,
            p50Milliseconds: latencies.percentile(50),
            p99Milliseconds: latencies.percentile(99)
        )
    }
}

extension Channel {
    /// The order of listings.
    fileprivate var order: Int { Self.allCases.firstIndex(of: self) ?? 0 }
}

extension MessageCenterConfiguration {
    /// For demonstrations: back-off and deadlines of seconds, lost reports tried again.
    public static let demoPolicy = RetryPolicy(
        attemptsMax: 3,
        backoffMilliseconds: 400,
        backoffMaxMilliseconds: 3_000,
        receiptTimeoutMilliseconds: 8_000,
        onReceiptTimeout: .retry,
        onInDoubt: .retry
    )
}
