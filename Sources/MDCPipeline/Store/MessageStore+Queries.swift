// SPDX-License-Identifier: Apache-2.0

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

    fileprivate func clause(_ statement: inout SQLStatement) -> String {
        var terms: [String] = []
        func add(_ term: String, _ value: SQLValue) { terms.append("\(term) \(statement.bind(value))") }
        if let tenant { add("tenant =", .text(tenant)) }
        if let lane { add("lane =", .text(lane)) }
        if let recipient { add("recipient =", .text(recipient)) }
        if let provider { add("provider =", .text(provider)) }
        if let createdFrom { add("created_at >=", .integer(createdFrom.rawValue)) }
        if let createdBefore { add("created_at <", .integer(createdBefore.rawValue)) }
        if let prefix = idempotencyKeyPrefix {
            add("idempotency_key >=", .text(prefix))
            add("idempotency_key <", .text(prefix + "\u{10FFFF}"))
        }
        if !statuses.isEmpty {
            var marks: [String] = []
            for name in statuses.map(\.rawValue).sorted() { marks.append(statement.bind(name)) }
            terms.append("status IN (\(marks.joined(separator: ", ")))")
        }
        return terms.isEmpty ? "" : " WHERE " + terms.joined(separator: " AND ")
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
    /// What its attempts have cost, in millionths of the unit of the providers' prices; nil: no price was known.
    public var cost: Int64?
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
        try engine.read { [dialect] db in try Self.knowledge(of: id, channel, dialect, db) }
    }

    /// The same without holding the thread.
    func known(_ id: String, channel: Channel) async throws(PipelineError) -> Knowledge {
        try await engine.asking { [dialect] db in try Self.knowledge(of: id, channel, dialect, db) }
    }

    private static func knowledge(
        of id: String,
        _ channel: Channel,
        _ dialect: SQLDialect,
        _ db: any SQLReader
    ) throws -> Knowledge {
        var statement = SQLStatement(dialect)
        statement.text = "SELECT document FROM \(table(channel)) WHERE id = \(statement.bind(id))"
        guard let row = try db.all(statement).first else { return .nothing }
        guard let document = row.text(0) else { return .events }
        return .document(try Message(json: .init(string: document)))
    }

    /// One message with its timeline; nil if it is not known.
    public func get(_ id: String) throws(PipelineError) -> StoredMessage? {
        try engine.read { [dialect] db in
            var statement = SQLStatement(dialect)
            statement.text = "SELECT \(Self.messageColumns) FROM messages WHERE id = \(statement.bind(id))"
            guard let row = try db.all(statement).first else { return nil }
            var stored = try Self.stored(row)
            stored.timeline = try Self.timeline(id, dialect, db)
            return stored
        }
    }

    /// What happened to a message, in order of time.
    func timeline(of id: String) async throws(PipelineError) -> [TimelineEvent] {
        try await engine.asking { [dialect] db in try Self.timeline(id, dialect, db) }
    }

    private static func timeline(_ id: String, _ dialect: SQLDialect, _ db: any SQLReader) throws -> [TimelineEvent] {
        var statement = SQLStatement(dialect)
        statement.text =
            "SELECT event FROM timeline WHERE message_id = \(statement.bind(id)) ORDER BY partition, \"offset\""
        var events: [TimelineEvent] = []
        try db.rows(statement) { row in
            events.append(try TimelineEvent(json: .init(string: row.text(0) ?? "")))
        }
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
        return try engine.read { db in
            var statement = SQLStatement(dialect)
            let clause = filter.clause(&statement)
            let order = [sort.field.rawValue, "id"].map { dialect.order($0, descending: sort.isDescending) }
            statement.text =
                "SELECT \(Self.columns(of: filter.channel)) FROM \(filter.source)\(clause)"
                + " ORDER BY \(order.joined(separator: ", ")) LIMIT \(pageSize) OFFSET \((page - 1) * pageSize)"
            var messages: [StoredMessage] = []
            try db.rows(statement) { messages.append(try Self.stored($0)) }
            return messages
        }
    }

    /// The number of messages.
    public func count(_ filter: MessageFilter = MessageFilter()) throws(PipelineError) -> Int {
        try engine.read { db in
            var statement = SQLStatement(dialect)
            let clause = filter.clause(&statement)
            statement.text = "SELECT count(*) FROM \(filter.source)\(clause)"
            return try Int(db.all(statement).first?.integer(0) ?? 0)
        }
    }

    /// Counts and latencies per channel and lane, in the order of channel and lane names.
    public func laneStatistics(_ filter: MessageFilter = MessageFilter()) throws(PipelineError) -> [LaneStatistics] {
        try engine.read { db in
            var lanes: [String: LaneStatistics] = [:]
            let channel = filter.channel.map { "'\($0.rawValue)'" } ?? "channel"
            var counts = SQLStatement(dialect)
            var clause = filter.clause(&counts)
            counts.text = """
                SELECT \(channel) AS channel, coalesce(lane, '?') AS lane, status, count(*),
                    count(*) FILTER (WHERE attempt > 1)
                FROM \(filter.source)\(clause) GROUP BY 1, 2, 3
                """
            try db.rows(counts) { row in
                let (channel, lane) = (row.text(0) ?? "", row.text(1) ?? "?")
                var statistics =
                    lanes["\(channel) \(lane)"]
                    ?? LaneStatistics(channel: Channel(rawValue: channel) ?? .sms, lane: lane, counts: [:], retried: 0)
                statistics.counts[row.text(2) ?? "?"] = Int(row.integer(3) ?? 0)
                statistics.retried += Int(row.integer(4) ?? 0)
                lanes["\(channel) \(lane)"] = statistics
            }
            var times = SQLStatement(dialect)
            clause = filter.clause(&times)
            times.text = """
                SELECT \(channel) AS channel, coalesce(lane, '?') AS lane, final_at - created_at AS latency
                FROM \(filter.source)\(clause.isEmpty ? " WHERE" : clause + " AND")
                    final_at IS NOT NULL AND created_at IS NOT NULL ORDER BY 1, 2, 3
                """
            var latencies: [String: [Int64]] = [:]
            try db.rows(times) { row in
                let (channel, lane) = (row.text(0) ?? "", row.text(1) ?? "?")
                latencies["\(channel) \(lane)", default: []].append(row.integer(2) ?? 0)
            }
            for (key, values) in latencies {
                lanes[key]?.p50 = values.percentile(50)
                lanes[key]?.p95 = values.percentile(95)
                lanes[key]?.p99 = values.percentile(99)
            }
            return lanes.sorted { $0.key < $1.key }.map(\.value)
        }
    }

    /// What ``stored(_:)`` reads, in its order.
    static let messageColumns = columns(of: nil)
    /// The place of the document in ``messageColumns``.
    static let documentColumn = 12

    /// The same where all rows are of one channel, so that its table is read.
    private static func columns(of channel: Channel?) -> String {
        (channel.map { "'\($0.rawValue)' AS channel" } ?? "channel")
            + ", id, status, attempt, provider, provider_message_id, code, detail, updated_at, due_at, final_at, cost,"
            + " document"
    }

    static func stored(_ row: SQLRow) throws -> StoredMessage {
        guard let channel = row.text(0).flatMap(Channel.init), let status = row.text(2).flatMap(MessageStatus.init)
        else {
            throw PipelineError(.store, "a row of the message store has an unknown channel or status")
        }
        return StoredMessage(
            id: row.text(1) ?? "",
            channel: channel,
            status: status,
            attempt: Int(row.integer(3) ?? 1),
            provider: row.text(4),
            providerMessageID: row.text(5),
            code: row.text(6),
            detail: row.text(7),
            updatedAt: row.time(8) ?? 0,
            dueAt: row.time(9),
            finalAt: row.time(10),
            cost: row.integer(11),
            message: try row.text(documentColumn).map { try Message(json: .init(string: $0)) },
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
