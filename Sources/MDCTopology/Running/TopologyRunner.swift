// SPDX-License-Identifier: Apache-2.0

public import Logging
import MDCClient
import MDCModel
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// A worker of a topology: runs all its stages on the partitions that the topology's group gives it. Start more of them, in any
/// processes, to share the work.
///
/// Whatever fails, it goes on from the last commit after a pause; see `docs/topologies.md` for what that means for each guarantee.
public final class TopologyRunner: Service, Sendable {
    private let topology: Topology
    private let settings: TopologySettings
    private let eventLoopGroup: any EventLoopGroup
    private let logger: Logger
    private let shared: TopologyShared

    /// Makes a worker. Throws ``TopologyError`` (`configuration`).
    public init(
        _ topology: Topology,
        _ settings: TopologySettings,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) throws {
        try topology.validate()
        try settings.validate()
        self.topology = topology
        self.settings = settings
        self.eventLoopGroup = eventLoopGroup
        var logger = logger
        logger[metadataKey: "topology"] = "\(topology.name)"
        self.logger = logger
        shared = TopologyShared(topology)
    }

    /// How it is.
    public var status: TopologyStatus { TopologyStatus(topology, shared) }

    /// Asks `run()` to end what is under way, commit it, and return.
    public func stop() { shared.state.withLock { $0.isStopping = true } }

    /// Works until graceful shutdown, ``stop()`` or cancellation. Throws ``TopologyError``: what no repetition helps.
    public func run() async throws {
        try await withGracefulShutdownHandler {
            try await withThrowingTaskGroup(of: Void.self) { group in
                let control = ControlFollower(
                    settings.client,
                    name: topology.name,
                    shared: shared,
                    eventLoopGroup: eventLoopGroup,
                    logger: logger
                )
                try await prepare(control)
                group.addTask { await control.follow() }
                defer { group.cancelAll() }
                try await work()
            }
        } onGracefulShutdown: {
            self.stop()
        }
    }

    /// Makes the topics and reads whether the topology is paused; waits for a cluster that is away.
    private func prepare(_ control: ControlFollower) async throws {
        var failures = 0
        while !shared.mustStop {
            do {
                try await makeTopics()
                try await control.catchUp()
                return
            } catch let error as ClientError where error.isRetriable {
                failures += 1
                await pause(failures, error)
            }
        }
    }

    private func makeTopics() async throws {
        let admin = try Admin(settings.client, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            try await TopologyTopics.make(topology, settings, admin)
            await admin.close()
        } catch {
            await admin.close()
            throw error
        }
    }

    private func work() async throws {
        var failures = 0
        while !shared.mustStop {
            let began = ContinuousClock.now
            do {
                let session = try TopologySession(
                    topology,
                    settings,
                    shared: shared,
                    eventLoopGroup: eventLoopGroup,
                    logger: logger
                )
                try await session.run()
            } catch is CancellationError {
                return
            } catch let error as ClientError where error.errorCode == .fencedInstanceId {
                throw TopologyError(
                    .replaced,
                    "another worker runs under the instance name '\(settings.instance ?? "")': give each its own",
                    cause: error
                )
            } catch {
                if shared.mustStop { return }
                failures = ContinuousClock.now - began > .seconds(30) ? 1 : failures + 1
                shared.state.withLock { $0.restarts += 1 }
                await pause(failures, error)
            }
        }
    }

    private func pause(_ failures: Int, _ error: any Error) async {
        let pause = Duration.milliseconds(min(50 << min(failures - 1, 8), 5_000))
        logger.warning(
            "the worker begins anew from the last commit",
            metadata: ["error": "\(error)", "after": "\(pause.milliseconds) ms"]
        )
        let end = ContinuousClock.now + pause
        while ContinuousClock.now < end, !shared.mustStop { try? await Task.sleep(for: .milliseconds(25)) }
    }
}

/// The topics that a topology needs beside those that it reads and writes.
enum TopologyTopics {
    static func make(_ topology: Topology, _ settings: TopologySettings, _ admin: Admin) async throws {
        let existing = Set(try await admin.listTopics())
        let read = topology.sourceTopics
        let written = topology.stages.compactMap { stage -> String? in
            if case .sink(let topic) = stage.work { return topic }
            return nil
        }
        for topic in read + written where !existing.contains(topic) {
            throw TopologyError(
                .configuration,
                "topic '\(topic)' does not exist: create it with `mdc topic create \(topic)`, or correct the topology"
            )
        }
        let compacted = ["cleanup.policy": "compact"]
        let count = Int32(try await admin.describeTopics(read).map(\.partitions.count).max() ?? 1)
        let states = topology.stages.filter(\.options.isStateful).map {
            TopologyNames.state(of: topology.name, stage: $0.name)
        }
        var wanted = [
            NewTopic(TopologyNames.control, partitions: 1, configuration: compacted),
            NewTopic(
                TopologyNames.deadLetters(of: topology.name),
                partitions: 1,
                configuration: ["retention.ms": "-1"]
            ),
        ]
        wanted += states.map { NewTopic($0, partitions: count, configuration: compacted) }
        for var topic in wanted where !existing.contains(topic.name) {
            topic.replicationFactor = settings.replicationFactor
            do {
                try await admin.createTopics([topic])
            } catch let error as ClientError where error.errorCode == .topicAlreadyExists {
                // Another worker was quicker.
            }
        }
        // A source that got more partitions needs as many for its state.
        let known = states.filter(existing.contains)
        for state in try await admin.describeTopics(known) where state.partitions.count < Int(count) {
            try await admin.createPartitions([state.name: count])
        }
    }
}
