// SPDX-License-Identifier: Apache-2.0

public import Logging
public import NIOCore

/// The three built-in providers against their simulators on real sockets, with a real callback listener between them and
/// the log: what a demonstration and the end-to-end tests run against.
public final class SimulatedProviders: Sendable {
    /// The names under which they are known.
    public static let names: [Channel: String] = [.sms: "kaleyra", .email: "smtp", .push: "fcm"]

    /// How the simulators behave.
    public struct Configuration: Sendable {
        /// What happens to messages; receivers can ask for a fate (see `docs/simulators.md`).
        public var behavior: SimulatorBehavior
        /// How long an adapter waits for an answer before the attempt is in doubt.
        public var requestTimeout: Duration
        /// Sends under way at once, for each provider.
        public var concurrency: Int
        /// Where the callback listener listens; port 0 picks a free one.
        public var listenerHost: String
        /// The port of the callback listener; 0 picks a free one.
        public var listenerPort: Int
        /// The channels that are simulated; those left out have providers of their own.
        public var channels: Set<Channel>
        /// Callbacks of providers that are not simulated.
        public var routes: [CallbackListener.Route]

        /// Makes a value from its parts.
        public init(
            behavior: SimulatorBehavior = SimulatorBehavior(shares: .usual),
            requestTimeout: Duration = .seconds(2),
            concurrency: Int = 64,
            listenerHost: String = "127.0.0.1",
            listenerPort: Int = 0,
            channels: Set<Channel> = Set(Channel.allCases),
            routes: [CallbackListener.Route] = []
        ) {
            self.behavior = behavior
            self.requestTimeout = requestTimeout
            self.concurrency = concurrency
            self.listenerHost = listenerHost
            self.listenerPort = listenerPort
            self.channels = channels
            self.routes = routes
        }
    }

    /// The adapters, to be given to a ``MessageCenter``.
    public let providers: [any Provider]
    /// Where the simulators call back to.
    public let callbackPort: Int
    /// What the simulators took, by channel.
    public let ledgers: [Channel: SimulatorLedger]

    let sms: KaleyraSimulator
    private let email: SMTPSimulator
    private let push: FCMSimulator
    private let sender: CallbackSender
    private let listener: CallbackListener
    private let listening: Task<Void, any Error>

    /// Starts listener and simulators.
    ///
    /// - Parameter receipts: Where the listener puts receipts; durable before the simulator gets its answer.
    /// - Throws: if an address cannot be bound.
    public init(
        _ configuration: Configuration = Configuration(),
        receipts: any ReceiptSink,
        group: any EventLoopGroup,
        logger: Logger
    ) async throws {
        let secret = "simulator"
        let simulated: [(Channel, CallbackListener.Route)] = [
            (.sms, .init(provider: "kaleyra", secret: secret, format: .kaleyra)),
            (.email, .init(provider: "smtp", secret: secret, format: .email)),
            (.push, .init(provider: "fcm", secret: secret, format: .fcm)),
        ]
        listener = CallbackListener(
            CallbackListener.Configuration(
                host: configuration.listenerHost,
                port: configuration.listenerPort,
                routes: simulated.filter { configuration.channels.contains($0.0) }.map(\.1) + configuration.routes
            ),
            sink: receipts,
            group: group,
            logger: logger
        )
        listening = Task { [listener] in try await listener.run() }
        let port = try await listener.boundPort()
        callbackPort = port
        func callback(_ provider: String) -> String {
            "http://\(configuration.listenerHost):\(port)/callbacks/\(provider)/\(secret)"
        }
        sender = CallbackSender(group: group, logger: logger)
        sms = try await KaleyraSimulator.start(
            .init(behavior: configuration.behavior),
            group: group,
            sender: sender,
            logger: logger
        )
        email = try await SMTPSimulator.start(
            .init(callbackURL: callback("smtp"), behavior: configuration.behavior),
            group: group,
            sender: sender,
            logger: logger
        )
        push = try await FCMSimulator.start(
            .init(callbackURL: callback("fcm"), behavior: configuration.behavior),
            group: group,
            sender: sender,
            logger: logger
        )
        ledgers = [.sms: sms.ledger, .email: email.ledger, .push: push.ledger]
        let all: [any Provider] = [
            KaleyraProvider(
                .init(
                    baseURL: sms.baseURL,
                    accountID: "SIM",
                    apiKey: "simulator",
                    callbackURL: callback("kaleyra"),
                    concurrency: configuration.concurrency,
                    requestTimeout: configuration.requestTimeout
                ),
                group: group
            ),
            SMTPProvider(
                .init(
                    host: email.host,
                    port: email.port,
                    connections: configuration.concurrency,
                    replyTimeout: configuration.requestTimeout,
                    contentReplyTimeout: configuration.requestTimeout
                ),
                group: group
            ),
            FCMProvider(
                .init(
                    baseURL: push.baseURL,
                    project: "sim",
                    concurrency: configuration.concurrency,
                    requestTimeout: configuration.requestTimeout
                ),
                tokens: StaticAccessToken("simulator"),
                group: group
            ),
        ]
        providers = all.filter { configuration.channels.contains($0.channel) }
        for provider in all where !configuration.channels.contains(provider.channel) { await provider.shutdown() }
    }

    /// Stops simulators and listener. The centre closes the adapters.
    public func shutdown() async {
        await sms.shutdown()
        await email.shutdown()
        await push.shutdown()
        listening.cancel()
        _ = try? await listening.value
        await sender.shutdown()
    }
}
