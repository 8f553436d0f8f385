// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// The way of records from task to task, and what becomes of those that fail.
extension TopologySession {
    /// Hands records of sources to the stages that read them, in the order in which they were read.
    func dispatch() async {
        while let item = await dispatches.pop() {
            let source = SourcePosition(partition: item.record.topicPartition, offset: item.record.offset)
            if let failure = poison(source) {
                await end(state.withLock { $0.tracker.fail(item.tree, failure) }, of: [item.tree], record: item.record)
                continue
            }
            remember(item.record, item.tree)
            let record = StreamRecord(item.record)
            for from in topology.sources where from.topics.contains(source.partition.topic) {
                guard let stage = sources[from.name] else { continue }
                let targets = stage.route(record.key, stream: ProcessorContext.defaultStream)
                stage.metrics.emitted(1)
                state.withLock { $0.tracker.branch(item.tree, targets.count) }
                let origin = StageOrigin(
                    stage: from.name,
                    stream: ProcessorContext.defaultStream,
                    taskID: stage.firstTaskID
                )
                for target in targets {
                    let next = StageItem(record: record, source: source, trees: [item.tree], origin: origin)
                    await stage.queue(target).push(next)
                }
            }
            await finish([item.tree])
        }
    }

    /// Sends a tick to a task, unless it has one still.
    func tick(_ task: StageTask) async throws {
        if let last = task.lastTick.withLock({ $0 }), state.withLock({ $0.tracker.isAlive(last) }) { return }
        try openEpoch()
        let tree = state.withLock { $0.tracker.beginTick() }
        task.lastTick.withLock { $0 = tree }
        let origin = StageOrigin(stage: "__system", stream: "__tick", taskID: -1)
        await task.take(StageItem(record: nil, source: nil, trees: [tree], origin: origin), self)
    }

    /// Whether the work on a record still has an effect.
    func isAlive(_ item: StageItem) -> Bool {
        state.withLock { state in item.trees.contains { state.tracker.isAlive($0) } }
    }

    /// What a task emitted goes on; then its own record is finished.
    func passOn(_ emissions: [ProcessorContext.Emission], of item: StageItem, from stage: StageRuntime, _ index: Int)
        async
    {
        let origin = stage.firstTaskID + index
        for emission in emissions where !emission.targets.isEmpty {
            let trees = item.trees + emission.anchors
            state.withLock { state in
                for tree in trees { state.tracker.branch(tree, emission.targets.count) }
            }
            for target in emission.targets {
                let next = StageItem(
                    record: emission.record,
                    source: item.source,
                    trees: trees,
                    origin: StageOrigin(stage: stage.name, stream: emission.stream, taskID: origin)
                )
                await stage.queue(target).push(next)
            }
        }
        // Anchors were held from the emission on.
        for emission in emissions { await finish(emission.anchors) }
        await finish(item.trees)
    }

    /// What a failed attempt emitted does not count.
    func discard(_ emissions: [ProcessorContext.Emission]) async {
        for emission in emissions { await finish(emission.anchors) }
    }

    /// Keeps trees open that something will be emitted for.
    func hold(_ trees: [RecordTracker.TreeID]) {
        state.withLock { state in for tree in trees { state.tracker.branch(tree) } }
    }

    func finish(_ trees: [RecordTracker.TreeID]) async {
        for tree in trees { await end(state.withLock { $0.tracker.finish(tree) }, of: [tree]) }
    }

    /// As `finish`, from where nobody may wait.
    func finishSoon(_ trees: [RecordTracker.TreeID]) {
        for tree in trees {
            let outcome = state.withLock { $0.tracker.finish(tree) }
            if case .failed = outcome {
                Task { await end(outcome, of: [tree]) }
            } else if outcome != nil {
                originals.withLock { $0[tree] = nil }
            }
        }
    }

    /// A stage gave a record up.
    func giveUp(_ item: StageItem, _ failure: StageFailure) async {
        if isExact, let source = item.source {
            // What was written for it lies in the transaction: it is thrown away, and the record becomes a dead letter next time.
            shared.state.withLock { shared in
                if shared.poison.count >= 10_000 { shared.poison.removeAll() }
                shared.poison[source] = failure
            }
            fail(TopologyError(.processor, "stage '\(failure.stage)' gave up \(source): \(failure.reason)"))
            return
        }
        for tree in item.trees { await end(state.withLock { $0.tracker.fail(tree, failure) }, of: [tree]) }
    }

    private func poison(_ source: SourcePosition) -> StageFailure? {
        guard isExact else { return nil }
        return shared.state.withLock { $0.poison[source] }
    }

    // MARK: Dead letters

    private func remember(_ record: ConsumerRecord, _ tree: RecordTracker.TreeID) {
        guard !isExact else { return }
        originals.withLock { $0[tree] = record }
    }

    /// A tree has ended, or waits for its dead letter.
    private func end(_ end: RecordTracker.End?, of trees: [RecordTracker.TreeID], record: ConsumerRecord? = nil) async {
        guard let end, let tree = trees.first else { return }
        let kept = originals.withLock { $0.removeValue(forKey: tree) }
        guard case .failed(let source, let failure) = end else { return }
        guard let original = record ?? kept else {
            state.withLock { $0.tracker.settled(tree) }
            return
        }
        logger.warning(
            "a record becomes a dead letter",
            metadata: ["source": "\(source)", "stage": "\(failure.stage)", "reason": "\(failure.reason)"]
        )
        let letter = DeadLetter.record(original, failure, topology: topology.name)
        do {
            let isExact = isExact
            try await producer.enqueue(letter) { result in
                if case .failure(let error) = result { return self.fail(error) }
                self.shared.state.withLock { $0.deadLetters += 1 }
                if !isExact { self.state.withLock { $0.tracker.settled(tree) } }
            }
            if isExact { state.withLock { $0.tracker.settled(tree) } }
        } catch {
            fail(error)
        }
    }
}

/// The form of a dead letter: the record as it was read, and three headers behind its own.
enum DeadLetter {
    static let reasonHeader = "reason"
    static let sourceHeader = "source"
    static let stageHeader = "stage"
    /// A reason is cut to this many characters.
    private static let reasonMax = 2_000

    static func record(_ record: ConsumerRecord, _ failure: StageFailure, topology: String) -> ProducerRecord {
        let source = SourcePosition(partition: record.topicPartition, offset: record.offset)
        return ProducerRecord(
            topic: TopologyNames.deadLetters(of: topology),
            key: record.key,
            value: record.value,
            headers: record.headers + [
                RecordHeader(key: reasonHeader, value: ByteBuffer(string: String(failure.reason.prefix(reasonMax)))),
                RecordHeader(key: sourceHeader, value: ByteBuffer(string: source.description)),
                RecordHeader(key: stageHeader, value: ByteBuffer(string: failure.stage)),
            ],
            timestamp: record.timestamp
        )
    }
}
