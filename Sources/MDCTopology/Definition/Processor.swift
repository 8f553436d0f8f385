// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCModel

/// Which task of which stage a processor works for.
public struct TaskInfo: Sendable {
    /// The topology's name.
    public var topology: String
    /// The stage's name.
    public var stage: String
    /// The task within its stage, from 0.
    public var index: Int
    /// How many tasks the stage has in this worker.
    public var parallelism: Int
    /// The task's number within the topology, from 1.
    public var taskID: Int
    /// Every task of the topology in this worker: number to stage.
    public var tasks: [Int: String]
    /// What the stage reads: streams by stage.
    public var inputs: [String: [String]]
    /// For what the processor wants to tell.
    public var logger: Logger
}

/// What works on records: one instance for each task of a stage, made when the task begins and thrown away after a failure of the
/// worker's session.
///
/// A task has one record in process at a time, so an instance needs no locks of its own beyond what the compiler asks for.
public protocol Processor: Sendable {
    /// Called once, before the first record. What it throws ends the session; it is begun anew after a pause.
    func open(_ task: TaskInfo) async throws
    /// Works on one record. What it emits goes out when it returns, and not at all when it throws: then it is called again with
    /// the same record, and after the topology's `retries` the source's record becomes a dead letter.
    func process(_ record: StreamRecord, _ context: ProcessorContext) async throws
    /// Called every ``Topology/ProcessorOptions/tickInterval``, in turn with records. What it throws is logged.
    func tick(_ context: ProcessorContext) async throws
    /// A partition of a source is read by this worker from now on. `state`: what this stage kept for it, for keys of this task, and
    /// for no key.
    func assigned(_ partition: TopicPartition, state: [StateEntry]) throws
    /// A partition is not read by this worker any longer.
    func revoked(_ partition: TopicPartition)
    /// Called once at the end.
    func close() async
}

extension Processor {
    public func open(_ task: TaskInfo) async throws {}
    public func tick(_ context: ProcessorContext) async throws {}
    public func assigned(_ partition: TopicPartition, state: [StateEntry]) throws {}
    public func revoked(_ partition: TopicPartition) {}
    public func close() async {}
}

/// A processor that takes several records before it is done with the first: the answer to each comes later, in any order.
protocol PipelinedProcessor: Processor {
    /// How many records may be under way at once.
    var maxPending: Int { get }
    /// Hands a record (nil: a tick) over; what it returns waits for the end of the work on it.
    func start(_ record: StreamRecord?, _ context: ProcessorContext) async throws -> @Sendable () async throws -> Void
}

/// A closure as a processor.
struct ClosureProcessor: Processor {
    let body: @Sendable (StreamRecord, ProcessorContext) async throws -> Void
    let ticking: (@Sendable (ProcessorContext) async throws -> Void)?

    func process(_ record: StreamRecord, _ context: ProcessorContext) async throws { try await body(record, context) }
    func tick(_ context: ProcessorContext) async throws { try await ticking?(context) }
}
