// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// A real `mdc-broker` process with a folder of its own on free loopback ports, which a test may stop, kill and start
/// again with the same data and addresses. Call `discard()` at the end.
///
/// The binary is the one built beside the tests, or that named by the environment variable `MDC_BROKER`.
public final class BrokerProcess: Sendable {
    /// What went wrong while starting.
    public struct Failure: Error, CustomStringConvertible {
        /// What happened, with the end of the broker's log.
        public let description: String
    }

    private struct State {
        var process: Process?
        var log = ""
        var isReady = false
    }

    /// Port of the Kafka protocol.
    public let port: Int
    /// Port of health checks and metrics.
    public let httpPort: Int
    /// The data folder.
    public let dataFolder: String
    private let settings: [String]
    private let state = Mutex(State())

    /// Chooses ports and a folder; starts nothing. `settings`: `key=value` for `--set`.
    public init(settings: [String] = []) throws {
        port = try Self.freePort()
        httpPort = try Self.freePort()
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("mdc-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        dataFolder = folder.path
        self.settings = settings
    }

    /// A started broker.
    public static func started(settings: [String] = []) async throws -> BrokerProcess {
        let broker = try BrokerProcess(settings: settings)
        try await broker.start()
        return broker
    }

    /// For `bootstrapServers`.
    public var address: String { "127.0.0.1:\(port)" }

    /// The end of what the broker printed.
    public var log: String { state.withLock { String($0.log.suffix(8000)) } }

    /// The path of the binary; nil where it was not built.
    public static var binary: String? {
        if let named = ProcessInfo.processInfo.environment["MDC_BROKER"] { return named }
        var candidates = [URL(fileURLWithPath: CommandLine.arguments[0])]
        if let link = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") {
            candidates.append(URL(fileURLWithPath: link))
        }
        for start in candidates {
            // The test bundle lies beside the executables; on macOS some folders below.
            var folder = start.deletingLastPathComponent()
            for _ in 0..<4 {
                let path = folder.appendingPathComponent("mdc-broker").path
                if FileManager.default.isExecutableFile(atPath: path) { return path }
                folder = folder.deletingLastPathComponent()
            }
        }
        return nil
    }

    /// Starts the broker, for the first time or again, and waits for its `ready` line.
    public func start(timeout: Duration = .seconds(60)) async throws {
        guard let binary = Self.binary else {
            throw Failure(
                description: "mdc-broker is not built: run `swift build --product mdc-broker`, or set MDC_BROKER"
            )
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: binary)
        process.arguments =
            [
                "run", "--data", dataFolder, "--listen", address, "--http", "127.0.0.1:\(httpPort)",
            ] + settings.flatMap { ["--set", $0] }
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        output.fileHandleForReading.readabilityHandler = { [weak self] handle in
            let data = handle.availableData
            if data.isEmpty { return handle.readabilityHandler = nil }
            self?.take(String(decoding: data, as: UTF8.self))
        }
        state.withLock { state in
            state.isReady = false
            state.process = process
        }
        try process.run()
        let deadline = ContinuousClock.now + timeout
        while !state.withLock({ $0.isReady }) {
            guard process.isRunning else {
                try await Task.sleep(for: .milliseconds(100))
                throw Failure(description: "the broker ended with \(process.terminationStatus):\n\(log)")
            }
            guard ContinuousClock.now < deadline else {
                kill()
                throw Failure(description: "the broker was not ready within \(timeout):\n\(log)")
            }
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    private func take(_ text: String) {
        state.withLock { state in
            state.log += text
            if state.log.utf8.count > 1 << 20 { state.log = String(state.log.suffix(1 << 16)) }
            if !state.isReady, state.log.split(separator: "\n").contains(where: { $0.hasPrefix("ready") }) {
                state.isReady = true
                state.log = ""
            }
        }
    }

    /// SIGKILL, and waits for the end. The data stays.
    public func kill() {
        guard let process = state.withLock({ $0.process }), process.isRunning else { return }
        _ = sendSignal(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// SIGTERM, and waits for the end. Gives the exit status.
    @discardableResult
    public func terminate() -> Int32 {
        guard let process = state.withLock({ $0.process }) else { return -1 }
        if process.isRunning { process.terminate() }
        process.waitUntilExit()
        return process.terminationStatus
    }

    /// Kills the broker and deletes its data.
    public func discard() {
        kill()
        try? FileManager.default.removeItem(atPath: dataFolder)
    }

    /// A port that nobody listens on, below those that systems give to outgoing connections: one of these could take the
    /// place of a broker that is killed and started again.
    private static func freePort() throws -> Int {
        for _ in 0..<1_000 {
            let port = Int.random(in: 15_000..<32_000)
            if isFree(port) { return port }
        }
        throw Failure(description: "no free port between 15000 and 32000")
    }

    private static func isFree(_ port: Int) -> Bool {
        #if canImport(Darwin)
            let stream = SOCK_STREAM
        #else
            let stream = Int32(SOCK_STREAM.rawValue)
        #endif
        let socket = openSocket(AF_INET, stream)
        guard socket >= 0 else { return false }
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(socket, generic, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}

// The methods of the type hide the functions of the C library.
private func openSocket(_ domain: Int32, _ type: Int32) -> Int32 { socket(domain, type, 0) }
private func sendSignal(_ process: Int32, _ signal: Int32) -> Int32 { kill(process, signal) }
