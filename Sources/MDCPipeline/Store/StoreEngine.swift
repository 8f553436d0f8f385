// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// A value of a statement or of an answer.
enum SQLValue: Sendable, Hashable {
    case null
    case integer(Int64)
    case real(Double)
    case text(String)
}

/// One row of an answer; columns are counted from 0.
struct SQLRow {
    var values: [SQLValue]

    func text(_ index: Int) -> String? {
        if case .text(let text) = values[index] { return text }
        return nil
    }

    func integer(_ index: Int) -> Int64? {
        switch values[index] {
        case .integer(let number): number
        case .real(let number): Int64(exactly: number)
        case .text, .null: nil
        }
    }

    func time(_ index: Int) -> Timestamp? { integer(index).map(Timestamp.init) }
}

/// A question: text in the words of one engine, and its values in the order in which they stand in it.
struct SQLStatement: Sendable {
    let dialect: SQLDialect
    var text = ""
    private(set) var arguments: [SQLValue] = []

    init(_ dialect: SQLDialect) { self.dialect = dialect }

    /// Notes a value and gives what stands for it in the text.
    mutating func bind(_ value: SQLValue) -> String {
        arguments.append(value)
        return dialect == .sqlite ? "?" : "$\(arguments.count)"
    }

    mutating func bind(_ text: String) -> String { bind(.text(text)) }
    mutating func bind(_ number: Int64) -> String { bind(.integer(number)) }
}

/// Asks within one consistent view of the data.
protocol SQLReader {
    /// Gives the rows one after the other: an answer is never in memory as a whole. What `body` throws ends the question.
    func rows(_ statement: SQLStatement, _ body: (SQLRow) throws -> Void) throws
}

extension SQLReader {
    /// All rows of a short answer.
    func all(_ statement: SQLStatement) throws -> [SQLRow] {
        var found: [SQLRow] = []
        try rows(statement) { found.append($0) }
        return found
    }
}

/// What stands behind ``MessageStore``: a database that keeps the projection.
///
/// An engine knows how rows are kept and read, and nothing of what is asked of them: questions are written once, with the
/// engine's ``SQLDialect``. Rows and consumed offsets are written in one transaction.
protocol StoreEngine: Sendable {
    /// How its SQL differs.
    var dialect: SQLDialect { get }

    /// Reads on the thread of the caller.
    func read<Value>(_ body: (any SQLReader) throws -> Value) throws(PipelineError) -> Value

    /// Reads on a thread of the engine, for at most ``MessageStore/readingTime``. `body` may be called twice.
    func asking<Value: Sendable>(
        _ body: @escaping @Sendable (any SQLReader) throws -> Value
    ) async throws(PipelineError) -> Value

    /// Applies a batch; see ``MessageStore/apply(_:next:known:)``.
    func apply(
        _ batch: [MessageStore.ProjectedEvent],
        next: [Int32: Int64],
        known: [Int32: Int64]
    ) async throws(PipelineError) -> Bool

    /// Empties the store.
    func reset() async throws(PipelineError)

    /// No call may follow.
    func close()
}

/// The row of one message: as it was, then with the events of one batch. The fold goes on where it was, so that the rows do not
/// depend on how the log was cut into batches.
struct ProjectedRow {
    let channel: Channel
    var state = MessageState()
    var updatedAt: Timestamp = 0
    var finalAt: Timestamp?
    /// What the attempts have cost, in millionths; nil: nobody said.
    var cost: Int64?

    /// The columns that ``init(channel:row:)`` reads, in their order.
    static let columns =
        "status, progress, attempt, provider, provider_message_id, code, detail, due_at, updated_at, final_at, cost"

    init(channel: Channel) { self.channel = channel }

    init(channel: Channel, row: SQLRow) {
        self.channel = channel
        state = MessageState(
            status: row.text(0).flatMap(MessageStatus.init) ?? .queued,
            progress: Int(row.integer(1) ?? 0),
            attempt: Int(row.integer(2) ?? 1),
            provider: row.text(3),
            providerMessageID: row.text(4),
            code: row.text(5),
            detail: row.text(6),
            dueAt: row.time(7)
        )
        updatedAt = row.time(8) ?? 0
        finalAt = row.time(9)
        cost = row.integer(10)
    }

    mutating func apply(_ event: TimelineEvent) {
        let wasFinal = state.status.isFinal
        state.apply(event)
        if !wasFinal, state.status.isFinal { finalAt = event.at }
        updatedAt = max(updatedAt, event.at)
        // Every attempt that a provider took is paid for, whatever became of the message.
        if let price = event.cost { cost = (cost ?? 0) + price }
    }
}
