// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCTesting
import Synchronization
import Testing

@testable import MDCPipeline

/// The engines that a message store can have in this build. What is true of one must be true of all.
enum StoreKind: String, Sendable, CaseIterable, CustomTestStringConvertible {
    case sqlite
    #if PostgreSQL
        case postgreSQL
    #endif

    var testDescription: String { rawValue }

    /// An empty store of its own, and where it is; gone afterwards.
    func with<Result>(_ body: (MessageStore, StoreLocation) async throws -> Result) async throws -> Result {
        switch self {
        case .sqlite:
            let folder = FileManager.default.temporaryDirectory.appending(path: "mdc-store-\(UUID().uuidString)")
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(at: folder) }
            return try await Self.open(.file(folder.appending(path: "store.sqlite").path), body)
        #if PostgreSQL
            case .postgreSQL:
                let server = try await PostgresServer.shared.server()
                let name = try server.makeDatabase()
                defer { try? server.dropDatabase(name) }
                return try await Self.open(.postgreSQL(url: server.url(name), password: nil), body)
        #endif
        }
    }

    private static func open<Result>(
        _ location: StoreLocation,
        _ body: (MessageStore, StoreLocation) async throws -> Result
    ) async throws -> Result {
        let store = try MessageStore(location)
        defer { store.close() }
        return try await body(store, location)
    }
}

#if PostgreSQL
    /// A real server on a free port in a folder of its own, which ends with the process of the tests.
    final class PostgresServer: Sendable {
        let port: Int
        private let input: FileHandle
        private let folder: URL

        /// The server that tests share, each with its own database.
        static let shared = Shared()

        actor Shared {
            private var starting: Task<PostgresServer, any Error>?

            func server() async throws -> PostgresServer {
                let task = starting ?? Task { try await PostgresServer.start() }
                starting = task
                return try await task.value
            }
        }

        private init(port: Int, input: FileHandle, folder: URL) {
            (self.port, self.input, self.folder) = (port, input, folder)
        }

        static func start() async throws -> PostgresServer {
            let folder = try RealServers.folder("postgres")
            let log = FileManager.default.temporaryDirectory.appending(path: folder.lastPathComponent + ".log")
            defer { try? FileManager.default.removeItem(at: log) }
            _ = FileManager.default.createFile(atPath: log.path, contents: nil)
            let port = try LoopbackPort.free()
            let process = Process()
            process.executableURL = URL(filePath: "/bin/bash")
            process.arguments = [RealServers.script("postgres.sh"), folder.path, "\(port)"]
            let pipe = Pipe()
            process.standardInput = pipe
            let handle = try FileHandle(forWritingTo: log)
            process.standardOutput = handle
            process.standardError = handle
            try process.run()
            let server = PostgresServer(port: port, input: pipe.fileHandleForWriting, folder: folder)
            let isUp = await waitUntil(seconds: 120) { server.isUp || !process.isRunning }
            guard isUp, server.isUp else {
                let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
                throw RealServers.Missing(description: "PostgreSQL did not start: \(text.suffix(2_000))")
            }
            return server
        }

        func url(_ database: String) -> String { "postgresql://mdc@127.0.0.1:\(port)/\(database)" }

        private func administration() throws(PostgresFailure) -> PostgresConnection {
            try PostgresConnection(url("postgres"), password: nil, setup: "SELECT 1")
        }

        var isUp: Bool { (try? administration()) != nil }

        func makeDatabase() throws -> String {
            let name = "t" + UUID().uuidString.filter { $0 != "-" }.lowercased()
            try administration().run("CREATE DATABASE \(name)")
            return name
        }

        func dropDatabase(_ name: String) throws {
            try administration().run("DROP DATABASE IF EXISTS \(name) WITH (FORCE)")
        }

        /// At once, as if it were killed.
        func stop() throws { try input.write(contentsOf: Data("stop\n".utf8)) }

        func start() async throws {
            try input.write(contentsOf: Data("start\n".utf8))
            guard await waitUntil(seconds: 120, { isUp }) else {
                throw RealServers.Missing(description: "PostgreSQL did not start again")
            }
        }

        func end() { try? input.close() }
    }
#endif
