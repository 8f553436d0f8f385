// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore
import Synchronization

/// What a processor knows of the record that it works on, and what it does with it. Of use until `process` returns.
public final class ProcessorContext: Sendable {
    /// The stream of what is emitted without naming one.
    public static let defaultStream = "default"

    struct Emission: Sendable {
        let record: StreamRecord
        let stream: String
        /// Stage (index among those that read this one) and task of each that gets it.
        let targets: [StageTarget]
        /// Trees beside that of the context's own record.
        let anchors: [RecordTracker.TreeID]
    }

    private struct Work {
        var emissions: [Emission] = []
        var changes: [StateKey: ByteBuffer?] = [:]
    }

    /// Which task this is.
    public let task: TaskInfo
    /// The record of the source from which all this comes; nil in a tick.
    public let source: SourcePosition?
    let record: StreamRecord?
    /// The trees of the record.
    let trees: [RecordTracker.TreeID]
    /// The stage and the task that the record came from.
    let origin: StageOrigin
    private let stage: StageRuntime
    /// Keeps further trees open until what is emitted for them has gone on.
    private let hold: @Sendable ([RecordTracker.TreeID]) -> Void
    private let work = Mutex(Work())

    init(
        task: TaskInfo,
        stage: StageRuntime,
        item: StageItem,
        hold: @escaping @Sendable ([RecordTracker.TreeID]) -> Void
    ) {
        self.hold = hold
        self.task = task
        self.stage = stage
        source = item.source
        record = item.record
        trees = item.trees
        origin = item.origin
    }

    // MARK: Output

    /// Emits a record: it goes on when `process` returns without an error.
    public func emit(_ record: StreamRecord, stream: String = ProcessorContext.defaultStream) {
        let targets = stage.route(record.key, stream: stream)
        add(Emission(record: record, stream: stream, targets: targets, anchors: []))
    }

    /// Emits texts. The event time is that of the record that is worked on (in a tick: now).
    public func emit(
        key: String?,
        value: String?,
        timestamp: Timestamp? = nil,
        stream: String = ProcessorContext.defaultStream
    ) {
        emit(
            StreamRecord(
                key: key.map { ByteBuffer(string: $0) },
                value: value.map { ByteBuffer(string: $0) },
                timestamp: timestamp ?? record?.timestamp ?? WallClock.now()
            ),
            stream: stream
        )
    }

    /// Emits with further trees, or to one task by its number. Gives the numbers of the tasks that get the record.
    func emit(
        _ record: StreamRecord,
        stream: String,
        anchors: [RecordTracker.TreeID],
        directTask: Int?
    ) -> [Int] {
        let targets = directTask.map { stage.direct($0, stream: stream) } ?? stage.route(record.key, stream: stream)
        if !anchors.isEmpty { hold(anchors) }
        add(Emission(record: record, stream: stream, targets: targets, anchors: anchors))
        return targets.map { stage.taskID($0) }
    }

    private func add(_ emission: Emission) { work.withLock { $0.emissions.append(emission) } }

    func takeEmissions() -> [Emission] {
        work.withLock { work in
            defer { work.emissions = [] }
            return work.emissions
        }
    }

    // MARK: State

    /// What this stage keeps for the key of the record, within the partition of its source; nil for nothing. Needs a stage with
    /// `isStateful`, and is not there in a tick. What is set counts when `process` returns without an error.
    public var state: ByteBuffer? {
        get { value(StateKey(owner: record?.key)) }
        set { set(StateKey(owner: record?.key), newValue) }
    }

    func value(_ key: StateKey) -> ByteBuffer? {
        if let changed = work.withLock({ $0.changes[key] }) { return changed }
        guard let source, let store = stage.store else { return nil }
        return store.value(source.partition, key)
    }

    func set(_ key: StateKey, _ value: ByteBuffer?) {
        precondition(stage.store != nil, "stage '\(stage.name)' keeps no state: set isStateful in its options")
        precondition(source != nil, "there is no key in a tick: state is set while a record is worked on")
        work.withLock { $0.changes[key] = .some(value) }
    }

    /// Makes the changes of the state count.
    func applyState() {
        guard let source, let store = stage.store else { return }
        let changes = work.withLock { work in
            defer { work.changes = [:] }
            return work.changes
        }
        if !changes.isEmpty { store.apply(source.partition, changes) }
    }
}
