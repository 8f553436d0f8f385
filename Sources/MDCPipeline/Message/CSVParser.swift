// SPDX-License-Identifier: Apache-2.0

/// Reads CSV (RFC 4180) from bytes in any portions, with bounded memory, and goes on after a broken record.
///
/// Beyond the RFC it takes LF and CR alone as line ends, passes over blank lines and a byte order mark, and keeps UTF-8.
struct CSVParser: Sendable {
    /// A record, or why there is none.
    struct Row: Sendable, Equatable {
        /// The line on which the record begins, from 1.
        var line: Int
        var fields: Result<[String], Problem>
    }

    /// What is wrong with a record.
    struct Problem: Error, Sendable, Equatable, CustomStringConvertible {
        var description: String
    }

    private enum State {
        case startOfField, unquoted, quoted
        /// After a quote inside a quoted field: the end, or the first half of a doubled quote.
        case quoteInQuoted
        /// After a problem: up to the end of the line.
        case skipping
    }

    /// The most bytes of a record.
    let recordBytesMax: Int
    /// The most fields of a record.
    let fieldsMax: Int
    private let separator: UInt8

    private var state = State.startOfField
    private var field: [UInt8] = []
    private var fields: [String] = []
    private var recordBytes = 0
    private var line = 1
    private var recordLine = 1
    private var quoteLine = 1
    private var previousWasCR = false
    private var isAtStart = true
    private var bom: [UInt8] = []

    init(separator: UInt8 = UInt8(ascii: ","), recordBytesMax: Int = 1 << 20, fieldsMax: Int = 256) {
        self.separator = separator
        self.recordBytesMax = recordBytesMax
        self.fieldsMax = fieldsMax
    }

    /// Takes bytes; calls `emit` for each record that is complete.
    mutating func feed(_ bytes: some Sequence<UInt8>, _ emit: (Row) -> Void) {
        for byte in bytes {
            if isAtStart, byte == [0xEF, 0xBB, 0xBF][bom.count] {
                bom.append(byte)
                if bom.count == 3 { (isAtStart, bom) = (false, []) }
                continue
            }
            if isAtStart {
                isAtStart = false
                for held in bom { take(held, emit) }
                bom = []
            }
            take(byte, emit)
        }
    }

    /// Ends the input: a last line without its end is a record too.
    mutating func finish(_ emit: (Row) -> Void) {
        for held in bom { take(held, emit) }
        (isAtStart, bom) = (false, [])
        if case .quoted = state {
            fail("a quoted field opened on line \(quoteLine) is never closed; close it with \"", emit)
        }
        endRecord(emit)
    }

    private mutating func take(_ byte: UInt8, _ emit: (Row) -> Void) {
        let isLineEnd = byte == 10 || byte == 13
        // LF after CR ends no second line; inside quotes both are kept.
        let isSecondHalf = byte == 10 && previousWasCR
        previousWasCR = byte == 13
        defer { if isLineEnd, !isSecondHalf { line += 1 } }
        recordBytes += 1
        guard recordBytes <= recordBytesMax else {
            if case .skipping = state {
            } else {
                let open = if case .quoted = state { "; a quoted field was opened on line \(quoteLine)" } else { "" }
                fail("a record of more than \(recordBytesMax) bytes\(open)", emit)
            }
            recordBytes = 0
            return
        }
        switch state {
        case .quoted:
            if byte == UInt8(ascii: "\"") { state = .quoteInQuoted } else { field.append(byte) }
        case _ where isLineEnd:
            if !isSecondHalf { endRecord(emit, nextLine: line + 1) }
        case .skipping: break
        case .quoteInQuoted where byte == UInt8(ascii: "\""):
            field.append(byte)
            state = .quoted
        case _ where byte == separator: endField(emit)
        case .startOfField where byte == UInt8(ascii: "\""):
            state = .quoted
            quoteLine = line
        case .startOfField:
            field.append(byte)
            state = .unquoted
        case .unquoted where byte == UInt8(ascii: "\""):
            fail("a quote inside an unquoted field; quote the whole field and double the quote", emit)
        case .unquoted: field.append(byte)
        case .quoteInQuoted: fail("text after the closing quote of a field; double the quotes inside it", emit)
        }
    }

    private mutating func endField(_ emit: (Row) -> Void) {
        guard fields.count < fieldsMax else { return fail("more than \(fieldsMax) fields", emit) }
        fields.append(String(decoding: field, as: UTF8.self))
        field.removeAll(keepingCapacity: true)
        state = .startOfField
    }

    private mutating func endRecord(_ emit: (Row) -> Void, nextLine: Int? = nil) {
        if case .skipping = state {
            // Reported when it happened.
        } else if !(fields.isEmpty && field.isEmpty && isFieldStart) {
            endField(emit)
            if case .startOfField = state { emit(Row(line: recordLine, fields: .success(fields))) }
        }
        fields.removeAll(keepingCapacity: true)
        field.removeAll(keepingCapacity: true)
        state = .startOfField
        recordBytes = 0
        if let nextLine { recordLine = nextLine }
    }

    private var isFieldStart: Bool { if case .startOfField = state { true } else { false } }

    private mutating func fail(_ reason: String, _ emit: (Row) -> Void) {
        emit(Row(line: recordLine, fields: .failure(Problem(description: reason))))
        fields.removeAll(keepingCapacity: true)
        field.removeAll(keepingCapacity: true)
        state = .skipping
    }
}
