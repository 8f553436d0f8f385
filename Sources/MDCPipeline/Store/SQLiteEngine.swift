// SPDX-License-Identifier: Apache-2.0

import GRDB
import MDCModel
import NIOCore

/// A message store in one SQLite file.
final class SQLiteEngine: StoreEngine {
    let dialect = SQLDialect.sqlite
    private let pool: DatabasePool

    init(path: String, readOnly: Bool) throws(PipelineError) {
        do {
            var configuration = Configuration()
            if readOnly {
                configuration.readonly = true
                configuration.maximumReaderCount = 1
                configuration.busyMode = .timeout(5)
                configuration.prepareDatabase { db in db.add(function: Self.countryFunction) }
                pool = try DatabasePool(path: path, configuration: configuration)
                try pool.read { db in try Self.checkVersion(db) }
                return
            }
            configuration.maximumReaderCount = 4
            // `mdc store rebuild` may write, too.
            configuration.busyMode = .timeout(30)
            configuration.prepareDatabase { db in
                db.add(function: Self.countryFunction)
                // The log is the truth: after a power loss the projection reads the lost tail again.
                try db.execute(sql: "PRAGMA synchronous = NORMAL")
                try db.execute(sql: "PRAGMA cache_size = -65536")
                try db.execute(sql: "PRAGMA wal_autocheckpoint = 8000")
            }
            pool = try DatabasePool(path: path, configuration: configuration)
            try pool.write { db in try Self.migrate(db) }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(
                .store,
                "cannot \(readOnly ? "read" : "open") the message store at \(path)",
                cause: error
            )
        }
    }

    func close() { try? pool.close() }

    // MARK: - Tables

    private static func checkVersion(_ db: Database) throws {
        for channel in Channel.allCases {
            let table = MessageStore.table(channel)
            guard try db.tableExists(table), try db.columns(in: table).allSatisfy({ $0.name != "cost" }) else {
                continue
            }
            throw PipelineError(.store, "the message store was made by an older version: start `mdc up` once")
        }
    }

    private static func migrate(_ db: Database) throws {
        for channel in Channel.allCases {
            let table = MessageStore.table(channel)
            try db.execute(
                sql: """
                    CREATE TABLE IF NOT EXISTS \(table) (
                        id TEXT PRIMARY KEY NOT NULL, tenant TEXT, lane TEXT, status TEXT NOT NULL,
                        progress INTEGER NOT NULL, attempt INTEGER NOT NULL, recipient TEXT, sender TEXT, provider TEXT,
                        provider_message_id TEXT, idempotency_key TEXT, code TEXT, detail TEXT, created_at INTEGER,
                        updated_at INTEGER NOT NULL, due_at INTEGER, final_at INTEGER, document TEXT, cost INTEGER
                    ) WITHOUT ROWID;
                    CREATE INDEX IF NOT EXISTS \(table)_lane ON \(table) (lane, status);
                    CREATE INDEX IF NOT EXISTS \(table)_created ON \(table) (created_at);
                    CREATE INDEX IF NOT EXISTS \(table)_recipient ON \(table) (recipient);
                    CREATE INDEX IF NOT EXISTS \(table)_key ON \(table) (idempotency_key)
                        WHERE idempotency_key IS NOT NULL;
                    """
            )
            if try db.columns(in: table).allSatisfy({ $0.name != "cost" }) {
                try db.execute(sql: "ALTER TABLE \(table) ADD COLUMN cost INTEGER; DROP VIEW IF EXISTS messages")
            }
        }
        let union = Channel.allCases.map { "SELECT '\($0.rawValue)' AS channel, * FROM \(MessageStore.table($0))" }
        try db.execute(
            sql: """
                CREATE TABLE IF NOT EXISTS timeline (
                    message_id TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, event TEXT NOT NULL,
                    PRIMARY KEY (message_id, partition, offset)
                ) WITHOUT ROWID;
                CREATE TABLE IF NOT EXISTS consumed (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
                CREATE VIEW IF NOT EXISTS messages AS \(union.joined(separator: " UNION ALL "));
                """
        )
    }

    /// `mdc_country(recipient)`: the calling code with its plus, or nothing for what is no phone number.
    private static let countryFunction = DatabaseFunction("mdc_country", argumentCount: 1, pure: true) { values in
        guard let recipient = String.fromDatabaseValue(values[0]), recipient.first == "+" else { return nil }
        let digits = recipient.dropFirst()
        for length in 1...3 {
            let code = String(digits.prefix(length))
            if CountryCallingCodes.nationalLengths[code] != nil { return "+" + code }
        }
        return nil
    }

    // MARK: - Reading

    private struct Reader: SQLReader {
        let db: Database

        func rows(_ statement: SQLStatement, _ body: (SQLRow) throws -> Void) throws {
            let prepared = try db.cachedStatement(sql: statement.text)
            let arguments = StatementArguments(
                statement.arguments.map { value -> (any DatabaseValueConvertible)? in
                    switch value {
                    case .null: nil
                    case .integer(let number): number
                    case .real(let number): number
                    case .text(let text): text
                    }
                }
            )
            let cursor = try Row.fetchCursor(prepared, arguments: arguments)
            while let row = try cursor.next() { try body(SQLRow(row)) }
        }
    }

    func read<Value>(_ body: (any SQLReader) throws -> Value) throws(PipelineError) -> Value {
        do {
            return try pool.read { db in try body(Reader(db: db)) }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.store, "cannot read the message store", cause: error)
        }
    }

    func asking<Value: Sendable>(
        _ body: @escaping @Sendable (any SQLReader) throws -> Value
    ) async throws(PipelineError) -> Value {
        do {
            return try await withThrowingTaskGroup(of: Value?.self) { tasks in
                tasks.addTask { [pool] in try await pool.read { db in try body(Reader(db: db)) } }
                tasks.addTask {
                    try await Task.sleep(for: MessageStore.readingTime)
                    return nil
                }
                defer { tasks.cancelAll() }
                guard let first = try await tasks.next(), let value = first else { throw MessageStore.tookTooLong }
                return value
            }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.store, "cannot read the message store", cause: error)
        }
    }

    // MARK: - Projection

    func apply(
        _ batch: [MessageStore.ProjectedEvent],
        next offsets: [Int32: Int64],
        known: [Int32: Int64]
    ) async throws(PipelineError) -> Bool {
        do {
            return try await pool.write { db in try Self.apply(batch, next: offsets, known: known, in: db) }
        } catch {
            throw PipelineError(.store, "cannot write to the message store; is the disk full?", cause: error)
        }
    }

    func reset() async throws(PipelineError) {
        do {
            try await pool.write { db in
                for channel in Channel.allCases { try db.execute(sql: "DELETE FROM \(MessageStore.table(channel))") }
                try db.execute(sql: "DELETE FROM timeline; DELETE FROM consumed")
            }
        } catch {
            throw PipelineError(.store, "cannot empty the message store", cause: error)
        }
    }

    private static func apply(
        _ batch: [MessageStore.ProjectedEvent],
        next offsets: [Int32: Int64],
        known: [Int32: Int64],
        in db: Database
    ) throws -> Bool {
        var consumed: [Int32: Int64] = [:]
        for row in try Row.fetchAll(db, sql: "SELECT partition, offset FROM consumed") { consumed[row[0]] = row[1] }
        guard !MessageStore.isEmptied(consumed, known: known) else { return false }

        let insertEvent = try db.cachedStatement(
            sql: "INSERT OR IGNORE INTO timeline (message_id, partition, offset, event) VALUES (?, ?, ?, ?)"
        )
        var changes: [String: ProjectedRow] = [:]
        var order: [String] = []
        for item in batch where item.position.offset >= consumed[item.position.partition] ?? 0 {
            insertEvent.setUncheckedArguments([
                item.event.messageID, item.position.partition, item.position.offset, eventText(item),
            ])
            try insertEvent.execute()
            let id = item.event.messageID
            if changes[id] == nil {
                order.append(id)
                changes[id] = try row(id, item.event.channel, in: db)
            }
            changes[id]?.apply(item.event)
        }
        for id in order {
            guard let change = changes[id] else { continue }
            try upsert(change, id, in: db)
        }
        let setOffset = try db.cachedStatement(sql: "INSERT OR REPLACE INTO consumed (partition, offset) VALUES (?, ?)")
        for (partition, offset) in offsets where offset > consumed[partition] ?? -1 {
            setOffset.setUncheckedArguments([partition, offset])
            try setOffset.execute()
        }
        return true
    }

    /// The event without the document, which has a column of its own.
    private static func eventText(_ item: MessageStore.ProjectedEvent) -> String {
        guard item.event.message != nil else { return String(buffer: item.json) }
        var event = item.event
        event.message = nil
        return String(buffer: event.json())
    }

    private static func row(_ id: String, _ channel: Channel, in db: Database) throws -> ProjectedRow {
        let statement = try db.cachedStatement(
            sql: "SELECT \(ProjectedRow.columns) FROM \(MessageStore.table(channel)) WHERE id = ?"
        )
        guard let row = try Row.fetchOne(statement, arguments: [id]) else { return ProjectedRow(channel: channel) }
        return ProjectedRow(channel: channel, row: SQLRow(row))
    }

    /// Writes the row. Of what comes from the document, the first stays.
    private static func upsert(_ row: ProjectedRow, _ id: String, in db: Database) throws {
        let statement = try db.cachedStatement(
            sql: """
                INSERT INTO \(MessageStore.table(row.channel)) (id, tenant, lane, status, progress, attempt, recipient,
                    sender, provider, provider_message_id, idempotency_key, code, detail, created_at, updated_at, due_at,
                    final_at, document, cost)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET
                    tenant = coalesce(tenant, excluded.tenant), lane = coalesce(lane, excluded.lane),
                    recipient = coalesce(recipient, excluded.recipient), sender = coalesce(sender, excluded.sender),
                    idempotency_key = coalesce(idempotency_key, excluded.idempotency_key),
                    created_at = coalesce(created_at, excluded.created_at),
                    document = coalesce(document, excluded.document),
                    status = excluded.status, progress = excluded.progress, attempt = excluded.attempt,
                    provider = excluded.provider, provider_message_id = excluded.provider_message_id,
                    code = excluded.code, detail = excluded.detail, updated_at = excluded.updated_at,
                    due_at = excluded.due_at, final_at = excluded.final_at, cost = excluded.cost
                """
        )
        let (state, message) = (row.state, row.state.message)
        statement.setUncheckedArguments([
            id, message?.tenant, message?.lane, state.status.rawValue, state.progress, state.attempt, message?.to,
            message?.sender, state.provider, state.providerMessageID, message?.idempotencyKey, state.code, state.detail,
            message?.createdAt.rawValue, row.updatedAt.rawValue, state.dueAt?.rawValue, row.finalAt?.rawValue,
            message.map { String(buffer: $0.json()) }, row.cost,
        ])
        try statement.execute()
    }
}

extension SQLRow {
    /// A row of SQLite, out of its cursor.
    fileprivate init(_ row: Row) {
        values = row.databaseValues.map { value in
            switch value.storage {
            case .int64(let number): .integer(number)
            case .double(let number): .real(number)
            case .string(let text): .text(text)
            case .null, .blob: .null
            }
        }
    }
}
