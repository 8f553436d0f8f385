// SPDX-License-Identifier: Apache-2.0

import GRDB
import MDCModel
public import NIOCore

/// The messages and their timelines in one SQLite file: a projection of `mdc.events`.
///
/// Each channel has its own collection: a table of JSON documents with extracted, indexed columns. Events are applied in
/// batches; a batch and the offsets up to which it reaches are one transaction, so an event counts once whatever happens.
/// Deleting the file loses nothing: it is built again from the log.
public final class MessageStore: Sendable {
    let pool: DatabasePool

    /// Opens the file, making it if it is not there.
    ///
    /// - Throws: ``PipelineError`` with code `store`.
    public init(path: String) throws(PipelineError) {
        do {
            var configuration = Configuration()
            configuration.maximumReaderCount = 4
            configuration.prepareDatabase { db in
                db.add(function: Self.countryFunction)
                // The log is the truth: after a power loss the projection reads the lost tail again.
                try db.execute(sql: "PRAGMA synchronous = NORMAL")
                try db.execute(sql: "PRAGMA cache_size = -65536")
                try db.execute(sql: "PRAGMA wal_autocheckpoint = 8000")
            }
            pool = try DatabasePool(path: path, configuration: configuration)
            try pool.write { db in try Self.migrate(db) }
        } catch {
            throw PipelineError(.store, "cannot open the message store at \(path)", cause: error)
        }
    }

    /// Opens the file of a centre that may be at work, to ask it and nothing else.
    ///
    /// - Throws: ``PipelineError`` with code `store`.
    public init(readingFrom path: String) throws(PipelineError) {
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.maximumReaderCount = 1
            configuration.busyMode = .timeout(5)
            configuration.prepareDatabase { db in db.add(function: Self.countryFunction) }
            pool = try DatabasePool(path: path, configuration: configuration)
        } catch {
            throw PipelineError(.store, "cannot read the message store at \(path)", cause: error)
        }
    }

    /// Closes the file. No call may follow.
    public func close() {
        try? pool.close()
    }

    static func table(_ channel: Channel) -> String { "messages_\(channel.rawValue)" }

    private static func migrate(_ db: Database) throws {
        for channel in Channel.allCases {
            let table = table(channel)
            try db.execute(
                sql: """
                    CREATE TABLE IF NOT EXISTS \(table) (
                        id TEXT PRIMARY KEY NOT NULL, tenant TEXT, lane TEXT, status TEXT NOT NULL,
                        progress INTEGER NOT NULL, attempt INTEGER NOT NULL, recipient TEXT, sender TEXT, provider TEXT,
                        provider_message_id TEXT, idempotency_key TEXT, code TEXT, detail TEXT, created_at INTEGER,
                        updated_at INTEGER NOT NULL, due_at INTEGER, final_at INTEGER, document TEXT
                    ) WITHOUT ROWID;
                    CREATE INDEX IF NOT EXISTS \(table)_lane ON \(table) (lane, status);
                    CREATE INDEX IF NOT EXISTS \(table)_created ON \(table) (created_at);
                    CREATE INDEX IF NOT EXISTS \(table)_recipient ON \(table) (recipient);
                    CREATE INDEX IF NOT EXISTS \(table)_key ON \(table) (idempotency_key)
                        WHERE idempotency_key IS NOT NULL;
                    """
            )
        }
        let union = Channel.allCases.map { "SELECT '\($0.rawValue)' AS channel, * FROM \(table($0))" }
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

    // MARK: - Projection

    /// One event as it was read from the log.
    public struct ProjectedEvent: Sendable {
        /// Where it was.
        public var position: EventPosition
        /// The event.
        public var event: TimelineEvent
        /// Its JSON, kept as it is.
        public var json: ByteBuffer

        /// Reads a document; unknown members are passed over. Throws `PipelineError` (`invalidDocument`).
        public init(position: EventPosition, event: TimelineEvent, json: ByteBuffer) {
            self.position = position
            self.event = event
            self.json = json
        }
    }

    /// The offset from which each partition of `mdc.events` is to be read on.
    public func consumedOffsets() throws(PipelineError) -> [Int32: Int64] {
        try reading { db in
            var offsets: [Int32: Int64] = [:]
            for row in try Row.fetchAll(db, sql: "SELECT partition, offset FROM consumed") {
                offsets[row[0]] = row[1]
            }
            return offsets
        }
    }

    /// Applies a batch of events, in the order of their offsets, together with the offsets from which to read on. Events that
    /// were applied before are passed over.
    public func apply(_ batch: [ProjectedEvent], next offsets: [Int32: Int64]) async throws(PipelineError) {
        do {
            try await pool.write { db in try Self.apply(batch, next: offsets, in: db) }
        } catch {
            throw PipelineError(.store, "cannot write to the message store; is the disk full?", cause: error)
        }
    }

    /// Empties the store, so that it is built again from offset 0.
    public func reset() async throws(PipelineError) {
        do {
            try await pool.write { db in
                for channel in Channel.allCases { try db.execute(sql: "DELETE FROM \(Self.table(channel))") }
                try db.execute(sql: "DELETE FROM timeline; DELETE FROM consumed")
            }
        } catch {
            throw PipelineError(.store, "cannot empty the message store", cause: error)
        }
    }

    private static func apply(_ batch: [ProjectedEvent], next offsets: [Int32: Int64], in db: Database) throws {
        var consumed: [Int32: Int64] = [:]
        for row in try Row.fetchAll(db, sql: "SELECT partition, offset FROM consumed") { consumed[row[0]] = row[1] }

        let insertEvent = try db.cachedStatement(
            sql: "INSERT OR IGNORE INTO timeline (message_id, partition, offset, event) VALUES (?, ?, ?, ?)"
        )
        var changes: [String: RowChange] = [:]
        var order: [String] = []
        for item in batch where item.position.offset >= consumed[item.position.partition] ?? 0 {
            insertEvent.setUncheckedArguments([
                item.event.messageID, item.position.partition, item.position.offset, eventText(item),
            ])
            try insertEvent.execute()
            let id = item.event.messageID
            if changes[id] == nil {
                order.append(id)
                changes[id] = try RowChange(id, channel: item.event.channel, in: db)
            }
            changes[id]?.apply(item.event)
        }
        for id in order {
            guard let change = changes[id] else { continue }
            try change.upsert(id, in: db)
        }
        let setOffset = try db.cachedStatement(sql: "INSERT OR REPLACE INTO consumed (partition, offset) VALUES (?, ?)")
        for (partition, offset) in offsets where offset > consumed[partition] ?? -1 {
            setOffset.setUncheckedArguments([partition, offset])
            try setOffset.execute()
        }
    }

    /// The event without the document, which has a column of its own.
    private static func eventText(_ item: ProjectedEvent) -> String {
        guard item.event.message != nil else { return String(buffer: item.json) }
        var event = item.event
        event.message = nil
        return String(buffer: event.json())
    }

    func reading<T>(_ body: (Database) throws -> T) throws(PipelineError) -> T {
        do {
            return try pool.read(body)
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.store, "cannot read the message store", cause: error)
        }
    }
}

/// The row of one message: as it was, then with the events of one batch. The fold goes on where it was, so that the rows do not
/// depend on how the log was cut into batches.
private struct RowChange {
    let channel: Channel
    var state = MessageState()
    var updatedAt: Timestamp = 0
    var finalAt: Timestamp?

    init(_ id: String, channel: Channel, in db: Database) throws {
        self.channel = channel
        let statement = try db.cachedStatement(
            sql: """
                SELECT status, progress, attempt, provider, provider_message_id, code, detail, due_at, updated_at, final_at
                FROM \(MessageStore.table(channel)) WHERE id = ?
                """
        )
        guard let row = try Row.fetchOne(statement, arguments: [id]) else { return }
        state = MessageState(
            status: MessageStatus(rawValue: row[0]) ?? .queued,
            progress: row[1],
            attempt: row[2],
            provider: row[3],
            providerMessageID: row[4],
            code: row[5],
            detail: row[6],
            dueAt: (row[7] as Int64?).map(Timestamp.init)
        )
        updatedAt = Timestamp(row[8])
        finalAt = (row[9] as Int64?).map(Timestamp.init)
    }

    mutating func apply(_ event: TimelineEvent) {
        let wasFinal = state.status.isFinal
        state.apply(event)
        if !wasFinal, state.status.isFinal { finalAt = event.at }
        updatedAt = max(updatedAt, event.at)
    }

    /// Writes the row. Of what comes from the document, the first stays.
    func upsert(_ id: String, in db: Database) throws {
        let statement = try db.cachedStatement(
            sql: """
                INSERT INTO \(MessageStore.table(channel)) (id, tenant, lane, status, progress, attempt, recipient, sender,
                    provider, provider_message_id, idempotency_key, code, detail, created_at, updated_at, due_at,
                    final_at, document)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET
                    tenant = coalesce(tenant, excluded.tenant), lane = coalesce(lane, excluded.lane),
                    recipient = coalesce(recipient, excluded.recipient), sender = coalesce(sender, excluded.sender),
                    idempotency_key = coalesce(idempotency_key, excluded.idempotency_key),
                    created_at = coalesce(created_at, excluded.created_at),
                    document = coalesce(document, excluded.document),
                    status = excluded.status, progress = excluded.progress, attempt = excluded.attempt,
                    provider = excluded.provider, provider_message_id = excluded.provider_message_id,
                    code = excluded.code, detail = excluded.detail, updated_at = excluded.updated_at,
                    due_at = excluded.due_at, final_at = excluded.final_at
                """
        )
        let message = state.message
        statement.setUncheckedArguments([
            id, message?.tenant, message?.lane, state.status.rawValue, state.progress, state.attempt, message?.to,
            message?.sender, state.provider, state.providerMessageID, message?.idempotencyKey, state.code, state.detail,
            message?.createdAt.rawValue, updatedAt.rawValue, state.dueAt?.rawValue, finalAt?.rawValue,
            message.map { String(buffer: $0.json()) },
        ])
        try statement.execute()
    }
}
