// SPDX-License-Identifier: Apache-2.0

import Foundation
public import MDCModel
import NIOCore

/// Files of messages: CSV with a header line, or JSON Lines. `docs/simulators.md` lists the columns.
///
/// Rows are read one after another, so a file may be of any size. A row that is no message is reported with its line and a
/// reason, and reading goes on. Addresses and lanes are not judged here: ``MessageValidator`` does that.
public enum MessageFile {
    /// One row.
    public struct Row: Sendable {
        /// The line on which it begins, from 1; the header counts.
        public var line: Int
        /// The message, or why there is none.
        public var result: Result<MessageDraft, RowProblem>
    }

    /// What is wrong with a row.
    public struct RowProblem: Error, Sendable, Hashable, CustomStringConvertible {
        /// The column, or nil if it is the row as a whole.
        public var column: String?
        /// What is wrong and how to fix it.
        public var reason: String

        public var description: String { column.map { "\($0): \(reason)" } ?? reason }
    }

    /// The form of a file.
    public enum Format: String, Sendable, Hashable, CaseIterable {
        /// Comma separated values.
        case csv
        /// One JSON document per line: ``MessageDraft``.
        case jsonLines = "jsonl"

        /// By the end of the name: `.jsonl`, `.ndjson` and `.json` are JSON Lines, all else is CSV.
        public init(path: String) {
            let name = path.lowercased()
            self = [".jsonl", ".ndjson", ".json"].contains { name.hasSuffix($0) } ? .jsonLines : .csv
        }
    }

    /// Opens a file and reads its header.
    ///
    /// - Parameters:
    ///   - format: nil takes it from the name.
    ///   - now: what relative times such as `+30s` are counted from.
    ///   - policies: what a row that sets a part of its retry policy takes the rest from.
    /// - Throws: ``PipelineError`` if the file cannot be read or its header is not understood.
    public static func read(
        path: String,
        format: Format? = nil,
        now: Timestamp,
        policies: [Channel: RetryPolicy] = [:]
    ) throws(PipelineError) -> MessageFileRows {
        guard let handle = FileHandle(forReadingAtPath: path) else {
            throw PipelineError(.invalidDocument, "cannot read '\(path)'; does it exist, and may it be read?")
        }
        let rows = MessageFileRows(handle: handle, format: format ?? Format(path: path), now: now, policies: policies)
        try rows.readHeader(path: path)
        return rows
    }
}

/// The rows of a file, read on demand. Iterate once.
public final class MessageFileRows: Sequence, IteratorProtocol {
    private static let portion = 64 << 10
    private static let lineBytesMax = 1 << 20

    private let handle: FileHandle
    private let now: Timestamp
    private let policies: [Channel: RetryPolicy]
    private var csv: CSVParser?
    private var reader: MessageRowReader?
    private var waiting: [MessageFile.Row] = []
    private var taken = 0
    private var isAtEnd = false
    /// JSON Lines: the bytes of the line begun, its number, and whether it is too long.
    private var lineBytes: [UInt8] = []
    private var line = 1
    private var isOverlong = false
    private var headerProblem: String?

    fileprivate init(handle: FileHandle, format: MessageFile.Format, now: Timestamp, policies: [Channel: RetryPolicy]) {
        self.handle = handle
        self.now = now
        self.policies = policies
        csv = format == .csv ? CSVParser() : nil
    }

    deinit { try? handle.close() }

    public func next() -> MessageFile.Row? {
        while taken == waiting.count {
            guard !isAtEnd else { return nil }
            waiting.removeAll(keepingCapacity: true)
            taken = 0
            readPortion()
        }
        defer { taken += 1 }
        return waiting[taken]
    }

    fileprivate func readHeader(path: String) throws(PipelineError) {
        guard csv != nil else { return }
        while reader == nil, headerProblem == nil, !isAtEnd { readPortion() }
        if reader == nil {
            let problem =
                headerProblem
                ?? "it has no header line; begin with: \(MessageRowReader.requiredColumns.joined(separator: ","))"
            throw PipelineError(.invalidDocument, "'\(path)': \(problem)")
        }
    }

    private func readPortion() {
        guard let data = try? handle.read(upToCount: Self.portion), !data.isEmpty else {
            isAtEnd = true
            if csv != nil { csv?.finish { takeRecord($0) } } else { endLine() }
            return
        }
        if csv != nil { csv?.feed(data) { takeRecord($0) } } else { takeLines(data) }
    }

    private func takeRecord(_ row: CSVParser.Row) {
        switch (reader, row.fields) {
        case (nil, .success(let names)):
            guard headerProblem == nil else { return }
            do {
                reader = try MessageRowReader(header: names, now: now, policies: policies)
            } catch {
                headerProblem = "line \(row.line): \(error)"
            }
        case (nil, .failure(let problem)):
            headerProblem = headerProblem ?? "line \(row.line): \(problem)"
        case (let reader?, .success(let fields)):
            let result = Result { () throws(MessageFile.RowProblem) in try reader.draft(fields) }
            waiting.append(MessageFile.Row(line: row.line, result: result))
        case (_, .failure(let problem)):
            let failure = MessageFile.RowProblem(column: nil, reason: problem.description)
            waiting.append(MessageFile.Row(line: row.line, result: .failure(failure)))
        }
    }

    private func takeLines(_ data: Data) {
        for byte in data {
            if byte == 10 {
                endLine()
            } else if lineBytes.count < Self.lineBytesMax {
                lineBytes.append(byte)
            } else {
                isOverlong = true
            }
        }
    }

    private func endLine() {
        defer {
            lineBytes.removeAll(keepingCapacity: true)
            isOverlong = false
            line += 1
        }
        let isBlank = lineBytes.allSatisfy { $0 == 0x20 || $0 == 9 || $0 == 13 }
        guard !isBlank else { return }
        let result: Result<MessageDraft, MessageFile.RowProblem>
        if isOverlong {
            result = .failure(.init(column: nil, reason: "a line of more than \(Self.lineBytesMax) bytes"))
        } else {
            do {
                result = .success(try MessageDraft(json: ByteBuffer(bytes: lineBytes)))
            } catch {
                result = .failure(.init(column: nil, reason: error.description))
            }
        }
        waiting.append(MessageFile.Row(line: line, result: result))
    }
}

/// Makes messages of the fields of CSV records.
private struct MessageRowReader {
    static let requiredColumns = ["channel", "to", "text"]
    static let optionalColumns = [
        "lane", "sender", "subject", "html", "title", "data", "template", "idempotency_key", "send_at", "expires_at",
        "attempts_max", "backoff", "receipt_timeout", "tenant", "feedback_url",
    ]

    private let names: [String]
    private let now: Timestamp
    private let policies: [Channel: RetryPolicy]

    init(header: [String], now: Timestamp, policies: [Channel: RetryPolicy]) throws(CSVParser.Problem) {
        self.now = now
        self.policies = policies
        names = header.map { $0.trimmingCharacters(in: .whitespaces).lowercased() }
        let known = Self.requiredColumns + Self.optionalColumns
        for (index, name) in names.enumerated() {
            guard known.contains(name) else {
                throw CSVParser.Problem(
                    description: "column '\(name)' is not known; the columns are \(known.joined(separator: ", "))"
                )
            }
            guard !names[..<index].contains(name) else {
                throw CSVParser.Problem(description: "column '\(name)' is there twice")
            }
        }
        for name in Self.requiredColumns where !names.contains(name) {
            throw CSVParser.Problem(description: "column '\(name)' is missing; it is needed")
        }
    }

    func draft(_ fields: [String]) throws(MessageFile.RowProblem) -> MessageDraft {
        guard fields.count == names.count else {
            throw problem(
                nil,
                "has \(fields.count) fields, the header has \(names.count); is a comma or a quote missing?"
            )
        }
        let values = Dictionary(uniqueKeysWithValues: zip(names, fields))
        func value(_ name: String) -> String? {
            guard let value = values[name], !value.isEmpty else { return nil }
            return value
        }
        let name = (value("channel") ?? "").trimmingCharacters(in: .whitespaces).lowercased()
        guard let channel = Channel(rawValue: name) else {
            let known = Channel.allCases.map(\.rawValue).joined(separator: ", ")
            throw problem("channel", "'\(name)' is no channel; use one of: \(known)")
        }
        var draft = MessageDraft(
            channel: channel,
            to: value("to") ?? "",
            content: MessageContent(
                subject: value("subject"),
                text: value("text") ?? "",
                html: value("html"),
                title: value("title"),
                data: try data(value("data"))
            )
        )
        draft.lane = value("lane")
        draft.sender = value("sender")
        draft.template = value("template")
        draft.idempotencyKey = value("idempotency_key")
        draft.tenant = value("tenant")
        draft.feedbackURL = value("feedback_url")
        draft.sendAt = try time("send_at", value("send_at"))
        draft.expiresAt = try time("expires_at", value("expires_at"))
        draft.retryPolicy = try retryPolicy(channel, value)
        return draft
    }

    private func data(_ text: String?) throws(MessageFile.RowProblem) -> [String: String]? {
        guard let text else { return nil }
        guard let data = try? JSONDecoder().decode([String: String].self, from: Data(text.utf8)) else {
            throw problem("data", "must be a JSON object of texts, such as {\"order\":\"7\"}")
        }
        return data
    }

    private func retryPolicy(
        _ channel: Channel,
        _ value: (String) -> String?
    ) throws(MessageFile.RowProblem) -> RetryPolicy? {
        let attempts = value("attempts_max")
        let backoff = value("backoff")
        let timeout = value("receipt_timeout")
        guard attempts != nil || backoff != nil || timeout != nil else { return nil }
        var policy = policies[channel] ?? RetryPolicy()
        if let attempts {
            guard let count = Int(attempts), count > 0 else {
                throw problem("attempts_max", "'\(attempts)' is not a whole number of at least 1")
            }
            policy.attemptsMax = count
        }
        if let backoff { policy.backoffMilliseconds = try duration("backoff", backoff) }
        if let timeout { policy.receiptTimeoutMilliseconds = try duration("receipt_timeout", timeout) }
        return policy
    }

    private func time(_ column: String, _ text: String?) throws(MessageFile.RowProblem) -> Timestamp? {
        guard let text else { return nil }
        if text.hasPrefix("+") { return now + (try duration(column, String(text.dropFirst()))) }
        guard let time = CallbackParser.timestamp(text) else {
            throw problem(
                column,
                "'\(text)' is no time; use 2026-05-01T10:00:00Z, milliseconds since 1970, or +30s from now"
            )
        }
        return time
    }

    /// `250ms`, `30s`, `5m`, `2h`, `1d`, in milliseconds.
    private func duration(_ column: String, _ text: String) throws(MessageFile.RowProblem) -> Int64 {
        let units: [(String, Int64)] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        for (unit, milliseconds) in units where text.hasSuffix(unit) {
            guard let count = Int64(text.dropLast(unit.count)), (0...1_000_000_000).contains(count) else { continue }
            return count * milliseconds
        }
        throw problem(column, "'\(text)' is no length of time; use 250ms, 30s, 5m, 2h or 1d")
    }

    private func problem(_ column: String?, _ reason: String) -> MessageFile.RowProblem {
        MessageFile.RowProblem(column: column, reason: reason)
    }
}
