// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// Our SMTP client against a server that is not ours: `smtp-sink` of Debian's package postfix.
@Suite(.enabled(if: SMTPSink.isInstalled, "smtp-sink is not installed (Debian package postfix)"))
struct SMTPSinkTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func message(_ index: Int) -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .email,
            to: "b\(index)@example.org",
            sender: "Müller <a@example.com>",
            content: MessageContent(subject: "Grüße \(index)", text: "Hello\n.\n..\n.end", html: "<p>नमस्ते</p>"),
            createdAt: 1_790_000_000_000
        )
    }

    /// With pipelining and without it; each mail arrives once and unchanged.
    @Test(arguments: [[], ["-p"], ["-e"]]) func mailsArriveUnchanged(options: [String]) async throws {
        let sink = try await SMTPSink.start(options)
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: sink.port, connections: 5), group: group)
        let accepted = await withTaskGroup(of: Bool.self) { group in
            for index in 0..<60 {
                let message = message(index)
                group.addTask {
                    if case .accepted = await provider.send(message, attempt: 1) { true } else { false }
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(accepted == 60)
        #expect(provider.pool.openedConnections <= 5)
        await provider.shutdown()
        let mails = try sink.mails()
        sink.stop()
        #expect(mails.count == 60)
        for index in 0..<60 {
            let message = message(index)
            let expected = String(buffer: try provider.makeMail(message, attempt: 1).get().content)
                .replacingOccurrences(of: "\r\n", with: "\n")
            #expect(mails.count { $0.contains(expected) } == 1)
        }
    }

    /// `-f` refuses commands for good, `-r` for now, `-q` hangs up after them.
    @Test(arguments: [
        (["-r", "RCPT"], "retriable"), (["-f", "RCPT"], "rejected"), (["-r", "."], "retriable"),
        (["-f", "."], "rejected"),
        (["-q", "MAIL"], "retriable"), (["-q", "."], "inDoubt"),
    ])
    func refusals(options: [String], expected: String) async throws {
        let sink = try await SMTPSink.start(options)
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: sink.port), group: group)
        let outcome = await provider.send(message(1), attempt: 1)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
        await provider.shutdown()
        sink.stop()
    }
}

/// A running `smtp-sink` and the folder that it writes mails to.
final class SMTPSink {
    private static let path = "/usr/sbin/smtp-sink"
    static var isInstalled: Bool { FileManager.default.isExecutableFile(atPath: path) }

    let port: Int
    private let process: Process
    private let folder: URL

    private init(port: Int, process: Process, folder: URL) {
        self.port = port
        self.process = process
        self.folder = folder
    }

    static func start(_ options: [String]) async throws -> SMTPSink {
        let folder = FileManager.default.temporaryDirectory.appending(path: "mdc-sink-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        // As root it changes to the user given.
        try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: folder.path)
        let port = try LoopbackPort.free()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        let user = getuid() == 0 ? ["-u", "nobody"] : []
        process.arguments = user + options + ["-d", folder.path + "/%M.", "127.0.0.1:\(port)", "100"]
        process.standardError = FileHandle.nullDevice
        try process.run()
        let sink = SMTPSink(port: port, process: process, folder: folder)
        for _ in 0..<500 {
            let connection = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: port).get()
            if let connection {
                try? await connection.close()
                return sink
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        sink.stop()
        throw CocoaError(.fileReadUnknown)
    }

    func mails() throws -> [String] {
        try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .map { String(decoding: try Data(contentsOf: $0), as: UTF8.self) }
            .filter { $0.contains("X-MDC-Reference") }
    }

    func stop() {
        // A child of Foundation's inherits a mask that may hold SIGTERM back; and waiting would hold a thread of the pool.
        kill(process.processIdentifier, SIGKILL)
        try? FileManager.default.removeItem(at: folder)
    }
}
