// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// One message to one recipient: the document that travels through the topics, unchanged but for `attempt`.
///
/// What happens to it is not written into it: that is its timeline, a series of ``TimelineEvent`` on `mdc.events`.
public struct Message: Codable, Sendable, Hashable, Identifiable {
    /// UUIDv7 in its text form, lower case: unique, and sorted by time of submission.
    public var id: String
    /// The client of the centre that the message belongs to.
    public var tenant: String
    /// The way it travels.
    public var channel: Channel
    /// The priority lane, such as `critical`, `high`, `normal`, `bulk`.
    public var lane: String
    /// The recipient: E.164 number, mail address or device token, by channel.
    public var to: String
    /// The originator shown to the recipient: sender id or number, mail address (`Name <a@b>` allowed); push: unused.
    public var sender: String
    /// What the recipient reads.
    public var content: MessageContent
    /// The name of the template that the content was made from.
    public var template: String?
    /// Which version and variant of it, where the centre made the content.
    public var templateSource: TemplateSource?
    /// What kind of message it is, such as `marketing`: rules may ask for it.
    public var category: String?
    /// The recipient's time zone (`Europe/Vienna`); nil: that of the number's country.
    public var timeZone: String?
    /// Two submissions of one tenant with the same key are one message.
    public var idempotencyKey: String?
    /// Not dispatched before this point in time; nil: at once.
    public var sendAt: Timestamp?
    /// Not dispatched or retried after this point in time; nil: the channel's default.
    public var expiresAt: Timestamp?
    /// Overrides the channel's retry policy.
    public var retryPolicy: RetryPolicy?
    /// Where the final status is reported to; nil: nowhere.
    public var feedbackURL: String?
    /// When the centre accepted it.
    public var createdAt: Timestamp
    /// The number of the attempt that this copy of the document is for, from 1.
    public var attempt: Int

    /// Makes a value from its parts.
    public init(
        id: String,
        tenant: String = "default",
        channel: Channel,
        lane: String = "normal",
        to: String,
        sender: String,
        content: MessageContent,
        template: String? = nil,
        templateSource: TemplateSource? = nil,
        category: String? = nil,
        timeZone: String? = nil,
        idempotencyKey: String? = nil,
        sendAt: Timestamp? = nil,
        expiresAt: Timestamp? = nil,
        retryPolicy: RetryPolicy? = nil,
        feedbackURL: String? = nil,
        createdAt: Timestamp,
        attempt: Int = 1
    ) {
        self.id = id
        self.tenant = tenant
        self.channel = channel
        self.lane = lane
        self.to = to
        self.sender = sender
        self.content = content
        self.template = template
        self.templateSource = templateSource
        self.category = category
        self.timeZone = timeZone
        self.idempotencyKey = idempotencyKey
        self.sendAt = sendAt
        self.expiresAt = expiresAt
        self.retryPolicy = retryPolicy
        self.feedbackURL = feedbackURL
        self.createdAt = createdAt
        self.attempt = attempt
    }
}

/// What the recipient reads. Which parts are used depends on the channel.
public struct MessageContent: Codable, Sendable, Hashable {
    /// E-mail: the subject.
    public var subject: String?
    /// SMS: the text. E-mail: the plain text. Push: the body.
    public var text: String
    /// E-mail: the HTML alternative.
    public var html: String?
    /// Push: the title.
    public var title: String?
    /// Push: values for the app. E-mail: extra headers are not taken from here.
    public var data: [String: String]?
    /// E-mail: files that come with it.
    public var attachments: [MessageAttachment]?

    /// Makes a value from its parts.
    public init(
        subject: String? = nil,
        text: String,
        html: String? = nil,
        title: String? = nil,
        data: [String: String]? = nil,
        attachments: [MessageAttachment]? = nil
    ) {
        self.subject = subject
        self.text = text
        self.html = html
        self.title = title
        self.data = data
        self.attachments = attachments
    }
}

/// A file that comes with an e-mail.
public struct MessageAttachment: Codable, Sendable, Hashable {
    /// The file's name, as the recipient sees it.
    public var name: String
    /// Its media type, such as `application/pdf`.
    public var contentType: String
    /// Its bytes in base64 (RFC 4648, section 4).
    public var data: String
    /// For an image within the HTML, which names it as `cid:…`; nil: a file of its own.
    public var contentID: String?

    /// Makes a value from its parts.
    public init(name: String, contentType: String, data: String, contentID: String? = nil) {
        self.name = name
        self.contentType = contentType
        self.data = data
        self.contentID = contentID
    }
}

/// How often and how long a message is tried again.
public struct RetryPolicy: Codable, Sendable, Hashable {
    /// The most attempts, the first included.
    public var attemptsMax: Int
    /// The pause before the second attempt, in milliseconds; doubled for each further one.
    public var backoffMilliseconds: Int64
    /// The longest pause, in milliseconds.
    public var backoffMaxMilliseconds: Int64
    /// How long a receipt is waited for after the provider took the message, in milliseconds.
    public var receiptTimeoutMilliseconds: Int64
    /// What happens when that time is over.
    public var onReceiptTimeout: TimeoutAction
    /// What happens when a provider gave no answer, so that it is in doubt whether it took the message.
    public var onInDoubt: TimeoutAction

    /// What to do with a message whose fate the provider did not tell.
    public enum TimeoutAction: String, Codable, Sendable, Hashable, CaseIterable {
        /// Try again (may reach the recipient twice).
        case retry
        /// Give up: final status `expired`.
        case expire
    }

    /// Makes a value from its parts.
    public init(
        attemptsMax: Int = 4,
        backoffMilliseconds: Int64 = 1_000,
        backoffMaxMilliseconds: Int64 = 600_000,
        receiptTimeoutMilliseconds: Int64 = 3_600_000,
        onReceiptTimeout: TimeoutAction = .expire,
        onInDoubt: TimeoutAction = .retry
    ) {
        self.attemptsMax = attemptsMax
        self.backoffMilliseconds = backoffMilliseconds
        self.backoffMaxMilliseconds = backoffMaxMilliseconds
        self.receiptTimeoutMilliseconds = receiptTimeoutMilliseconds
        self.onReceiptTimeout = onReceiptTimeout
        self.onInDoubt = onInDoubt
    }
}

/// The name under which an attempt is known to a provider: message id and attempt number.
///
/// Providers get it with the send (Kaleyra `ref`, SMTP `Message-ID` and `ENVID`, FCM data) and, where they can, echo it in
/// receipts. A send that was repeated after a crash carries the same reference, so that it can be recognised.
public struct MessageReference: Sendable, Hashable, LosslessStringConvertible {
    /// The message.
    public var messageID: String
    /// The attempt, from 1.
    public var attempt: Int

    /// Makes a value from its parts.
    public init(messageID: String, attempt: Int) {
        self.messageID = messageID
        self.attempt = attempt
    }

    /// Reads the form that `description` writes: `<message id>.<attempt>`; nil for anything else.
    public init?(_ description: String) {
        guard let dot = description.utf8.lastIndex(of: UInt8(ascii: ".")), dot != description.startIndex,
            let attempt = Int(description[description.utf8.index(after: dot)...]), attempt > 0
        else { return nil }
        self.messageID = String(description[..<dot])
        self.attempt = attempt
    }

    /// The text form.
    public var description: String { "\(messageID).\(attempt)" }
}

extension Message {
    /// Bytes of the files that come with it, as they are in memory.
    var attachmentBytes: Int {
        guard let attachments = content.attachments else { return 0 }
        return attachments.reduce(0) { $0 + $1.data.utf8.count }
    }

    /// The name under which the provider knows this attempt.
    public func reference(attempt: Int) -> String {
        MessageReference(messageID: id, attempt: attempt).description
    }
}
