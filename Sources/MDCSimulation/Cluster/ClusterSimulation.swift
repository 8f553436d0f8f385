// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog

    @testable import MDCBroker
#endif

/// What simulations of clusters have done.
public struct ClusterCounts: Sendable, Hashable {
    public var events = 0
    public var faults = 0
    public var starts = 0
    public var ends = 0
    public var leaderships = 0
    public var acknowledged = 0
    public var read = 0
    public var metadata = 0
    /// Those that were committed.
    public var transactions = 0

    /// Nothing done yet.
    public init() {}

    /// The counts in words.
    public var summary: String {
        "\(events) events, \(faults) faults, \(starts) starts, \(ends) ends of processes, \(leaderships) leaderships; "
            + "\(acknowledged) records acknowledged, \(read) read, \(transactions) transactions committed, \(metadata) changes of "
            + "metadata"
    }

    /// Adds another's.
    public mutating func add(_ other: ClusterCounts) {
        events += other.events
        faults += other.faults
        starts += other.starts
        ends += other.ends
        leaderships += other.leaderships
        acknowledged += other.acknowledged
        read += other.read
        metadata += other.metadata
        transactions += other.transactions
    }
}

/// A rule that is broken on purpose, to prove that the simulation of a cluster notices.
public enum PlantedClusterBug: String, Sendable, CaseIterable {
    case truncatesToHighWatermark, cutsAtLeadersOffset, ignoresDivergence, ignoresPendingMembers, ignoresMinimum
    case ignoresBrokerEpoch, admitsLaggards, fetchesFromWrittenEnd, countsWrittenEnd, restartedLeaderKeepsItsEpoch
    case actsOnOldMetadata, electsAnybody, comparesNoPartitionEpoch, acknowledgesBeforeCommit
    case emptyDiskIsTrusted, ignoresTopicID, endsMovesEarly
    case answersBeforeCommit, coordinatorsForget, ticketsStayValid, abortsAreRemembered, decisionIsForgotten
    case timeoutIsForgotten, abortKeepsTheEpoch, snapshotIsNotCarriedOn
}

/// Some nodes of a cluster, with the code of the broker, over simulated time, network and disks. One seed decides everything.
///
/// In debug builds only: the code of release builds cannot be looked into.
public struct ClusterSimulation: Sendable {
    /// Decides everything.
    public var seed: UInt64
    /// How long faults happen, in simulated time.
    public var milliseconds: Int
    /// The faults that happen, by number; nil for all of the seed's.
    public var faults: [Int]?
    /// The kinds of faults that happen, by name; empty for those that the seed chooses.
    public var kinds: [String]
    /// A rule to break.
    public var bug: PlantedClusterBug?

    /// The kinds of faults there are.
    public static var faultKinds: [String] {
        #if DEBUG
            ClusterFault.Kind.allCases.map(\.rawValue)
        #else
            []
        #endif
    }

    /// Whether this build can run it.
    public static var isAvailable: Bool {
        #if DEBUG
            true
        #else
            false
        #endif
    }

    /// Makes a simulation.
    public init(
        seed: UInt64,
        milliseconds: Int = 8_000,
        faults: [Int]? = nil,
        kinds: [String] = [],
        bug: PlantedClusterBug? = nil
    ) {
        self.kinds = kinds
        self.seed = seed
        self.milliseconds = milliseconds
        self.faults = faults
        self.bug = bug
    }

    /// How to see it again.
    public var command: String {
        var command = "mdc-simulate cluster --seeds \(seed)..\(seed) --milliseconds \(milliseconds)"
        if let faults {
            command += " --faults \(faults.isEmpty ? "none" : faults.map(String.init).joined(separator: ","))"
        }
        if !kinds.isEmpty { command += " --kinds \(kinds.joined(separator: ","))" }
        if let bug { command += " --bug \(bug.rawValue)" }
        return command + " --trace"
    }

    /// Runs it on the caller's thread. `trace` is called with each thing that happens.
    public func run(trace: ((String) -> Void)? = nil) throws(SimulationFailure) -> ClusterCounts {
        #if DEBUG
            let simulator = ClusterSimulator(
                seed: seed,
                milliseconds: milliseconds,
                kept: faults,
                kinds: kinds,
                onTrace: trace
            )
            PlantedReplicationBugs.$inForce.withValue(bug?.planted ?? []) {
                PlantedCoordinatorBug.$planted.withValue(bug?.inCoordinators) {
                    PlantedLogBugs.$inForce.withValue(bug?.inLogs ?? []) { simulator.run() }
                }
            }
            if let failure = simulator.failure {
                throw SimulationFailure(
                    seed: seed,
                    operation: simulator.counts.events,
                    message: failure,
                    trace: simulator.lastTrace.suffix(80),
                    command: command
                )
            }
            return simulator.counts
        #else
            throw SimulationFailure(
                seed: seed,
                operation: 0,
                message: "a cluster is simulated in debug builds only: swift build --product mdc-simulate",
                trace: [],
                command: command
            )
        #endif
    }

    /// A sequence with fewer faults that fails as well: halves, quarters and so on are left out as long as that is so.
    public func shrunk() -> ClusterSimulation {
        #if DEBUG
            var best = self
            var kept =
                faults
                ?? ClusterSimulator(seed: seed, milliseconds: milliseconds, kept: nil, kinds: kinds, onTrace: nil)
                .faultNumbers
            var size = max(1, kept.count / 2)
            while true {
                var start = 0
                var isSmaller = false
                while start < kept.count {
                    var fewer = self
                    fewer.faults = Array(kept[..<start] + kept[min(start + size, kept.count)...])
                    if (try? fewer.run()) == nil {
                        best = fewer
                        kept = fewer.faults ?? []
                        isSmaller = true
                    } else {
                        start += size
                    }
                }
                if size == 1, !isSmaller { return best }
                size = max(1, size / 2)
            }
        #else
            return self
        #endif
    }
}

#if DEBUG
    extension PlantedClusterBug {
        var planted: PlantedReplicationBugs {
            switch self {
            case .truncatesToHighWatermark: .truncatesToHighWatermark
            case .cutsAtLeadersOffset: .cutsAtLeadersOffset
            case .ignoresDivergence: .ignoresDivergence
            case .ignoresPendingMembers: .ignoresPendingMembers
            case .ignoresMinimum: .ignoresMinimum
            case .ignoresBrokerEpoch: .ignoresBrokerEpoch
            case .admitsLaggards: .admitsLaggards
            case .fetchesFromWrittenEnd: .fetchesFromWrittenEnd
            case .countsWrittenEnd: .countsWrittenEnd
            case .restartedLeaderKeepsItsEpoch: .restartedLeaderKeepsItsEpoch
            case .actsOnOldMetadata: .actsOnOldMetadata
            case .electsAnybody: .electsAnybody
            case .comparesNoPartitionEpoch: .comparesNoPartitionEpoch
            case .acknowledgesBeforeCommit: .acknowledgesBeforeCommit
            case .emptyDiskIsTrusted: .emptyDiskIsTrusted
            case .ignoresTopicID: .ignoresTopicID
            case .endsMovesEarly: .endsMovesEarly
            case .answersBeforeCommit: .answersBeforeCommit
            case .coordinatorsForget: .coordinatorsForget
            case .ticketsStayValid: .ticketsStayValid
            case .abortsAreRemembered, .decisionIsForgotten, .timeoutIsForgotten, .abortKeepsTheEpoch,
                .snapshotIsNotCarriedOn:
                []
            }
        }

        /// Those of the coordinators' state machines.
        var inCoordinators: PlantedCoordinatorBug? { PlantedCoordinatorBug(rawValue: rawValue) }

        /// Those of the log engine.
        var inLogs: PlantedLogBugs {
            switch self {
            case .abortsAreRemembered: .abortsAreRemembered
            case .snapshotIsNotCarriedOn: .snapshotIsNotCarriedOn
            default: []
            }
        }
    }
#endif
