// SPDX-License-Identifier: Apache-2.0

#if PostgreSQL
    import CPostgres
    import Foundation

    /// What a PostgreSQL server, or the way to it, answered.
    struct PostgresFailure: Error, CustomStringConvertible {
        var message: String
        /// The SQLSTATE; nil: not from a server.
        var state: String?
        /// Whether the connection is of no use any more.
        var isConnectionLost: Bool

        var description: String { state.map { "\(message) [\($0)]" } ?? message }

        /// Whether the same may succeed a little later, without anyone changing anything in the data or the statement.
        var mayPass: Bool {
            guard !isConnectionLost, let state else { return true }
            // Connection, resources (such as a full disk), operator (such as a shutdown), and conflicts of transactions.
            return ["08", "53", "57", "40"].contains { state.hasPrefix($0) }
        }
    }

    /// One connection. Calls wait for the server on the caller's thread; one at a time.
    final class PostgresConnection: @unchecked Sendable, SQLReader {
        private let raw: OpaquePointer

        /// - Parameter setup: Statements that are run first.
        init(_ url: String, password: Secret?, setup: String) throws(PostgresFailure) {
            // What stands before the address can be said otherwise by it.
            var parameters = [
                ("connect_timeout", "10"), ("tcp_user_timeout", "30000"), ("keepalives_idle", "30"),
                ("application_name", "mdc"), ("dbname", url), ("client_encoding", "UTF8"),
            ]
            if let password { parameters.append(("password", password.value)) }
            let keywords = parameters.map { strdup($0.0) }
            let values = parameters.map { strdup($0.1) }
            defer { for pointer in keywords + values { free(pointer) } }
            let connection = PQconnectdbParams(
                keywords.map { UnsafePointer($0) } + [nil],
                values.map { UnsafePointer($0) } + [nil],
                1
            )
            guard let connection else {
                throw PostgresFailure(message: "no memory for a connection", state: nil, isConnectionLost: true)
            }
            raw = connection
            // What the server remarks belongs neither to the output nor to the log.
            _ = PQsetNoticeProcessor(raw, { _, _ in }, nil)
            guard PQstatus(raw) == CONNECTION_OK else {
                throw PostgresFailure(message: Self.text(PQerrorMessage(raw)), state: nil, isConnectionLost: true)
            }
            try run(setup)
        }

        deinit { PQfinish(raw) }

        /// Whether it can be used again.
        var isUsable: Bool { PQstatus(raw) == CONNECTION_OK && PQtransactionStatus(raw) == PQTRANS_IDLE }

        /// Runs statements that have no values and no answer.
        func run(_ text: String) throws(PostgresFailure) {
            let result = PQexec(raw, text)
            defer { PQclear(result) }
            if let failure = failure(result) { throw failure }
        }

        /// Runs a statement with values of which the answer does not matter.
        func run(_ text: String, _ arguments: [SQLValue]) throws {
            var statement = SQLStatement(.postgreSQL)
            statement.text = text
            for argument in arguments { _ = statement.bind(argument) }
            try rows(statement) { _ in }
        }

        func rows(_ statement: SQLStatement, _ body: (SQLRow) throws -> Void) throws {
            let values = statement.arguments.map(Self.parameter)
            defer { for value in values { free(value) } }
            let isSent = PQsendQueryParams(
                raw,
                statement.text,
                Int32(values.count),
                nil,
                values.map { UnsafePointer($0) },
                nil,
                nil,
                0
            )
            guard isSent == 1 else {
                throw PostgresFailure(message: Self.text(PQerrorMessage(raw)), state: nil, isConnectionLost: true)
            }
            // Row by row: a long answer is never in memory as a whole.
            PQsetSingleRowMode(raw)
            var failure: (any Error)?
            while let result = PQgetResult(raw) {
                defer { PQclear(result) }
                guard failure == nil else { continue }
                if PQresultStatus(result) == PGRES_SINGLE_TUPLE {
                    do {
                        try body(Self.row(result))
                    } catch {
                        failure = error
                        cancel()
                    }
                } else {
                    failure = self.failure(result)
                }
            }
            if let failure { throw failure }
        }

        /// Has the server end what it is doing.
        private func cancel() {
            guard let cancel = PQgetCancel(raw) else { return }
            var buffer = [CChar](repeating: 0, count: 256)
            _ = PQcancel(cancel, &buffer, Int32(buffer.count))
            PQfreeCancel(cancel)
        }

        private func failure(_ result: OpaquePointer?) -> PostgresFailure? {
            switch PQresultStatus(result) {
            case PGRES_COMMAND_OK, PGRES_TUPLES_OK, PGRES_EMPTY_QUERY, PGRES_SINGLE_TUPLE: return nil
            default:
                // 'C' is the diagnostic field with the SQLSTATE.
                let state = PQresultErrorField(result, Int32(UInt8(ascii: "C"))).map { String(cString: $0) }
                return PostgresFailure(
                    message: Self.text(PQerrorMessage(raw)),
                    state: state,
                    isConnectionLost: PQstatus(raw) != CONNECTION_OK
                )
            }
        }

        private static func text(_ pointer: UnsafePointer<CChar>?) -> String {
            guard let pointer else { return "no answer" }
            return String(cString: pointer).split(whereSeparator: \.isNewline).joined(separator: " ")
        }

        // MARK: - Values

        private static func parameter(_ value: SQLValue) -> UnsafeMutablePointer<CChar>? {
            switch value {
            case .null: nil
            case .integer(let number): strdup(String(number))
            case .real(let number): strdup(String(number))
            case .text(let text): strdup(withoutNull(text))
            }
        }

        /// PostgreSQL has no U+0000: it is kept as U+FFFD.
        static func withoutNull(_ text: String) -> String {
            text.utf8.contains(0) ? text.replacing("\0", with: "\u{FFFD}") : text
        }

        private static func row(_ result: OpaquePointer) -> SQLRow {
            SQLRow(
                values: (0..<PQnfields(result)).map { column in
                    guard PQgetisnull(result, 0, column) == 0, let pointer = PQgetvalue(result, 0, column) else {
                        return .null
                    }
                    let text = String(cString: pointer)
                    switch PQftype(result, column) {
                    // int8, int2, int4
                    case 20, 21, 23: return Int64(text).map(SQLValue.integer) ?? .text(text)
                    // float4, float8, numeric
                    case 700, 701, 1700: return Double(text).map(SQLValue.real) ?? .text(text)
                    default: return .text(text)
                    }
                }
            )
        }
    }

    /// Builds the text of an array, as `unnest` takes it: one value for many rows.
    struct PostgresArray {
        private var bytes: [UInt8] = [UInt8(ascii: "{")]

        mutating func append(_ text: String?) {
            separate()
            guard let text else { return bytes.append(contentsOf: "NULL".utf8) }
            bytes.append(UInt8(ascii: "\""))
            for byte in text.utf8 {
                switch byte {
                case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                    bytes.append(UInt8(ascii: "\\"))
                    bytes.append(byte)
                // U+FFFD
                case 0: bytes.append(contentsOf: [0xEF, 0xBF, 0xBD])
                default: bytes.append(byte)
                }
            }
            bytes.append(UInt8(ascii: "\""))
        }

        mutating func append(_ number: Int64?) {
            separate()
            bytes.append(contentsOf: (number.map(String.init) ?? "NULL").utf8)
        }

        private mutating func separate() {
            if bytes.count > 1 { bytes.append(UInt8(ascii: ",")) }
        }

        var value: SQLValue { .text(String(decoding: bytes, as: UTF8.self) + "}") }
    }
#endif
