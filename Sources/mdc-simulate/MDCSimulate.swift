// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc
import MDCSimulation

@main
struct MDCSimulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mdc-simulate",
        abstract: "Runs the storage engine, or a whole cluster, on simulated disks, by seed.",
        subcommands: [LogCommand.self, SweepCommand.self, ClusterCommand.self]
    )
}

/// `mdc-simulate log`.
struct LogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log",
        abstract: "Random operations on logs, with power failures, kills and faults.",
        discussion: "Exits with 1 at the first sequence that is not as the model says, and prints it."
    )

    @Option(help: "The seeds, as A..B or a single one.")
    var seeds = "1..1000"
    @Option(help: "Operations of each sequence.")
    var operations = 80
    @Option(help: "A bug to plant: \(PlantedBug.allCases.map(\.rawValue).joined(separator: ", ")).")
    var bug: String?
    @Option(help: "Data folders of the node.")
    var folders = 1
    @Flag(help: "The high watermark is told, and lags behind what is durable.")
    var replicated = false
    @Flag(help: "Print every operation.")
    var trace = false
    @Flag(help: "Go on after a failure; print one line each.")
    var keepGoing = false

    func run() throws {
        let (first, last) = try Arguments.range(seeds)
        let planted = try Arguments.bug(bug)
        var counts = SimulationCounts()
        var failures = 0
        let start = ContinuousClock.now
        for seed in first...last {
            let setup = SimulationSetup(folders: folders, isReplicated: replicated)
            let simulation = LogSimulation(seed: seed, operations: operations, bug: planted, setup: setup)
            do throws(SimulationFailure) {
                counts.add(try simulation.run(trace: trace ? { print($0) } : nil))
            } catch {
                failures += 1
                if !keepGoing {
                    print(error)
                    throw ExitCode(1)
                }
                print("seed \(error.seed), operation \(error.operation): \(error.message)")
                // To be seen at once, also through a pipe.
                fflush(nil)
            }
        }
        let seconds = Double((ContinuousClock.now - start).components.seconds) + 0.001
        print(counts.summary)
        print(
            "\(last - first + 1) seeds, \(failures) failures, \(Int(Double(counts.operations) / seconds)) operations/s"
        )
        if failures > 0 { throw ExitCode(1) }
    }
}

/// `mdc-simulate sweep`.
struct SweepCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sweep",
        abstract: "The power fails at each call in turn of one operation, after a short random sequence.",
        discussion: "Exits with 1 at the first sequence that is not as the model says, and prints it."
    )

    @Option(help: "The seeds, as A..B or a single one.")
    var seeds = "1..20"
    @Option(
        help: "The operation: \(LogSweep.Operation.allCases.map(\.rawValue).joined(separator: ", ")); all without it."
    )
    var operation: String?
    @Option(help: "A bug to plant.")
    var bug: String?

    func run() throws {
        let (first, last) = try Arguments.range(seeds)
        let planted = try Arguments.bug(bug)
        var swept = LogSweep.Operation.allCases
        if let operation {
            guard let known = LogSweep.Operation(rawValue: operation) else {
                throw ValidationError("there is no operation '\(operation)'")
            }
            swept = [known]
        }
        for operation in swept {
            var failures = 0
            for seed in first...last {
                do throws(SimulationFailure) {
                    failures += try LogSweep(seed: seed, operation: operation, bug: planted).run()
                } catch {
                    print(error)
                    throw ExitCode(1)
                }
            }
            print("\(operation.rawValue): \(last - first + 1) seeds, \(failures) power failures, nothing wrong")
        }
    }
}

/// What commands have in common.
enum Arguments {
    static func range(_ seeds: String) throws -> (first: UInt64, last: UInt64) {
        let bounds = seeds.split(separator: ".", omittingEmptySubsequences: true).compactMap { UInt64($0) }
        guard let first = bounds.first, let last = bounds.last, bounds.count <= 2, first <= last else {
            throw ValidationError("--seeds takes A..B, such as 1..1000")
        }
        return (first, last)
    }

    static func bug(_ name: String?) throws -> PlantedBug? {
        guard let name else { return nil }
        guard let known = PlantedBug(rawValue: name) else { throw ValidationError("there is no bug '\(name)'") }
        return known
    }
}

/// `mdc-simulate cluster`.
struct ClusterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster",
        abstract: "Three nodes with the broker's code, over simulated time, network and disks.",
        discussion: "Exits with 1 at the first sequence in which a promise is broken, and prints it. Debug builds only."
    )

    @Option(help: "The seeds, as A..B or a single one.")
    var seeds = "1..100"
    @Option(help: "How long faults happen, in simulated time.")
    var milliseconds = 8_000
    @Option(help: "The faults that happen, by number, such as 3,7; none; all without it.")
    var faults: String?
    @Option(help: "The kinds of faults, with commas: \(ClusterSimulation.faultKinds.joined(separator: ", ")).")
    var kinds: String?
    @Option(help: "A rule to break: \(PlantedClusterBug.allCases.map(\.rawValue).joined(separator: ", ")).")
    var bug: String?
    @Flag(help: "Print everything that happens.")
    var trace = false
    @Flag(help: "Go on after a failure; print one line each.")
    var keepGoing = false
    @Flag(help: "Look for a failing sequence with fewer faults.")
    var shrink = false

    func run() throws {
        guard ClusterSimulation.isAvailable else {
            throw ValidationError("this is a release build; build with: swift build --product mdc-simulate")
        }
        let (first, last) = try Arguments.range(seeds)
        var planted: PlantedClusterBug?
        if let bug {
            planted = PlantedClusterBug(rawValue: bug)
            if planted == nil { throw ValidationError("there is no bug '\(bug)'") }
        }
        let wanted = kinds?.split(separator: ",").map(String.init) ?? []
        if let unknown = wanted.first(where: { !ClusterSimulation.faultKinds.contains($0) }) {
            throw ValidationError("there is no kind of fault '\(unknown)'")
        }
        let kept = faults.map { $0.split(separator: ",").compactMap { Int($0) } }
        var counts = ClusterCounts()
        var failures = 0
        let start = ContinuousClock.now
        for seed in first...last {
            let simulation = ClusterSimulation(
                seed: seed,
                milliseconds: milliseconds,
                faults: kept,
                kinds: wanted,
                bug: planted
            )
            do throws(SimulationFailure) {
                counts.add(try simulation.run(trace: trace ? { print($0) } : nil))
            } catch {
                failures += 1
                if !keepGoing {
                    print(error)
                    if shrink { print("with fewer faults: \(simulation.shrunk().command)") }
                    throw ExitCode(1)
                }
                print("seed \(error.seed): \(error.message)")
                // To be seen at once, also through a pipe.
                fflush(nil)
            }
        }
        let seconds = Double((ContinuousClock.now - start).components.seconds) + 0.001
        print(counts.summary)
        print("\(last - first + 1) seeds, \(failures) failures, \(Int(Double(counts.events) / seconds)) events/s")
        if failures > 0 { throw ExitCode(1) }
    }
}
