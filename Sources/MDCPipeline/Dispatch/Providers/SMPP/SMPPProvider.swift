// SPDX-License-Identifier: Apache-2.0

import DequeModule
public import Logging
import MDCModel
public import NIOCore
import NIOSSL
import Synchronization

/// SMS by SMPP 3.4: transceiver binds with a window of outstanding requests, receipts over the same connections.
///
/// A receipt is acknowledged to the centre only after it is durable. The ids of the parts of a message under way are kept in
/// memory, to name the message in its receipts and to make one receipt of those of all parts.
public final class SMPPProvider: Provider {
    /// How the centre is reached, and how texts are written.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        public var host: String
        public var port: Int
        /// At most 15 characters.
        public var systemID: String
        /// At most 8 characters.
        public var password: Secret
        public var systemType: String
        /// Encrypted from the first byte, with whom to trust; nil: in the clear.
        public var tls: ProviderTLS?
        /// Connections.
        public var binds: Int
        /// Requests without an answer at once, for each connection.
        public var window: Int
        public var alphabet: SMPPAlphabet
        public var concatenation: SMPPConcatenation
        public var serviceType: String
        /// How the centre writes ids in its answers.
        public var idInAnswer: SMPPIDForm
        /// How the centre writes ids in its receipts.
        public var idInReceipt: SMPPIDForm
        /// Asks for receipts.
        public var receipts: Bool
        /// Optional parameters of every message, such as India's DLT ids (0x1400 and up); values are text.
        public var parameters: [UInt16: String]
        /// Optional parameters by the name of the message's template.
        public var templateParameters: [String: [UInt16: String]]
        /// `priority_flag` by lane; others are 0.
        public var priorityByLane: [String: UInt8]
        public var connectTimeout: Duration
        /// After it a request is in doubt.
        public var responseTimeout: Duration
        /// The peer is asked whether it is there after so long a silence.
        public var enquireInterval: Duration
        /// The first pause before connecting again, and the longest.
        public var reconnect: Duration
        public var reconnectMax: Duration

        public init(
            name: String = "smpp",
            host: String,
            port: Int = 2775,
            systemID: String,
            password: Secret,
            systemType: String = "",
            tls: ProviderTLS? = nil,
            binds: Int = 1,
            window: Int = 50,
            alphabet: SMPPAlphabet = .gsm7,
            concatenation: SMPPConcatenation = .udh,
            serviceType: String = "",
            idInAnswer: SMPPIDForm = .text,
            idInReceipt: SMPPIDForm = .text,
            receipts: Bool = true,
            parameters: [UInt16: String] = [:],
            templateParameters: [String: [UInt16: String]] = [:],
            priorityByLane: [String: UInt8] = ["critical": 3, "high": 2],
            connectTimeout: Duration = .seconds(5),
            responseTimeout: Duration = .seconds(10),
            enquireInterval: Duration = .seconds(30),
            reconnect: Duration = .milliseconds(200),
            reconnectMax: Duration = .seconds(30)
        ) {
            precondition(binds > 0 && window > 0, "binds and window of provider \(name) must be at least 1")
            self.name = name
            self.host = host
            self.port = port
            self.systemID = systemID
            self.password = password
            self.systemType = systemType
            self.tls = tls
            self.binds = binds
            self.window = window
            self.alphabet = alphabet
            self.concatenation = concatenation
            self.serviceType = serviceType
            self.idInAnswer = idInAnswer
            self.idInReceipt = idInReceipt
            self.receipts = receipts
            self.parameters = parameters
            self.templateParameters = templateParameters
            self.priorityByLane = priorityByLane
            self.connectTimeout = connectTimeout
            self.responseTimeout = responseTimeout
            self.enquireInterval = enquireInterval
            self.reconnect = reconnect
            self.reconnectMax = reconnectMax
        }
    }

    public var name: String { configuration.name }
    public var channel: Channel { .sms }
    public var concurrency: Int { configuration.binds * configuration.window }
    public var sendsReceipts: Bool { configuration.receipts }

    /// How long a receipt waits for the answer that it may have overtaken; an SMSC may want it taken before it answers.
    private static let overtakingMax = Duration.seconds(2)

    private let configuration: Configuration
    private let links: [SMPPLink]
    private let running: [Task<Void, Never>]
    private let parts = SMPPPartsBox()
    private let logger: Logger

    /// Begins to connect at once.
    ///
    /// - Parameters:
    ///   - receipts: Where receipts are made durable.
    ///   - group: Runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`) if the trusted certificates cannot be read.
    public init(
        _ configuration: Configuration,
        receipts: any ReceiptSink,
        group: any EventLoopGroup,
        logger: Logger
    ) throws {
        self.configuration = configuration
        self.logger = logger
        var logger = logger
        logger[metadataKey: "provider"] = "\(configuration.name)"
        let context = try configuration.tls?.makeContext()
        let box = ReceiptBox()
        let settings = SMPPLink.Configuration(
            host: configuration.host,
            port: configuration.port,
            session: .init(
                bind: SMPPBind(
                    systemID: configuration.systemID,
                    password: configuration.password.value,
                    systemType: configuration.systemType
                ),
                window: configuration.window,
                responseTimeout: configuration.responseTimeout.wholeNanoseconds,
                enquireInterval: configuration.enquireInterval.wholeNanoseconds
            ),
            connectTimeout: configuration.connectTimeout,
            tls: context,
            serverName: configuration.tls?.verifiedName(host: configuration.host),
            reconnect: configuration.reconnect,
            reconnectMax: configuration.reconnectMax
        )
        links = (0..<configuration.binds).map { [logger] _ in
            SMPPLink(settings, eventLoop: group.next(), logger: logger) { message in
                await box.handle(message)
            }
        }
        running = links.map { link in Task { await link.run() } }
        box.set { [weak self] message in
            guard let self else { return 0x08 }
            return await self.take(message, receipts)
        }
    }

    /// Breaks the knot between the links, which need a place for deliveries, and the provider, which has the links.
    private final class ReceiptBox: Sendable {
        /// In a structure: a lock of a bare closure wraps it once more at each look.
        private struct Handlers: Sendable {
            var message: (@Sendable (SMPPShortMessage) async -> UInt32)?
        }
        private let handlers = Mutex(Handlers())
        func set(_ handler: @escaping @Sendable (SMPPShortMessage) async -> UInt32) {
            handlers.withLock { $0.message = handler }
        }
        func handle(_ message: SMPPShortMessage) async -> UInt32 {
            guard let handler = handlers.withLock({ $0 }).message else { return 0x08 }
            return await handler(message)
        }
    }

    /// Successful binds since the start.
    var bindCount: Int { links.reduce(0) { $0 + $1.binds } }

    public func shutdown() async {
        for link in links { await link.close() }
        for task in running {
            task.cancel()
            await task.value
        }
    }

    // MARK: - Sending

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        let reference = message.reference(attempt: attempt)
        guard
            let text = SMPPText(
                message.content.text,
                alphabet: configuration.alphabet,
                concatenation: configuration.concatenation
            )
        else {
            let reason = "the text takes more than \(SMPPText.partsMax) short messages"
            return .rejected(code: "too-long", reason: reason)
        }
        guard message.to.utf8.count <= 21 else {
            return .rejected(code: "ESME_RINVDSTADR", reason: "the number has more than 20 digits")
        }
        // The same attempt has the same reference, so that parts that are sent again after a crash replace each other.
        let number = reference.utf8.reduce(UInt32(2_166_136_261)) { ($0 ^ UInt32($1)) &* 16_777_619 }
        let units = text.messages(
            template(message),
            concatenation: configuration.concatenation,
            reference: UInt16(truncatingIfNeeded: number ^ number >> 16)
        )
        guard let link = await boundLink() else {
            return .retriable(code: "connect", reason: "no SMPP session: \(links[0].problem)")
        }
        var ids: [String] = []
        let (form, parts) = (configuration.idInAnswer, parts)
        let serial = configuration.receipts ? parts.begin(units.count, reference: reference) : nil
        defer { if let serial { parts.withLock { $0.finish(serial) } } }
        for (index, unit) in units.enumerated() {
            let place = units.count > 1 ? "part \(index + 1) of \(units.count): " : ""
            let result = await link.request(SMPPCommand.submitSM, unit.encoded()) { status, body in
                // On the connection's thread: a receipt that follows the answer at once finds the id.
                var body = body
                guard status == 0, let serial, let id = try? body.readSMPPString(max: 65, "message_id") else { return }
                parts.add(form.normalised(id), to: serial)
            }
            switch result {
            case .notSent(let reason):
                guard index == 0 else { return .inDoubt(reason: "\(place)not sent: \(reason)") }
                return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: place + reason)
            case .answered(let status, var body):
                guard status == 0 else { return Self.at(place, SMPPStatus.outcome(status)) }
                guard let id = try? body.readSMPPString(max: 65, "message_id"), !id.isEmpty else {
                    return .inDoubt(reason: "\(place)an answer without an id")
                }
                ids.append(form.normalised(id))
            }
        }
        return .accepted(providerMessageID: ids[0], detail: ids.count > 1 ? "\(ids.count) parts" : nil)
    }

    private static func at(_ place: String, _ outcome: SendOutcome) -> SendOutcome {
        switch outcome {
        case .rejected(let code, let reason): .rejected(code: code, reason: place + reason)
        case .retriable(let code, let reason, let pause):
            .retriable(code: code, reason: place + reason, retryAfter: pause)
        case .accepted, .inDoubt: outcome
        }
    }

    private func template(_ message: Message) -> SMPPShortMessage {
        var unit = SMPPShortMessage(
            source: SMPPAddress(sender: message.sender),
            destination: SMPPAddress(recipient: message.to)
        )
        unit.serviceType = configuration.serviceType
        unit.registeredDelivery = configuration.receipts ? 1 : 0
        unit.priority = configuration.priorityByLane[message.lane] ?? 0
        if let expiresAt = message.expiresAt {
            unit.validityPeriod = Self.relative(seconds: (expiresAt.rawValue - wallClockMilliseconds()) / 1_000)
        }
        var parameters = configuration.parameters
        if let template = message.template, let more = configuration.templateParameters[template] {
            parameters.merge(more) { _, new in new }
        }
        unit.parameters = parameters.sorted { $0.key < $1.key }
            .map { SMPPParameter($0.key, Array($0.value.utf8.prefix(1_000))) }
        return unit
    }

    /// `YYMMDDhhmmss000R` (SMPP 3.4, 7.1.1): a length of time, at least a minute, at most 99 days.
    static func relative(seconds: Int64) -> String {
        let seconds = min(max(seconds, 60), 99 * 86_400)
        func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let (days, rest) = (seconds / 86_400, seconds % 86_400)
        // Months have no fixed length: whole days up to 30, then months of 30 days.
        return "00" + two(days / 30) + two(days % 30) + two(rest / 3_600) + two(rest / 60 % 60) + two(rest % 60)
            + "000R"
    }

    /// The bound link with the least to do; waits for one a while.
    private func boundLink() async -> SMPPLink? {
        let deadline = NIODeadline.now() + TimeAmount(configuration.connectTimeout)
        while true {
            if let link = links.filter(\.isBound).min(by: { $0.load < $1.load }) { return link }
            guard NIODeadline.now() < deadline, !Task.isCancelled else { return nil }
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: - Receipts

    /// Returns the status to answer: 0 once the receipt is durable.
    private func take(_ message: SMPPShortMessage, _ receipts: any ReceiptSink) async -> UInt32 {
        guard message.isReceipt, let receipt = SMPPReceipt(message) else {
            logger.debug("a message from a phone, or an unreadable receipt, was taken and dropped")
            return 0
        }
        let id = configuration.idInReceipt.normalised(receipt.messageID)
        await answersBefore(id)
        let known = parts.withLock { $0.report(id, receipt.status) }
        if known?.isIntermediate == true { return 0 }
        let entry = ProviderReceipt(
            provider: name,
            channel: .sms,
            providerMessageID: known?.firstID ?? id,
            status: known?.status ?? receipt.status,
            code: receipt.error,
            reason: receipt.state,
            at: Timestamp(wallClockMilliseconds()),
            reference: known?.reference
        )
        do {
            try await receipts.append([entry])
            if receipt.status != .sent { parts.withLock { $0.settle(id) } }
            return 0
        } catch {
            logger.warning("a receipt is not durable", metadata: ["error": "\(error)"])
            parts.withLock { $0.revert(id) }
            return 0x64
        }
    }

    /// A receipt may overtake the answer that tells its id, above all through the other bind: it waits for the messages that
    /// were under way when it came, or their parts would never add up.
    private func answersBefore(_ id: String) async {
        guard let limit = parts.withLock({ $0.limit(of: id) }) else { return }
        let deadline = NIODeadline.now() + TimeAmount(Self.overtakingMax)
        while parts.withLock({ $0.mayBelong(id, upTo: limit) }), NIODeadline.now() < deadline, !Task.isCancelled {
            try? await Task.sleep(for: .milliseconds(5))
        }
    }

    /// What the centre knows of a message (`query_sm`). - Returns: nil if it does not tell.
    public func status(ofMessage id: String, sender: String) async -> ProviderReceipt.Status? {
        guard let link = await boundLink() else { return nil }
        let source = SMPPAddress(sender: sender)
        var body = ByteBuffer()
        body.writeSMPPString(id, max: 65)
        body.writeInteger(source.ton)
        body.writeInteger(source.npi)
        body.writeSMPPString(source.text, max: 21)
        guard case .answered(0, var answer) = await link.request(SMPPCommand.querySM, body),
            (try? answer.readSMPPString(max: 65, "message_id")) != nil,
            (try? answer.readSMPPString(max: 17, "final_date")) != nil,
            let state = try? answer.readSMPPByte("message_state")
        else { return nil }
        return SMPPReceipt.states[Int(state)].map(SMPPReceipt.status)
    }
}

/// ``SMPPParts`` for many threads.
final class SMPPPartsBox: Sendable {
    private let parts = Mutex(SMPPParts())

    func begin(_ count: Int, reference: String) -> UInt64 { parts.withLock { $0.begin(count, reference: reference) } }
    func add(_ id: String, to serial: UInt64) { parts.withLock { $0.add(id, to: serial) } }
    func withLock<Result: Sendable>(_ body: (inout sending SMPPParts) -> sending Result) -> Result {
        parts.withLock(body)
    }
}

/// The parts of messages that are under way, by id; bounded, oldest forgotten first.
struct SMPPParts: Sendable {
    static let messagesMax = 500_000

    struct Report: Sendable, Equatable {
        var firstID: String
        var reference: String
        var status: ProviderReceipt.Status
        /// Other parts are not known yet: nothing to tell.
        var isIntermediate: Bool
    }

    private struct Entry {
        var count: Int
        var ids: [String] = []
        var reference: String
        var delivered: Set<String> = []
    }

    private var entries: [UInt64: Entry] = [:]
    private var owners: [String: UInt64] = [:]
    private var order: Deque<UInt64> = []
    private var serial: UInt64 = 0
    /// Those whose answers are not all here.
    private var underWay: Set<UInt64> = []

    var count: Int { entries.count }

    /// A message of so many parts is about to be sent; their ids follow.
    mutating func begin(_ count: Int, reference: String) -> UInt64 {
        serial += 1
        entries[serial] = Entry(count: count, reference: reference)
        order.append(serial)
        underWay.insert(serial)
        while entries.count > Self.messagesMax || order.count > 2 * Self.messagesMax, let oldest = order.popFirst() {
            remove(oldest)
        }
        return serial
    }

    mutating func add(_ id: String, to serial: UInt64) {
        guard entries[serial] != nil else { return }
        entries[serial]?.ids.append(id)
        owners[id] = serial
    }

    /// All parts of the message are answered, or will not be.
    mutating func finish(_ serial: UInt64) { underWay.remove(serial) }

    /// The last message to which an unknown id may belong; nil for a known id, or if no answer is awaited.
    func limit(of id: String) -> UInt64? { owners[id] == nil && !underWay.isEmpty ? serial : nil }

    /// True while the id is unknown and a message up to `limit` awaits an answer.
    func mayBelong(_ id: String, upTo limit: UInt64) -> Bool {
        owners[id] == nil && underWay.contains { $0 <= limit }
    }

    /// What a part's receipt means for its message; nil if the message is not known.
    mutating func report(_ id: String, _ status: ProviderReceipt.Status) -> Report? {
        guard let owner = owners[id], var entry = entries[owner] else { return nil }
        var report = Report(
            firstID: entry.ids[0],
            reference: entry.reference,
            status: status,
            isIntermediate: false
        )
        guard entry.count > 1, status == .delivered else { return report }
        entry.delivered.insert(id)
        entries[owner] = entry
        report.isIntermediate = entry.delivered.count < entry.count
        return report
    }

    /// The receipt is stored; a message at its end is forgotten when all its parts were reported or one failed.
    mutating func settle(_ id: String) {
        guard let owner = owners[id], let entry = entries[owner] else { return }
        if entry.count == 1 || entry.delivered.count == entry.count { remove(owner) }
    }

    /// The receipt was not stored and will come again.
    mutating func revert(_ id: String) {
        guard let owner = owners[id] else { return }
        entries[owner]?.delivered.remove(id)
    }

    private mutating func remove(_ owner: UInt64) {
        guard let entry = entries.removeValue(forKey: owner) else { return }
        for id in entry.ids where owners[id] == owner { owners[id] = nil }
    }
}

extension Duration {
    /// Whole nanoseconds, rounded down.
    var wholeNanoseconds: Int64 { components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000 }
}
