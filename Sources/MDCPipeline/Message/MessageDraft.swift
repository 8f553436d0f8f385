// SPDX-License-Identifier: Apache-2.0

public import MDCJSON
public import MDCModel

/// A message as a client writes it: what it does not say, the centre fills in.
public struct MessageDraft: Codable, Sendable, Hashable {
    /// Chosen by the centre; a given one is kept only where it is a UUID.
    public var id: String?
    /// The client of the centre; nil: `default`.
    public var tenant: String?
    /// The way it travels.
    public var channel: Channel
    /// The priority lane; nil: the lane set's default.
    public var lane: String?
    /// The recipient.
    public var to: String
    /// The originator; nil: the channel's default.
    public var sender: String?
    /// What the recipient reads.
    public var content: MessageContent
    /// The name of a template: its text is taken where `content` has none, else it stands for what the content was made from.
    public var template: String?
    /// The version of the template; nil: the latest.
    public var templateVersion: Int?
    /// The language of the recipient (`de-AT`), for the variant of the template.
    public var locale: String?
    /// What the template is filled in with; not nil: the text is made of the template.
    public var variables: [String: JSONValue]?
    /// Set by the centre.
    public var templateSource: TemplateSource?
    /// What kind of message it is, such as `marketing`: rules may ask for it.
    public var category: String?
    /// The recipient's time zone (`Europe/Vienna`); nil: that of the number's country.
    public var timeZone: String?
    /// Two submissions of one tenant with the same key are one message.
    public var idempotencyKey: String?
    /// Not dispatched before this point in time.
    public var sendAt: Timestamp?
    /// Not dispatched or retried after this point in time.
    public var expiresAt: Timestamp?
    /// Overrides the channel's retry policy.
    public var retryPolicy: RetryPolicy?
    /// Where the final status is reported to.
    public var feedbackURL: String?
    /// Set by the centre.
    public var createdAt: Timestamp?
    /// Set by the centre.
    public var attempt: Int?

    /// Makes a value from its parts.
    public init(
        id: String? = nil,
        tenant: String? = nil,
        channel: Channel,
        lane: String? = nil,
        to: String,
        sender: String? = nil,
        content: MessageContent,
        template: String? = nil,
        templateVersion: Int? = nil,
        locale: String? = nil,
        variables: [String: JSONValue]? = nil,
        templateSource: TemplateSource? = nil,
        category: String? = nil,
        timeZone: String? = nil,
        idempotencyKey: String? = nil,
        sendAt: Timestamp? = nil,
        expiresAt: Timestamp? = nil,
        retryPolicy: RetryPolicy? = nil,
        feedbackURL: String? = nil,
        createdAt: Timestamp? = nil,
        attempt: Int? = nil
    ) {
        self.id = id
        self.tenant = tenant
        self.channel = channel
        self.lane = lane
        self.to = to
        self.sender = sender
        self.content = content
        self.template = template
        self.templateVersion = templateVersion
        self.locale = locale
        self.variables = variables
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

extension Message {
    /// The draft that would give this message.
    var draft: MessageDraft {
        MessageDraft(
            id: id,
            tenant: tenant,
            channel: channel,
            lane: lane,
            to: to,
            sender: sender,
            content: content,
            template: template,
            templateSource: templateSource,
            category: category,
            timeZone: timeZone,
            idempotencyKey: idempotencyKey,
            sendAt: sendAt,
            expiresAt: expiresAt,
            retryPolicy: retryPolicy,
            feedbackURL: feedbackURL
        )
    }
}
