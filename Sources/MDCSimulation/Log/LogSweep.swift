// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel

/// The power fails at each change in turn that one operation makes to the disk, at the end of a short random sequence. What
/// random moments find seldom, a failure between two certain calls, is found here by counting.
public struct LogSweep: Sendable {
    /// What is interrupted.
    public enum Operation: String, Sendable, CaseIterable {
        /// A compaction, its swap included.
        case compaction
        /// Retention by time, by size, and of what lies before the start.
        case retention
        /// DeleteRecords.
        case deletion
        /// A cut by a follower.
        case truncation
        /// A checkpoint after appends.
        case checkpoint
        /// An orderly stop.
        case close

        /// Makes the operation have something to do.
        func prepare(_ profile: inout LogSimulator.Profile) {
            profile.crashes = false
            profile.faults = false
            profile.flips = false
            profile.partitions = 1
            profile.settings.durability = .fsync
            profile.settings.segmentBytes = min(profile.settings.segmentBytes, 1500)
            profile.largestValue = min(profile.largestValue, 100)
            profile.settings.retentionMilliseconds = -1
            profile.settings.retentionBytes = -1
            switch self {
            case .compaction:
                profile.settings.cleanupPolicy = .compact
                profile.settings.segmentBytes = 700
                profile.settings.minCleanableDirtyRatio = 0
            case .retention:
                profile.settings.cleanupPolicy = .delete
                profile.settings.retentionMilliseconds = 60_000
            default: profile.settings.cleanupPolicy = .delete
            }
        }
    }

    /// Decides everything.
    public var seed: UInt64
    /// What is interrupted.
    public var operation: Operation
    /// Length of the sequence before it.
    public var operations: Int
    /// What may be left of the disk's unsynced changes is tried so often for each call.
    public var outcomes: Int
    /// A bug to plant, which the sweep is to find.
    public var bug: PlantedBug?
    private static let limit = 1000

    /// Makes a sweep.
    public init(seed: UInt64, operation: Operation, operations: Int = 40, outcomes: Int = 3, bug: PlantedBug? = nil) {
        self.seed = seed
        self.operation = operation
        self.operations = operations
        self.outcomes = outcomes
        self.bug = bug
    }

    /// Runs it on the caller's thread; returns how often the power failed.
    public func run() throws(SimulationFailure) -> Int {
        var failures = 0
        for changes in 0..<Self.limit {
            var isOver = false
            for outcome in 0..<outcomes {
                let simulator = LogSimulator(seed: seed, bug: bug, sweep: operation, onTrace: nil)
                do {
                    if try simulator.run(operations, then: operation, failingAfter: changes, outcome: outcome) {
                        failures += 1
                    } else {
                        isOver = true
                    }
                } catch {
                    throw SimulationFailure(
                        seed: seed,
                        operation: simulator.counts.operations,
                        message: "\(operation.rawValue), power failure after \(changes) changes: \(error)",
                        trace: simulator.lastTrace,
                        command: "mdc-simulate sweep --seeds \(seed)..\(seed) --operation \(operation.rawValue)"
                            + (bug.map { " --bug \($0.rawValue)" } ?? "")
                    )
                }
            }
            if isOver { return failures }
        }
        return failures
    }
}

extension LogSimulator {
    /// A random sequence without failures, then `operation`, within which the power fails; then two starts. Tells whether the
    /// power failed before the operation had ended.
    fileprivate func run(
        _ operations: Int,
        then operation: LogSweep.Operation,
        failingAfter changes: Int,
        outcome: Int
    ) throws -> Bool {
        try open()
        try create()
        while counts.operations < operations {
            counts.operations += 1
            try perform()
            try afterwards()
        }
        guard let manager, let partition = order.first else { return false }
        for _ in 0..<12 { try append(to: partition) }
        syncRound(manager)
        checkpoint(manager)
        takeNote()
        if operation == .retention {
            clock.advance(by: 100_000)
            disk.setTime(clock.time)
        }
        if operation == .checkpoint || operation == .close { try append(to: partition) }
        disk.reseed(seed &+ UInt64(changes * 31 + outcome))
        disk.crashAfter(changes: changes)
        switch operation {
        case .compaction: compact(manager)
        case .retention: try maintenance(manager)
        case .deletion: try deleteRecords(partition)
        case .truncation: try truncate(partition)
        case .checkpoint:
            syncRound(manager)
            checkpoint(manager)
        case .close:
            do throws(LogError) { try manager.close() } catch {
                if !disk.hasCrashed { throw Wrong("closing failed without a reason: \(error)") }
            }
        }
        let hasFailed = disk.hasCrashed
        disk.crashAfter(changes: nil)
        takeNote()
        try restart(.crash)
        try restart(.kill)
        return hasFailed
    }
}
