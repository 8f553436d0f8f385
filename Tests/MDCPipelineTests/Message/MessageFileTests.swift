// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import Testing

@testable import MDCPipeline

@Suite struct CSVParserTests {
    private func rows(_ text: String, portion: Int = .max, recordBytesMax: Int = 1 << 20) -> [CSVParser.Row] {
        var parser = CSVParser(recordBytesMax: recordBytesMax)
        var rows: [CSVParser.Row] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            parser.feed(rest.prefix(portion)) { rows.append($0) }
            rest = rest.dropFirst(portion)
        }
        parser.finish { rows.append($0) }
        return rows
    }

    private func good(_ line: Int, _ fields: String...) -> CSVParser.Row { .init(line: line, fields: .success(fields)) }

    @Test(arguments: [1, 2, 5, Int.max]) func recordsAndLines(portion: Int) {
        let text = "\u{FEFF}a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n,\n\"\"\n\"é\",ü"
        #expect(
            rows(text, portion: portion) == [
                good(1, "a", "b"), good(2, "1", "x, \"y\"\r\nz"), good(5, "", ""), good(6, ""), good(7, "é", "ü"),
            ]
        )
        #expect(rows("a\rb\r").map(\.line) == [1, 2])
        #expect(rows("").isEmpty)
        #expect(rows("\u{FEFF}").isEmpty)
    }

    @Test func goesOnAfterABrokenRecord() {
        let found = rows("a\nb\"c,d\n\"e\"f\ng\n\"h")
        #expect(found.map(\.line) == [1, 2, 3, 4, 5])
        #expect(found.map { (try? $0.fields.get()) != nil } == [true, false, false, true, false])
    }

    @Test func memoryIsBounded() throws {
        let found = rows("a\n\"" + String(repeating: "x\n", count: 500) + "b\n", recordBytesMax: 100)
        #expect(found.count > 1)
        #expect(found[0] == good(1, "a"))
        #expect(throws: CSVParser.Problem.self) { try found[1].fields.get() }
        var wide = CSVParser(fieldsMax: 3)
        var problems = 0
        wide.feed("a,b,c\n,,,,,,,\na\n".utf8) { if case .failure = $0.fields { problems += 1 } }
        #expect(problems == 1)
    }

    @Test(arguments: [UInt64(1), 2, 3]) func anyTableComesBack(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for _ in 0..<200 {
            let table = (0..<Int.random(in: 1...6, using: &random)).map { _ in
                (0..<Int.random(in: 1...5, using: &random)).map { _ in randomText(&random) }
            }
            let text = table.map { record in
                record.map { field in
                    // By scalars: a quote with a combining mark behind it is still a quote.
                    let quoted = field.unicodeScalars.map { $0 == "\"" ? "\"\"" : String($0) }.joined()
                    return "\"\(quoted)\""
                }.joined(separator: ",") + "\n"
            }.joined()
            let found = rows(text, portion: Int.random(in: 1...40, using: &random))
            #expect(found.map { try? $0.fields.get() } == table)
        }
    }

    @Test func randomBytesNeverTrap() {
        var random = SplitMix64(seed: 8)
        for _ in 0..<2_000 {
            let alphabet = Array("\",\r\na\u{FEFF}".utf8)
            let bytes = (0..<Int.random(in: 0...60, using: &random)).map { _ in alphabet.randomElement(using: &random)!
            }
            var parser = CSVParser(recordBytesMax: 30, fieldsMax: 4)
            var last = 0
            let check: (CSVParser.Row) -> Void = { row in
                #expect(row.line >= last)
                last = row.line
            }
            parser.feed(bytes, check)
            parser.finish(check)
        }
    }
}

@Suite struct MessageFileTests {
    private let now = Timestamp(1_790_000_000_000)

    private func rows(_ text: String, name: String = "m.csv") throws -> [MessageFile.Row] {
        let path = NSTemporaryDirectory() + "mdc-\(UUID().uuidString)-\(name)"
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
        defer { try? FileManager.default.removeItem(atPath: path) }
        return Array(try MessageFile.read(path: path, now: now))
    }

    private func problem(_ row: MessageFile.Row) -> String? {
        if case .failure(let problem) = row.result { problem.description } else { nil }
    }

    @Test func columns() throws {
        let header =
            "channel,lane,to,sender,subject,text,html,title,data,template,idempotency_key,send_at,expires_at,"
            + "attempts_max,backoff,receipt_timeout,tenant,feedback_url"
        let row =
            #"email,high,a@example.com,S <s@example.com>,Hi,Text,<p>,T,"{""k"":""v""}",t,key,+30s,2026-09-21T15:00:00Z,3,250ms,6s,acme,https://example.com/f"#
        let found = try rows(header + "\n" + row + "\n")
        #expect(found.count == 1)
        #expect(found[0].line == 2)
        let draft = try found[0].result.get()
        #expect(
            draft
                == MessageDraft(
                    tenant: "acme",
                    channel: .email,
                    lane: "high",
                    to: "a@example.com",
                    sender: "S <s@example.com>",
                    content: MessageContent(subject: "Hi", text: "Text", html: "<p>", title: "T", data: ["k": "v"]),
                    template: "t",
                    idempotencyKey: "key",
                    sendAt: Timestamp(1_790_000_030_000),
                    expiresAt: Timestamp(1_790_002_800_000),
                    retryPolicy: RetryPolicy(
                        attemptsMax: 3,
                        backoffMilliseconds: 250,
                        receiptTimeoutMilliseconds: 6_000
                    ),
                    feedbackURL: "https://example.com/f"
                )
        )
    }

    @Test func brokenRowsSayWhy() throws {
        let found = try rows(
            """
            channel,to,text,send_at,data
            fax,+1,hello,,
            sms,+1,hello
            sms,+1,hello,tomorrow,
            sms,+1,"a"b,,
            push,t,hello,,[1]
            sms,+1,fine,,
            """
        )
        #expect(found.map(\.line) == [2, 3, 4, 5, 6, 7])
        #expect(problem(found[0])?.contains("'fax' is no channel") == true)
        #expect(problem(found[1])?.contains("has 3 fields, the header has 5") == true)
        #expect(problem(found[2])?.contains("send_at: 'tomorrow' is no time") == true)
        #expect(problem(found[3])?.contains("after the closing quote") == true)
        #expect(problem(found[4])?.contains("data: must be a JSON object") == true)
        #expect(try found[5].result.get().content.text == "fine")
    }

    @Test func brokenHeadersAreErrors() {
        for (text, expected) in [
            ("", "no header"), ("channel,to\n", "'text' is missing"),
            ("channel,to,text,lanes\n", "'lanes' is not known"),
            ("channel,to,text,to\n", "'to' is there twice"), ("\"channel\n", "never closed"),
        ] {
            do {
                _ = try rows(text)
                Issue.record("\(text) was read")
            } catch {
                #expect("\(error)".contains(expected), "\(error)")
            }
        }
        #expect(throws: PipelineError.self) { try MessageFile.read(path: "/nonexistent/file.csv", now: now) }
    }

    @Test func jsonLines() throws {
        let found = try rows(
            #"{"channel":"sms","to":"+1","content":{"text":"a"}}"# + "\n\n{\"channel\":\"sms\"}\nnope\n"
                + #"{"channel":"push","to":"t","content":{"text":"b"}}"#,
            name: "m.jsonl"
        )
        #expect(found.map(\.line) == [1, 3, 4, 5])
        #expect(found.map { problem($0) == nil } == [true, false, false, true])
        #expect(try found[3].result.get().channel == .push)
    }

    /// The committed example: every row can be read, and the validator refuses exactly the broken ones.
    @Test func exampleMessages() throws {
        let path =
            URL(fileURLWithPath: #filePath).pathComponents.dropLast(4).joined(separator: "/").dropFirst()
            + "/Examples/messages.csv"
        let found = Array(try MessageFile.read(path: String(path), now: now))
        #expect(found.count == 1_210)
        let validator = MessageValidator()
        var refused = 0
        var channels: Set<Channel> = []
        var lanes: Set<String> = []
        for row in found {
            let draft = try row.result.get()
            channels.insert(draft.channel)
            lanes.insert(draft.lane ?? "")
            let result = validator.validate(draft, now: now)
            if !result.isValid { refused += 1 }
        }
        #expect(refused == 21)
        #expect(channels.count == 3)
        #expect(lanes == ["critical", "high", "normal", "bulk"])
    }
}
