// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// The messages and their timelines in a database: a projection of `mdc.events`.
///
/// Each channel has its own collection: a table of JSON documents with extracted, indexed columns. Events are applied in
/// batches; a batch and the offsets up to which it reaches are one transaction, so an event counts once whatever happens.
/// Losing the database loses nothing: it is built again from the log.
///
/// Behind it stands a file of SQLite or, by choice, a PostgreSQL server (docs/stores.md); questions and answers are the same.
public final class MessageStore: Sendable {
    let engine: any StoreEngine
    var dialect: SQLDialect { engine.dialect }

    /// Opens a SQLite file, making it if it is not there.
    ///
    /// - Throws: ``PipelineError`` with code `store`.
    public convenience init(path: String) throws(PipelineError) {
        try self.init(.file(path))
    }

    /// Opens the SQLite file of a centre that may be at work, to ask it and nothing else.
    ///
    /// - Throws: ``PipelineError`` with code `store`.
    public convenience init(readingFrom path: String) throws(PipelineError) {
        try self.init(reading: .file(path))
    }

    /// Opens a store, making its tables if they are not there.
    ///
    /// - Throws: ``PipelineError`` with code `store`, `unavailable` if a server cannot be reached, or `configuration` if this
    ///   build cannot use it.
    public init(_ location: StoreLocation) throws(PipelineError) {
        engine = try location.engine(readOnly: false)
    }

    /// Opens the store of a centre that may be at work, to ask it and nothing else.
    ///
    /// - Throws: As ``init(_:)``.
    public init(reading location: StoreLocation) throws(PipelineError) {
        engine = try location.engine(readOnly: true)
    }

    /// Closes the store. No call may follow.
    public func close() { engine.close() }

    static func table(_ channel: Channel) -> String { "messages_\(channel.rawValue)" }

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
        try engine.read { [dialect] db in try Self.consumed(dialect, db) }
    }

    /// The same without holding the thread.
    func consumed() async throws(PipelineError) -> [Int32: Int64] {
        try await engine.asking { [dialect] db in try Self.consumed(dialect, db) }
    }

    private static func consumed(_ dialect: SQLDialect, _ db: any SQLReader) throws -> [Int32: Int64] {
        var statement = SQLStatement(dialect)
        statement.text = "SELECT partition, \"offset\" FROM consumed"
        var offsets: [Int32: Int64] = [:]
        try db.rows(statement) { row in
            guard let partition = row.integer(0).flatMap(Int32.init(exactly:)) else { return }
            offsets[partition] = row.integer(1)
        }
        return offsets
    }

    /// Applies a batch of events, in the order of their offsets, together with the offsets from which to read on. Events that
    /// were applied before are passed over.
    ///
    /// - Parameter known: How far the store was, as far as the caller knows.
    /// - Returns: Whether it was applied; not if the store was emptied since: then it is to be read from its offsets on.
    /// - Throws: ``PipelineError`` with code `store`, or `unavailable` if that may pass by itself.
    @discardableResult
    public func apply(
        _ batch: [ProjectedEvent],
        next offsets: [Int32: Int64],
        known: [Int32: Int64] = [:]
    ) async throws(PipelineError) -> Bool {
        try await engine.apply(batch, next: offsets, known: known)
    }

    /// Whether a store that was as far as `known` has been emptied, if it is now as far as `consumed`.
    static func isEmptied(_ consumed: [Int32: Int64], known: [Int32: Int64]) -> Bool {
        known.contains { consumed[$0.key] ?? 0 < $0.value }
    }

    /// Empties the store, so that it is built again from offset 0.
    public func reset() async throws(PipelineError) { try await engine.reset() }
}

/// Where a message store is.
public enum StoreLocation: Sendable {
    /// A SQLite file.
    case file(String)
    /// A PostgreSQL server: `postgresql://user@host:port/database`, and the password if the address does not say it.
    case postgreSQL(url: String, password: Secret?)

    /// For people and logs, without secrets.
    public var summary: String {
        switch self {
        case .file(let path): return path
        case .postgreSQL(let url, _):
            guard let scheme = url.firstRange(of: "://"), let at = url.lastIndex(of: "@"), at > scheme.upperBound else {
                return String(url.prefix { $0 != "?" })
            }
            let user = url[scheme.upperBound..<at].prefix { $0 != ":" }
            return String((url[..<scheme.upperBound] + user + url[at...]).prefix { $0 != "?" })
        }
    }

    func engine(readOnly: Bool) throws(PipelineError) -> any StoreEngine {
        switch self {
        case .file(let path): return try SQLiteEngine(path: path, readOnly: readOnly)
        case .postgreSQL(let url, let password):
            #if PostgreSQL
                return try PostgresEngine(url, password: password, name: summary, readOnly: readOnly)
            #else
                _ = (url, password)
                throw PipelineError(
                    .configuration,
                    "this build has no PostgreSQL: build it with `swift build --traits PostgreSQL`, or remove [store]"
                )
            #endif
        }
    }
}
