// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Joins what providers report to the messages that it is about, and decides what becomes of them.
///
/// Reads `mdc.events` and `mdc.responses.*` in one group; the decisions are those of ``MessageLedger``. Work is done in
/// rounds: read, decide, write the timers, write the events, and only then note what is dealt with.
final class ResponseHandler: Role {
    let name = "responses"

    private struct State: Sendable {
        var ledger: MessageLedger
        var floors: [TopicPartition: FloorTracker] = [:]
        var receipts: [TopicPartition: CommitTracker] = [:]
        /// Partitions of `mdc.events` that are being read back, and up to where.
        var loading: [TopicPartition: Int64] = [:]
        var isHoldingReceipts = false
        var health = ProviderHealth()
        var index = SharedIndexState()

        /// Nobody can be asked, and no more reports are to be held: the rest stays in the log.
        var isFullOfUnknown: Bool {
            ledger.sharing == .away && ledger.heldReceipts > ledger.configuration.heldMax / 2
        }
    }

    private let consumer: Consumer
    private let recovery: LaneLookup
    private let writer: RecordWriter
    private let writerID: String
    private let index: (any SharedIndex)?
    private let metrics: SharedIndexMetrics?
    private let logger: Logger
    private let stopFlag = StopFlag()
    private let state: Mutex<State>

    init(
        configuration: MessageLedger.Configuration,
        consumer: Consumer,
        recovery: LaneLookup,
        writer: RecordWriter,
        writerID: String,
        index: (any SharedIndex)? = nil,
        logger: Logger
    ) {
        self.index = index
        metrics = index == nil ? nil : SharedIndexMetrics()
        self.consumer = consumer
        self.recovery = recovery
        self.writer = writer
        self.writerID = writerID + "-r"
        self.logger = logger
        var ledger = MessageLedger(configuration)
        // Until the first answer: an unknown id proves nothing.
        if index != nil { ledger.setSharing(.away, now: 0) }
        state = Mutex(State(ledger: ledger))
    }

    func stop() { stopFlag.set() }

    /// Messages that are not at their end.
    var openCount: Int { state.withLock { $0.ledger.openCount } }

    func run() async throws {
        guard let index else { return try await work() }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { [self] in await share(index) }
            defer { tasks.cancelAll() }
            try await work()
        }
        await index.close()
    }

    private func work() async throws {
        try await consumer.subscribe(
            [Topics.events] + Channel.allCases.map(Topics.responses),
            onAssigned: { [self] in await assigned($0) },
            onRevoked: { [self] partitions in
                await commit()
                drop(partitions)
            },
            onLost: { [self] in drop($0) }
        )
        var commitAt = SystemTime.now()
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(waitMilliseconds()))
            var round = Round()
            for record in records { take(record, &round) }
            finishLoading(&round)
            takeAnswers(&round)
            let now = SystemTime.now()
            // While there is a backlog to read, the missing receipt may be in it.
            if records.count < 2_000 { round.actions += state.withLock { $0.ledger.tick(now: now) } }
            try await perform(round)
            if now - commitAt > 500 {
                commitAt = now
                try await recoverOrphans(now)
                await commit()
            }
        }
        await commit()
        await consumer.close()
    }

    private func waitMilliseconds() -> Int64 {
        let now = SystemTime.now()
        return state.withLock { state in
            guard let due = state.ledger.nextDue else { return 200 }
            return min(200, max(0, due - now))
        }
    }

    // MARK: - Reading

    /// What one round has to write, and to note afterwards.
    private struct Round {
        var actions: [LedgerAction] = []
        var records: [ProducerRecord] = []
        var closed: [EventPosition] = []
        var done: [ReceiptToken] = []
    }

    private func take(_ record: ConsumerRecord, _ round: inout Round) {
        if record.topicPartition.topic == Topics.events {
            takeEvent(record, &round)
        } else {
            takeReceipt(record, &round)
        }
    }

    private func takeEvent(_ record: ConsumerRecord, _ round: inout Round) {
        let (partition, offset) = (record.topicPartition, record.offset.rawValue)
        let isOwn = record.header(Records.writerHeader) == writerID
        guard !isOwn, let value = record.value, let event = try? TimelineEvent(json: value) else {
            if !isOwn {
                logger.warning("an unreadable event is passed over", metadata: ["at": "\(partition)@\(offset)"])
            }
            return state.withLock { $0.floors[partition, default: FloorTracker(start: offset)].passed(offset) }
        }
        let position = EventPosition(partition: partition.partition.rawValue, offset: offset)
        let source = record.header(Records.sourceHeader)
        let actions = state.withLock { state -> [LedgerAction] in
            let result: MessageLedger.LoadResult
            var actions: [LedgerAction] = []
            if state.loading[partition] != nil {
                result = state.ledger.load(event, at: position, source: source)
            } else {
                (result, actions) = state.ledger.apply(event, at: position, source: source, now: SystemTime.now())
            }
            var floor = state.floors[partition] ?? FloorTracker(start: offset)
            switch result {
            case .opened: floor.opened(offset)
            case .closed(let first):
                floor.passed(offset)
                if first.offset != offset { floor.closed(first.offset) }
            case .known, .ignored: floor.passed(offset)
            }
            state.floors[partition] = floor
            return actions
        }
        round.actions += actions
    }

    private func takeReceipt(_ record: ConsumerRecord, _ round: inout Round) {
        let token = ReceiptToken(topicPartition: record.topicPartition, offset: record.offset.rawValue)
        state.withLock { state in
            _ = state.receipts[token.topicPartition, default: CommitTracker(start: token.offset)].read(token.offset)
        }
        do {
            guard let value = record.value else { throw PipelineError(.invalidDocument, "the record has no value") }
            let receipt = try ProviderReceipt(json: value)
            round.actions += state.withLock { $0.ledger.receive(receipt, token: token, now: SystemTime.now()) }
        } catch {
            round.records.append(Records.deadLetter(record, reason: "\(error)"))
            round.done.append(token)
        }
    }

    // MARK: - Doing

    private func perform(_ round: Round) async throws {
        var before: [ProducerRecord] = []
        var events = round.records
        var closed = round.closed
        var done = round.done
        for action in round.actions {
            switch action {
            case .append(let event, let closes):
                events.append(Records.event(event, writer: writerID))
                if let notice = health(event) {
                    events.append(Records.notice(notice))
                    logger.notice("reports speak of a provider", metadata: ["notice": "\(notice.reason ?? "")"])
                }
                if let closes { closed.append(closes) }
            case .publish(let message, let status, let at):
                before.append(Self.final(message, status, at))
            case .schedule(var message, let attempt, let due):
                message.attempt = attempt
                let id = Records.retryTimerID(message.id, attempt: attempt)
                before.append(Records.timer(id, due: due, message: message, json: message.json()))
            case .unschedule(let messageID, let attempt):
                before.append(Records.timerEnd(Records.retryTimerID(messageID, attempt: attempt)))
            case .endTimer(let id): before.append(Records.timerEnd(id))
            case .cancel(var message, let attempt):
                message.attempt = attempt
                if attempt == 1, message.sendAt != nil {
                    before.append(Records.timerEnd(Records.sendAtTimerID(message.id)))
                }
                events.append(Records.cancel(message))
            case .forward(let receipt):
                events.append(Self.forwarded(receipt))
                metrics?.forward()
            case .deadLetter(let receipt, let reason):
                events.append(Self.deadLetter(receipt, reason))
            case .finish(let token): done.append(token)
            }
        }
        // The event says that a timer is set, or that the message is at its end: so that must be there first.
        if !before.isEmpty { try await writer.write(before) }
        if !events.isEmpty { try await writer.write(events) }
        guard !closed.isEmpty || !done.isEmpty else { return }
        state.withLock { state in
            for position in closed {
                let partition = TopicPartition(topic: Topics.events, partition: PartitionID(position.partition))
                state.floors[partition]?.closed(position.offset)
            }
            for token in done { state.receipts[token.topicPartition]?.complete(token.offset) }
        }
    }

    /// What an entry says about its provider, if that is news.
    private func health(_ event: TimelineEvent) -> ProviderNotice? {
        let isDelivered: Bool
        switch event.kind {
        case .receipt where event.status == .delivered: isDelivered = true
        case .receipt where event.status != nil, .receiptMissing: isDelivered = false
        default: return nil
        }
        guard let provider = event.provider,
            let news = state.withLock({ $0.health.note(provider, isDelivered: isDelivered) })
        else { return nil }
        let percent = Int((news.share * 100).rounded())
        return ProviderNotice(
            provider: provider,
            kind: .health,
            state: news.isPoor ? "poor" : "good",
            reason: "has \(percent) bad reports in 100",
            at: event.at,
            by: writerID
        )
    }

    private static func final(_ message: Message, _ status: MessageStatus, _ at: Timestamp) -> ProducerRecord {
        var writer = JSONWriter()
        writer.beginObject()
        writer.member("status", status.rawValue)
        writer.member("finalAt", at)
        writer.beginObject("message")
        message.write(to: &writer)
        writer.endObject()
        writer.endObject()
        return ProducerRecord(topic: Topics.messages, key: ByteBuffer(string: message.id), value: writer.buffer)
    }

    private static func deadLetter(_ receipt: ProviderReceipt, _ reason: String) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.deadLetter,
            key: ByteBuffer(string: receipt.recordKey),
            value: receipt.json(),
            headers: [
                RecordHeader(key: "reason", value: ByteBuffer(string: reason)),
                RecordHeader(key: "source", value: ByteBuffer(string: Topics.responses(receipt.channel))),
            ]
        )
    }

    private func commit() async {
        let offsets = state.withLock { state in
            var offsets = state.receipts.mapValues { OffsetAndMetadata(Offset($0.committable)) }
            for (partition, floor) in state.floors where state.loading[partition] == nil {
                offsets[partition] = OffsetAndMetadata(Offset(floor.floor))
            }
            return offsets
        }
        guard !offsets.isEmpty else { return }
        do {
            try await consumer.commit(offsets)
        } catch {
            logger.warning("committing responses failed; it is tried again", metadata: ["error": "\(error)"])
        }
    }

    /// Messages whose submission was cut short after the lane record: their document is fetched from the lane. But not of those
    /// that have ended: with an event of theirs from after the end alone, they would look the same.
    private func recoverOrphans(_ now: Timestamp) async throws {
        let orphans = state.withLock { $0.loading.isEmpty ? $0.ledger.orphans(now: now) : [] }
        guard !orphans.isEmpty else { return }
        var messages: [Message] = []
        for orphan in orphans {
            guard let message = await recovery.message(at: orphan.source), message.id == orphan.messageID else {
                continue
            }
            messages.append(message)
        }
        guard let knowledge = await recovery.knowledge(of: messages, of: Set(orphans.map(\.first.partition))) else {
            return
        }
        var records: [ProducerRecord] = []
        for message in messages {
            if let status = knowledge.ended[message.id] {
                state.withLock { state in
                    guard let first = state.ledger.endedBefore(message.id, status) else { return }
                    let partition = TopicPartition(topic: Topics.events, partition: PartitionID(first.partition))
                    state.floors[partition]?.closed(first.offset)
                }
                continue
            }
            guard !knowledge.submitted.contains(message.id) else { continue }
            let event = TimelineEvent(
                messageID: message.id,
                channel: message.channel,
                at: message.createdAt,
                component: "responses",
                kind: .submitted,
                status: .queued,
                detail: "found in its lane",
                message: message
            )
            // As another writer's, so that it is read back like the event that is missing.
            records.append(Records.event(event, writer: writerID + "-recovery"))
        }
        if !records.isEmpty { try await writer.write(records) }
    }

    // MARK: - Partitions come and go

    private func assigned(_ partitions: [TopicPartition]) async {
        let events = partitions.filter { $0.topic == Topics.events }
        guard !events.isEmpty else { return holdReceipts() }
        state.withLock { state in
            for partition in events { state.loading[partition] = .max }
        }
        let ends = await Retry.untilSuccess(logger, "reading the ends of the events") { [consumer] in
            try await consumer.endOffsets(events)
        }
        state.withLock { state in
            for partition in events { state.loading[partition] = ends[partition]?.rawValue ?? 0 }
        }
        holdReceipts()
    }

    /// While events are read back, receipts wait: most of them would find their message unknown.
    private func holdReceipts() {
        let receipts = consumer.assignment.filter { $0.topic != Topics.events }
        let isLoading = state.withLock { state in
            state.isHoldingReceipts = !state.loading.isEmpty || state.isFullOfUnknown
            return state.isHoldingReceipts
        }
        for partition in receipts {
            if isLoading { try? consumer.pause([partition]) } else { try? consumer.resume([partition]) }
        }
    }

    private func finishLoading(_ round: inout Round) {
        let loading = state.withLock { $0.loading }
        guard !loading.isEmpty else {
            if state.withLock({ $0.isHoldingReceipts != $0.isFullOfUnknown }) { holdReceipts() }
            return
        }
        for (partition, end) in loading {
            guard let position = try? consumer.position(partition), position.rawValue >= end else { continue }
            round.actions += state.withLock { state -> [LedgerAction] in
                state.loading[partition] = nil
                return state.ledger.decideAll(partition: partition.partition.rawValue, now: SystemTime.now())
            }
            logger.debug("events are read back", metadata: ["partition": "\(partition)", "to": "\(end)"])
        }
        if state.withLock({ $0.loading.isEmpty }) { holdReceipts() }
    }

    // MARK: - Other workers

    /// Tells other workers what provider ids mean, and asks them, until the role is stopped.
    private func share(_ index: any SharedIndex) async {
        var pause = 100
        var markedAt: Timestamp = 0
        while !stopFlag.isSet, !Task.isCancelled {
            do {
                let now = SystemTime.now()
                if now - markedAt > 1_000 {
                    if try await !index.hasMark(writerID) { state.withLock { $0.index.mustTellAll = true } }
                    markedAt = now
                }
                try await tell(index)
                try await ask(index)
                setUp(true, nil)
                pause = 100
            } catch {
                state.withLock { state in
                    state.index.mustTellAll = true
                    state.index.learned.removeAll()
                    _ = state.ledger.takeLearned()
                }
                setUp(false, error)
                pause = min(2_000, pause * 2)
            }
            try? await Task.sleep(for: .milliseconds(pause))
        }
    }

    private func tell(_ index: any SharedIndex) async throws {
        let (entries, isAll) = state.withLock { state in
            state.index.learn(state.ledger.takeLearned())
            let isAll = state.index.mustTellAll
            defer {
                state.index.learned.removeAll()
                state.index.mustTellAll = false
            }
            return (isAll ? state.ledger.knownIDs : state.index.learned, isAll)
        }
        if !entries.isEmpty { try await index.write(entries) }
        metrics?.told(entries.count)
        guard isAll else { return }
        try await index.mark(writerID)
        metrics?.rebuild()
        logger.info("the shared index has been told all provider ids", metadata: ["count": "\(entries.count)"])
    }

    private func ask(_ index: any SharedIndex) async throws {
        let keys = state.withLock { $0.ledger.unknownIDs(most: 5_000) }
        guard !keys.isEmpty else { return }
        let found = try await index.find(keys)
        metrics?.asked(keys.count, found: found.count)
        state.withLock { $0.index.answers.merge(found) { $1 } }
    }

    private func setUp(_ isUp: Bool, _ error: (any Error)?) {
        metrics?.isUp(isUp)
        let isNews = state.withLock { state in
            state.ledger.setSharing(isUp ? .up : .away, now: SystemTime.now())
            defer { state.index.isUp = isUp }
            return state.index.isUp != isUp
        }
        guard isNews else { return }
        if isUp {
            logger.notice("the shared index of provider ids can be asked")
        } else {
            logger.warning(
                "the shared index of provider ids is away: reports without our reference wait",
                metadata: ["error": "\(error.map { "\($0)" } ?? "")"]
            )
        }
    }

    private func takeAnswers(_ round: inout Round) {
        guard index != nil else { return }
        round.actions += state.withLock { state in
            let answers = state.index.answers
            state.index.answers.removeAll()
            var actions: [LedgerAction] = []
            for (key, reference) in answers {
                actions += state.ledger.resolve(key, as: reference, now: SystemTime.now())
            }
            return actions
        }
        if state.withLock({ $0.isFullOfUnknown != $0.isHoldingReceipts && $0.loading.isEmpty }) { holdReceipts() }
    }

    private static func forwarded(_ receipt: ProviderReceipt) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.responses(receipt.channel),
            key: ByteBuffer(string: receipt.recordKey),
            value: receipt.json()
        )
    }

    private func drop(_ partitions: [TopicPartition]) {
        state.withLock { state in
            for partition in partitions {
                state.receipts[partition] = nil
                state.loading[partition] = nil
                guard partition.topic == Topics.events else { continue }
                state.floors[partition] = nil
                state.ledger.drop(partition: partition.partition.rawValue)
            }
        }
    }
}
