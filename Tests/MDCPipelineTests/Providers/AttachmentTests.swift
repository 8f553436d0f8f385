// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

@Suite("Attachments")
struct AttachmentTests {
    private static let names = [
        "report.pdf", "Rechnung für März – Übersicht.pdf", "счёт.pdf", "a \"quoted\" name.txt", "50%_'x'.csv",
        String(repeating: "длинное имя ", count: 10) + ".pdf", String(repeating: "long ", count: 30) + ".txt", "🙏🏽.png",
    ]

    private static func bytes(_ count: Int, seed: UInt64) -> Data {
        var generator = SeededGenerator(seed: seed)
        return Data((0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) })
    }

    private static func file(_ name: String, _ type: String, _ bytes: Data, id: String? = nil) -> MessageAttachment {
        MessageAttachment(name: name, contentType: type, data: bytes.base64EncodedString(), contentID: id)
    }

    private static func mail(html: String?, _ files: [MessageAttachment]) -> Message {
        Message(
            id: "0199a000-0000-7000-8000-000000000001",
            channel: .email,
            to: "b@example.org",
            sender: "a@example.com",
            content: MessageContent(subject: "Grüße", text: "Hello\n.\n--=_mdm_x", html: html, attachments: files),
            createdAt: 1_790_000_000_000
        )
    }

    /// What Python's email package makes of a mail.
    private struct Parsed: Decodable {
        struct Part: Decodable {
            var type: String
            var parts: [Part]?
            var sha256: String?
            var disposition: String?
            var name: String?
            var id: String?
            var text: String?

            /// The tree of types.
            var shape: String {
                parts.map { parts in
                    "\(type.split(separator: "/")[1])(\(parts.map(\.shape).joined(separator: " ")))"
                } ?? type
            }
            var leaves: [Part] { parts.map { $0.flatMap(\.leaves) } ?? [self] }
        }
        var tree: Part
        var defects: [String]
        var subject: String
    }

    private static func parsed(_ mail: String) async throws -> Parsed {
        let path = FileManager.default.temporaryDirectory.appending(path: "mdc-mail-\(UUID().uuidString)")
        try Data(mail.utf8).write(to: path)
        defer { try? FileManager.default.removeItem(at: path) }
        let python = try RealServers.program(RealServers.python.path)
        let output = try await RealServers.run(python, [RealServers.script("parse_mail.py"), path.path])
        return try JSONDecoder().decode(Parsed.self, from: Data(output.utf8))
    }

    @Test("arrive through a real server as they were sent, whatever their names", .timeLimit(.minutes(4)))
    func arrive() async throws {
        let sink = try await SMTPSink.start([])
        let provider = SMTPProvider(
            .init(host: "127.0.0.1", port: sink.port),
            group: MultiThreadedEventLoopGroup.singleton
        )
        let image = Self.bytes(3_000, seed: 1)
        let contents = Self.names.indices.map { Self.bytes($0 * 777 + 1, seed: UInt64($0)) }
        let files = zip(Self.names, contents).map { Self.file($0, "application/pdf", $1) }
        let logo = Self.file("logo.png", "image/png", image, id: "logo@example.com")
        let message = Self.mail(html: "<img src=\"cid:logo@example.com\">", files + [logo])
        guard case .accepted = await provider.send(message, attempt: 1) else {
            Issue.record("not accepted")
            return
        }
        await provider.shutdown()
        let mails = try sink.mails()
        sink.stop()
        let found = try await Self.parsed(try #require(mails.first))
        #expect(found.defects.isEmpty, "\(found.defects)")
        #expect(found.subject == "Grüße")
        let pdfs = Array(repeating: "application/pdf", count: files.count).joined(separator: " ")
        #expect(found.tree.shape == "mixed(alternative(text/plain related(text/html image/png)) \(pdfs))")
        let leaves = found.tree.leaves
        #expect(leaves[0].text?.trimmingCharacters(in: .newlines) == "Hello\n.\n--=_mdm_x")
        #expect(leaves[2].id == "<logo@example.com>" && leaves[2].disposition == "inline")
        #expect(leaves[2].sha256 == hexadecimal(SHA256.hash(image)))
        for (leaf, (name, bytes)) in zip(leaves.dropFirst(3), zip(Self.names, contents)) {
            #expect(leaf.name == name && leaf.disposition == "attachment")
            #expect(leaf.sha256 == hexadecimal(SHA256.hash(bytes)), "\(name)")
        }
    }

    @Test("the containers are those that the parts need", .timeLimit(.minutes(4)))
    func shapes() async throws {
        let plain = Self.file("a.txt", "text/plain; charset=utf-8", Data("x".utf8))
        let image = Self.file("i.gif", "image/gif", Data([1]), id: "i")
        for (html, files, shape) in [
            (nil, [], "text/plain"), ("<p>", [], "alternative(text/plain text/html)"),
            (nil, [plain], "mixed(text/plain text/plain)"), (nil, [image], "mixed(text/plain image/gif)"),
            ("<p>", [image], "alternative(text/plain related(text/html image/gif))"),
            ("<p>", [plain], "mixed(alternative(text/plain text/html) text/plain)"),
        ] as [(String?, [MessageAttachment], String)] {
            let provider = SMTPProvider(.init(host: "127.0.0.1", port: 1), group: MultiThreadedEventLoopGroup.singleton)
            let content = try provider.makeMail(Self.mail(html: html, files), attempt: 1).get().content
            let text = String(buffer: content)
            #expect(!text.split(separator: "\r\n").contains { $0.utf8.count > 98 })
            let found = try await Self.parsed(text.replacing("\r\n", with: "\n"))
            #expect(found.tree.shape == shape && found.defects.isEmpty)
            await provider.shutdown()
        }
    }

    @Test("what cannot be sent names the file and the fix")
    func validation() {
        func fields(_ files: [MessageAttachment], channel: MDCPipeline.Channel = .email) -> [String] {
            let draft = MessageDraft(
                channel: channel,
                to: channel == .email ? "a@example.com" : "+4915112345678",
                content: MessageContent(subject: "s", text: "t", html: "<img src='cid:i'>", attachments: files)
            )
            return MessageValidator().validate(draft, now: 1_790_000_000_000).issues.map {
                "\($0.severity == .error ? "" : "?")\($0.field.replacing("content.attachments", with: "@"))"
            }
        }
        let good = MessageAttachment(name: "a.pdf", contentType: "application/pdf", data: "eA==")
        func changed(_ change: (inout MessageAttachment) -> Void) -> MessageAttachment {
            var file = good
            change(&file)
            return file
        }
        #expect(fields([good, changed { $0.contentID = "i" }]) == [])
        #expect(fields([good], channel: .sms).contains("@"))
        #expect(fields(Array(repeating: good, count: 21)) == ["@"])
        for name in ["", "a/b", "a\\b", "a\nb", String(repeating: "x", count: 256)] {
            #expect(fields([changed { $0.name = name }]) == ["@.0.name"])
        }
        for type in ["", "pdf", "a/b/c", "a/b\r\nX: y", "multipart/mixed", "message/rfc822", "a/b; c", "a/ b"] {
            #expect(fields([changed { $0.contentType = type }]) == ["@.0.contentType"], "\(type)")
        }
        for data in ["e", "eA=", "e\nA==", "é", "eA--"] {
            #expect(fields([changed { $0.data = data }]) == ["@.0.data"], "\(data)")
        }
        #expect(fields([good, changed { $0.data = "" }]) == ["?@.1.data"])
        #expect(fields([changed { $0.contentID = "a b" }]) == ["@.0.contentID"])
        #expect(fields([changed { $0.contentID = "other" }]) == ["?@.0.contentID"])
        #expect(fields([changed { $0.contentID = "i" }, changed { $0.contentID = "i" }]) == ["@.1.contentID"])
        let large = changed { $0.data = Data(count: 300 * 1024).base64EncodedString() }
        #expect(fields([large]) == [])
        #expect(fields([large, large]) == ["@"])
    }

    @Test("large files pause a lane before its count does")
    func memory() {
        var state = DispatchState(weights: [1], slots: 1)
        let partition = TopicPartition(topic: "lane", partition: 0)
        state.assign(partition, lane: 0, tracker: CommitTracker(committed: 0, metadata: nil))
        var message = Make.message(channel: .email)
        message.content.attachments = [
            MessageAttachment(name: "a", contentType: "a/b", data: String(repeating: "A", count: 1 << 20))
        ]
        for offset in 0..<64 {
            _ = state.read(partition, offset: Int64(offset))
            message.id = "m\(offset)"
            state.offer(message, partition, offset: Int64(offset), isDoubtful: false)
        }
        #expect(state.flowControl().pause == [partition])
        _ = state.declare(now: 1)
        #expect(state.lanes[0].pendingBytes == state.lanes[0].pending.count << 20)
    }
}
