// SPDX-License-Identifier: Apache-2.0

public import NIOCore
import NIOSSL

/// Whether a mail server is spoken to encrypted.
public enum SMTPSecurity: String, Sendable, Hashable, CaseIterable {
    /// In the clear: for a relay on this host.
    case none
    /// Encrypted by `STARTTLS`; a server that does not offer it gets no mail (port 587).
    case startTLS = "starttls"
    /// Encrypted from the first byte (port 465).
    case tls
}

/// E-mail by SMTP submission.
public final class SMTPProvider: Provider {
    /// How the server is reached, and what is written into mails.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        /// The server.
        public var host: String
        /// The server's port.
        public var port: Int
        /// Our name in `EHLO`.
        public var clientName: String
        /// Whether the connection is encrypted.
        public var security: SMTPSecurity
        /// Whom to believe that it is the server.
        public var tls: ProviderTLS
        /// For `AUTH`; nil: none.
        public var credentials: SMTPCredentials?
        /// Sends credentials to another host although the connection is not encrypted.
        public var allowPlaintextCredentials: Bool
        /// Envelope sender, where bounces go; nil: the message's sender.
        public var returnPath: String?
        /// The domain of Message-IDs; nil: that of the message's sender.
        public var messageIDDomain: String?
        /// `List-Unsubscribe` address; `{reference}` stands for our reference.
        public var unsubscribeURL: String?
        /// Whether someone reports delivery to our listener.
        public var sendsReceipts: Bool
        /// Connections, and so mails under way at once.
        public var connections: Int
        /// A connection is closed after so many mails.
        public var messagesPerConnection: Int
        /// A connection without a mail is closed after this time.
        public var idleTimeout: Duration
        /// The limit of making a connection.
        public var connectTimeout: Duration
        /// The limit of any reply but the last.
        public var replyTimeout: Duration
        /// The limit of the reply to the content; after it the mail is in doubt.
        public var contentReplyTimeout: Duration

        public init(
            name: String = "smtp",
            host: String,
            port: Int = 25,
            clientName: String = "localhost",
            security: SMTPSecurity = .none,
            tls: ProviderTLS = ProviderTLS(),
            credentials: SMTPCredentials? = nil,
            allowPlaintextCredentials: Bool = false,
            returnPath: String? = nil,
            messageIDDomain: String? = nil,
            unsubscribeURL: String? = nil,
            sendsReceipts: Bool = true,
            connections: Int = 16,
            messagesPerConnection: Int = 1_000,
            idleTimeout: Duration = .seconds(30),
            connectTimeout: Duration = .seconds(5),
            replyTimeout: Duration = .seconds(30),
            contentReplyTimeout: Duration = .seconds(60)
        ) {
            self.name = name
            self.host = host
            self.port = port
            self.clientName = clientName
            self.security = security
            self.tls = tls
            self.credentials = credentials
            self.allowPlaintextCredentials = allowPlaintextCredentials
            self.returnPath = returnPath
            self.messageIDDomain = messageIDDomain
            self.unsubscribeURL = unsubscribeURL
            self.sendsReceipts = sendsReceipts
            self.connections = connections
            self.messagesPerConnection = messagesPerConnection
            self.idleTimeout = idleTimeout
            self.connectTimeout = connectTimeout
            self.replyTimeout = replyTimeout
            self.contentReplyTimeout = contentReplyTimeout
        }

        fileprivate var isThisHost: Bool { host == "localhost" || host == "::1" || host.hasPrefix("127.") }
    }

    public var name: String { configuration.name }
    public var channel: Channel { .email }
    public var concurrency: Int { configuration.connections }
    public var sendsReceipts: Bool { configuration.sendsReceipts }

    private let configuration: Configuration
    let pool: SMTPConnectionPool

    /// A provider without TLS. - Parameter group: runs the connections; not shut down by the provider.
    /// - Precondition: `security` is `none`.
    public convenience init(_ configuration: Configuration, group: any EventLoopGroup) {
        precondition(configuration.security == .none, "reading certificates can fail: use init(validating:group:)")
        self.init(configuration, encryption: nil, group: group)
    }

    /// - Parameter group: runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`) if the trusted certificates cannot be read.
    public convenience init(validating configuration: Configuration, group: any EventLoopGroup) throws {
        var encryption: SMTPConnection.Encryption?
        if configuration.security != .none {
            encryption = SMTPConnection.Encryption(
                isImplicit: configuration.security == .tls,
                context: try configuration.tls.makeContext(),
                serverName: configuration.tls.verifiedName(host: configuration.host)
            )
        }
        self.init(configuration, encryption: encryption, group: group)
    }

    private init(_ configuration: Configuration, encryption: SMTPConnection.Encryption?, group: any EventLoopGroup) {
        self.configuration = configuration
        self.pool = SMTPConnectionPool(
            SMTPConnectionPool.Configuration(
                host: configuration.host,
                port: configuration.port,
                identity: .init(
                    clientName: configuration.clientName,
                    credentials: configuration.credentials,
                    requiresStartTLS: configuration.security == .startTLS
                ),
                connections: configuration.connections,
                messagesPerConnection: configuration.messagesPerConnection,
                idleTimeout: configuration.idleTimeout,
                limits: .init(
                    connect: configuration.connectTimeout,
                    reply: configuration.replyTimeout,
                    contentReply: configuration.contentReplyTimeout
                ),
                encryption: encryption
            ),
            group: group
        )
    }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        if configuration.credentials != nil, configuration.security == .none, !configuration.isThisHost,
            !configuration.allowPlaintextCredentials
        {
            let reason = "no credentials without TLS to \(configuration.host); set security to starttls or tls"
            return .retriable(code: "config", reason: reason, retryAfter: SMTPSession.operatorPause)
        }
        let mail: SMTPMail
        switch makeMail(message, attempt: attempt) {
        case .success(let made): mail = made
        case .failure(let problem): return .rejected(code: problem.code, reason: problem.reason)
        }
        return await pool.send(mail)
    }

    public func shutdown() async { pool.close() }

    struct AddressProblem: Error, Equatable {
        var code: String
        var reason: String
    }

    func makeMail(_ message: Message, attempt: Int) -> Result<SMTPMail, AddressProblem> {
        let sender = MIMEHeader.splitMailbox(message.sender).address
        let envelopeSender = configuration.returnPath ?? sender
        guard Self.isSafeAddress(message.to) else {
            return .failure(
                AddressProblem(code: "5.1.3", reason: "recipient address '\(message.to.prefix(100))' is malformed")
            )
        }
        guard Self.isSafeAddress(envelopeSender), Self.isSafeAddress(sender) else {
            return .failure(
                AddressProblem(code: "5.1.7", reason: "sender address '\(message.sender.prefix(100))' is malformed")
            )
        }
        let reference = message.reference(attempt: attempt)
        let domain = configuration.messageIDDomain ?? String(sender.split(separator: "@").last ?? "localhost")
        let messageID = "\(reference)@\(domain)"
        let mime = MIMEMessage(
            from: message.sender,
            to: message.to,
            subject: message.content.subject ?? message.content.title ?? "",
            text: message.content.text,
            html: message.content.html,
            messageID: messageID,
            reference: reference,
            date: message.createdAt,
            unsubscribeURL: configuration.unsubscribeURL?.replacing("{reference}", with: reference),
            attachments: message.content.attachments ?? []
        )
        return .success(
            SMTPMail(
                from: envelopeSender,
                to: message.to,
                envelopeID: reference,
                messageID: messageID,
                content: mime.encoded()
            )
        )
    }

    /// Whether an address can stand in a command and a header without changing their meaning.
    static func isSafeAddress(_ address: String) -> Bool {
        guard address.utf8.count <= 320, let at = address.utf8.lastIndex(of: UInt8(ascii: "@")),
            at != address.startIndex, address.utf8.index(after: at) != address.endIndex
        else { return false }
        return address.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "<") && $0 != UInt8(ascii: ">") }
    }
}
