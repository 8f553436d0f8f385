// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// SMS through Debian's Kannel: bearerbox, smsbox, and its fake centre; receipts at our listener.
@Suite(.serialized) struct KannelProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func message(_ index: Int, text: String) -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .sms,
            to: "+447700900\(String(format: "%03d", index))",
            sender: "MDC",
            content: MessageContent(text: text),
            createdAt: 1_790_000_000_000
        )
    }

    @Test func messagesAndReceipts() async throws {
        let kannel = try await Kannel.start()
        defer { kannel.stop() }
        let kept = KeptReceipts()
        let listener = CallbackListener(
            .init(routes: [.init(provider: "kannel", secret: "s3cret", format: .kannel)]),
            sink: kept,
            group: group,
            logger: quietLogger()
        )
        let listening = Task { try await listener.run() }
        let port = try await listener.boundPort()
        func configuration(_ password: Secret) -> KannelProvider.Configuration {
            .init(
                url: "http://127.0.0.1:\(kannel.port)/cgi-bin/sendsms",
                username: "tester",
                password: password,
                callbackURL: "http://127.0.0.1:\(port)/callbacks/kannel/s3cret",
                requestTimeout: .seconds(30),
                connectTimeout: .seconds(30)
            )
        }
        let provider = try KannelProvider(configuration("foobar"), group: group)
        for (index, text) in ["hello & good-bye", "नमस्ते"].enumerated() {
            let outcome = await provider.send(message(index, text: text), attempt: 1)
            if case .accepted(let id, _) = outcome {
                #expect(id == message(index, text: text).reference(attempt: 1))
            } else {
                Issue.record("\(outcome)")
            }
        }
        // The centre took it (8), and it was delivered (1).
        for index in 0..<2 {
            let reference = message(index, text: "").reference(attempt: 1)
            #expect(
                await waitUntil {
                    let statuses = kept.receipts.filter { $0.reference == reference }.map(\.status)
                    return statuses.contains(.delivered) && statuses.contains(.sent)
                },
                "\(kept.receipts)"
            )
        }
        #expect(try kannel.sent().contains { $0.contains("+447700900000 text hello & good-bye") })
        #expect(try kannel.sent().contains { $0.contains("+447700900001 ucs-2") })
        await provider.shutdown()
        let stranger = try KannelProvider(configuration("wr0ng-one"), group: group)
        let refused = await stranger.send(message(3, text: "x"), attempt: 1)
        if case .retriable("403", let reason, .seconds(60)) = refused {
            #expect(!reason.contains("wr0ng-one"))
        } else {
            Issue.record("\(refused)")
        }
        await stranger.shutdown()
        kannel.stop()
        let gone = try KannelProvider(configuration("foobar"), group: group)
        // Its processes were told to end, which takes them a moment.
        #expect(
            await waitUntil {
                if case .retriable("connect", _, _) = await gone.send(message(4, text: "x"), attempt: 1) {
                    true
                } else {
                    false
                }
            },
            "a closed port"
        )
        await gone.shutdown()
        listening.cancel()
        _ = try? await listening.value
    }

    @Test(arguments: [
        (202, "0: Accepted for delivery", "accepted"), (202, "3: Queued for later delivery", "accepted"),
        (202, "<html>", "inDoubt"), (503, "4: Temporal failure, try again later.", "retriable"),
        (400, "Missing receiver number, rejected", "rejected"), (403, "Authorization failed", "retriable"),
        (504, "", "inDoubt"), (502, "", "retriable"),
    ])
    func answers(status: Int, body: String, expected: String) {
        let answer = HTTPExchange.Answer(status: UInt(status), retryAfter: nil, body: ByteBuffer(string: body))
        let outcome = KannelMapping.outcome(answer, reference: "m.1")
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
    }

    @Test func receiptTypes() {
        #expect(KannelMapping.status(type: "1", answer: nil) == .delivered)
        #expect(KannelMapping.status(type: "2", answer: "id:1 stat:EXPIRED err:000") == .expired)
        #expect(KannelMapping.status(type: "2", answer: nil) == .failed)
        #expect(KannelMapping.status(type: "16", answer: "NACK/10/") == .failed)
        #expect(KannelMapping.status(type: "8", answer: "ACK/") == .sent)
    }
}

private final class Kannel {
    let port: Int
    private let processes: [Process]
    private let folder: URL

    private init(port: Int, processes: [Process], folder: URL) {
        self.port = port
        self.processes = processes
        self.folder = folder
    }

    static func start() async throws -> Kannel {
        let folder = try RealServers.folder("kannel")
        let (admin, box, centre, sendsms) = (
            try LoopbackPort.free(), try LoopbackPort.free(), try LoopbackPort.free(),
            try LoopbackPort.free()
        )
        let configuration = folder.path + "/kannel.conf"
        try """
        group = core
        admin-port = \(admin)
        admin-password = admin
        smsbox-port = \(box)
        box-allow-ip = "127.0.0.1"
        admin-allow-ip = "127.0.0.1"
        dlr-storage = internal
        log-file = "\(folder.path)/bearerbox.log"

        group = smsc
        smsc = fake
        smsc-id = FAKE
        port = \(centre)
        connect-allow-ip = 127.0.0.1

        group = smsbox
        bearerbox-host = 127.0.0.1
        sendsms-port = \(sendsms)
        log-file = "\(folder.path)/smsbox.log"

        group = sendsms-user
        username = tester
        password = foobar
        max-messages = 10
        concatenation = true

        """.write(toFile: configuration, atomically: true, encoding: .utf8)
        var processes: [Process] = []
        func start(_ program: String, _ arguments: [String]) throws {
            processes.append(try RealServers.start(try RealServers.program(program), arguments, directory: folder))
        }
        do {
            try start("/usr/sbin/bearerbox", ["-v", "4", configuration])
            try await RealServers.waitForPort(box)
            try start(
                RealServers.python.path,
                [RealServers.script("fakesmsc.py"), String(centre), folder.path + "/sent"]
            )
            try start("/usr/sbin/smsbox", ["-v", "4", configuration])
            try await RealServers.waitForPort(sendsms)
        } catch {
            for process in processes { RealServers.kill(process) }
            throw error
        }
        return Kannel(port: sendsms, processes: processes, folder: folder)
    }

    func sent() throws -> [String] {
        try String(contentsOf: folder.appending(path: "sent"), encoding: .utf8).split(separator: "\n").map(String.init)
    }

    func stop() {
        for process in processes { RealServers.kill(process) }
        try? FileManager.default.removeItem(at: folder)
    }
}
