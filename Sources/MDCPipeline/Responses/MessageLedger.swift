// SPDX-License-Identifier: Apache-2.0

import DequeModule
public import MDCModel

/// What the response handler has to do. The order within one list matters: timers before the event that speaks of them.
public enum LedgerAction: Sendable, Equatable {
    /// Append the event to the timeline. `closes`: the message is at its end; once the event is durable, its first event
    /// need no longer be kept in reach.
    case append(TimelineEvent, closes: EventPosition?)
    /// Publish the final state, before the event that ends the message: what is repeated after a crash leaves the right one.
    case publish(Message, MessageStatus, at: Timestamp)
    /// Deliver the message to its lane for another attempt at that time.
    case schedule(Message, attempt: Int, due: Timestamp)
    /// Cancel the timer of an attempt.
    case unschedule(messageID: String, attempt: Int)
    /// Cancel the timer with this id.
    case endTimer(String)
    /// Have the dispatcher call back this attempt if it has not been started.
    case cancel(Message, attempt: Int)
    /// Append the receipt again, with the reference that it now has: its message is another worker's.
    case forward(ProviderReceipt)
    /// Put the receipt with the dead letters.
    case deadLetter(ProviderReceipt, reason: String)
    /// The receipt with this token is dealt with, once the actions before it are durable.
    case finish(ReceiptToken)
}

/// A place in `mdc.events`.
public struct EventPosition: Sendable, Hashable {
    /// The partition.
    public var partition: Int32
    /// The offset.
    public var offset: Int64

    /// Makes a value from its parts.
    public init(partition: Int32, offset: Int64) {
        self.partition = partition
        self.offset = offset
    }
}

/// Names a receipt record that is being dealt with: its topic partition and offset.
public struct ReceiptToken: Sendable, Hashable {
    /// The topic partition.
    public var topicPartition: TopicPartition
    /// The offset.
    public var offset: Int64

    /// Makes a value from its parts.
    public init(topicPartition: TopicPartition, offset: Int64) {
        self.topicPartition = topicPartition
        self.offset = offset
    }
}

/// The state of all messages that are not at their end, and the decisions about them. Pure: no clock, no log.
///
/// It is told each event (`load` while the past is read back, `apply` after), each receipt and the time, and says what to do.
/// Decisions come from states, not from inputs, so that deciding again after a restart gives the same.
public struct MessageLedger: Sendable {
    /// Policies and limits.
    public struct Configuration: Sendable {
        /// For messages that bring no policy of their own.
        public var policies: [Channel: RetryPolicy]
        /// How long a receipt waits for the acceptance that it belongs to, in milliseconds.
        public var holdMilliseconds: Int64
        /// Receipts that may wait at once; beyond, the oldest go to the dead letters.
        public var heldMax: Int
        /// How long the `submitted` event of a message that has a result may be missing before it is looked for in its lane.
        public var orphanMilliseconds: Int64
        /// Ended messages that are remembered to recognise late receipts.
        public var endedMax: Int

        /// Makes a value from its parts.
        public init(
            policies: [Channel: RetryPolicy] = [:],
            holdMilliseconds: Int64 = 60_000,
            heldMax: Int = 100_000,
            orphanMilliseconds: Int64 = 5_000,
            endedMax: Int = 200_000
        ) {
            self.policies = policies
            self.holdMilliseconds = holdMilliseconds
            self.heldMax = heldMax
            self.orphanMilliseconds = orphanMilliseconds
            self.endedMax = endedMax
        }
    }

    struct Entry: Sendable {
        var state = MessageState()
        var first: EventPosition
        var providerKeys: [ProviderKey] = []
        /// Where in its lane the message lies, and since when its document is missed.
        var source: String?
        var orphanSince: Timestamp?
    }

    struct Owner: Sendable {
        var messageID: String
        var attempt: Int
    }

    struct Ended: Sendable {
        var status: MessageStatus
        var attempt: Int
        var providerKeys: [ProviderKey]
    }

    struct Held: Sendable {
        var receipt: ProviderReceipt
        var token: ReceiptToken
        var since: Timestamp
    }

    enum HoldKey: Hashable, Sendable {
        case message(String)
        case provider(ProviderKey)
    }

    let configuration: Configuration
    var open: [String: Entry] = [:]
    var byProviderID: [ProviderKey: Owner] = [:]
    var ended: [String: Ended] = [:]
    var endedOrder: Deque<String> = []
    var held: [HoldKey: [Held]] = [:]
    var heldOrder: Deque<(key: HoldKey, token: ReceiptToken, since: Timestamp)> = []
    var heldCount = 0
    var deadlines = TimerQueue<String, Int>()
    /// Open messages whose document has not been seen.
    var orphans: Set<String> = []
    /// Whether other workers can be asked what a provider's id means.
    public internal(set) var sharing = Sharing.none
    /// Ids that were learned since ``takeLearned()``, where others are to be told.
    var learned: [ProviderKey: Owner] = [:]

    /// Whether what ids mean is shared with other workers.
    public enum Sharing: Sendable, Equatable {
        /// This worker knows all ids that there are.
        case none
        /// Others can be asked.
        case up
        /// They cannot be asked for now: an unknown id proves nothing.
        case away
    }

    /// Makes a value from its parts.
    public init(_ configuration: Configuration = Configuration()) {
        self.configuration = configuration
    }

    /// Messages that are not at their end.
    public var openCount: Int { open.count }

    /// Receipts that wait for their acceptance.
    public var heldReceipts: Int { heldCount }

    /// When `tick` has something to do; nil: not by itself.
    public var nextDue: Timestamp? {
        mutating get {
            let isPatient = sharing == .away
            let hold = isPatient ? nil : heldOrder.first.map { $0.since.rawValue + configuration.holdMilliseconds }
            switch (deadlines.nextDue, hold) {
            case (nil, nil): return nil
            case (let due?, nil): return Timestamp(due)
            case (nil, let due?): return Timestamp(due)
            case (let a?, let b?): return Timestamp(min(a, b))
            }
        }
    }

    /// The policy of a message.
    func policy(_ message: Message) -> RetryPolicy {
        message.retryPolicy ?? configuration.policies[message.channel] ?? RetryPolicy()
    }

    // MARK: - Events

    /// Folds an event of the past. Returns whether the message was new here, that is whether its position is to be tracked.
    public mutating func load(_ event: TimelineEvent, at position: EventPosition, source: String? = nil) -> LoadResult {
        if ended[event.messageID] != nil { return .ignored }
        let known = open[event.messageID]
        // Who reads from the floor on has missed nothing but the beginnings of messages that are at their end.
        let isEnd = event.status?.isFinal == true
        guard known != nil || event.kind == .submitted || Self.isFirstResult(event) || isEnd else { return .ignored }
        var entry = known ?? Entry(first: position)
        entry.state.apply(event)
        if let source, entry.state.message == nil {
            entry.source = source
            orphans.insert(event.messageID)
        } else if event.kind == .submitted {
            orphans.remove(event.messageID)
        }
        if event.kind == .accepted, let provider = event.provider, let id = event.providerMessageID {
            let key = ProviderKey(provider: provider, id: id)
            entry.providerKeys.append(key)
            let owner = Owner(messageID: event.messageID, attempt: event.attempt)
            byProviderID[key] = owner
            if sharing != .none { learned[key] = owner }
        }
        if entry.state.status.isFinal {
            end(event.messageID, entry)
            return .closed(entry.first)
        }
        open[event.messageID] = entry
        return known == nil ? .opened : .known
    }

    /// What came of the first attempt: it may overtake the submission.
    private static func isFirstResult(_ event: TimelineEvent) -> Bool {
        guard event.attempt == 1 else { return false }
        switch event.kind {
        case .accepted, .rejected, .deferred, .inDoubt, .withheld, .scheduled: return true
        default: return false
        }
    }

    /// What loading an event did.
    public enum LoadResult: Sendable, Equatable {
        /// The first event of a message.
        case opened
        /// Another event of an open message.
        case known
        /// The last event of a message whose first was there.
        case closed(EventPosition)
        /// An event after the end, or of a message that is not known.
        case ignored
    }

    /// Decides about a message, after an event of others or after the past was loaded.
    public mutating func decide(_ messageID: String, now: Timestamp) -> [LedgerAction] {
        guard let entry = open[messageID] else { return releaseHeld(messageID, now: now) }
        if let ending = entry.state.ending, let message = entry.state.message {
            let event = TimelineEvent(
                messageID: messageID,
                channel: message.channel,
                at: now,
                component: "responses",
                kind: .final,
                attempt: entry.state.attempt,
                status: ending.status,
                provider: entry.state.provider,
                providerMessageID: entry.state.providerMessageID,
                code: ending.code,
                detail: ending.detail
            )
            return finish(messageID, entry, event) + releaseHeld(messageID, now: now)
        }
        if entry.state.isCancelRequested, entry.state.message != nil {
            return cancel(messageID, entry, now: now) + releaseHeld(messageID, now: now)
        }
        var actions: [LedgerAction] = []
        switch entry.state.phase {
        case .deferred: actions = afterFailure(messageID, entry, .retryScheduled, receipt: nil, now: now)
        case .inDoubt:
            guard let message = entry.state.message else { break }
            switch policy(message).onInDoubt {
            case .retry: actions = afterFailure(messageID, entry, .retryScheduled, receipt: nil, now: now)
            case .expire: arm(messageID, entry, now: now)
            }
        case .accepted: arm(messageID, entry, now: now)
        case .none, .held, .ending, .retryScheduled, .final: break
        }
        return actions + releaseHeld(messageID, now: now)
    }

    /// Folds an event and decides.
    public mutating func apply(
        _ event: TimelineEvent,
        at position: EventPosition,
        source: String? = nil,
        now: Timestamp
    ) -> (LoadResult, [LedgerAction]) {
        let result = load(event, at: position, source: source)
        switch result {
        case .ignored: return (result, [])
        case .closed: return (result, releaseHeld(event.messageID, now: now))
        case .opened, .known: return (result, decide(event.messageID, now: now))
        }
    }

    /// Decides about all open messages, after the past was loaded.
    public mutating func decideAll(partition: Int32, now: Timestamp) -> [LedgerAction] {
        var actions: [LedgerAction] = []
        for (id, entry) in open where entry.first.partition == partition { actions += decide(id, now: now) }
        return actions
    }

    /// Forgets the messages of a partition that went to another worker.
    public mutating func drop(partition: Int32) {
        for (id, entry) in open where entry.first.partition == partition {
            for key in entry.providerKeys { byProviderID[key] = nil }
            deadlines.cancel(id)
            open[id] = nil
        }
    }

    /// A message whose document has been missing for a while.
    public struct Orphan: Sendable, Equatable {
        /// The message.
        public var messageID: String
        /// Where in its lane it lies, as `<topic>:<partition>:<offset>`.
        public var source: String
        /// The first of its events that is known here.
        public var first: EventPosition
    }

    /// Messages whose document has been missing for a while: their submission was cut short, or they ended before the place
    /// from which the past was read (a report may overtake the result of its attempt). The log tells which.
    public mutating func orphans(now: Timestamp) -> [Orphan] {
        var found: [Orphan] = []
        for id in orphans {
            guard var entry = open[id], let source = entry.source else {
                orphans.remove(id)
                continue
            }
            if let since = entry.orphanSince, now - since < configuration.orphanMilliseconds { continue }
            if entry.orphanSince != nil {
                found.append(Orphan(messageID: id, source: source, first: entry.first))
            }
            entry.orphanSince = now
            open[id] = entry
        }
        return found
    }

    /// Notes that a message ended before the past that was read. Returns its first event here, which nothing need be kept for.
    public mutating func endedBefore(_ messageID: String, _ status: MessageStatus) -> EventPosition? {
        guard var entry = open[messageID] else { return nil }
        entry.state.apply(
            TimelineEvent(messageID: messageID, channel: .sms, at: 0, component: "", kind: .final, status: status)
        )
        end(messageID, entry)
        return entry.first
    }

    /// What happens at a point in time: deadlines of reports and of held receipts.
    public mutating func tick(now: Timestamp) -> [LedgerAction] {
        var actions: [LedgerAction] = []
        while let due = deadlines.popDue(now: now.rawValue) {
            guard let entry = open[due.id], entry.state.attempt == due.payload,
                entry.state.phase == .accepted || entry.state.phase == .inDoubt, let message = entry.state.message
            else { continue }
            if policy(message).onReceiptTimeout == .retry, entry.state.phase == .accepted {
                actions += afterFailure(due.id, entry, .receiptMissing, receipt: nil, now: now)
            } else {
                let event = TimelineEvent(
                    messageID: due.id,
                    channel: message.channel,
                    at: now,
                    component: "responses",
                    kind: .receiptMissing,
                    attempt: entry.state.attempt,
                    status: .expired,
                    provider: entry.state.provider,
                    code: "no-receipt",
                    detail: "no report from the provider in time"
                )
                actions += finish(due.id, entry, event)
            }
        }
        compactHeld()
        // While nobody can be asked, what is held may well belong to another worker.
        while sharing != .away, let first = heldOrder.first,
            now - first.since >= configuration.holdMilliseconds || heldCount > configuration.heldMax
        {
            heldOrder.removeFirst()
            actions += giveUp(first.key, first.token)
        }
        return actions
    }

    // MARK: - Decisions

    /// Arms the deadline of a report.
    private mutating func arm(_ messageID: String, _ entry: Entry, now: Timestamp) {
        guard let message = entry.state.message else { return }
        let due = entry.state.dueAt ?? now + policy(message).receiptTimeoutMilliseconds
        deadlines.set(messageID, due: due.rawValue, payload: entry.state.attempt)
    }

    /// Another attempt if the policy has one left and it comes before the message expires; else the end.
    mutating func afterFailure(
        _ messageID: String,
        _ entry: Entry,
        _ kind: TimelineEvent.Kind,
        receipt: ProviderReceipt?,
        now: Timestamp
    ) -> [LedgerAction] {
        guard let message = entry.state.message else { return [] }
        let policy = policy(message)
        let attempt = entry.state.attempt
        var event = TimelineEvent(
            messageID: messageID,
            channel: message.channel,
            at: now,
            component: "responses",
            kind: kind,
            attempt: attempt,
            provider: receipt?.provider ?? entry.state.provider,
            providerMessageID: receipt?.providerMessageID,
            code: receipt?.code,
            detail: receipt?.reason
        )
        guard attempt < policy.attemptsMax else {
            if kind == .retryScheduled { event.kind = .final }
            event.status = kind == .receiptMissing ? .expired : .failed
            event.code = event.code ?? entry.state.code
            event.detail =
                "all \(attempt) attempts failed" + ((event.detail ?? entry.state.detail).map { "; last: \($0)" } ?? "")
            return finish(messageID, entry, event)
        }
        // A provider that asks for a pause says so in the `dueAt` of the `deferred` event.
        let asked = entry.state.phase == .deferred ? max(0, (entry.state.dueAt ?? now) - now) : 0
        let spread = RetryPolicy.spread(messageID: messageID, attempt: attempt + 1)
        let due = now + policy.backoff(beforeAttempt: attempt + 1, spread: spread, providerAsksMilliseconds: asked)
        if let expiresAt = message.expiresAt, due >= expiresAt {
            if kind == .retryScheduled { event.kind = .final }
            event.status = .expired
            event.detail = "expires before another attempt" + (event.detail.map { "; last: \($0)" } ?? "")
            return finish(messageID, entry, event)
        }
        event.status = .retrying
        event.dueAt = due
        var changed = entry
        changed.state.apply(event)
        open[messageID] = changed
        deadlines.cancel(messageID)
        return [.schedule(message, attempt: attempt + 1, due: due), .append(event, closes: nil)]
    }

    /// Calls a message back. Between attempts the decision is ours; an attempt that lies in its lane is its dispatcher's; what a
    /// provider has, or may have, cannot be called back.
    private mutating func cancel(_ messageID: String, _ entry: Entry, now: Timestamp) -> [LedgerAction] {
        guard let message = entry.state.message else { return [] }
        var event = TimelineEvent(
            messageID: messageID,
            channel: message.channel,
            at: now,
            component: "responses",
            kind: .final,
            attempt: entry.state.attempt,
            status: .cancelled,
            detail: "called back after \(entry.state.attempt) attempts"
        )
        switch entry.state.phase {
        case .none: return [.cancel(message, attempt: 1)]
        case .held:
            let attempt = entry.state.attempt
            let timer = entry.state.dueAt.map { Records.quietTimerID(messageID, attempt: attempt, due: $0) }
            return (timer.map { [.endTimer($0)] } ?? []) + [.cancel(message, attempt: attempt)]
        case .retryScheduled:
            let next = entry.state.attempt + 1
            return [.unschedule(messageID: messageID, attempt: next), .cancel(message, attempt: next)]
        case .deferred: return finish(messageID, entry, event)
        case .accepted, .inDoubt:
            event.kind = .cancelRefused
            event.status = nil
            event.detail =
                entry.state.phase == .accepted ? "the provider has it" : "the provider may have it; it gave no answer"
            var entry = entry
            entry.state.apply(event)
            open[messageID] = entry
            if entry.state.phase == .accepted || policy(message).onInDoubt == .expire {
                arm(messageID, entry, now: now)
                return [.append(event, closes: nil)]
            }
            return [.append(event, closes: nil)]
                + afterFailure(messageID, entry, .retryScheduled, receipt: nil, now: now)
        case .ending, .final: return []
        }
    }

    /// Writes the last event of a message.
    mutating func finish(_ messageID: String, _ entry: Entry, _ event: TimelineEvent) -> [LedgerAction] {
        var entry = entry
        var actions: [LedgerAction] = []
        if entry.state.phase == .retryScheduled {
            actions.append(.unschedule(messageID: messageID, attempt: entry.state.attempt + 1))
        }
        entry.state.apply(event)
        if let message = entry.state.message {
            actions.append(.publish(message, entry.state.status, at: event.at))
        }
        actions.append(.append(event, closes: entry.first))
        end(messageID, entry)
        return actions
    }

    /// Moves a message from the open to the ended ones.
    private mutating func end(_ messageID: String, _ entry: Entry) {
        open[messageID] = nil
        orphans.remove(messageID)
        deadlines.cancel(messageID)
        ended[messageID] = Ended(
            status: entry.state.status,
            attempt: entry.state.attempt,
            providerKeys: entry.providerKeys
        )
        endedOrder.append(messageID)
        while endedOrder.count > configuration.endedMax {
            let oldest = endedOrder.removeFirst()
            for key in ended.removeValue(forKey: oldest)?.providerKeys ?? [] { byProviderID[key] = nil }
        }
    }
}
