// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCClient
public import MDCModel
import NIOCore
import Synchronization

/// What the centre answers when it has accepted a message.
public struct SubmitReceipt: Codable, Sendable, Hashable {
    /// The id under which the message can be asked for.
    public var messageID: String
    /// Its lane.
    public var lane: String
    /// Whether a message with this key was accepted before: nothing was sent anew.
    public var isDuplicate: Bool
    /// When it will be dispatched, if not at once.
    public var scheduledFor: Timestamp?
    /// For SMS: short messages that it takes.
    public var segments: Int?
    /// What the sender may want to know.
    public var warnings: [ValidationIssue]
}

/// The way into the centre: checks messages, completes them and puts them into their lanes.
///
/// A message is accepted when its lane record and its `submitted` event are durable; before that there is no receipt.
public final class MessageClient: Sendable {
    /// Tells what is known of a message id, for messages with an idempotency key.
    public typealias Lookup = @Sendable (_ messageID: String, Channel) throws(PipelineError) -> MessageStore.Knowledge

    private let validator: MessageValidator
    private let writer: RecordWriter
    private let writerID: String
    private let lookup: Lookup?
    private let random = Mutex(SystemRandomNumberGenerator())
    /// Keyed messages accepted lately by this client: the lookup may lag behind.
    private let recent = Mutex(AttemptWindow())

    /// - Parameters:
    ///   - producer: Must ask for `acks=all`.
    ///   - lookup: What is known of earlier messages, such as a message store's `knowledge`. Without it, the same key is the same
    ///     message all the same: it has the same id, and the dispatcher drops what it has seen lately.
    public init(
        producer: Producer,
        validator: MessageValidator = MessageValidator(),
        lookup: Lookup? = nil,
        logger: Logger
    ) {
        self.validator = validator
        self.lookup = lookup
        writer = RecordWriter(producer: producer, logger: logger)
        var generator = SystemRandomNumberGenerator()
        writerID = MessageID.random(at: SystemTime.now(), using: &generator)
    }

    /// Submits one message.
    ///
    /// - Returns: The receipt: the message is durable.
    /// - Throws: ``PipelineError`` with code `invalidMessage` (see `issues`), `log` or `store`. After `log` it is not known
    ///   whether the message was taken: submit it again with the same idempotency key.
    @discardableResult
    public func submit(_ draft: MessageDraft) async throws(PipelineError) -> SubmitReceipt {
        try await submit([draft])[0].get()
    }

    /// Submits many messages at once, which is much faster than one by one. The results are in the order of the drafts.
    public func submit(_ drafts: [MessageDraft]) async -> [Result<SubmitReceipt, PipelineError>] {
        let now = SystemTime.now()
        var plans: [Plan] = []
        plans.reserveCapacity(drafts.count)
        var seen: [String: Int] = [:]
        for draft in drafts { plans.append(plan(draft, now: now, index: plans.count, seen: &seen)) }
        do {
            // The event only after the lane record: what the world sees as submitted must be on its way.
            let first = plans.compactMap(\.first)
            if !first.isEmpty { try await writer.write(first) }
            let events = plans.compactMap(\.event)
            if !events.isEmpty { try await writer.write(events) }
        } catch {
            return plans.map { plan in plan.first == nil && plan.event == nil ? plan.result : .failure(error) }
        }
        recent.withLock { recent in
            for plan in plans {
                if plan.isKeyed, case .success(let receipt) = plan.result {
                    recent.insert(receipt.messageID, attempt: 1)
                }
            }
        }
        return plans.map(\.result)
    }

    /// What is to be written for one draft, and the answer once that is durable.
    private struct Plan {
        var result: Result<SubmitReceipt, PipelineError>
        /// The lane record or the timer.
        var first: ProducerRecord?
        var event: ProducerRecord?
        var isKeyed = false
    }

    private func plan(_ draft: MessageDraft, now: Timestamp, index: Int, seen: inout [String: Int]) -> Plan {
        let checked = validator.validate(draft, now: now)
        guard checked.isValid else {
            let errors = checked.issues.filter { $0.severity == .error }.map(\.description).joined(separator: "; ")
            return Plan(result: .failure(PipelineError(.invalidMessage, errors, issues: checked.issues)))
        }
        var message = complete(checked.draft, now: now)
        var receipt = SubmitReceipt(
            messageID: message.id,
            lane: message.lane,
            isDuplicate: false,
            scheduledFor: message.sendAt,
            segments: checked.segments?.count,
            warnings: checked.warnings
        )
        let isKeyed = message.idempotencyKey != nil || draft.id != nil
        var writesFirst = true
        if isKeyed {
            do {
                switch try known(message, seen: seen) {
                case .nothing: break
                case .events: writesFirst = false
                case .document(let earlier):
                    receipt.isDuplicate = true
                    receipt.lane = earlier.lane
                    receipt.scheduledFor = earlier.sendAt
                    return Plan(result: .success(receipt), isKeyed: true)
                }
            } catch {
                return Plan(result: .failure(error))
            }
            seen[message.id] = index
        }
        message.attempt = 1
        let json = message.json()
        return Plan(
            result: .success(receipt),
            first: writesFirst ? Self.first(message, json) : nil,
            event: submitted(message, json),
            isKeyed: isKeyed
        )
    }

    private func known(_ message: Message, seen: [String: Int]) throws(PipelineError) -> MessageStore.Knowledge {
        if seen[message.id] != nil || recent.withLock({ $0.contains(message.id, attempt: 1) }) {
            return .document(message)
        }
        return try lookup?(message.id, message.channel) ?? .nothing
    }

    private func complete(_ draft: MessageDraft, now: Timestamp) -> Message {
        let tenant = draft.tenant ?? "default"
        let id: String
        if let given = draft.id {
            id = given
        } else if let key = draft.idempotencyKey {
            id = MessageID.derived(tenant: tenant, key: key)
        } else {
            id = random.withLock { MessageID.random(at: now, using: &$0) }
        }
        return Message(
            id: id,
            tenant: tenant,
            channel: draft.channel,
            lane: draft.lane ?? "normal",
            to: draft.to,
            sender: draft.sender ?? "",
            content: draft.content,
            template: draft.template,
            idempotencyKey: draft.idempotencyKey,
            sendAt: draft.sendAt,
            expiresAt: draft.expiresAt,
            retryPolicy: draft.retryPolicy,
            feedbackURL: draft.feedbackURL,
            createdAt: now
        )
    }

    private static func first(_ message: Message, _ json: ByteBuffer) -> ProducerRecord {
        guard let sendAt = message.sendAt else { return Records.lane(message, json: json) }
        return Records.timer(Records.sendAtTimerID(message.id), due: sendAt, message: message, json: json)
    }

    private func submitted(_ message: Message, _ json: ByteBuffer) -> ProducerRecord {
        let event = TimelineEvent(
            messageID: message.id,
            channel: message.channel,
            at: message.createdAt,
            component: "ingest",
            kind: .submitted,
            status: message.sendAt == nil ? .queued : .scheduled,
            dueAt: message.sendAt
        )
        return Records.event(event, json: event.json(message: json), writer: writerID)
    }
}
