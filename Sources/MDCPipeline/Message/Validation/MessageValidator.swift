// SPDX-License-Identifier: Apache-2.0

import Foundation
public import MDCModel

/// Checks a draft and brings it into the form that the centre works with. Pure: time comes in as a parameter.
public struct MessageValidator: Sendable {
    /// The limits and defaults.
    public struct Configuration: Sendable {
        /// The lanes of each channel.
        public var lanes: LaneConfiguration
        /// The sender used where a draft names none.
        public var defaultSenders: [Channel: String]
        /// The most bytes of text, HTML and data together.
        public var contentBytesMax: Int
        /// The most bytes of all files of a mail together, before base64.
        public var attachmentBytesMax: Int
        /// Short messages of one text beyond which it is refused.
        public var segmentsMax: Int
        /// Short messages of one text beyond which the sender is warned.
        public var segmentsWarning: Int
        /// Whether numbers that are no mobile phone's are refused; else the sender is warned.
        public var requiresMobile: Bool
        /// Whether names as senders are refused for countries whose networks refuse them; else the sender is warned.
        public var requiresShownSenders: Bool
        /// How far ahead a send-at time may lie, in milliseconds.
        public var scheduleMaxMilliseconds: Int64
        /// The life of a message that says nothing about its expiry, in milliseconds.
        public var defaultLifetimeMilliseconds: Int64

        /// Makes a value from its parts.
        public init(
            lanes: LaneConfiguration = LaneConfiguration(),
            defaultSenders: [Channel: String] = [.sms: "MDC", .email: "MDC <noreply@mdc.example>", .push: ""],
            contentBytesMax: Int = 256 * 1024,
            attachmentBytesMax: Int = 512 * 1024,
            segmentsMax: Int = 10,
            segmentsWarning: Int = 1,
            requiresMobile: Bool = false,
            requiresShownSenders: Bool = false,
            scheduleMaxMilliseconds: Int64 = 366 * 86_400_000,
            defaultLifetimeMilliseconds: Int64 = 3 * 86_400_000
        ) {
            self.lanes = lanes
            self.defaultSenders = defaultSenders
            self.contentBytesMax = contentBytesMax
            self.attachmentBytesMax = attachmentBytesMax
            self.segmentsMax = segmentsMax
            self.segmentsWarning = segmentsWarning
            self.requiresMobile = requiresMobile
            self.requiresShownSenders = requiresShownSenders
            self.scheduleMaxMilliseconds = scheduleMaxMilliseconds
            self.defaultLifetimeMilliseconds = defaultLifetimeMilliseconds
        }
    }

    /// The limits and defaults.
    public var configuration: Configuration

    /// Makes a value from its parts.
    public init(_ configuration: Configuration = Configuration()) {
        self.configuration = configuration
    }

    /// What was found in a draft.
    public struct Result: Sendable {
        /// The draft with normalised addresses and defaults filled in.
        public var draft: MessageDraft
        /// Errors and warnings, in the order of the fields.
        public var issues: [ValidationIssue]
        /// For SMS: how the text is cut.
        public var segments: SMSSegments?
        /// Whether the message can be sent.
        public var isValid: Bool { !issues.contains { $0.severity == .error } }
        /// What the sender may want to know.
        public var warnings: [ValidationIssue] { issues.filter { $0.severity == .warning } }
    }

    /// Checks a draft at a point in time.
    public func validate(_ draft: MessageDraft, now: Timestamp) -> Result {
        var result = Result(draft: draft, issues: [], segments: nil)
        checkIdentity(&result)
        checkLane(&result)
        switch draft.channel {
        case .sms: checkSMS(&result)
        case .email: checkEmail(&result)
        case .push: checkPush(&result)
        }
        checkAttachments(&result)
        checkSize(&result)
        checkTimes(&result, now: now)
        checkRetryPolicy(&result)
        return result
    }

    private func checkIdentity(_ result: inout Result) {
        if let category = result.draft.category,
            !(1...64).contains(category.utf8.count) || !category.utf8.allSatisfy(Self.isNameByte)
        {
            result.error(
                "category",
                "'\(category.prefix(64))' is no name; use 1 to 64 letters, digits, '-', '_' or '.'"
            )
        }
        if let zone = result.draft.timeZone, zone.utf8.count > 64 || TimeZone(identifier: zone) == nil {
            result.error("timeZone", "'\(zone.prefix(64))' is no time zone; write it as Europe/Vienna")
        }
        let tenant = result.draft.tenant ?? "default"
        if tenant.isEmpty || tenant.utf8.count > 64 || !tenant.utf8.allSatisfy(Self.isNameByte) {
            result.error("tenant", "'\(tenant.prefix(64))' is no name; use 1 to 64 letters, digits, '-', '_' or '.'")
        }
        result.draft.tenant = tenant
        if let id = result.draft.id, !MessageID.isValid(id) {
            result.error("id", "'\(id.prefix(64))' is no UUID; leave it out, and the centre makes one")
        }
        if let key = result.draft.idempotencyKey, key.isEmpty || key.utf8.count > 256 {
            result.error("idempotencyKey", "has \(key.utf8.count) bytes; use 1 to 256, or leave it out")
        }
        if let url = result.draft.feedbackURL, !url.hasPrefix("https://"), !url.hasPrefix("http://") {
            result.error("feedbackURL", "is no http or https address")
        }
    }

    private func checkLane(_ result: inout Result) {
        let set = configuration.lanes[result.draft.channel]
        let lane = result.draft.lane ?? set.defaultLane
        if !set.lanes.contains(where: { $0.name == lane }) {
            let known = set.lanes.map(\.name).joined(separator: ", ")
            result.error("lane", "'\(lane.prefix(64))' is not a lane of \(result.draft.channel); use one of: \(known)")
        }
        result.draft.lane = lane
    }

    private func checkSMS(_ result: inout Result) {
        var recipient: PhoneNumber?
        switch PhoneNumber.parse(result.draft.to) {
        case .success(let number):
            result.draft.to = number.description
            recipient = number
            checkMobile(number, &result)
        case .failure(let problem): result.error("to", problem.description)
        }
        let sender = result.draft.sender ?? configuration.defaultSenders[.sms] ?? ""
        result.draft.sender = sender
        if let problem = Self.senderProblem(sender) {
            result.error("sender", problem)
        } else if let recipient {
            checkSenderName(sender, to: recipient.countryCode, &result)
        }
        let text = result.draft.content.text
        guard !text.isEmpty else { return result.error("content.text", "is empty; give the text of the message") }
        // Beyond any allowed length, counting would only cost time.
        guard text.utf8.count <= 16_384 else {
            return result.error("content.text", "has \(text.utf8.count) bytes; shorten it, or use e-mail")
        }
        let segments = SMSSegments(text)
        result.segments = segments
        if segments.count > configuration.segmentsMax {
            result.error(
                "content.text",
                "takes \(segments.count) short messages; at most \(configuration.segmentsMax) are sent"
            )
        } else if segments.count > configuration.segmentsWarning {
            var hint = "is sent (and billed) as \(segments.count) short messages"
            if let foreign = segments.firstForeign {
                hint += "; '\(foreign)' is not in the GSM alphabet, so a message holds 70 characters, not 160"
            }
            result.warning("content.text", hint)
        }
        if result.draft.content.subject != nil || result.draft.content.html != nil {
            result.warning("content", "subject and html are not used by SMS")
        }
    }

    private func checkMobile(_ number: PhoneNumber, _ result: inout Result) {
        guard CountryRules.isMobile(number) == false else { return }
        let words = "is no mobile number of +\(number.countryCode)"
        if configuration.requiresMobile {
            result.error("to", words + "; give one, or choose another channel")
        } else {
            result.warning("to", words + "; the message may not arrive")
        }
    }

    /// Networks of some countries show no names as senders: they refuse the message, or put a number in their place. A route may
    /// bring another sender, so it is a mistake only where the configuration says so.
    private func checkSenderName(_ sender: String, to country: String, _ result: inout Result) {
        guard sender.utf8.contains(where: { !(0x30...0x39).contains($0) && $0 != UInt8(ascii: "+") }) else { return }
        switch CountryRules.senderNames(country) {
        case .shown: break
        case .registered:
            result.warning(
                "sender",
                "'\(sender)' must be registered with the networks of +\(country); others are dropped"
            )
        case .refused where configuration.requiresShownSenders:
            result.error("sender", "'\(sender)' is a name, which networks of +\(country) refuse; give a number")
        case .refused:
            result.warning("sender", "'\(sender)' is a name, which networks of +\(country) do not show; give a number")
        }
    }

    /// Alphanumeric sender ids have up to 11 characters of the GSM alphabet and at least one letter; numeric ones are E.164
    /// numbers or short codes.
    static func senderProblem(_ sender: String) -> String? {
        let bytes = Array(sender.utf8)
        guard !bytes.isEmpty else { return "is empty; give a sender id of up to 11 letters and digits, or a number" }
        let digits = bytes.first == UInt8(ascii: "+") ? bytes.dropFirst() : bytes[...]
        if digits.allSatisfy({ (0x30...0x39).contains($0) }) {
            return (3...15).contains(digits.count) ? nil : "is a number of \(digits.count) digits; use 3 to 15"
        }
        guard bytes.count <= 11 else {
            return "'\(sender.prefix(32))' has \(bytes.count) characters; alphanumeric sender ids have at most 11"
        }
        guard bytes.allSatisfy({ EmailAddress.isAlphanumeric($0) || " -_.&".utf8.contains($0) }) else {
            return "'\(sender)' has a character that networks refuse; use letters, digits, blank, '-', '_', '.' or '&'"
        }
        return nil
    }

    private func checkEmail(_ result: inout Result) {
        switch EmailAddress.parse(result.draft.to) {
        case .success(let address):
            // The domain in the form that every server knows; a local part beyond ASCII needs one that takes SMTPUTF8.
            result.draft.to = address.asciiDomain.map { "\(address.localPart)@\($0)" } ?? address.description
            if address.localPart.utf8.contains(where: { $0 >= 0x80 }) {
                result.warning("to", "has letters beyond ASCII before the @; only some mail servers take such mail")
            }
        case .failure(let problem): result.error("to", problem.description)
        }
        let sender = result.draft.sender ?? configuration.defaultSenders[.email] ?? ""
        result.draft.sender = sender
        if case .failure(let problem) = EmailAddress.parse(sender, allowsName: true) {
            result.error("sender", problem.description)
        }
        let subject = result.draft.content.subject ?? ""
        if subject.isEmpty {
            result.warning("content.subject", "is empty; many filters treat such mail as spam")
        } else if subject.utf8.contains(where: { $0 == 0x0A || $0 == 0x0D }) {
            result.error("content.subject", "has a line break; remove it")
        } else if subject.utf8.count > 900 {
            result.error("content.subject", "has \(subject.utf8.count) bytes; at most 900 fit a header line")
        }
        if result.draft.content.text.isEmpty, result.draft.content.html?.isEmpty ?? true {
            result.error("content.text", "is empty, and there is no html; give at least one of them")
        }
    }

    private func checkPush(_ result: inout Result) {
        var kind = PushToken.fcm
        switch PushToken.parse(result.draft.to) {
        case .success(let parsed): kind = parsed
        case .failure(let problem): result.error("to", problem.description)
        }
        result.draft.sender = result.draft.sender ?? configuration.defaultSenders[.push] ?? ""
        let content = result.draft.content
        if content.text.isEmpty, content.title?.isEmpty ?? true, content.data?.isEmpty ?? true {
            result.error("content", "has neither title, text nor data; give at least one of them")
        }
        var size = content.text.utf8.count + (content.title?.utf8.count ?? 0)
        for (name, value) in content.data ?? [:] { size += name.utf8.count + value.utf8.count }
        let limit = 4_096
        if size > limit {
            result.error("content", "has \(size) bytes; \(kind.service) takes \(limit)")
        }
    }

    private func checkSize(_ result: inout Result) {
        let content = result.draft.content
        let size = content.text.utf8.count + (content.html?.utf8.count ?? 0) + (content.subject?.utf8.count ?? 0)
        if size > configuration.contentBytesMax {
            result.error("content", "has \(size) bytes; at most \(configuration.contentBytesMax) are taken")
        }
    }

    private func checkTimes(_ result: inout Result, now: Timestamp) {
        if let sendAt = result.draft.sendAt {
            if sendAt - now > configuration.scheduleMaxMilliseconds {
                let days = configuration.scheduleMaxMilliseconds / 86_400_000
                result.error("sendAt", "lies more than \(days) days ahead; times are milliseconds since 1970")
            } else if now - sendAt > 86_400_000 {
                result.error("sendAt", "lies more than a day back; times are milliseconds since 1970")
            } else if sendAt < now {
                result.warning("sendAt", "lies in the past; the message is sent at once")
                result.draft.sendAt = nil
            }
        }
        let start = result.draft.sendAt ?? now
        if let expiresAt = result.draft.expiresAt {
            if expiresAt <= now {
                result.error("expiresAt", "lies in the past; the message would never be sent")
            } else if expiresAt <= start {
                result.error("expiresAt", "does not lie after sendAt")
            }
        } else {
            result.draft.expiresAt = start + configuration.defaultLifetimeMilliseconds
        }
    }

    private func checkRetryPolicy(_ result: inout Result) {
        guard let policy = result.draft.retryPolicy else { return }
        if !(1...100).contains(policy.attemptsMax) { result.error("retryPolicy.attemptsMax", "use 1 to 100") }
        if policy.backoffMilliseconds < 0 || policy.backoffMaxMilliseconds < policy.backoffMilliseconds {
            result.error("retryPolicy.backoffMilliseconds", "use 0 or more, and not more than backoffMaxMilliseconds")
        }
        if policy.receiptTimeoutMilliseconds < 1 {
            result.error("retryPolicy.receiptTimeoutMilliseconds", "use 1 or more")
        }
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        EmailAddress.isAlphanumeric(byte) || byte == 0x2D || byte == 0x5F || byte == 0x2E
    }
}

extension MessageValidator.Result {
    mutating func error(_ field: String, _ message: String) {
        issues.append(ValidationIssue(.error, field, message))
    }

    mutating func warning(_ field: String, _ message: String) {
        issues.append(ValidationIssue(.warning, field, message))
    }
}
