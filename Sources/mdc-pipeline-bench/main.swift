// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCClient
import NIOPosix

// The message centre's figures, one a line: `name value unit`. A broker runs beside it; providers are the sinks of
// Benchmarks/sinks.c, processes of their own that take everything at once.
//
//   mdc-pipeline-bench --bootstrap 127.0.0.1:9092 --sinks PATH --broker-pid PID [--scale 1.0] centre smtp smpp push callbacks timers

let benches: [(name: String, run: @Sendable (PipelineBench) async throws -> Void)] = [
    ("centre", { try await $0.centre() }),
    ("smtp", { try await $0.smtp() }),
    ("smpp", { try await $0.smpp() }),
    ("push", { try await $0.push() }),
    ("callbacks", { try await $0.callbacks() }),
    ("timers", { try await $0.timers() }),
]

func value(_ option: String, in arguments: inout [String]) -> String? {
    guard let index = arguments.firstIndex(of: option), index + 1 < arguments.count else { return nil }
    defer { arguments.removeSubrange(index...index + 1) }
    return arguments[index + 1]
}

var arguments = Array(CommandLine.arguments.dropFirst())
let bootstrap = value("--bootstrap", in: &arguments) ?? "127.0.0.1:9092"
let sinks = value("--sinks", in: &arguments) ?? ""
let brokerPID = value("--broker-pid", in: &arguments).flatMap { Int($0) }
let scale = value("--scale", in: &arguments).flatMap { Double($0) } ?? 1
if let unknown = arguments.first(where: { name in !benches.contains { $0.name == name } }) {
    writeError(
        "mdc-pipeline-bench: there is no benchmark \(unknown); choose of: \(benches.map(\.name).joined(separator: " "))"
    )
    exit(2)
}
let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
var logger = Logger(label: "bench") { StreamLogHandler.standardError(label: $0) }
logger.logLevel = .warning
let bench = PipelineBench(
    client: ClientConfiguration(bootstrapServers: [bootstrap], clientID: "bench"),
    sinks: sinks,
    brokerPID: brokerPID,
    scale: scale,
    group: group,
    logger: logger
)
do {
    for item in benches where arguments.isEmpty || arguments.contains(item.name) { try await item.run(bench) }
    exit(0)
} catch {
    writeError("mdc-pipeline-bench: \(error)")
    exit(1)
}
