// SPDX-License-Identifier: Apache-2.0

import DequeModule
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
    /// For SMS: the alphabet that the text needs, `gsm7` or `ucs2`.
    public var encoding: SMSSegments.Encoding?
    /// The version and variant of the template that the text was made of.
    public var templateSource: TemplateSource?
    /// What the sender may want to know.
    public var warnings: [ValidationIssue]
}

/// The way into the centre: checks messages, completes them and puts them into their lanes.
///
/// A message is accepted when its lane record and its `submitted` event are durable; before that there is no receipt.
public final class MessageClient: Sendable {
    /// Tells what is known of a message id, for messages with an idempotency key.
    public typealias Lookup =
        @Sendable (_ messageID: String, Channel) async throws(PipelineError) -> MessageStore.Knowledge

    private let validator: MessageValidator
    private let writer: RecordWriter
    private let writerID: String
    private let lookup: Lookup?
    private let keys: IdempotencyKeys?
    private let templates: TemplateBook?
    private let mailDomains: MailDomainCheck?
    private let random = Mutex(SystemRandomNumberGenerator())
    /// Keyed messages accepted lately by this client: the lookup may lag behind.
    private let recent = Mutex(RecentKeys(capacity: 200_000))

    /// - Parameters:
    ///   - producer: Must ask for `acks=all`.
    ///   - keys: The memory of idempotency keys. Without it, the same key still gives the same id, and the dispatcher drops what it
    ///     has seen lately, but not after a restart.
    ///   - templates: For messages whose text is made of a template; without it they are refused.
    ///   - mailDomains: Asks whether the domains of mail addresses take mail; nil: that is not asked.
    ///   - lookup: What is known of earlier messages, such as a message store's `knowledge`; remembers longer than `keys`.
    public init(
        producer: Producer,
        validator: MessageValidator = MessageValidator(),
        keys: IdempotencyKeys? = nil,
        templates: TemplateBook? = nil,
        mailDomains: MailDomainCheck? = nil,
        lookup: Lookup? = nil,
        logger: Logger
    ) {
        self.templates = templates
        self.mailDomains = mailDomains
        self.validator = validator
        self.lookup = lookup
        self.keys = keys
        writer = RecordWriter(producer: producer, logger: logger)
        var generator = SystemRandomNumberGenerator()
        writerID = MessageID.random(at: SystemTime.now(), using: &generator)
    }

    /// The most bytes of a message as JSON.
    static let messageBytesMax = 1_000_000

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
        if let templates, drafts.contains(where: { $0.variables != nil }) {
            do {
                // So that a message that follows a template's put is made of that one.
                try await templates.refresh()
            } catch {
                return drafts.map { _ in .failure(error) }
            }
        }
        let now = SystemTime.now()
        var plans: [Plan] = []
        plans.reserveCapacity(drafts.count)
        var seen: [String: UInt64] = [:]
        let badDomains = await badDomains(drafts)
        for draft in drafts { plans.append(await plan(draft, now: now, seen: &seen, badDomains: badDomains)) }
        do {
            try await claim(&plans, now: now)
            // The event only after the lane record: what the world sees as submitted must be on its way.
            let first = plans.compactMap(\.first)
            if !first.isEmpty { try await writer.write(first) }
            let events = plans.compactMap(\.event)
            if !events.isEmpty { try await writer.write(events) }
            await markDone(plans)
        } catch {
            return plans.map { plan in plan.first == nil && plan.event == nil ? plan.result : .failure(error) }
        }
        recent.withLock { recent in
            for plan in plans {
                if let digest = plan.digest, case .success(let receipt) = plan.result {
                    recent.insert(receipt.messageID, digest: digest)
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
        /// What the message says; nil if it has no key.
        var digest: UInt64?
        /// Whether its key is still to be claimed.
        var claims = false

        mutating func settle(_ result: Result<SubmitReceipt, PipelineError>) {
            self.result = result
            (first, event, claims) = (nil, nil, false)
        }
    }

    /// The draft with the text of its template, where it wants that.
    private func filled(_ draft: MessageDraft) throws(PipelineError) -> (
        draft: MessageDraft, warnings: [ValidationIssue]
    ) {
        var draft = draft
        draft.templateSource = nil
        guard draft.variables != nil else {
            for (name, isThere) in [("locale", draft.locale != nil), ("templateVersion", draft.templateVersion != nil)]
            where isThere {
                throw TemplateBook.invalid(
                    name,
                    "needs a template to make the text; leave out content, or leave it out"
                )
            }
            return (draft, [])
        }
        guard draft.template != nil else {
            throw TemplateBook.invalid("template", "is missing; variables need a template to be put into")
        }
        var content = draft.content
        content.attachments = nil
        guard content == MessageContent(text: "") else {
            throw TemplateBook.invalid("variables", "stand beside a text; leave out either of them")
        }
        guard let templates else {
            throw PipelineError(.configuration, "this client was made without templates; give it a TemplateBook")
        }
        return try templates.filled(draft)
    }

    /// What is wrong with the drafts' mail domains, where that is asked.
    private func badDomains(_ drafts: [MessageDraft]) async -> [String: String] {
        guard let mailDomains else { return [:] }
        let domains = Set(drafts.compactMap(Self.mailDomain))
        return domains.isEmpty ? [:] : await mailDomains.problems(domains)
    }

    private static func mailDomain(_ draft: MessageDraft) -> String? {
        guard draft.channel == .email, case .success(let address) = EmailAddress.parse(draft.to) else { return nil }
        return address.asciiDomain
    }

    private func plan(
        _ draft: MessageDraft,
        now: Timestamp,
        seen: inout [String: UInt64],
        badDomains: [String: String]
    ) async -> Plan {
        let filled: (draft: MessageDraft, warnings: [ValidationIssue])
        do {
            filled = try self.filled(draft)
        } catch {
            return Plan(result: .failure(error))
        }
        var checked = validator.validate(filled.draft, now: now)
        checked.issues += filled.warnings
        if !badDomains.isEmpty, let domain = Self.mailDomain(draft), let problem = badDomains[domain] {
            checked.issues.append(ValidationIssue(.error, "to", "domain \(domain) \(problem)"))
        }
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
            encoding: checked.segments?.encoding,
            templateSource: checked.draft.templateSource,
            warnings: checked.warnings
        )
        let isKeyed = message.idempotencyKey != nil || draft.id != nil
        let digest = isKeyed ? checked.draft.contentDigest : nil
        var writesFirst = true
        if let digest {
            do {
                switch try await known(message, seen: seen) {
                case .nothing: break
                case .events: writesFirst = false
                case .digest(let earlier, let scheduledFor):
                    guard earlier == digest else { return Plan(result: .failure(Self.conflict(message))) }
                    receipt.isDuplicate = true
                    receipt.scheduledFor = scheduledFor ?? receipt.scheduledFor
                    return Plan(result: .success(receipt), digest: digest)
                }
            } catch {
                return Plan(result: .failure(error))
            }
            seen[message.id] = digest
        }
        message.attempt = 1
        let json = message.json()
        if let error = Self.sizeProblem(json) { return Plan(result: .failure(error)) }
        return Plan(
            result: .success(receipt),
            first: writesFirst ? Self.first(message, json) : nil,
            event: submitted(message, json),
            digest: digest,
            claims: isKeyed && writesFirst
        )
    }

    /// Its record must fit what logs take: a megabyte, less what stands around it.
    private static func sizeProblem(_ json: ByteBuffer) -> PipelineError? {
        guard json.readableBytes > messageBytesMax else { return nil }
        return TemplateBook.invalid(
            "content",
            "makes a message of \(json.readableBytes) bytes; at most \(messageBytesMax) fit the log"
        )
    }

    /// What is known of a message with a key, before the log is asked.
    private enum Known {
        case nothing
        /// Events, but not its document: it is on its way.
        case events
        case digest(UInt64, scheduledFor: Timestamp?)
    }

    private func known(_ message: Message, seen: [String: UInt64]) async throws(PipelineError) -> Known {
        if let digest = seen[message.id] ?? recent.withLock({ $0.digest(message.id) }) {
            return .digest(digest, scheduledFor: nil)
        }
        switch try await lookup?(message.id, message.channel) ?? .nothing {
        case .nothing: return .nothing
        case .events: return .events
        case .document(let earlier): return .digest(earlier.draft.contentDigest, scheduledFor: earlier.sendAt)
        }
    }

    /// Claims the keys of the plans that need one, and takes back those that others have.
    private func claim(_ plans: inout [Plan], now: Timestamp) async throws(PipelineError) {
        guard let keys else { return }
        var wanted: [(index: Int, messageID: String, digest: UInt64)] = []
        for (index, plan) in plans.enumerated() {
            guard plan.claims, let digest = plan.digest, case .success(let receipt) = plan.result else { continue }
            wanted.append((index, receipt.messageID, digest))
        }
        let answers = try await keys.claim(wanted.map { ($0.messageID, $0.digest) }, writer: writer, now: now)
        for (item, answer) in zip(wanted, answers) {
            guard case .success(var receipt) = plans[item.index].result else { continue }
            switch answer {
            case .new: break
            case .unfinished(let since): plans[item.index].first?.headers.append(Records.again(since: since))
            case .done:
                receipt.isDuplicate = true
                plans[item.index].settle(.success(receipt))
            case .conflict: plans[item.index].settle(.failure(Self.conflict(receipt.messageID)))
            }
        }
    }

    /// Not waited for: without the mark, the next submission of the key has the dispatcher look.
    private func markDone(_ plans: [Plan]) async {
        guard keys != nil else { return }
        for plan in plans where plan.claims {
            guard case .success(let receipt) = plan.result else { continue }
            try? await writer.producer.enqueue(IdempotencyKeys.done(receipt.messageID)) { _ in }
        }
    }

    private static func conflict(_ message: Message) -> PipelineError { conflict(message.id) }

    private static func conflict(_ messageID: String) -> PipelineError {
        let issue = ValidationIssue(
            .error,
            "idempotencyKey",
            "was used for message \(messageID), which says something else; take a new key for a new message, or repeat the"
                + " first one unchanged"
        )
        return PipelineError(.conflict, issue.description, issues: [issue])
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
            templateSource: draft.templateSource,
            category: draft.category,
            timeZone: draft.timeZone,
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

/// The keyed messages that a client accepted lately, and what they say. Bounded: the oldest are forgotten.
private struct RecentKeys: Sendable {
    private var digests: [String: UInt64] = [:]
    private var order: Deque<String> = []
    private let capacity: Int

    init(capacity: Int) { self.capacity = capacity }

    func digest(_ messageID: String) -> UInt64? { digests[messageID] }

    mutating func insert(_ messageID: String, digest: UInt64) {
        guard digests.updateValue(digest, forKey: messageID) == nil else { return }
        order.append(messageID)
        if order.count > capacity { digests[order.removeFirst()] = nil }
    }
}
