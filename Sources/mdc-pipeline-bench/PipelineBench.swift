// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Foundation
import Logging
import MDCClient
import MDCPipeline
import NIOPosix
import Synchronization

/// What the benchmarks share: the broker, the sinks, and how a figure is printed.
struct PipelineBench: Sendable {
    let client: ClientConfiguration
    /// The program of `Benchmarks/sinks.c`.
    let sinks: String
    /// The broker's process, whose processor time counts, too.
    let brokerPID: Int?
    /// Multiplies the number of messages.
    let scale: Double
    let group: MultiThreadedEventLoopGroup
    let logger: Logger

    func scaled(_ count: Int) -> Int { max(100, Int(Double(count) * scale)) }

    func producer() throws -> Producer {
        var settings = ProducerConfiguration(client: client)
        settings.linger = .zero
        return try Producer(settings, eventLoopGroup: group, logger: logger)
    }

    func figure(_ name: String, _ value: Double, _ unit: String) {
        FileHandle.standardOutput.write(Data("\(name) \(String(format: "%.4g", value)) \(unit)\n".utf8))
    }

    /// Prints rate and processor time of so many pieces of work.
    func rate(_ name: String, _ count: Int, of unit: String, since start: Moment) {
        let now = Moment(brokerPID)
        let seconds = now.clock - start.clock
        figure("\(name)_rate", Double(count) / seconds, "\(unit)/s")
        figure("\(name)_cpu_per_million", (now.processor - start.processor) / Double(count) * 1e6, "s")
        if brokerPID != nil {
            figure("\(name)_broker_cpu_per_million", (now.broker - start.broker) / Double(count) * 1e6, "s")
        }
    }

    /// Runs the body with a sink of a kind, at its port.
    func withSink(_ kind: String, _ body: (Int) async throws -> Void) async throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: sinks)
        process.arguments = [kind]
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        defer {
            try? input.fileHandleForWriting.close()
            process.waitUntilExit()
        }
        let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        guard let port = Int(line.trimmingCharacters(in: .whitespacesAndNewlines)) else {
            throw BenchError("the sink said '\(line)' instead of its port; is --sinks right?")
        }
        try await body(port)
    }

    /// Sends messages through a provider, as many at once as it takes; all must be accepted.
    func sendAll(_ provider: any Provider, _ count: Int, _ message: @escaping @Sendable (Int) -> Message) async throws {
        let (next, concurrency) = (Counter(), provider.concurrency)
        let accepted = await withTaskGroup(of: Int.self) { tasks in
            for _ in 0..<concurrency {
                tasks.addTask {
                    var accepted = 0
                    while true {
                        let index = next.take()
                        guard index < count else { return accepted }
                        if case .accepted = await provider.send(message(index), attempt: 1) { accepted += 1 }
                    }
                }
            }
            return await tasks.reduce(0, +)
        }
        guard accepted == count else { throw BenchError("\(provider.name) accepted \(accepted) of \(count) messages") }
    }

    func waitUntil(_ what: @autoclosure () -> String, seconds: Double = 120, _ condition: () async throws -> Bool)
        async throws
    {
        let deadline = Moment.now + seconds
        while try await !condition() {
            guard Moment.now < deadline else { throw BenchError("waited \(seconds) s for \(what())") }
            try await Task.sleep(for: .milliseconds(5))
        }
    }
}

/// A point in time, with the processor time used until then, in seconds.
struct Moment: Sendable {
    let clock = Moment.now
    let processor: Double
    let broker: Double

    init(_ brokerPID: Int?) {
        processor = Self.processorTime(of: "self")
        broker = brokerPID.map { Self.processorTime(of: "\($0)") } ?? 0
    }

    static var now: Double {
        Double(DispatchTime.now().uptimeNanoseconds) / 1e9
    }

    /// The processor time of a process, from `/proc`.
    private static func processorTime(of pid: String) -> Double {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/stat"),
            let rest = String(decoding: data, as: UTF8.self).split(separator: ")").last
        else { return 0 }
        let fields = rest.split(separator: " ")
        return fields.count > 12
            ? ((Double(fields[11]) ?? 0) + (Double(fields[12]) ?? 0)) / Double(sysconf(Int32(_SC_CLK_TCK))) : 0
    }

    /// This process's memory, in MB.
    static var memory: Double {
        guard let data = FileManager.default.contents(atPath: "/proc/self/statm") else { return 0 }
        let pages =
            String(decoding: data, as: UTF8.self).split(separator: " ").dropFirst().first.flatMap { Double($0) } ?? 0
        return pages * Double(getpagesize()) / 1e6
    }
}

struct BenchError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Numbers from 0 on, each once.
private final class Counter: Sendable {
    private let next = Mutex(0)

    func take() -> Int {
        next.withLock { next in
            next += 1
            return next - 1
        }
    }
}

func writeError(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }

extension Array where Element: Comparable {
    /// Of a sorted array.
    func percentile(_ share: Double) -> Element { self[Swift.min(count - 1, Int(Double(count) * share / 100))] }
}
