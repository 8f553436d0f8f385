// SPDX-License-Identifier: Apache-2.0

import GRDB
public import MDCModel
import NIOCore

/// Which messages a query speaks of. Conditions that are nil or empty do not count.
public struct MessageFilter: Sendable, Hashable {
    /// The channel.
    public var channel: Channel?
    /// The client of the centre.
    public var tenant: String?
    /// The lane.
    public var lane: String?
    /// One of these statuses; empty: any.
    public var statuses: Set<MessageStatus> = []
    /// The recipient, in normal form.
    public var recipient: String?
    /// The provider.
    public var provider: String?
    /// Messages whose idempotency key begins so.
    public var idempotencyKeyPrefix: String?
    /// Created at or after.
    public var createdFrom: Timestamp?
    /// Created before.
    public var createdBefore: Timestamp?

    /// Makes a value from its parts.
    public init(channel: Channel? = nil, idempotencyKeyPrefix: String? = nil) {
        self.channel = channel
        self.idempotencyKeyPrefix = idempotencyKeyPrefix
    }

    fileprivate var clause: (sql: String, arguments: StatementArguments) {
        var terms: [String] = []
        var arguments = StatementArguments()
        func add(_ term: String, _ value: any DatabaseValueConvertible) {
            terms.append(term)
            arguments += [value]
        }
        if let tenant { add("tenant = ?", tenant) }
        if let lane { add("lane = ?", lane) }
        if let recipient { add("recipient = ?", recipient) }
        if let provider { add("provider = ?", provider) }
        if let createdFrom { add("created_at >= ?", createdFrom.rawValue) }
        if let createdBefore { add("created_at < ?", createdBefore.rawValue) }
        if let prefix = idempotencyKeyPrefix {
            add("idempotency_key >= ?", prefix)
            add("idempotency_key < ?", prefix + "\u{10FFFF}")
        }
        if !statuses.isEmpty {
            let names = statuses.map(\.rawValue).sorted()
            terms.append("status IN (\(names.map { _ in "?" }.joined(separator: ", ")))")
            arguments += StatementArguments(names)
        }
        return (terms.isEmpty ? "" : " WHERE " + terms.joined(separator: " AND "), arguments)
    }

    fileprivate var source: String { channel.map(MessageStore.table) ?? "messages" }
}

/// The order of a listing.
public struct MessageSort: Sendable, Hashable {
    /// The columns that a listing can be ordered by.
    public enum Field: String, Sendable, Hashable, CaseIterable {
        case created = "created_at"
        case updated = "updated_at"
        case status
        case lane
        case recipient
    }

    /// The column.
    public var field: Field
    /// Whether the greatest comes first.
    public var isDescending: Bool

    /// Makes a value from its parts.
    public init(_ field: Field = .created, descending: Bool = true) {
        self.field = field
        self.isDescending = descending
    }
}

/// A message as the store knows it.
public struct StoredMessage: Codable, Sendable, Hashable {
    /// The id of the message.
    public var id: String
    /// The channel.
    public var channel: Channel
    /// Where it stands.
    public var status: MessageStatus
    /// The latest attempt.
    public var attempt: Int
    /// The provider.
    public var provider: String?
    /// The provider's id of the message.
    public var providerMessageID: String?
    /// What was said last, as a code.
    public var code: String?
    /// For people: what was said last.
    public var detail: String?
    /// When anything last happened to it.
    public var updatedAt: Timestamp
    /// When the next thing is due.
    public var dueAt: Timestamp?
    /// When it came to its end.
    public var finalAt: Timestamp?
    /// The document; nil while only later events of it were seen.
    public var message: Message?
    /// With `get` only: what happened, in order of time.
    public var timeline: [TimelineEvent]?
}

/// What became of the messages of one lane.
public struct LaneStatistics: Codable, Sendable, Hashable {
    /// The channel.
    public var channel: Channel
    /// The lane.
    public var lane: String
    /// Messages by status.
    public var counts: [String: Int]
    /// Messages that needed more than one attempt.
    public var retried: Int
    /// From submission to the final status, in milliseconds.
    public var p50: Int64?
    /// 95 in 100 were at their end by then.
    public var p95: Int64?
    /// 99 in 100 were at their end by then.
    public var p99: Int64?

    /// Messages with this status.
    public func count(_ status: MessageStatus) -> Int { counts[status.rawValue] ?? 0 }
    /// All messages of the lane.
    public var total: Int { counts.values.reduce(0, +) }
    /// Messages that are at their end.
    public var final: Int { MessageStatus.allCases.reduce(0) { $0 + ($1.isFinal ? count($1) : 0) } }
}

extension MessageStore {
    /// How much the store knows of a message.
    public enum Knowledge: Sendable, Equatable {
        case nothing
        /// Events, but not its document.
        case events
        case document(Message)
    }

    /// What the store knows of a message.
    public func knowledge(of id: String, channel: Channel) throws(PipelineError) -> Knowledge {
        try reading { db in
            let statement = try db.cachedStatement(sql: "SELECT document FROM \(Self.table(channel)) WHERE id = ?")
            guard let row = try Row.fetchOne(statement, arguments: [id]) else { return .nothing }
            guard let document: String = row[0] else { return .events }
            return .document(try Message(json: .init(string: document)))
        }
    }

    /// One message with its timeline; nil if it is not known.
    public func get(_ id: String) throws(PipelineError) -> StoredMessage? {
        try reading { db in
            guard let row = try Row.fetchOne(db, sql: "SELECT * FROM messages WHERE id = ?", arguments: [id]) else {
                return nil
            }
            var stored = try Self.stored(row)
            stored.timeline = try Self.timeline(id, db)
            return stored
        }
    }

    /// What happened to a message, in order of time.
    func timeline(of id: String) async throws(PipelineError) -> [TimelineEvent] {
        try await asking { db in try Self.timeline(id, db) }
    }

    private static func timeline(_ id: String, _ db: Database) throws -> [TimelineEvent] {
        let texts = try String.fetchAll(db, sql: "SELECT event FROM timeline WHERE message_id = ?", arguments: [id])
        let events = try texts.map { try TimelineEvent(json: .init(string: $0)) }
        // Two writers share a partition: the order of time is the order that people expect.
        return events.enumerated()
            .sorted {
                ($0.element.at, $0.element.kind.rank, $0.offset) < ($1.element.at, $1.element.kind.rank, $1.offset)
            }
            .map(\.element)
    }

    /// Messages, page by page (from 1).
    public func list(
        _ filter: MessageFilter = MessageFilter(),
        sort: MessageSort = MessageSort(),
        page: Int = 1,
        pageSize: Int = 100
    ) throws(PipelineError) -> [StoredMessage] {
        guard page >= 1, (1...1_000).contains(pageSize) else {
            throw PipelineError(.store, "page starts at 1 and pageSize goes from 1 to 1000")
        }
        return try reading { db in
            let (clause, arguments) = filter.clause
            let direction = sort.isDescending ? "DESC" : "ASC"
            let channel = filter.channel.map { "'\($0.rawValue)' AS channel, *" } ?? "*"
            let sql =
                "SELECT \(channel) FROM \(filter.source)\(clause) ORDER BY \(sort.field.rawValue) \(direction), id \(direction)"
                + " LIMIT \(pageSize) OFFSET \((page - 1) * pageSize)"
            return try Row.fetchAll(db, sql: sql, arguments: arguments).map(Self.stored)
        }
    }

    /// The number of messages.
    public func count(_ filter: MessageFilter = MessageFilter()) throws(PipelineError) -> Int {
        try reading { db in
            let (clause, arguments) = filter.clause
            return try Int.fetchOne(db, sql: "SELECT count(*) FROM \(filter.source)\(clause)", arguments: arguments)
                ?? 0
        }
    }

    /// Counts and latencies per channel and lane, in the order of channel and lane names.
    public func laneStatistics(_ filter: MessageFilter = MessageFilter()) throws(PipelineError) -> [LaneStatistics] {
        try reading { db in
            let (clause, arguments) = filter.clause
            let channel = filter.channel.map { "'\($0.rawValue)'" } ?? "channel"
            var lanes: [String: LaneStatistics] = [:]
            let counts = try Row.fetchAll(
                db,
                sql: """
                    SELECT \(channel) AS channel, coalesce(lane, '?') AS lane, status, count(*), sum(attempt > 1)
                    FROM \(filter.source)\(clause) GROUP BY 1, 2, 3
                    """,
                arguments: arguments
            )
            for row in counts {
                let (channel, lane): (String, String) = (row[0], row[1])
                var statistics =
                    lanes["\(channel) \(lane)"]
                    ?? LaneStatistics(channel: Channel(rawValue: channel) ?? .sms, lane: lane, counts: [:], retried: 0)
                statistics.counts[row[2]] = row[3]
                statistics.retried += row[4]
                lanes["\(channel) \(lane)"] = statistics
            }
            let condition = clause.isEmpty ? " WHERE" : clause + " AND"
            let cursor = try Row.fetchCursor(
                db,
                sql: """
                    SELECT \(channel) AS channel, coalesce(lane, '?') AS lane, final_at - created_at AS latency
                    FROM \(filter.source)\(condition) final_at IS NOT NULL AND created_at IS NOT NULL ORDER BY 1, 2, 3
                    """,
                arguments: arguments
            )
            var latencies: [String: [Int64]] = [:]
            while let row = try cursor.next() {
                let (channel, lane): (String, String) = (row[0], row[1])
                latencies["\(channel) \(lane)", default: []].append(row[2])
            }
            for (key, values) in latencies {
                lanes[key]?.p50 = values.percentile(50)
                lanes[key]?.p95 = values.percentile(95)
                lanes[key]?.p99 = values.percentile(99)
            }
            return lanes.sorted { $0.key < $1.key }.map(\.value)
        }
    }

    static func stored(_ row: Row) throws -> StoredMessage {
        let document: String? = row["document"]
        guard let channel = Channel(rawValue: row["channel"]), let status = MessageStatus(rawValue: row["status"])
        else {
            throw PipelineError(.store, "a row of the message store has an unknown channel or status")
        }
        return StoredMessage(
            id: row["id"],
            channel: channel,
            status: status,
            attempt: row["attempt"],
            provider: row["provider"],
            providerMessageID: row["provider_message_id"],
            code: row["code"],
            detail: row["detail"],
            updatedAt: Timestamp(row["updated_at"]),
            dueAt: (row["due_at"] as Int64?).map(Timestamp.init),
            finalAt: (row["final_at"] as Int64?).map(Timestamp.init),
            message: try document.map { try Message(json: .init(string: $0)) },
            timeline: nil
        )
    }
}

extension TimelineEvent.Kind {
    /// The order of events of the same millisecond.
    var rank: Int {
        switch self {
        case .submitted: 0
        case .scheduled: 1
        case .dispatched, .redelivered, .rerouted: 2
        case .accepted, .rejected, .deferred, .inDoubt, .withheld: 3
        case .receipt, .receiptMissing: 4
        case .retryScheduled: 5
        case .cancelRequested, .cancelRefused: 5
        case .final: 6
        case .receiptIgnored: 7
        }
    }
}

extension [Int64] {
    /// The nearest-rank percentile of sorted values.
    func percentile(_ percent: Int) -> Int64? {
        isEmpty ? nil : self[Swift.max(0, (count * percent + 99) / 100 - 1)]
    }
}
