// SPDX-License-Identifier: Apache-2.0

import Glibc
import MDCLog

// The storage engine's figures, one a line: `name value unit`. Each is measured beside its raw baseline in alternating
// runs of the same process; single values go to standard error. Words name the benchmarks to run; none: all.

/// Where the files go and which benchmarks run.
func runBenchmarks() throws {
    var arguments = Array(CommandLine.arguments.dropFirst())
    switch arguments.first {
    case "fill" where arguments.count == 4:
        try fillChild(
            arguments[1],
            durableMegabytes: Int(arguments[2]) ?? 0,
            tailMegabytes: Int(arguments[3]) ?? 0
        )
    case "open" where arguments.count == 3: try openChild(arguments[1], closes: arguments[2] == "close")
    default: break
    }
    var folder = "/tmp"
    if let option = arguments.firstIndex(of: "--dir"), option + 1 < arguments.count {
        folder = arguments[option + 1]
        arguments.removeSubrange(option...option + 1)
    }
    let benches: [(name: String, run: (String) throws -> Void)] = [
        ("validation", validationBench),
        ("append", appendBench),
        ("commit", commitBench),
        ("recycling", recyclingBench),
        ("compaction", compactionBench),
        ("compaction-tail", compactionTailBench),
        ("idle", { try idleBench($0, partitions: 10_000) }),
        ("check", checkBench),
        ("recovery", { try recoveryBench($0, gigabytes: 10) }),
    ]
    if let unknown = arguments.first(where: { name in !benches.contains { $0.name == name } }) {
        throw BenchError("there is no benchmark \(unknown); choose of: \(benches.map(\.name).joined(separator: " "))")
    }
    for bench in benches where arguments.isEmpty || arguments.contains(bench.name) { try bench.run(folder) }
}

do {
    try runBenchmarks()
} catch {
    writeError("mdc-log-bench: \(error)")
    exit(1)
}
