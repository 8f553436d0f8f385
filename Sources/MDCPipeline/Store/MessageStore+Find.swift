// SPDX-License-Identifier: Apache-2.0

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
    /// What is said when that was not enough.
    static var tookTooLong: PipelineError {
        PipelineError(
            .invalidQuery,
            "the question took longer than \(readingTime); narrow it by createdAt, to or id"
        )
    }

    /// The messages of a page.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if there is no such page, else `store`.
    public func find(_ query: MessageQuery) throws(PipelineError) -> [StoredMessage] {
        try Self.check(query, skippedMax: .max)
        return try engine.read { [dialect] db in try Self.find(query, bytesMax: .max, dialect, db) }
    }

    /// The same for strangers: without holding the thread, bounded in size and time.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if the page lies too far behind or is too large, else `store`.
    func found(_ query: MessageQuery) async throws(PipelineError) -> [StoredMessage] {
        try Self.check(query, skippedMax: Self.skippedMax)
        return try await engine.asking { [dialect] db in try Self.find(query, bytesMax: Self.pageBytesMax, dialect, db)
        }
    }

    /// The number of messages of which the condition is true.
    func counted(_ condition: MessageCondition?) async throws(PipelineError) -> Int {
        try await engine.asking { [dialect] db in
            var statement = SQLStatement(dialect)
            statement.text = "SELECT count(*) " + Self.base(condition, &statement).sql
            return try Int(db.all(statement).first?.integer(0) ?? 0)
        }
    }

    /// The tenants of those messages whose documents are known.
    func tenants(of messages: [(id: String, channel: Channel)]) async throws(PipelineError) -> [String: String] {
        try await engine.asking { [dialect] db in
            var tenants: [String: String] = [:]
            for (id, channel) in messages {
                var statement = SQLStatement(dialect)
                statement.text = "SELECT tenant FROM \(Self.table(channel)) WHERE id = \(statement.bind(id))"
                if let tenant = try db.all(statement).first?.text(0) { tenants[id] = tenant }
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

    /// `FROM … WHERE …`, and whether there is a condition that can be added to.
    static func base(_ condition: MessageCondition?, _ statement: inout SQLStatement) -> (sql: String, isFiltered: Bool)
    {
        let clause = condition.map { " WHERE " + $0.sql(&statement) } ?? ""
        guard let channel = condition?.channel else { return ("FROM messages\(clause)", condition != nil) }
        return ("FROM (SELECT '\(channel.rawValue)' AS channel, * FROM \(table(channel))) AS one\(clause)", true)
    }

    private static func find(
        _ query: MessageQuery,
        bytesMax: Int,
        _ dialect: SQLDialect,
        _ db: any SQLReader
    ) throws -> [StoredMessage] {
        var statement = SQLStatement(dialect)
        let base = base(query.condition, &statement)
        var order = query.order.map { dialect.order($0.field.sql(dialect), descending: $0.isDescending) }
        if !query.order.contains(where: { $0.field == .id }) {
            order.append(dialect.order("id", descending: query.order.last?.isDescending != false))
        }
        statement.text =
            "SELECT \(messageColumns) \(base.sql) ORDER BY \(order.joined(separator: ", "))"
            + " LIMIT \(query.pageSize) OFFSET \((query.page - 1) * query.pageSize)"
        var messages: [StoredMessage] = []
        var bytes = 0
        try db.rows(statement) { row in
            bytes += row.text(documentColumn)?.utf8.count ?? 0
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
}
