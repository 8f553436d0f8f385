// SPDX-License-Identifier: Apache-2.0

public import Logging
public import NIOCore

/// The three simulated providers together, with one sender for their receipts.
public final class SimulatorSuite: Sendable {
    /// How they behave and where their receipts go.
    public struct Configuration: Sendable {
        /// Where they listen.
        public var host: String
        /// The SMS gateway's port; 0 picks a free one.
        public var kaleyraPort: Int
        /// The mail server's port; 0 picks a free one.
        public var smtpPort: Int
        /// The push service's port; 0 picks a free one.
        public var fcmPort: Int
        /// Where mail events are sent to; nil: nowhere. (The SMS gateway takes the address from each request.)
        public var emailCallbackURL: String?
        /// Where the apps report to; nil: nowhere.
        public var pushCallbackURL: String?
        /// What happens to messages, in all channels.
        public var behavior: SimulatorBehavior
        /// How persistent the receipts are.
        public var callbacks: CallbackSender.Configuration

        public init(
            host: String = "127.0.0.1",
            kaleyraPort: Int = 0,
            smtpPort: Int = 0,
            fcmPort: Int = 0,
            emailCallbackURL: String? = nil,
            pushCallbackURL: String? = nil,
            behavior: SimulatorBehavior = SimulatorBehavior(shares: .usual),
            callbacks: CallbackSender.Configuration = CallbackSender.Configuration()
        ) {
            self.host = host
            self.kaleyraPort = kaleyraPort
            self.smtpPort = smtpPort
            self.fcmPort = fcmPort
            self.emailCallbackURL = emailCallbackURL
            self.pushCallbackURL = pushCallbackURL
            self.behavior = behavior
            self.callbacks = callbacks
        }
    }

    /// The SMS gateway.
    public let kaleyra: KaleyraSimulator
    /// The mail server.
    public let smtp: SMTPSimulator
    /// The push service.
    public let fcm: FCMSimulator
    /// Sends the receipts of all three.
    public let sender: CallbackSender

    private init(kaleyra: KaleyraSimulator, smtp: SMTPSimulator, fcm: FCMSimulator, sender: CallbackSender) {
        self.kaleyra = kaleyra
        self.smtp = smtp
        self.fcm = fcm
        self.sender = sender
    }

    /// Binds and serves all three. - Throws: if an address cannot be bound; then none is left serving.
    public static func start(
        _ configuration: Configuration,
        group: any EventLoopGroup,
        logger: Logger
    ) async throws -> SimulatorSuite {
        let sender = CallbackSender(group: group, configuration: configuration.callbacks, logger: logger)
        var started: [@Sendable () async -> Void] = [{ await sender.shutdown() }]
        do {
            let kaleyra = try await KaleyraSimulator.start(
                .init(host: configuration.host, port: configuration.kaleyraPort, behavior: configuration.behavior),
                group: group,
                sender: sender,
                logger: logger
            )
            started.append { await kaleyra.shutdown() }
            let smtp = try await SMTPSimulator.start(
                .init(
                    host: configuration.host,
                    port: configuration.smtpPort,
                    callbackURL: configuration.emailCallbackURL,
                    behavior: configuration.behavior
                ),
                group: group,
                sender: sender,
                logger: logger
            )
            started.append { await smtp.shutdown() }
            let fcm = try await FCMSimulator.start(
                .init(
                    host: configuration.host,
                    port: configuration.fcmPort,
                    callbackURL: configuration.pushCallbackURL,
                    behavior: configuration.behavior
                ),
                group: group,
                sender: sender,
                logger: logger
            )
            return SimulatorSuite(kaleyra: kaleyra, smtp: smtp, fcm: fcm, sender: sender)
        } catch {
            for shutdown in started.reversed() { await shutdown() }
            throw error
        }
    }

    /// What a Kaleyra provider needs to send through the suite.
    public func kaleyraConfiguration(callbackURL: String?) -> KaleyraProvider.Configuration {
        KaleyraProvider.Configuration(
            baseURL: kaleyra.baseURL,
            accountID: "SIM",
            apiKey: "simulator",
            callbackURL: callbackURL
        )
    }

    /// What an SMTP provider needs to send through the suite.
    public func smtpConfiguration() -> SMTPProvider.Configuration {
        SMTPProvider.Configuration(host: smtp.host, port: smtp.port)
    }

    /// What an FCM provider needs to send through the suite; its token is ``StaticAccessToken`` of `simulator`.
    public func fcmConfiguration() -> FCMProvider.Configuration {
        FCMProvider.Configuration(baseURL: fcm.baseURL, project: "sim")
    }

    /// Stops all three; receipts that wait are dropped.
    public func shutdown() async {
        await kaleyra.shutdown()
        await smtp.shutdown()
        await fcm.shutdown()
        await sender.shutdown()
    }
}
