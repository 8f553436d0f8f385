// SPDX-License-Identifier: Apache-2.0

import GRDB

/// A page of messages to be found.
public struct MessageQuery: Sendable, Hashable {
    /// One step of an order.
    public struct Order: Sendable, Hashable {
        /// The field.
        public var field: MessageField
        /// Whether the greatest comes first.
        public var isDescending: Bool

        /// Makes a value from its parts.
        public init(_ field: MessageField, descending: Bool) {
            self.field = field
            self.isDescending = descending
        }
    }

    /// Which messages; nil: all.
    public var condition: MessageCondition?
    /// The order; the id decides what it leaves open.
    public var order: [Order]
    /// From 1.
    public var page: Int
    /// From 1 to 1000.
    public var pageSize: Int

    /// Makes a value from its parts.
    public init(
        _ condition: MessageCondition? = nil,
        order: [Order] = [Order(.createdAt, descending: true)],
        page: Int = 1,
        pageSize: Int = 100
    ) {
        self.condition = condition
        self.order = order
        self.page = page
        self.pageSize = pageSize
    }
}

extension MessageStore {
    /// The most bytes of documents that one page holds.
    static let pageBytesMax = 16 << 20
    /// The most messages that a page may lie behind: what is skipped is read all the same.
    static let skippedMax = 100_000
    /// How long a question may take before it is given up.
    static let readingTime = Duration.seconds(20)

    /// The messages of a page.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if there is no such page, else `store`.
    public func find(_ query: MessageQuery) throws(PipelineError) -> [StoredMessage] {
        try Self.check(query, skippedMax: .max)
        return try reading { db in try Self.find(query, bytesMax: .max, db) }
    }

    /// The same for strangers: without holding the thread, bounded in size and time.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if the page lies too far behind or is too large, else `store`.
    func found(_ query: MessageQuery) async throws(PipelineError) -> [StoredMessage] {
        try Self.check(query, skippedMax: Self.skippedMax)
        return try await asking { db in try Self.find(query, bytesMax: Self.pageBytesMax, db) }
    }

    /// The number of messages of which the condition is true.
    func counted(_ condition: MessageCondition?) async throws(PipelineError) -> Int {
        try await asking { db in
            let base = Self.base(condition)
            return try Int.fetchOne(db, sql: "SELECT count(*) \(base.sql)", arguments: base.arguments) ?? 0
        }
    }

    /// The tenants of those messages whose documents are known.
    func tenants(of messages: [(id: String, channel: Channel)]) async throws(PipelineError) -> [String: String] {
        try await asking { db in
            var tenants: [String: String] = [:]
            for (id, channel) in messages {
                let statement = try db.cachedStatement(sql: "SELECT tenant FROM \(Self.table(channel)) WHERE id = ?")
                if let row = try Row.fetchOne(statement, arguments: [id]) { tenants[id] = row[0] }
            }
            return tenants
        }
    }

    private static func check(_ query: MessageQuery, skippedMax: Int) throws(PipelineError) {
        guard query.page >= 1, (1...1_000).contains(query.pageSize) else {
            throw PipelineError(.invalidQuery, "page starts at 1, and pagesize goes from 1 to 1000")
        }
        guard (query.page - 1) <= skippedMax / query.pageSize else {
            throw PipelineError(
                .invalidQuery,
                "page: lies behind more than \(skippedMax) messages; filter by createdAt instead of turning pages"
            )
        }
    }

    /// `FROM … WHERE …` with its arguments.
    static func base(_ condition: MessageCondition?) -> (sql: String, arguments: StatementArguments) {
        var arguments = StatementArguments()
        let clause = condition.map { " WHERE " + $0.sql(&arguments) } ?? ""
        guard let channel = condition?.channel else { return ("FROM messages\(clause)", arguments) }
        return ("FROM (SELECT '\(channel.rawValue)' AS channel, * FROM \(table(channel)))\(clause)", arguments)
    }

    private static func find(_ query: MessageQuery, bytesMax: Int, _ db: Database) throws -> [StoredMessage] {
        let base = base(query.condition)
        var order = query.order.map { "\($0.field.sql) \($0.isDescending ? "DESC" : "ASC")" }
        if !query.order.contains(where: { $0.field == .id }) {
            order.append("id \(query.order.last?.isDescending == false ? "ASC" : "DESC")")
        }
        let cursor = try Row.fetchCursor(
            db,
            sql: "SELECT * \(base.sql) ORDER BY \(order.joined(separator: ", "))"
                + " LIMIT \(query.pageSize) OFFSET \((query.page - 1) * query.pageSize)",
            arguments: base.arguments
        )
        var messages: [StoredMessage] = []
        var bytes = 0
        while let row = try cursor.next() {
            bytes += (row["document"] as String?)?.utf8.count ?? 0
            guard bytes <= bytesMax else {
                throw PipelineError(
                    .invalidQuery,
                    "pagesize: the page is larger than \(bytesMax >> 20) MiB; ask for fewer messages"
                )
            }
            messages.append(try stored(row))
        }
        return messages
    }

    /// Reads on a thread of the database, with a time limit.
    func asking<Value: Sendable>(_ body: @escaping @Sendable (Database) throws -> Value) async throws(PipelineError)
        -> Value
    {
        do {
            return try await withThrowingTaskGroup(of: Value?.self) { tasks in
                tasks.addTask { [pool] in try await pool.read(body) }
                tasks.addTask {
                    try await Task.sleep(for: Self.readingTime)
                    return nil
                }
                defer { tasks.cancelAll() }
                guard let first = try await tasks.next(), let value = first else {
                    throw PipelineError(
                        .invalidQuery,
                        "the question took longer than \(Self.readingTime); narrow it by createdAt, to or id"
                    )
                }
                return value
            }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.store, "cannot read the message store", cause: error)
        }
    }
}
