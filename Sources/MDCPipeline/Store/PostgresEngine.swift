// SPDX-License-Identifier: Apache-2.0

#if PostgreSQL
    import Dispatch
    import MDCModel
    import NIOConcurrencyHelpers
    import NIOCore
    import NIOPosix

    /// A message store in a database of a PostgreSQL server.
    ///
    /// One connection writes, up to four read. A connection that is lost is made anew at the next call. Several centres may
    /// project into the same database: a lock for the length of a transaction orders them, and what one has applied, the other
    /// passes over.
    final class PostgresEngine: StoreEngine {
        let dialect = SQLDialect.postgreSQL

        private static let readersMax = 4

        private struct State: Sendable {
            var idle: [PostgresConnection] = []
            var writer: PostgresConnection?
            var isClosed = false
        }

        private let url: String
        private let password: Secret?
        private let threads: NIOThreadPool
        private let places = DispatchSemaphore(value: readersMax)
        private let state = NIOLockedValueBox(State())

        init(_ url: String, password: Secret?, name: String, readOnly: Bool) throws(PipelineError) {
            self.url = url
            self.password = password
            threads = NIOThreadPool(numberOfThreads: Self.readersMax + 1)
            do {
                if readOnly {
                    let reader = try connectReader()
                    state.withLockedValue { $0.idle.append(reader) }
                } else {
                    let writer = try connectWriter()
                    try Self.migrate(writer)
                    state.withLockedValue { $0.writer = writer }
                }
            } catch {
                throw problem(error, "cannot open the message store at \(name)")
            }
            threads.start()
        }

        func close() {
            threads.shutdownGracefully { _ in }
            state.withLockedValue { state in
                state.isClosed = true
                state.idle.removeAll()
                state.writer = nil
            }
        }

        private func connectReader() throws(PostgresFailure) -> PostgresConnection {
            let seconds = MessageStore.readingTime.components.seconds
            return try PostgresConnection(
                url,
                password: password,
                setup: "SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read';"
                    + " SET statement_timeout = '\(seconds)s'"
            )
        }

        private func connectWriter() throws(PostgresFailure) -> PostgresConnection {
            // The log is the truth: after a power loss the projection reads the lost tail again.
            try PostgresConnection(url, password: password, setup: "SET synchronous_commit = off")
        }

        /// As an error of the pipeline, which says whether waiting helps.
        private func problem(_ error: any Error, _ what: String) -> PipelineError {
            if let error = error as? PipelineError { return error }
            guard let failure = error as? PostgresFailure else { return PipelineError(.store, what, cause: error) }
            // The time limit of a statement.
            if failure.state == "57014" { return MessageStore.tookTooLong }
            guard failure.mayPass else { return PipelineError(.store, what, cause: failure) }
            return PipelineError(.unavailable, what + "; is its server running, and reachable?", cause: failure)
        }

        // MARK: - Reading

        func read<Value>(_ body: (any SQLReader) throws -> Value) throws(PipelineError) -> Value {
            places.wait()
            defer { places.signal() }
            do {
                let (isClosed, idle) = state.withLockedValue { ($0.isClosed, $0.idle.popLast()) }
                guard !isClosed else { throw PipelineError(.closed, "the message store is closed") }
                guard let idle else { return try read(on: connectReader(), body) }
                do {
                    return try read(on: idle, body)
                } catch let failure as PostgresFailure where failure.isConnectionLost {
                    // It was lost while it lay idle, perhaps: a new one tells.
                    return try read(on: connectReader(), body)
                }
            } catch {
                throw problem(error, "cannot read the message store")
            }
        }

        /// One transaction, so that all statements see the same.
        private func read<Value>(
            on connection: PostgresConnection,
            _ body: (any SQLReader) throws -> Value
        ) throws -> Value {
            do {
                try connection.run("BEGIN")
                let value = try body(connection)
                try connection.run("COMMIT")
                keep(connection)
                return value
            } catch {
                if (try? connection.run("ROLLBACK")) != nil { keep(connection) }
                throw error
            }
        }

        private func keep(_ connection: PostgresConnection) {
            guard connection.isUsable else { return }
            state.withLockedValue { state in
                if !state.isClosed { state.idle.append(connection) }
            }
        }

        func asking<Value: Sendable>(
            _ body: @escaping @Sendable (any SQLReader) throws -> Value
        ) async throws(PipelineError) -> Value {
            try await onThread { engine throws(PipelineError) in try engine.read(body) }
        }

        private func onThread<Value: Sendable>(
            _ body: @escaping @Sendable (PostgresEngine) throws(PipelineError) -> Value
        ) async throws(PipelineError) -> Value {
            do {
                return try await threads.runIfActive { try body(self) }
            } catch let error as PipelineError {
                throw error
            } catch {
                throw PipelineError(.closed, "the message store is closed", cause: error)
            }
        }

        // MARK: - Writing

        func apply(
            _ batch: [MessageStore.ProjectedEvent],
            next offsets: [Int32: Int64],
            known: [Int32: Int64]
        ) async throws(PipelineError) -> Bool {
            try await writing("cannot write to the message store") { connection in
                try PostgresProjection.apply(batch, next: offsets, known: known, connection)
            }
        }

        func reset() async throws(PipelineError) {
            try await writing("cannot empty the message store") { connection in
                let tables = Channel.allCases.map(MessageStore.table) + ["timeline", "consumed"]
                try connection.run("TRUNCATE \(tables.joined(separator: ", "))")
            }
        }

        /// One transaction on the writing connection.
        private func writing<Value: Sendable>(
            _ what: String,
            _ body: @escaping @Sendable (PostgresConnection) throws -> Value
        ) async throws(PipelineError) -> Value {
            try await onThread { engine throws(PipelineError) in
                do {
                    // Whoever finds none makes one; there is one projection to a store.
                    let kept = engine.state.withLockedValue { state in
                        defer { state.writer = nil }
                        return state.writer
                    }
                    let connection = try kept ?? engine.connectWriter()
                    let value: Value
                    do {
                        try connection.run("BEGIN")
                        // One projection at a time, of all that share the database.
                        try connection.run("SELECT pg_advisory_xact_lock(\(PostgresProjection.lock))")
                        value = try body(connection)
                        try connection.run("COMMIT")
                    } catch {
                        try? connection.run("ROLLBACK")
                        if connection.isUsable { engine.state.withLockedValue { $0.writer = connection } }
                        throw error
                    }
                    engine.state.withLockedValue { state in
                        if !state.isClosed { state.writer = connection }
                    }
                    return value
                } catch {
                    throw engine.problem(error, what)
                }
            }
        }

        private static func migrate(_ connection: PostgresConnection) throws(PostgresFailure) {
            let text = "TEXT COLLATE \"C\""
            var script = "BEGIN; SELECT pg_advisory_xact_lock(\(PostgresProjection.lock));"
            for channel in Channel.allCases {
                let table = MessageStore.table(channel)
                script += """
                    CREATE TABLE IF NOT EXISTS \(table) (
                        id \(text) PRIMARY KEY, tenant \(text), lane \(text), status \(text) NOT NULL,
                        progress BIGINT NOT NULL, attempt BIGINT NOT NULL, recipient \(text), sender \(text),
                        provider \(text), provider_message_id \(text), idempotency_key \(text), code \(text),
                        detail \(text), created_at BIGINT, updated_at BIGINT NOT NULL, due_at BIGINT, final_at BIGINT,
                        document JSONB, cost BIGINT
                    );
                    CREATE INDEX IF NOT EXISTS \(table)_lane ON \(table) (lane, status);
                    CREATE INDEX IF NOT EXISTS \(table)_created ON \(table) (created_at);
                    CREATE INDEX IF NOT EXISTS \(table)_recipient ON \(table) (recipient);
                    CREATE INDEX IF NOT EXISTS \(table)_key ON \(table) (idempotency_key)
                        WHERE idempotency_key IS NOT NULL;
                    """
            }
            let union = Channel.allCases.map {
                "SELECT '\($0.rawValue)'::text COLLATE \"C\" AS channel, * FROM \(MessageStore.table($0))"
            }
            script += """
                CREATE TABLE IF NOT EXISTS timeline (
                    message_id \(text) NOT NULL, partition INTEGER NOT NULL, "offset" BIGINT NOT NULL,
                    event JSONB NOT NULL, PRIMARY KEY (message_id, partition, "offset")
                );
                CREATE TABLE IF NOT EXISTS consumed (partition INTEGER PRIMARY KEY, "offset" BIGINT NOT NULL);
                CREATE OR REPLACE VIEW messages AS \(union.joined(separator: " UNION ALL "));
                COMMIT
                """
            do {
                try connection.run(script)
            } catch {
                try? connection.run("ROLLBACK")
                throw error
            }
        }
    }

    /// What a batch of events does to the tables, in a few statements however many events there are.
    enum PostgresProjection {
        /// The number of the advisory lock: "mdc" and "store", in bytes that no one else has chosen.
        static let lock: Int64 = 0x6D64_6373_746F_7265

        static func apply(
            _ batch: [MessageStore.ProjectedEvent],
            next offsets: [Int32: Int64],
            known: [Int32: Int64],
            _ connection: PostgresConnection
        ) throws -> Bool {
            var consumed: [Int32: Int64] = [:]
            var statement = SQLStatement(.postgreSQL)
            statement.text = "SELECT partition, \"offset\" FROM consumed"
            try connection.rows(statement) { row in
                if let partition = row.integer(0) { consumed[Int32(partition)] = row.integer(1) }
            }
            guard !MessageStore.isEmptied(consumed, known: known) else { return false }
            let news = batch.filter { $0.position.offset >= consumed[$0.position.partition] ?? 0 }
            if !news.isEmpty {
                try insertEvents(news, connection)
                try upsert(news, connection)
            }
            let ahead = offsets.filter { $0.value > consumed[$0.key] ?? -1 }
            guard !ahead.isEmpty else { return true }
            var (partitions, values) = (PostgresArray(), PostgresArray())
            for (partition, offset) in ahead {
                partitions.append(Int64(partition))
                values.append(offset)
            }
            try connection.run(
                """
                INSERT INTO consumed (partition, "offset") SELECT * FROM unnest($1::int[], $2::bigint[])
                ON CONFLICT (partition) DO UPDATE SET "offset" = excluded."offset"
                """,
                [partitions.value, values.value]
            )
            return true
        }

        private static func insertEvents(
            _ events: [MessageStore.ProjectedEvent],
            _ connection: PostgresConnection
        ) throws {
            var (ids, partitions, offsets, texts) = (
                PostgresArray(), PostgresArray(), PostgresArray(), PostgresArray()
            )
            for item in events {
                ids.append(item.event.messageID)
                partitions.append(Int64(item.position.partition))
                offsets.append(item.position.offset)
                // Written anew: what others wrote may be JSON that JSONB does not take. The document has a column of its own.
                var event = item.event
                event.message = nil
                texts.append(json(event.json()))
            }
            try connection.run(
                """
                INSERT INTO timeline (message_id, partition, "offset", event)
                SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::jsonb[]) ON CONFLICT DO NOTHING
                """,
                [ids.value, partitions.value, offsets.value, texts.value]
            )
        }

        /// JSON that JSONB takes: it has no U+0000.
        private static func json(_ buffer: ByteBuffer) -> String {
            let text = String(buffer: buffer)
            guard text.utf8.contains(UInt8(ascii: "\\")) else { return text }
            // An escaped backslash before `u0000` is text, not an escape.
            return text.replacing("\\\\", with: "\\\u{1}").replacing("\\u0000", with: "\\ufffd")
                .replacing("\\\u{1}", with: "\\\\")
        }

        private static func upsert(_ events: [MessageStore.ProjectedEvent], _ connection: PostgresConnection) throws {
            var ids: [Channel: Set<String>] = [:]
            for item in events { ids[item.event.channel, default: []].insert(item.event.messageID) }
            for (channel, ids) in ids {
                var rows = try existing(ids, channel, connection)
                for item in events where item.event.channel == channel {
                    rows[item.event.messageID, default: ProjectedRow(channel: channel)].apply(item.event)
                }
                try write(rows, channel, connection)
            }
        }

        private static func existing(
            _ ids: Set<String>,
            _ channel: Channel,
            _ connection: PostgresConnection
        ) throws -> [String: ProjectedRow] {
            var wanted = PostgresArray()
            for id in ids { wanted.append(id) }
            var statement = SQLStatement(.postgreSQL)
            let mark = statement.bind(wanted.value)
            statement.text =
                "SELECT \(ProjectedRow.columns), id FROM \(MessageStore.table(channel)) WHERE id = ANY(\(mark)::text[])"
            var rows: [String: ProjectedRow] = [:]
            try connection.rows(statement) { row in
                guard let id = row.text(row.values.count - 1) else { return }
                rows[id] = ProjectedRow(channel: channel, row: row)
            }
            return rows
        }

        /// The columns and their types, in the order of ``write(_:_:_:)``.
        private static let columns: [(name: String, type: String)] = [
            ("id", "text"), ("tenant", "text"), ("lane", "text"), ("status", "text"), ("progress", "bigint"),
            ("attempt", "bigint"), ("recipient", "text"), ("sender", "text"), ("provider", "text"),
            ("provider_message_id", "text"), ("idempotency_key", "text"), ("code", "text"), ("detail", "text"),
            ("created_at", "bigint"), ("updated_at", "bigint"), ("due_at", "bigint"), ("final_at", "bigint"),
            ("document", "jsonb"), ("cost", "bigint"),
        ]
        /// What comes from the document: the first stays.
        private static let kept: Set<String> = [
            "tenant", "lane", "recipient", "sender", "idempotency_key", "created_at", "document",
        ]

        private static func write(
            _ rows: [String: ProjectedRow],
            _ channel: Channel,
            _ connection: PostgresConnection
        ) throws {
            var arrays = columns.map { _ in PostgresArray() }
            for (id, row) in rows {
                let (state, message) = (row.state, row.state.message)
                let texts: [(Int, String?)] = [
                    (0, id), (1, message?.tenant), (2, message?.lane), (3, state.status.rawValue), (6, message?.to),
                    (7, message?.sender), (8, state.provider), (9, state.providerMessageID),
                    (10, message?.idempotencyKey), (11, state.code), (12, state.detail),
                    (17, message.map { json($0.json()) }),
                ]
                let numbers: [(Int, Int64?)] = [
                    (4, Int64(state.progress)), (5, Int64(state.attempt)), (13, message?.createdAt.rawValue),
                    (14, row.updatedAt.rawValue), (15, state.dueAt?.rawValue), (16, row.finalAt?.rawValue),
                    (18, row.cost),
                ]
                for (index, text) in texts { arrays[index].append(text) }
                for (index, number) in numbers { arrays[index].append(number) }
            }
            let names = columns.map(\.name).joined(separator: ", ")
            let sources = columns.enumerated().map { "$\($0.offset + 1)::\($0.element.type)[]" }
            let changes = columns.dropFirst().map { name, _ in
                kept.contains(name) ? "\(name) = coalesce(old.\(name), excluded.\(name))" : "\(name) = excluded.\(name)"
            }
            try connection.run(
                """
                INSERT INTO \(MessageStore.table(channel)) AS old (\(names))
                SELECT * FROM unnest(\(sources.joined(separator: ", ")))
                ON CONFLICT (id) DO UPDATE SET \(changes.joined(separator: ", "))
                """,
                arrays.map(\.value)
            )
        }
    }
#endif
