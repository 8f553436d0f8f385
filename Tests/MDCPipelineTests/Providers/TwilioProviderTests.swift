// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// Twilio's interface: requests against a stub, signatures against Twilio's own library.
@Suite struct TwilioProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton
    private let message = Message(
        id: "0199a000-0000-7000-8000-000000000001",
        channel: .sms,
        to: "+447700900001",
        sender: "+15005550006",
        content: MessageContent(text: "hello & good-bye"),
        createdAt: 1_790_000_000_000
    )

    @Test func requestsAndAnswers() async throws {
        let seen = Mutex<SimulatorRequest?>(nil)
        let server = try await SimulatorHTTPServer.start(host: "127.0.0.1", port: 0, group: group) {
            request,
            responder in
            seen.withLock { $0 = request }
            let body = #"{"sid":"SM1","status":"queued","error_code":null,"num_segments":"1"}"#
            responder.respond(SimulatorResponse(status: .created, body: body))
        }
        let provider = try TwilioProvider(
            .init(
                baseURL: "http://127.0.0.1:\(server.port)",
                accountSID: "AC1",
                authToken: "t0ken",
                callbackURL: "https://mdc.example.com/callbacks/twilio/s3cret",
                requestTimeout: .seconds(30)
            ),
            group: group
        )
        #expect(await provider.send(message, attempt: 2) == .accepted(providerMessageID: "SM1", detail: "queued"))
        let request = try #require(seen.withLock { $0 })
        #expect(request.path == "/2010-04-01/Accounts/AC1/Messages.json")
        #expect(request.headers.first(name: "authorization") == "Basic " + Data("AC1:t0ken".utf8).base64EncodedString())
        let fields = FormFields(decoding: String(buffer: request.body))
        #expect(
            fields["To"] == message.to && fields["From"] == message.sender && fields["Body"] == message.content.text
        )
        #expect(
            fields["StatusCallback"]
                == "https://mdc.example.com/callbacks/twilio/s3cret?reference=\(message.reference(attempt: 2))"
        )
        #expect(await provider.status(ofMessage: "../x") == nil)
        await provider.shutdown()
        await server.shutdown()
    }

    @Test(arguments: [
        (201, #"{"sid":"SM1","status":"queued"}"#, "accepted"), (201, "{}", "inDoubt"), (201, "<html>", "inDoubt"),
        (400, #"{"code":21211,"message":"bad To"}"#, "rejected"), (400, #"{"code":21610}"#, "rejected"),
        (403, #"{"code":21408}"#, "rejected"), (401, #"{"code":20003,"message":"no"}"#, "retriable"),
        (429, #"{"code":20429,"message":"slow down"}"#, "retriable"), (503, "", "retriable"), (504, "", "inDoubt"),
    ])
    func answers(status: Int, body: String, expected: String) {
        let answer = HTTPExchange.Answer(status: UInt(status), retryAfter: nil, body: ByteBuffer(string: body))
        let outcome = TwilioMapping.outcome(answer)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
        #expect(outcome.isThrottled == (status == 429))
    }

    /// What Twilio's own library signs is believed; anything else gets 403, and nothing of it is stored.
    @Test func signedCallbacks() async throws {
        let kept = KeptReceipts()
        let publicURL = "https://mdc.example.com"
        let route = CallbackListener.Route(
            provider: "twilio",
            secret: "s3cret",
            format: .twilio,
            signature: .twilio(token: "t0ken", publicURL: publicURL)
        )
        let listener = CallbackListener(.init(routes: [route]), sink: kept, group: group, logger: quietLogger())
        let listening = Task { try await listener.run() }
        let port = try await listener.boundPort()
        let path = "/callbacks/twilio/s3cret?reference=\(message.reference(attempt: 1))"
        let body = FormFields([
            ("MessageSid", "SM1"), ("MessageStatus", "undelivered"), ("ErrorCode", "30003"), ("To", message.to),
            ("From", message.sender), ("AccountSid", "AC1"), ("ApiVersion", "2010-04-01"),
        ]).encoded
        let signature = try sign(url: publicURL + path, body: body)
        let client = HTTPClient(eventLoopGroupProvider: .shared(group))
        func post(_ signature: String?, _ body: String) async throws -> UInt {
            var request = HTTPClientRequest(url: "http://127.0.0.1:\(port)\(path)")
            request.method = .POST
            request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
            if let signature { request.headers.add(name: "X-Twilio-Signature", value: signature) }
            request.body = .bytes(ByteBuffer(string: body))
            return try await client.execute(request, timeout: .seconds(60)).status.code
        }
        #expect(try await post(nil, body) == 403)
        #expect(try await post("AAAA" + signature.dropFirst(4), body) == 403)
        #expect(try await post(signature, body + "&MessageStatus=delivered") == 403)
        #expect(kept.receipts.isEmpty)
        #expect(try await post(signature, body) == 200)
        let receipt = try #require(kept.receipts.first)
        #expect(receipt.status == .undelivered && receipt.code == "30003" && receipt.providerMessageID == "SM1")
        #expect(receipt.reference == message.reference(attempt: 1))
        try await client.shutdown()
        listening.cancel()
        _ = try? await listening.value
    }

    private func sign(url: String, body: String) throws -> String {
        let process = Process()
        process.executableURL = try RealServers.program(RealServers.python.path)
        process.arguments = [RealServers.script("twilio_signature.py"), "t0ken"]
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        let line = try JSONEncoder().encode(["url": url, "body": body])
        try input.fileHandleForWriting.write(contentsOf: line + Data("\n".utf8))
        try input.fileHandleForWriting.close()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        return text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// Kaleyra's older interface.
@Suite struct KaleyraLegacyTests {
    @Test(arguments: [
        (200, #"{"status":"OK","data":[{"id":"u:1","customid":"","mobile":"91","status":"AWAITED-DLR"}]}"#, "accepted"),
        (200, #"{"status":"OK","data":{"0":{"id":"u:1","status":"AWAITED-DLR"}}}"#, "accepted"),
        (200, #"{"status":"OK","data":[{"id":"u:1","status":"INV-NUMBER"}]}"#, "rejected"),
        (200, #"{"status":"OK","data":[{"id":"u:1","status":"MOB-OFF"}]}"#, "retriable"),
        (200, #"{"status":"E612","message":"TM blacklisted"}"#, "rejected"),
        (200, #"{"status":"A401","message":"bad key"}"#, "retriable"),
        (200, #"{"status":"OK","data":[]}"#, "inDoubt"), (200, "busy", "inDoubt"), (503, "busy", "retriable"),
    ])
    func answers(status: Int, body: String, expected: String) {
        let answer = HTTPExchange.Answer(status: UInt(status), retryAfter: nil, body: ByteBuffer(string: body))
        let outcome = KaleyraLegacyMapping.outcome(answer)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
    }

    @Test func fieldsAndReceipt() async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let provider = try KaleyraLegacyProvider(
            .init(
                apiKey: "k3y",
                callbackURL: "https://mdc.example.com/callbacks/kaleyra-v4/s3cret",
                entityID: "1101",
                templateIDs: ["otp": "1107"]
            ),
            group: group
        )
        var message = Make.message()
        message.template = "otp"
        message.content.text = "नमस्ते"
        let fields = provider.fields(message, reference: "m1.1")
        #expect(fields["unicode"] == "1" && fields["template_id"] == "1107" && fields["entity_id"] == "1101")
        #expect(fields["custom"] == "m1.1" && fields["method"] == "sms")
        // What the gateway makes of the address that it was told.
        let called = try #require(fields["dlrurl"]).replacing("{msgid}", with: "u%3A1").replacing(
            "{status}",
            with: "DELIVRD"
        )
        .replacing("{delivered}", with: "1790000000").replacing("{custom}", with: "m1.1")
        let parser = CallbackParser(format: .kaleyra, provider: "kaleyra-v4")
        let receipts = try parser.receipts(
            query: String(called.split(separator: "?")[1]),
            contentType: nil,
            body: ByteBuffer(),
            now: 1
        )
        #expect(receipts.map(\.status) == [.delivered])
        #expect(receipts.first?.reference == "m1.1" && receipts.first?.providerMessageID == "u:1")
        await provider.shutdown()
    }
}
