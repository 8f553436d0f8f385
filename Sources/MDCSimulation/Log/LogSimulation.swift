// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOConcurrencyHelpers

/// A log that did not do what the model says.
public struct SimulationFailure: Error, Sendable, CustomStringConvertible {
    /// The seed of the sequence.
    public var seed: UInt64
    /// The number of the operation, from 1.
    public var operation: Int
    /// What is wrong.
    public var message: String
    /// The last operations before it.
    public var trace: [String]
    /// How to see it again.
    public var command: String

    public var description: String {
        "seed \(seed), operation \(operation): \(message)\n" + trace.map { "    \($0)" }.joined(separator: "\n")
            + "\n  replay: \(command)"
    }
}

/// What a simulation has done.
public struct SimulationCounts: Sendable, Hashable {
    public var operations = 0
    public var appends = 0
    public var refusals = 0
    public var reads = 0
    public var lookups = 0
    public var syncRounds = 0
    public var checkpoints = 0
    public var truncations = 0
    public var deletions = 0
    public var compactions = 0
    public var closes = 0
    public var kills = 0
    public var crashes = 0
    public var faults = 0
    public var flips = 0
    public var recordsVerified = 0

    /// Nothing done yet.
    public init() {}

    /// The counts in words.
    public var summary: String {
        "\(operations) operations: \(appends) appends, \(refusals) refused, \(reads) reads, \(lookups) look-ups, "
            + "\(syncRounds) sync rounds, \(checkpoints) checkpoints, \(truncations) truncations, "
            + "\(deletions) record deletions, \(compactions) compactions; \(closes) closes, \(kills) kills, "
            + "\(crashes) power failures, \(faults) faults, \(flips) flipped bits; "
            + "\(recordsVerified) records verified"
    }

    /// Adds another's.
    public mutating func add(_ other: SimulationCounts) {
        operations += other.operations
        appends += other.appends
        refusals += other.refusals
        reads += other.reads
        lookups += other.lookups
        syncRounds += other.syncRounds
        checkpoints += other.checkpoints
        truncations += other.truncations
        deletions += other.deletions
        compactions += other.compactions
        closes += other.closes
        kills += other.kills
        crashes += other.crashes
        faults += other.faults
        flips += other.flips
        recordsVerified += other.recordsVerified
    }
}

/// How a simulated node is set up, beside what the seed decides.
public struct SimulationSetup: Sendable, Hashable {
    /// Data folders.
    public var folders = 1
    /// The high watermark is told, as by a leader, and lags behind the durable end; else that stands in for it.
    public var isReplicated = false

    /// Makes a setup of one folder, without replicas.
    public init(folders: Int = 1, isReplicated: Bool = false) {
        self.folders = folders
        self.isReplicated = isReplicated
    }

    /// The options of the command.
    var options: String {
        (folders > 1 ? " --folders \(folders)" : "") + (isReplicated ? " --replicated" : "")
    }
}

/// A random sequence of operations on the logs of a node, on a disk that loses power, against a naive model.
public struct LogSimulation: Sendable {
    /// Decides everything.
    public var seed: UInt64
    /// Length of the sequence.
    public var operations: Int
    /// A bug to plant, which the simulation is to find.
    public var bug: PlantedBug?
    /// The node.
    public var setup: SimulationSetup

    /// Makes a simulation.
    public init(
        seed: UInt64,
        operations: Int = 80,
        bug: PlantedBug? = nil,
        setup: SimulationSetup = SimulationSetup()
    ) {
        self.seed = seed
        self.operations = operations
        self.bug = bug
        self.setup = setup
    }

    /// Runs it on the caller's thread. `trace` is called with each operation before it is made.
    public func run(trace: ((String) -> Void)? = nil) throws(SimulationFailure) -> SimulationCounts {
        let simulator = LogSimulator(seed: seed, bug: bug, setup: setup, onTrace: trace)
        do {
            try simulator.run(operations)
        } catch {
            var command = "mdc-simulate log --seeds \(seed)..\(seed) --operations \(operations)"
            command += setup.options
            if let bug { command += " --bug \(bug.rawValue)" }
            throw SimulationFailure(
                seed: seed,
                operation: simulator.counts.operations,
                message: "\(error)",
                trace: simulator.lastTrace,
                command: command
            )
        }
        return simulator.counts
    }
}

/// A clock that stands still until it is moved.
final class SimulatedClock: LogClock {
    private let milliseconds = NIOLockedValueBox<Int64>(1_700_000_000_000)
    var time: Int64 { milliseconds.withLockedValue { $0 } }
    func advance(by value: Int64) { milliseconds.withLockedValue { $0 += value } }
    func now() -> Timestamp { Timestamp(time) }
    func monotonic() -> UInt64 { UInt64(time) * 1_000_000 }
}

/// What is wrong; ends a simulation.
struct Wrong: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}
