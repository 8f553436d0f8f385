// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// Servers that are not ours, started for one test: each a process of its own in a folder of its own.
enum RealServers {
    /// The repository.
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent()
    /// Python with the packages of `dev/install-deps test`.
    static var python: URL { root.appending(path: ".build/venv/bin/python") }

    /// A script in `Tests/MDCPipelineTests/Servers`.
    static func script(_ name: String) -> String {
        root.appending(path: "Tests/MDCPipelineTests/Servers/\(name)").path
    }

    struct Missing: Error, CustomStringConvertible {
        var description: String
    }

    /// A program that must be there: without it the test fails.
    static func program(_ paths: String...) throws -> URL {
        for path in paths where FileManager.default.isExecutableFile(atPath: path) { return URL(filePath: path) }
        throw Missing(description: "\(paths[0]) is not installed: run dev/install-deps test")
    }

    static func folder(_ name: String) throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appending(path: "mdc-\(name)-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: folder.path)
        return folder
    }

    /// Waits until something listens on the port.
    static func waitForPort(_ port: Int, seconds: Int = 60) async throws {
        for _ in 0..<(seconds * 20) {
            let connection = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: port).get()
            if let connection {
                try? await connection.close()
                return
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw Missing(description: "nothing listens on port \(port) after \(seconds) s")
    }

    /// Runs to the end and says what it printed. No thread waits for it.
    ///
    /// The output goes to a file: a daemon that the program leaves behind would keep a pipe open.
    @discardableResult
    static func run(_ program: URL, _ arguments: [String]) async throws -> String {
        let log = FileManager.default.temporaryDirectory.appending(path: "mdc-run-\(UUID().uuidString)")
        _ = FileManager.default.createFile(atPath: log.path, contents: nil)
        defer { try? FileManager.default.removeItem(at: log) }
        let handle = try FileHandle(forWritingTo: log)
        defer { try? handle.close() }
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = handle
        process.standardError = handle
        let status = try await withCheckedThrowingContinuation { continuation in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do {
                try process.run()
            } catch {
                process.terminationHandler = nil
                continuation.resume(throwing: error)
            }
        }
        let output = String(decoding: try Data(contentsOf: log), as: UTF8.self)
        guard status == 0 else {
            throw Missing(description: "\(program.lastPathComponent) \(arguments): \(output.suffix(2_000))")
        }
        return output
    }

    /// Starts a process that is killed at the end of the test.
    static func start(_ program: URL, _ arguments: [String], log: URL? = nil, directory: URL? = nil) throws -> Process {
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        if let directory { process.currentDirectoryURL = directory }
        process.standardInput = FileHandle.nullDevice
        if let log {
            _ = FileManager.default.createFile(atPath: log.path, contents: nil)
            let handle = try FileHandle(forWritingTo: log)
            process.standardOutput = handle
            process.standardError = handle
        } else {
            process.standardOutput = FileHandle.nullDevice
            process.standardError = FileHandle.nullDevice
        }
        try process.run()
        return process
    }

    static func kill(_ process: Process) {
        if process.isRunning { Foundation.kill(process.processIdentifier, SIGKILL) }
    }

    /// A key and a certificate for `localhost` alone, signed by itself: with the address in it, any name would pass.
    static func certificate(in folder: URL) async throws -> (certificate: String, key: String) {
        let (certificate, key) = (folder.appending(path: "cert.pem").path, folder.appending(path: "key.pem").path)
        try await run(
            program("/usr/bin/openssl"),
            [
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext",
                "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key,
            ]
        )
        return (certificate, key)
    }
}

/// Keeps receipts, and can be told to fail.
final class KeptReceipts: ReceiptSink {
    private let state = Mutex<(kept: [ProviderReceipt], failures: Int)>(([], 0))

    var receipts: [ProviderReceipt] { state.withLock { $0.kept } }
    /// The next so many appends fail.
    func failNext(_ count: Int) { state.withLock { $0.failures = count } }

    func append(_ receipts: [ProviderReceipt]) throws {
        try state.withLock { state in
            guard state.failures == 0 else {
                state.failures -= 1
                throw CocoaError(.fileWriteUnknown)
            }
            state.kept += receipts
        }
    }
}

/// Waits for a condition with a deadline that a slow machine does not miss.
func waitUntil(seconds: Int = 60, _ condition: () async throws -> Bool) async rethrows -> Bool {
    for _ in 0..<(seconds * 20) {
        if try await condition() { return true }
        try? await Task.sleep(for: .milliseconds(50))
    }
    return try await condition()
}
