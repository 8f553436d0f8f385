// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

/// Fixed seeds of the simulation; many more run by `make simulate`.
@Suite struct LogSimulationTests {
    @Test(arguments: 0..<7) func theLogIsWhatTheModelSays(block: Int) throws {
        for seed in 0..<40 { _ = try LogSimulation(seed: UInt64(120 + block * 40 + seed), operations: 80).run() }
    }

    /// The same node with two data folders, and with replicas whose high watermark lags.
    @Test(arguments: [SimulationSetup(folders: 2), SimulationSetup(isReplicated: true)])
    func otherSetups(setup: SimulationSetup) throws {
        for seed in UInt64(120)..<140 { _ = try LogSimulation(seed: seed, setup: setup).run() }
    }

    /// The power fails at every call of an operation.
    @Test(arguments: LogSweep.Operation.allCases) func everyCall(operation: LogSweep.Operation) throws {
        #expect(try LogSweep(seed: 2, operation: operation, outcomes: 1).run() > 0)
    }

    /// Sequences of long runs that once showed something wrong: leftovers of deletions, epochs from half of a log, aborts that
    /// a crash took back, producers' last batches, offsets given twice, remains of failed appends, index entries of lost batches.
    @Test(arguments: [
        1_000_349, 1_000_366, 1_000_495, 1_000_681, 1_000_802, 1_000_906, 1_001_005, 1_001_087, 1_001_298, 1_001_346,
        1_000_070, 1_001_028, 1_001_676, 1_001_873, 1_001_906, 1_002_034, 1_002_077, 1_002_719, 1_003_679, 1_000_730,
    ]) func whatOnceWentWrong(seed: UInt64) throws {
        _ = try LogSimulation(seed: seed, operations: 100).run()
    }

    /// As above, of longer sequences: syncs that failed at a start, a start of the log that one file knew, reserved space in
    /// segments before the log's start, aborts and footers that came back after a truncation, a segment that came back after a
    /// reset, the rest of a failed append in a sealed segment, a snapshot that lost its content.
    @Test(arguments: [
        3_002_872, 3_000_124, 3_000_788, 3_001_793, 3_002_303, 3_003_840, 3_004_496, 3_004_625, 3_005_369, 6_001_957,
        6_008_007, 6_008_231,
    ])
    func whatOnceWentWrongLater(seed: UInt64) throws {
        _ = try LogSimulation(seed: seed, operations: 120).run()
    }

    /// Of nodes with replicas: aborts whose markers were beyond the high watermark at a compaction after a
    /// start, epochs forgotten before the log's new start was on disk; a flipped bit of an offset.
    @Test(arguments: [5_000_048, 5_000_485, 5_000_580, 5_000_691, 5_001_264, 5_003_424, 5_007_223])
    func whatOnceWentWrongWithReplicas(seed: UInt64) throws {
        _ = try LogSimulation(seed: seed, operations: 120, setup: SimulationSetup(isReplicated: true)).run()
    }
}
