// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
public import MDCJSON
import MDCModel
public import NIOCore
import Synchronization

/// A processor in another language: a child process for each task, which speaks Storm's multi-language protocol over its standard input
/// and output. A child that dies or hangs is started again, and what it had is given to it again.
public struct MultilangConfiguration: Sendable {
    /// The program and its arguments, found by `PATH`.
    public var command: [String]
    /// The folder in which it runs; nil: that of the worker.
    public var folder: String?
    /// Variables beside those of the worker.
    public var environment: [String: String] = [:]
    /// What the child finds in its `conf`, beside `topology.name`.
    public var conf: [String: JSONValue] = [:]
    /// Whether the child gets a record's value as the JSON that it is, instead of as text.
    public var readsJSON = false
    /// Tuples that a child may have at once.
    public var maxPending = 64
    /// How long a child may say nothing after a heartbeat; so also how long its work on one tuple may take.
    public var timeout = Duration.seconds(30)
    /// How long a child may keep a tuple.
    public var tupleTimeout = Duration.seconds(120)
    /// How often heartbeats are sent.
    public var heartbeatInterval = Duration.seconds(1)
    /// Largest message of a child, in bytes.
    public var messageBytesMax = 8 << 20
    /// Bytes that a child may emit for tuples that it has not acknowledged.
    public var emittedBytesMax = 64 << 20

    /// Settings with defaults.
    public init(command: [String]) { self.command = command }
}

extension Topology {
    /// Adds a stage whose tasks are child processes. Tuples are `[key, value]`; of what a child emits one value is the value, of several
    /// the first is the key.
    public mutating func multilang(
        _ name: String,
        from inputs: [String],
        options: ProcessorOptions = ProcessorOptions(),
        _ configuration: MultilangConfiguration,
        eventLoopGroup: any EventLoopGroup
    ) {
        processor(name, from: inputs, options: options) { _ in
            MultilangProcessor(configuration, eventLoopGroup: eventLoopGroup)
        }
    }
}

final class MultilangProcessor: PipelinedProcessor {
    private struct State {
        var task: TaskInfo?
        var child: MultilangChild?
        var pidFolder: String?
        /// Children that died young, one after another.
        var failures = 0
        var isClosed = false
    }

    private let configuration: MultilangConfiguration
    private let eventLoopGroup: any EventLoopGroup
    private let state = Mutex(State())
    private let starting = TurnLock()

    var maxPending: Int { max(configuration.maxPending, 1) }

    init(_ configuration: MultilangConfiguration, eventLoopGroup: any EventLoopGroup) {
        self.configuration = configuration
        self.eventLoopGroup = eventLoopGroup
    }

    func open(_ task: TaskInfo) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("mdc-topology-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        state.withLock { state in
            state.task = task
            state.pidFolder = folder.path
        }
        _ = try await child()
    }

    func process(_ record: StreamRecord, _ context: ProcessorContext) async throws {
        try await start(record, context)()
    }

    func start(_ record: StreamRecord?, _ context: ProcessorContext) async throws -> @Sendable () async throws -> Void {
        let values = try record.map { try MultilangTuple.values($0, configuration.readsJSON ? .json : .text) }
        return try await child().send(values ?? .array([]), context)
    }

    func close() async {
        let (child, folder) = state.withLock { state in
            state.isClosed = true
            return (state.child, state.pidFolder)
        }
        await child?.end()
        if let folder { try? FileManager.default.removeItem(atPath: folder) }
    }

    /// The child at work; a new one where the last has ended, after a pause that grows while children die young.
    private func child() async throws -> MultilangChild {
        await starting.acquire()
        defer { starting.release() }
        let (known, task, folder, failures) = state.withLock { state -> (MultilangChild?, TaskInfo?, String?, Int) in
            if let child = state.child, child.isEnded {
                state.failures = child.age < .seconds(10) ? state.failures + 1 : 0
                state.child = nil
            }
            return (state.child, state.task, state.pidFolder, state.failures)
        }
        if let known { return known }
        guard let task, let folder else { throw TopologyError(.child, "the stage was not opened") }
        if failures > 0 { try await Task.sleep(for: min(.milliseconds(50) * (1 << min(failures, 8)), .seconds(5))) }
        if state.withLock({ $0.isClosed }) { throw TopologyError(.interrupted, "the stage is closed") }
        do {
            let child = try await MultilangChild.started(
                configuration,
                task,
                pidFolder: folder,
                eventLoop: eventLoopGroup.next()
            )
            state.withLock { $0.child = child }
            return child
        } catch {
            state.withLock { $0.failures += 1 }
            task.logger.warning("a child did not start", metadata: ["stage": "\(task.stage)", "error": "\(error)"])
            throw TopologyError(.interrupted, "no child of stage '\(task.stage)' is at work", cause: error)
        }
    }
}
