// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// SES, SNS and SQS against PyPI's `moto` server; signatures against botocore.
@Suite(.serialized) struct AWSProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func endpoint(_ port: Int) -> AWSEndpoint {
        AWSEndpoint(
            region: "eu-central-1",
            credentials: AWSCredentials(accessKeyID: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI"),
            url: "http://127.0.0.1:\(port)"
        )
    }

    private func mail(_ index: Int, from: String = "Müller <a@example.com>") -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .email,
            to: "b\(index)@example.org",
            sender: from,
            content: MessageContent(
                subject: "Grüße",
                text: "Hello",
                html: "<p>नमस्ते</p>",
                attachments: [MessageAttachment(name: "März.pdf", contentType: "application/pdf", data: "JVBERi0xLjQ=")]
            ),
            createdAt: 1_790_000_000_000
        )
    }

    @Test func mailAndItsEvents() async throws {
        let moto = try await Moto.start()
        defer { moto.stop() }
        let provider = try SESProvider(
            .init(endpoint: endpoint(moto.port), requestTimeout: .seconds(30), connectTimeout: .seconds(30)),
            group: group
        )
        let outcome = await provider.send(mail(1), attempt: 1)
        guard case .accepted(let id, _) = outcome else { return #expect(Bool(false), "\(outcome)") }
        // A sender that nobody verified.
        let refused = await provider.send(mail(2, from: "x@stranger.example"), attempt: 1)
        guard case .rejected("MessageRejected", _) = refused else { return #expect(Bool(false), "\(refused)") }
        await provider.shutdown()
        let header = "X-MDC-Reference: \(mail(1).reference(attempt: 1))"
        #expect(await waitUntil { moto.state.contains(header) }, "\(moto.state)")
        for part in ["multipart/mixed", "M%C3%A4rz.pdf", "JVBERi0xLjQ="] {
            #expect(moto.state.contains(part), "\(part)")
        }

        // Its events come through SNS and SQS, with the id that SES gave; the log refuses them at first.
        let kept = KeptReceipts()
        kept.failNext(2)
        let poller = try SQSPoller(
            .init(
                provider: "ses",
                endpoint: endpoint(moto.port),
                queueURL: try await moto.ask("queue"),
                pollers: 1,
                wait: 1,
                visibility: 1
            ),
            sink: kept,
            group: group,
            logger: quietLogger()
        )
        let polling = Task { try await poller.run() }
        _ = try await moto.ask("publish", id, mail(1).reference(attempt: 1))
        #expect(await waitUntil { kept.receipts.count >= 2 }, "\(kept.receipts)")
        let statuses = Set(kept.receipts.map(\.status))
        #expect(statuses == [.delivered, .failed])
        #expect(
            kept.receipts.allSatisfy { $0.providerMessageID == id && $0.reference == mail(1).reference(attempt: 1) }
        )
        #expect(kept.receipts.contains { $0.code == "5.1.1" })
        // Only what could not be read is left in the queue.
        #expect(await waitUntil { (try? await moto.ask("left")) == "1" })
        polling.cancel()
        _ = try? await polling.value
    }

    @Test func pushNotifications() async throws {
        let moto = try await Moto.start()
        defer { moto.stop() }
        let application = try await moto.ask("application")
        let provider = try SNSPushProvider(
            .init(
                endpoint: endpoint(moto.port),
                applicationARN: application,
                requestTimeout: .seconds(30),
                connectTimeout: .seconds(30)
            ),
            group: group
        )
        func push(_ to: String) -> Message {
            Message(
                id: "0199a000-0000-7000-8000-000000000009",
                channel: .push,
                to: to,
                sender: "",
                content: MessageContent(text: "hello", title: "Hi", data: ["k": "v"]),
                createdAt: 1_790_000_000_000
            )
        }
        for _ in 0..<2 {
            let outcome = await provider.send(push("token-1"), attempt: 1)
            guard case .accepted(let id, _) = outcome else { return #expect(Bool(false), "\(outcome)") }
            #expect(!id.isEmpty)
        }
        let disabled = try await moto.ask("disabled", application)
        let dead = await provider.send(push(disabled), attempt: 1)
        guard case .rejected("EndpointDisabled", _) = dead else { return #expect(Bool(false), "\(dead)") }
        #expect(await waitUntil { moto.state.contains("mdc_reference") }, "\(moto.state)")
        await provider.shutdown()
    }

    /// The same request signed by botocore has the same signature.
    @Test func signaturesAreBotocores() async throws {
        let signer = AWSSignature(
            credentials: AWSCredentials(
                accessKeyID: "AKIDEXAMPLE",
                secretAccessKey: "wJalrXUtnFEMI",
                sessionToken: "t0ken"
            ),
            region: "eu-central-1",
            service: "ses"
        )
        let headers = signer.headers(
            method: "POST",
            host: "email.eu-central-1.amazonaws.com",
            path: "/v2/email/outbound-emails",
            headers: [("content-type", "application/json")],
            body: Array(#"{"a":"ü"}"#.utf8),
            date: 1_790_000_000
        )
        let theirs = try await RealServers.run(
            RealServers.program(RealServers.python.path),
            [RealServers.script("aws.py"), "sign", "1790000000", #"{"a":"ü"}"#]
        ).trimmingCharacters(in: .whitespacesAndNewlines)
        #expect(headers.first { $0.name == "authorization" }?.value == theirs)
        #expect(AWSSignature.stamp(1_790_000_000) == "20260921T141320Z")
    }

    @Test(arguments: [
        (429, "TooManyRequestsException", "slow", "retriable", true),
        (400, "Throttling", "Maximum sending rate exceeded.", "retriable", true),
        (400, "MessageRejected", "Email address is not verified", "rejected", false),
        (400, "SendingPausedException", "paused", "retriable", false),
        (403, "SignatureDoesNotMatch", "no", "retriable", false), (500, "InternalFailure", "no", "retriable", false),
        (504, "x", "no", "inDoubt", false),
    ])
    func refusals(status: Int, code: String, reason: String, expected: String, throttled: Bool) {
        let answer = HTTPExchange.Answer(status: UInt(status), retryAfter: nil, body: ByteBuffer())
        let outcome = AWSMapping.refusal(code: code, reason: reason, answer: answer)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
        #expect(outcome.isThrottled == throttled)
    }
}

private final class Moto {
    let port: Int
    private let process: Process
    private let folder: URL

    private init(port: Int, process: Process, folder: URL) {
        self.port = port
        self.process = process
        self.folder = folder
    }

    static func start() async throws -> Moto {
        let folder = try RealServers.folder("moto")
        let port = try LoopbackPort.free()
        let python = try RealServers.program(RealServers.python.path)
        let process = try RealServers.start(
            python,
            [RealServers.script("moto_server.py"), String(port), folder.path + "/state"],
            log: folder.appending(path: "log")
        )
        let moto = Moto(port: port, process: process, folder: folder)
        do {
            try await RealServers.waitForPort(port, seconds: 120)
            _ = try await moto.ask("prepare")
        } catch {
            moto.stop()
            throw error
        }
        return moto
    }

    /// The mails and pushes that it was given.
    var state: String { (try? String(contentsOf: folder.appending(path: "state"), encoding: .utf8)) ?? "" }

    func ask(_ words: String...) async throws -> String {
        try await RealServers.run(
            RealServers.program(RealServers.python.path),
            [RealServers.script("aws.py"), "ask", String(port)] + words
        ).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    func stop() {
        RealServers.kill(process)
        try? FileManager.default.removeItem(at: folder)
    }
}
