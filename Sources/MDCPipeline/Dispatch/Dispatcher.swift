// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Takes the messages of one channel from its lanes, hands them to the provider and writes what came of it to `mdc.events`.
///
/// One consumer reads all lanes; worker tasks, one for each slot, ask the scheduler for the next message. Offsets are
/// committed only over results that are durable; see ``CommitTracker`` for what a commit says beside the offset.
final class Dispatcher: Role {
    let name: String

    private struct State: Sendable {
        var work: DispatchState
        var idle: Deque<CheckedContinuation<DispatchItem?, Never>> = []
        var isStopping = false
        /// Messages that were called back; their end is written once the commit says that they are done.
        var cancelled: [(message: Message, partition: TopicPartition, offset: Int64)] = []
        /// The window holds all results written since then.
        var resultsKnownSince: Timestamp?
    }

    private let lanes: LaneSet
    private let laneIndex: [String: Int]
    private let providers: [any Provider]
    private let hasChoice: Bool
    private let policy: RetryPolicy
    private let quiet: QuietPlan
    private let consumer: Consumer
    private let recovery: ResultScan
    private let writer: RecordWriter
    private let writerID: String
    private let logger: Logger
    private let notices: TopicFollower
    private let inbox: NoticeBox
    private let suppressions = SuppressionList()
    private let suppressionTopic: TopicFollower
    private let stopFlag = StopFlag()
    private let commitSignal = AsyncSignal()
    private let paceSignal = AsyncSignal()
    /// What each provider costs.
    private let prices: [ProviderTraits]
    private let state: Mutex<State>

    /// - Parameters:
    ///   - providers: All of the channel, at least one.
    ///   - client: To follow `mdc.providers`, where workers share what they find out about providers; nil: not shared.
    init(
        lanes: LaneSet,
        providers: [any Provider],
        routing: RoutingConfiguration,
        policy: RetryPolicy,
        consumer: Consumer,
        recovery: ResultScan,
        client: ClientConfiguration,
        writer: RecordWriter,
        writerID: String,
        logger: Logger
    ) {
        name = "dispatcher.\(lanes.channel)"
        self.lanes = lanes
        self.providers = providers
        self.policy = policy
        prices = providers.map { routing.providers[$0.name] ?? ProviderTraits() }
        quiet = QuietPlan(routing.quietHours)
        self.consumer = consumer
        self.recovery = recovery
        self.writer = writer
        self.writerID = writerID
        self.logger = logger
        laneIndex = Dictionary(
            uniqueKeysWithValues: lanes.lanes.enumerated().map { (lanes.topic(of: $0.element.name), $0.offset) }
        )
        let weights = lanes.lanes.map(\.partitions)
        let desk = ProviderDesk(
            channel: lanes.channel,
            providers: providers.map { ($0.name, max(1, $0.concurrency)) },
            weights: weights,
            configuration: routing,
            nowNanoseconds: SystemTime.monotonicNanoseconds()
        )
        hasChoice = desk.router.hasChoice
        state = Mutex(State(work: DispatchState(weights: weights, providers: desk)))
        suppressionTopic = TopicFollower(
            Topics.suppressions,
            client: client,
            eventLoopGroup: recovery.eventLoopGroup,
            logger: logger,
            apply: { [suppressions] in suppressions.apply($0) }
        )
        let inbox = NoticeBox()
        self.inbox = inbox
        notices = TopicFollower(
            Topics.providers,
            client: client,
            eventLoopGroup: recovery.eventLoopGroup,
            logger: logger,
            apply: { inbox.add($0) }
        )
    }

    func stop() {
        stopFlag.set()
        commitSignal.notify()
        paceSignal.notify()
    }

    func run() async throws {
        // What workers before this one learned about the providers, before the first message is routed.
        await Retry.untilSuccess(logger, "reading what is known of providers and recipients") { [self] in
            try await notices.caughtUp()
            try await suppressionTopic.caughtUp()
        }
        adoptNotices()
        try await consumer.subscribe(
            Array(laneIndex.keys),
            onAssigned: { [self] in await assigned($0) },
            onRevoked: { [self] in await revoked($0) },
            onLost: { [self] partitions in
                state.withLock { state in partitions.forEach { state.work.drop($0) } }
            }
        )
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<providers.reduce(0, { $0 + max(1, $1.concurrency) }) {
                group.addTask { [self] in await work() }
            }
            group.addTask { [self] in await paceLoop() }
            group.addTask { [self] in await commitLoop() }
            group.addTask { [self] in await tick() }
            do {
                try await pollLoop()
            } catch {
                finishWork()
                group.cancelAll()
                throw error
            }
            finishWork()
            try await group.waitForAll()
        }
        await finalCommit()
        await notices.close()
        await suppressionTopic.close()
        await consumer.close()
    }

    // MARK: - Reading

    private func pollLoop() async throws {
        while !stopFlag.isSet {
            adoptNotices()
            let records = try await consumer.poll(maxRecords: 500, timeout: .milliseconds(100))
            for record in records { try await take(record) }
            let (flow, wantsCommit) = state.withLock { ($0.work.flowControl(), $0.work.wantsCommit) }
            // A partition that went away meanwhile cannot be paused, and need not.
            for partition in flow.pause { try? consumer.pause([partition]) }
            for partition in flow.resume { try? consumer.resume([partition]) }
            if wantsCommit { commitSignal.notify() }
        }
    }

    private func take(_ record: ConsumerRecord) async throws {
        let (partition, offset) = (record.topicPartition, record.offset.rawValue)
        guard let origin = state.withLock({ $0.work.read(partition, offset: offset) }), origin != .done else { return }
        do {
            guard let value = record.value else { throw PipelineError(.invalidDocument, "the record has no value") }
            let message = try Message(json: value)
            guard message.channel == lanes.channel else {
                throw PipelineError(
                    .invalidDocument,
                    "a message of channel \(message.channel) in a lane of \(lanes.channel)"
                )
            }
            if record.header(Records.cancelHeader) != nil {
                return try await cancel(message, partition, offset: offset)
            }
            if let since = record.header(Records.againHeader).flatMap({ Int64($0) }) {
                let wanted = MessageReference(messageID: message.id, attempt: message.attempt)
                await lookUpResults(since: Timestamp(since), for: wanted)
            }
            state.withLock { $0.work.offer(message, partition, offset: offset, isDoubtful: origin == .doubtful) }
        } catch let error as PipelineError {
            // It will not become readable: out of the way with it, visibly.
            logger.error(
                "a record of a lane cannot be read",
                metadata: ["error": "\(error)", "partition": "\(partition)"]
            )
            try await writer.write([Records.deadLetter(record, reason: error.description)])
            state.withLock { $0.work.complete(partition, offset: offset) }
        }
    }

    /// Calls a message back. One that waits here is marked as done first and gets its end after: so it cannot be sent by a
    /// successor that reads it again.
    private func cancel(_ message: Message, _ partition: TopicPartition, offset: Int64) async throws {
        let result = state.withLock { state -> DispatchState.CancelResult in
            let result = state.work.cancel(message.id, attempt: message.attempt)
            if result != .started { state.cancelled.append((message, partition, offset)) }
            return result
        }
        guard result == .started else { return commitSignal.notify() }
        let event = TimelineEvent(
            messageID: message.id,
            channel: message.channel,
            at: SystemTime.now(),
            component: "dispatcher",
            kind: .cancelRefused,
            attempt: message.attempt,
            detail: "a provider was asked already"
        )
        try await writer.write([Records.event(event, writer: writerID)])
        state.withLock { $0.work.complete(partition, offset: offset) }
    }

    /// Writes the ends of messages that were called back, after the commit that says that they are done.
    private func endCancelled(_ cancelled: [(message: Message, partition: TopicPartition, offset: Int64)]) async {
        guard !cancelled.isEmpty else { return }
        let events = cancelled.map { item in
            TimelineEvent(
                messageID: item.message.id,
                channel: item.message.channel,
                at: SystemTime.now(),
                component: "dispatcher",
                kind: .withheld,
                attempt: item.message.attempt,
                leadsTo: .cancelled,
                detail: "called back before a provider was asked"
            )
        }
        do {
            try await writer.write(events.map { Records.event($0, writer: writerID) })
            state.withLock { state in
                for item in cancelled { state.work.complete(item.partition, offset: item.offset) }
            }
        } catch {
            // The wish is not committed: it is read again.
            logger.error("writing the end of a cancelled message failed", metadata: ["error": "\(error)"])
        }
    }

    // MARK: - Committing

    private func commitLoop() async {
        while true {
            await commitSignal.wait()
            if state.withLock({ $0.isStopping }) { return }
            let (commits, cancelled) = state.withLock { state in
                defer { state.cancelled = [] }
                return (state.work.declare(now: SystemTime.now()), state.cancelled)
            }
            guard !commits.isEmpty else {
                await endCancelled(cancelled)
                continue
            }
            do {
                try await consumer.commit(commits)
                release()
                await endCancelled(cancelled)
            } catch {
                // A rebalance took partitions away (their items are withdrawn with them), or the coordinator is away.
                logger.warning("committing lanes failed; trying again", metadata: ["error": "\(error)"])
                state.withLock { state in
                    state.work.unrelease(commits.keys)
                    state.cancelled = cancelled + state.cancelled
                }
                try? await Task.sleep(for: .milliseconds(100))
                commitSignal.notify()
            }
        }
    }

    private func tick() async {
        while !state.withLock({ $0.isStopping }) {
            try? await Task.sleep(for: .milliseconds(200))
            commitSignal.notify()
        }
    }

    private func release() {
        let starts = state.withLock { state in
            state.work.release(now: .now())
            if state.work.wantsCommit { commitSignal.notify() }
            return Self.match(&state)
        }
        for (waiter, item) in starts { waiter.resume(returning: item) }
        paceSignal.notify()
    }

    private func finalCommit() async {
        let commits = state.withLock { state -> [TopicPartition: OffsetAndMetadata] in
            for key in state.work.partitions.keys { state.work.withdraw(key) }
            var commits: [TopicPartition: OffsetAndMetadata] = [:]
            for key in state.work.partitions.keys { commits[key] = state.work.commit(key) }
            return commits
        }
        guard !commits.isEmpty else { return }
        do {
            try await consumer.commit(commits)
        } catch {
            logger.warning(
                "the last commit failed; some results are looked up at the next start",
                metadata: ["error": "\(error)"]
            )
        }
    }

    // MARK: - Sending

    /// Ends the workers that wait, and the others after their send.
    private func finishWork() {
        let waiters = state.withLock { state in
            state.isStopping = true
            defer { state.idle = [] }
            return state.idle
        }
        for waiter in waiters { waiter.resume(returning: nil) }
        commitSignal.notify()
        paceSignal.notify()
    }

    private func work() async {
        while let item = await next() {
            await dispatch(item)
            let starts = state.withLock { state in
                state.work.free(item)
                if state.work.wantsCommit { commitSignal.notify() }
                return Self.match(&state)
            }
            for (waiter, item) in starts { waiter.resume(returning: item) }
            paceSignal.notify()
        }
    }

    private func next() async -> DispatchItem? {
        await withCheckedContinuation { continuation in
            let (item, isNow) = state.withLock { state -> (DispatchItem?, Bool) in
                if state.isStopping { return (nil, true) }
                if let item = state.work.start(now: .now()) { return (item, true) }
                state.idle.append(continuation)
                return (nil, false)
            }
            if isNow { continuation.resume(returning: item) }
        }
    }

    /// Pairs idle workers with messages that may start.
    private static func match(_ state: inout State) -> [(CheckedContinuation<DispatchItem?, Never>, DispatchItem)] {
        var starts: [(CheckedContinuation<DispatchItem?, Never>, DispatchItem)] = []
        while !state.idle.isEmpty, !state.isStopping, let item = state.work.start(now: .now()) {
            starts.append((state.idle.removeFirst(), item))
        }
        return starts
    }

    private func dispatch(_ item: DispatchItem) async {
        let message = item.message
        let policy = message.retryPolicy ?? policy
        if let expiresAt = message.expiresAt, expiresAt <= SystemTime.now() {
            var event = event(item, .withheld)
            event.leadsTo = .expired
            event.detail = "expired before it was sent"
            return await publish(event, item)
        }
        if let suppression = suppressions.suppression(of: message) {
            var event = event(item, .withheld)
            event.leadsTo = .failed
            event.code = "suppressed"
            event.detail = "the recipient is on the suppression list" + (suppression.reason.map { ": \($0)" } ?? "")
            return await publish(event, item)
        }
        if item.isDoubtful {
            let why = "this attempt was under way when the dispatcher stopped"
            if policy.onInDoubt == .expire {
                var event = event(item, .inDoubt)
                event.detail = why
                return await publish(event, item)
            }
            var event = event(item, .redelivered)
            event.detail = why + "; it is sent again under the same reference"
            do {
                try await writer.write([Records.event(event, writer: writerID)])
            } catch {
                logger.error("writing an event failed", metadata: ["error": "\(error)"])
                return
            }
        }
        if let wait = quiet.wait(for: message, at: SystemTime.now()) { return await hold(item, wait) }
        await send(item, policy: policy)
    }

    /// Sets a message aside until its recipient may be written to.
    ///
    /// The timer delivers the same attempt, so this one must be forgotten before; and timers of one attempt differ, so that the end
    /// of one that has fired does not cancel the next.
    private func hold(_ item: DispatchItem, _ wait: QuietPlan.Wait) async {
        let message = item.message
        var event = event(item, .scheduled)
        (event.provider, event.route) = (nil, nil)
        event.code = "quiet-hours"
        event.detail = wait.reason
        if let expiresAt = message.expiresAt, wait.until >= expiresAt {
            event.kind = .withheld
            event.leadsTo = .expired
            event.detail = "\(wait.reason) end after it expires"
            return await publish(event, item)
        }
        let due = wait.until + item.offset % 1_000
        event.status = .scheduled
        event.dueAt = due
        let id = Records.quietTimerID(message.id, attempt: message.attempt, due: due)
        state.withLock { $0.work.window.remove(message.id, attempt: message.attempt) }
        do {
            try await writer.write([Records.timer(id, due: due, message: message, json: message.json())])
            try await writer.write([Records.event(event, writer: writerID)])
        } catch {
            logger.error("setting a message aside failed", metadata: ["message": "\(message.id)", "error": "\(error)"])
            return
        }
        state.withLock { $0.work.finish(item) }
    }

    /// Asks the provider; and another one if that one will not take it now.
    private func send(_ started: DispatchItem, policy: RetryPolicy) async {
        var item = started
        var tried: Set<Int> = []
        while true {
            let asked = SystemTime.now()
            var message = item.message
            if let sender = item.route?.sender { message.sender = sender }
            let outcome = await providers[item.provider].send(message, attempt: message.attempt)
            tried.insert(item.provider)
            await learn(item.provider, outcome, startedAt: asked)
            let result = result(item, outcome, policy: policy, started: asked)
            guard case .retriable(let code, let reason, _) = outcome,
                let other = state.withLock({ $0.work.providers.alternative(item.message, tried: tried, now: .now()) })
            else { return await publish(result, item) }
            var event = event(item, .rerouted)
            event.code = code
            event.detail = reason
            event.route = other.why
            do {
                // Durable first: else the timeline might not name a provider that was asked.
                try await writer.write([Records.event(event, writer: writerID)])
            } catch {
                return await publish(result, item)
            }
            item.provider = other.provider
            item.route = other
        }
    }

    /// Notes an answer for the rates and circuit breakers, and tells other workers what follows from it.
    private func learn(_ provider: Int, _ outcome: SendOutcome, startedAt: Timestamp) async {
        let notice = state.withLock { state -> ProviderNotice? in
            let now = Moment.now()
            let notice = state.work.providers.answered(
                provider,
                outcome,
                startedAt: startedAt,
                now: now,
                by: writerID
            )
            if notice != nil { state.work.reroute(from: provider, now: now) }
            return notice
        }
        guard let notice else { return }
        logger.warning(
            "the circuit of a provider changed",
            metadata: ["provider": "\(notice.provider)", "state": "\(notice.state)", "why": "\(notice.reason ?? "")"]
        )
        // Not waited for: it is for others, and for a next start.
        try? await writer.producer.enqueue(
            Records.notice(notice)
        ) { _ in }
    }

    /// Takes over what others said about the providers.
    private func adoptNotices() {
        let records = inbox.take()
        guard !records.isEmpty else { return }
        let starts = state.withLock { state in
            for record in records {
                guard let notice = record.value.flatMap({ try? ProviderNotice(json: $0) }), notice.by != writerID,
                    let changed = state.work.providers.adopt(notice)
                else { continue }
                state.work.reroute(from: changed, now: .now())
            }
            return Self.match(&state)
        }
        for (waiter, item) in starts { waiter.resume(returning: item) }
    }

    /// Starts what waited for a rate, a pause or a circuit: time passes without a sign.
    private func paceLoop() async {
        while !state.withLock({ $0.isStopping }) {
            guard state.withLock({ $0.work.waitsForTime && !$0.idle.isEmpty }) else {
                await paceSignal.wait()
                continue
            }
            let starts = state.withLock { Self.match(&$0) }
            for (waiter, item) in starts { waiter.resume(returning: item) }
            try? await Task.sleep(for: .milliseconds(2))
        }
    }

    private func event(_ item: DispatchItem, _ kind: TimelineEvent.Kind) -> TimelineEvent {
        TimelineEvent(
            messageID: item.message.id,
            channel: item.message.channel,
            at: SystemTime.now(),
            component: "dispatcher",
            kind: kind,
            attempt: item.message.attempt,
            provider: kind == .withheld ? nil : providers[item.provider].name,
            route: kind == .redelivered || kind == .rerouted || !hasChoice ? nil : item.route?.why
        )
    }

    private func result(_ item: DispatchItem, _ outcome: SendOutcome, policy: RetryPolicy, started: Timestamp)
        -> TimelineEvent
    {
        let kind: TimelineEvent.Kind =
            switch outcome {
            case .accepted: .accepted
            case .rejected: .rejected
            case .retriable: .deferred
            case .inDoubt: .inDoubt
            }
        var event = event(item, kind)
        let provider = providers[item.provider]
        switch outcome {
        case .accepted(let id, let detail):
            event.providerMessageID = id
            event.detail = detail
            event.status = .accepted
            event.cost = prices[item.provider].charge(item.message)
            event.leadsTo = provider.sendsReceipts ? nil : .sent
            event.dueAt = provider.sendsReceipts ? event.at + policy.receiptTimeoutMilliseconds : nil
        case .rejected(let code, let reason):
            event.code = code
            event.detail = reason
            event.leadsTo = .failed
        case .retriable(let code, let reason, let retryAfter):
            event.code = code
            event.detail = reason
            event.dueAt = retryAfter.map { event.at + $0.milliseconds }
        case .inDoubt(let reason):
            event.code = "no-answer"
            event.detail = reason + " (after \(event.at - started) ms)"
            event.dueAt = event.at + policy.receiptTimeoutMilliseconds
        }
        return event
    }

    /// Appends a result; the message is done when it is durable. Does not wait for that.
    private func publish(_ event: TimelineEvent, _ item: DispatchItem) async {
        let source = "\(item.partition.topic):\(item.partition.partition):\(item.offset)"
        let record = Records.event(event, writer: writerID, source: item.message.attempt == 1 ? source : nil)
        do {
            try await writer.producer.enqueue(record) { [self] result in
                switch result {
                case .success: state.withLock { $0.work.finish(item) }
                case .failure(let error): retry(record, item, error)
                }
            }
        } catch {
            retry(record, item, error)
        }
    }

    /// A result must not get lost while this process lives; if it dies, the attempt is in doubt.
    private func retry(_ record: ProducerRecord, _ item: DispatchItem, _ error: any Error) {
        logger.error("writing a result failed", metadata: ["message": "\(item.message.id)", "error": "\(error)"])
        guard !stopFlag.isSet else { return }
        Task {
            do {
                try await writer.write([record])
                state.withLock { $0.work.finish(item) }
            } catch {
                logger.error(
                    "a result is lost; its attempt will be in doubt",
                    metadata: ["message": "\(item.message.id)"]
                )
            }
        }
    }

    // MARK: - Partitions come and go

    private func assigned(_ partitions: [TopicPartition]) async {
        let committed = await Retry.untilSuccess(logger, "reading committed offsets") { [consumer] in
            try await consumer.committed(partitions)
        }
        var since: Timestamp?
        state.withLock { state in
            state.resultsKnownSince = nil
            for partition in partitions {
                let metadata = (committed[partition]?.metadata).flatMap(CommitMetadata.init)
                let tracker = CommitTracker(
                    committed: committed[partition]?.offset.rawValue ?? 0,
                    metadata: metadata?.tracker
                )
                if tracker.hasDoubtful, let at = metadata?.since { since = min(since ?? at, at) }
                state.work.assign(partition, lane: laneIndex[partition.topic] ?? 0, tracker: tracker)
            }
        }
        guard let since else { return }
        logger.info(
            "a dispatcher before this one did not stop in good order; looking up its results",
            metadata: ["channel": "\(lanes.channel)"]
        )
        await lookUpResults(since: since)
    }

    /// Notes the attempts that have a result since then: those of a dispatcher before this one, whose memory of what it
    /// has seen is gone. Later results are our own, or of lanes that are not ours.
    private func lookUpResults(since: Timestamp, for wanted: MessageReference? = nil) async {
        guard state.withLock({ $0.resultsKnownSince.map { since < $0 } ?? true }) else { return }
        let results = await recovery.results(since: since)
        state.withLock { state in
            if results.count <= state.work.window.capacity / 2 {
                for result in results { state.work.window.insert(result.messageID, attempt: result.attempt) }
                state.resultsKnownSince = since
            } else if let wanted, results.contains(wanted) {
                // More than the window holds: only what was asked for, so that it is not pushed out by the rest.
                state.work.window.insert(wanted.messageID, attempt: wanted.attempt)
            } else if wanted == nil {
                // What was under way at a crash has its results at the end of what was written before it.
                for result in results.suffix(state.work.window.capacity / 2) {
                    state.work.window.insert(result.messageID, attempt: result.attempt)
                }
            }
        }
    }

    private func revoked(_ partitions: [TopicPartition]) async {
        let deadline = SystemTime.now() + 10_000
        state.withLock { state in partitions.forEach { state.work.withdraw($0) } }
        while state.withLock({ state in partitions.contains { state.work.running($0) > 0 } }),
            SystemTime.now() < deadline
        {
            try? await Task.sleep(for: .milliseconds(10))
        }
        let commits = state.withLock { state -> [TopicPartition: OffsetAndMetadata] in
            var commits: [TopicPartition: OffsetAndMetadata] = [:]
            for partition in partitions {
                commits[partition] = state.work.commit(partition)
                state.work.drop(partition)
            }
            return commits
        }
        do {
            if !commits.isEmpty { try await consumer.commit(commits) }
        } catch {
            logger.warning("committing revoked lanes failed", metadata: ["error": "\(error)"])
        }
    }
}

/// Records of `mdc.providers` on their way to the dispatcher.
private final class NoticeBox: Sendable {
    private let records = Mutex<[ConsumerRecord]>([])
    func add(_ more: [ConsumerRecord]) { records.withLock { $0 += more } }
    func take() -> [ConsumerRecord] {
        records.withLock { records in
            defer { records = [] }
            return records
        }
    }
}

extension Duration {
    /// Whole milliseconds, rounded down.
    var milliseconds: Int64 {
        components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000
    }
}
