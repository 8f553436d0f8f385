// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// One task of a stage: takes records from its queue, one after another, and has its processor work on them, or writes them.
final class StageTask: Sendable {
    let stage: StageRuntime
    let index: Int
    private let processor: (any Processor)?
    private let info = Mutex<TaskInfo?>(nil)
    private let opened = OpenGate()
    /// The tree of the last tick.
    let lastTick = Mutex<RecordTracker.TreeID?>(nil)
    /// What a pipelined processor has under way, in order.
    private let started: BoundedQueue<Started>?

    init(stage: StageRuntime, index: Int) {
        self.stage = stage
        self.index = index
        if case .processor(let make) = stage.stage?.work { processor = make(index) } else { processor = nil }
        started = (processor as? any PipelinedProcessor).map { BoundedQueue(capacity: $0.maxPending) }
    }

    func open(_ session: TopologySession) async throws {
        var tasks: [Int: String] = [:]
        for runtime in session.stages + Array(session.sources.values) {
            for number in 0..<max(runtime.queues.count, 1) { tasks[runtime.firstTaskID + number] = runtime.name }
        }
        let task = TaskInfo(
            topology: session.topology.name,
            stage: stage.name,
            index: index,
            parallelism: stage.queues.count,
            taskID: stage.firstTaskID + index,
            tasks: tasks,
            inputs: Dictionary(grouping: stage.stage?.inputs ?? [], by: \.stage).mapValues { $0.map(\.stream) },
            logger: session.logger
        )
        info.withLock { $0 = task }
        if let processor {
            try await processor.open(task)
            opened.set()
        }
    }

    func close() async { if opened.isSet { await processor?.close() } }
    func assigned(_ partition: TopicPartition, state: [StateEntry]) throws {
        try processor?.assigned(partition, state: state)
    }
    func revoked(_ partition: TopicPartition) { processor?.revoked(partition) }

    /// Works until the queue is closed.
    func run(_ session: TopologySession) async {
        if case .sink(let topic) = stage.stage?.work { return await write(to: topic, session) }
        if let pipelined = processor as? any PipelinedProcessor { return await pipeline(pipelined, session) }
        guard let processor else { return }
        while let item = await stage.queues[index].pop() {
            guard session.isAlive(item) else { continue }
            let began = ContinuousClock.now
            guard let context = context(item, session) else { continue }
            do {
                try await processor.work(item.record, context)
                await succeed(item, context, began: began, session)
            } catch {
                await session.discard(context.takeEmissions())
                await again(item, after: error, processor, session)
            }
        }
    }

    private func context(_ item: StageItem, _ session: TopologySession) -> ProcessorContext? {
        info.withLock { $0 }.map { task in
            ProcessorContext(task: task, stage: stage, item: item) { [weak session] trees in session?.hold(trees) }
        }
    }

    private func succeed(
        _ item: StageItem,
        _ context: ProcessorContext,
        began: ContinuousClock.Instant,
        _ session: TopologySession
    ) async {
        context.applyState()
        let emissions = context.takeEmissions()
        stage.metrics.executed(emitted: emissions.count, arrived: item.arrived, began: began)
        await session.passOn(emissions, of: item, from: stage, index)
    }

    /// Tries a record again that the processor threw at; gives it up in the end.
    private func again(
        _ item: StageItem,
        after first: any Error,
        _ processor: any Processor,
        _ session: TopologySession
    ) async {
        guard item.record != nil else {
            session.logger.warning("a tick failed", metadata: ["stage": "\(stage.name)", "error": "\(first)"])
            return await session.finish(item.trees)
        }
        var error = first
        var pause = session.settings.retryBackoff
        var left = session.topology.guarantee == .atMostOnce ? 0 : session.topology.retries
        while true {
            if (error as? TopologyError)?.code != .interrupted {
                if left == 0 { break }
                left -= 1
            }
            stage.metrics.retried()
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, session.settings.retryBackoffMax)
            guard session.isAlive(item), !session.isFailed, !session.isEnding, let context = context(item, session)
            else {
                return
            }
            let began = ContinuousClock.now
            do {
                try await processor.work(item.record, context)
                return await succeed(item, context, began: began, session)
            } catch let next {
                await session.discard(context.takeEmissions())
                error = next
            }
        }
        stage.metrics.failed()
        await session.giveUp(item, StageFailure(stage: stage.name, reason: "\(error)"))
    }

    // MARK: Sinks

    private func write(to topic: String, _ session: TopologySession) async {
        while let item = await stage.queues[index].pop() {
            guard let record = item.record, session.isAlive(item) else { continue }
            let began = ContinuousClock.now
            let output = ProducerRecord(
                topic: topic,
                key: record.key,
                value: record.value,
                headers: record.headers,
                timestamp: record.timestamp
            )
            let isExact = session.isExact
            do {
                // Exactly once: the commit waits for it. Else the record is done when it is durable.
                try await session.producer.enqueue(output) { result in
                    switch result {
                    case .success:
                        if !isExact { session.finishSoon(item.trees) }
                    case .failure(let error):
                        Task { await self.refused(item, error, session) }
                    }
                }
                stage.metrics.executed(emitted: 1, arrived: item.arrived, began: began)
                if isExact { await session.finish(item.trees) }
            } catch {
                await refused(item, error, session)
            }
        }
    }

    /// The log did not take a record: one that is too large is given up, anything else ends the session.
    private func refused(_ item: StageItem, _ error: any Error, _ session: TopologySession) async {
        guard let error = error as? ClientError, error.code == .recordTooLarge else { return session.fail(error) }
        stage.metrics.failed()
        await session.giveUp(item, StageFailure(stage: stage.name, reason: "\(error)"))
    }

    // MARK: Pipelined processors

    private struct Started: Sendable {
        let item: StageItem
        let context: ProcessorContext
        let began: ContinuousClock.Instant
        let outcome: Result<@Sendable () async throws -> Void, any Error>
    }

    /// Several records are under way at once; they go on in the order in which they came.
    private func pipeline(_ processor: any PipelinedProcessor, _ session: TopologySession) async {
        guard let started else { return }
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                while let next = await started.pop() {
                    do {
                        try await next.outcome.get()()
                        await self.succeed(next.item, next.context, began: next.began, session)
                    } catch {
                        await session.discard(next.context.takeEmissions())
                        await self.again(next.item, after: error, processor, session)
                    }
                }
            }
            while let item = await stage.queues[index].pop() {
                if session.isAlive(item) { await start(item, processor, session) }
            }
            started.close()
        }
    }

    private func start(_ item: StageItem, _ processor: any PipelinedProcessor, _ session: TopologySession) async {
        guard let context = context(item, session) else { return }
        let began = ContinuousClock.now
        let outcome: Result<@Sendable () async throws -> Void, any Error>
        do {
            outcome = .success(try await processor.start(item.record, context))
        } catch {
            outcome = .failure(error)
        }
        let next = Started(item: item, context: context, began: began, outcome: outcome)
        await started?.push(next)
    }

    /// Takes a tick. A pipelined processor gets it at once, before what waits in the queue, and its end is waited for apart from the
    /// records' order: it may be what those under way wait for.
    func take(_ tick: StageItem, _ session: TopologySession) async {
        guard let pipelined = processor as? any PipelinedProcessor else {
            await stage.queues[index].push(tick, bypassing: true)
            return
        }
        guard let context = context(tick, session) else { return }
        Task {
            let began = ContinuousClock.now
            do {
                try await pipelined.start(nil, context)()
                await succeed(tick, context, began: began, session)
            } catch {
                await session.discard(context.takeEmissions())
                await again(tick, after: error, pipelined, session)
            }
        }
    }
}

extension Processor {
    /// Works on a record, or a tick.
    fileprivate func work(_ record: StreamRecord?, _ context: ProcessorContext) async throws {
        if let record { try await process(record, context) } else { try await tick(context) }
    }
}

/// Whether something was opened.
private final class OpenGate: Sendable {
    private let value = Mutex(false)
    var isSet: Bool { value.withLock { $0 } }
    func set() { value.withLock { $0 = true } }
}
