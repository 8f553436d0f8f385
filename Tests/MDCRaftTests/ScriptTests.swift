// SPDX-License-Identifier: Apache-2.0

import Glibc
import MDCRaft
import Testing

/// The scenarios in `Scripts/`, with the traces they must give. `MDC_RAFT_REWRITE=1` writes the traces anew: read the diff.
@Suite struct ScriptTests {
    @Test(arguments: ScriptFile.names)
    func scenarioGivesItsTrace(_ name: String) throws {
        let text = ScriptFile.read(name)
        let (trace, violation) = Script.run(text)
        #expect(violation == nil)
        if getenv("MDC_RAFT_REWRITE") != nil { return ScriptFile.write(name, trace) }
        let expected = text.split(separator: "\n", omittingEmptySubsequences: false)
        let actual = trace.split(separator: "\n", omittingEmptySubsequences: false)
        let difference = zip(expected, actual).enumerated().first { $0.element.0 != $0.element.1 }
        if let difference {
            Issue.record(
                "\(name).txt:\(difference.offset + 1): expected '\(difference.element.0)', got '\(difference.element.1)'"
            )
        } else {
            #expect(expected.count == actual.count, "\(name).txt: the trace is shorter or longer")
        }
    }
}

/// The files beside the tests.
enum ScriptFile {
    static let names = [
        "change-before-leader-entry", "check-quorum", "conflict", "election", "identity", "membership", "old-epoch",
        "persistence",
        "pinning", "pre-vote", "reads-lease", "reads-safe", "removed-node", "replication", "single", "snapshot",
        "transfer",
        "vote-remembered", "stale-log", "stale-vote", "one-change-at-a-time", "observers-do-not-count",
    ].sorted()

    static func path(_ name: String) -> String {
        "/" + #filePath.split(separator: "/").dropLast().joined(separator: "/") + "/Scripts/\(name).txt"
    }

    static func read(_ name: String) -> String {
        guard let file = fopen(path(name), "r") else { return "" }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        while case let byte = fgetc(file), byte >= 0 { bytes.append(UInt8(byte)) }
        return String(decoding: bytes, as: UTF8.self)
    }

    static func write(_ name: String, _ text: String) {
        guard let file = fopen(path(name), "w") else { return }
        defer { fclose(file) }
        fputs(text, file)
    }
}
