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
        /// Where the output of the running process begins in the log file.
        var logStart: UInt64 = 0
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
        port = try LoopbackPort.free()
        httpPort = try LoopbackPort.free()
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

    /// The end of what the broker printed since its last start.
    public var log: String { String(printed().suffix(8000)) }

    /// What the process prints goes to a file that is read when it is asked for: a pipe would need somebody to read it
    /// all the time, and whoever closes it to know of the reader.
    private var logFile: String { dataFolder + ".log" }

    private func printed() -> String {
        guard let handle = FileHandle(forReadingAtPath: logFile) else { return "" }
        defer { try? handle.close() }
        try? handle.seek(toOffset: state.withLock { $0.logStart })
        return (try? handle.readToEnd()).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

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
        if !FileManager.default.fileExists(atPath: logFile) {
            _ = FileManager.default.createFile(atPath: logFile, contents: nil)
        }
        guard let output = FileHandle(forWritingAtPath: logFile) else {
            throw Failure(description: "cannot write \(logFile)")
        }
        defer { try? output.close() }
        let logStart = try output.seekToEnd()
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output
        process.standardError = output
        state.withLock { state in
            state.logStart = logStart
            state.process = process
        }
        try process.run()
        let deadline = ContinuousClock.now + timeout
        while !printed().split(separator: "\n").contains(where: { $0.hasPrefix("ready") }) {
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
        try? FileManager.default.removeItem(atPath: logFile)
    }
}

// The method of the type hides the function of the C library.
private func sendSignal(_ process: Int32, _ signal: Int32) -> Int32 { kill(process, signal) }
