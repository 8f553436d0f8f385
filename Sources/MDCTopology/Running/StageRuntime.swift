// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

/// One task of a stage that reads another: the stage by its index among the readers.
struct StageTarget: Sendable, Hashable {
    let reader: Int
    let task: Int
}

/// Where a record came from.
struct StageOrigin: Sendable, Hashable {
    let stage: String
    let stream: String
    let taskID: Int
}

/// A record (nil: a tick) in the queue of a task.
struct StageItem: Sendable {
    let record: StreamRecord?
    let source: SourcePosition?
    let trees: [RecordTracker.TreeID]
    let origin: StageOrigin
    let arrived = ContinuousClock.now
}

/// A stage of a session: its queues, and the stages that read it.
final class StageRuntime: Sendable {
    struct Reader: Sendable {
        let stage: StageRuntime
        let stream: String
    }

    let name: String
    let stage: Topology.Stage?
    let grouping: Grouping
    let queues: [BoundedQueue<StageItem>]
    let firstTaskID: Int
    let readers: [Reader]
    let metrics: StageMetrics
    let store: StateStore?
    private let turn = Atomic(0)

    init(
        name: String,
        stage: Topology.Stage?,
        firstTaskID: Int,
        readers: [Reader],
        queueCapacity: Int,
        metrics: StageMetrics,
        store: StateStore?
    ) {
        self.name = name
        self.stage = stage
        grouping = stage?.options.grouping ?? .global
        let tasks = stage?.options.parallelism ?? 1
        // A source has no queue.
        queues = stage == nil ? [] : (0..<tasks).map { _ in BoundedQueue(capacity: queueCapacity) }
        self.firstTaskID = firstTaskID
        self.readers = readers
        self.metrics = metrics
        self.store = store
    }

    /// The task of this stage that gets a record.
    private func next(for key: ByteBuffer?) -> Int {
        let count = turn.wrappingAdd(1, ordering: .relaxed).oldValue
        return grouping.task(for: key, turn: count & Int.max, of: queues.count)
    }

    /// Who gets a record with this key that this stage emits to a stream.
    func route(_ key: ByteBuffer?, stream: String) -> [StageTarget] {
        var targets: [StageTarget] = []
        for (index, reader) in readers.enumerated() where reader.stream == stream {
            targets.append(StageTarget(reader: index, task: reader.stage.next(for: key)))
        }
        return targets
    }

    /// One task by its number, where its stage reads the stream.
    func direct(_ taskID: Int, stream: String) -> [StageTarget] {
        for (index, reader) in readers.enumerated() where reader.stream == stream {
            let task = taskID - reader.stage.firstTaskID
            if reader.stage.queues.indices.contains(task) { return [StageTarget(reader: index, task: task)] }
        }
        return []
    }

    func taskID(_ target: StageTarget) -> Int { readers[target.reader].stage.firstTaskID + target.task }

    func queue(_ target: StageTarget) -> BoundedQueue<StageItem> {
        readers[target.reader].stage.queues[target.task]
    }

    var status: StageStatus { metrics.status(queued: queues.reduce(0) { $0 + $1.count }) }
}
