// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
public import MDCClient
import MDCModel
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// The roles that a process of the centre can have.
public enum CenterRole: String, Sendable, Hashable, CaseIterable {
    /// Takes drafts from `mdc.inbox`.
    case ingest
    /// Hands messages to providers, one dispatcher for each configured provider's channel.
    case dispatcher
    /// Joins providers' reports to messages and decides.
    case responses
    /// Delivers waiting messages when they are due.
    case timers
    /// Keeps the message store.
    case store
}

/// How a centre is made.
public struct MessageCenterConfiguration: Sendable {
    /// Where the log is.
    public var client: ClientConfiguration
    /// The roles of this process.
    public var roles: Set<CenterRole>
    /// Where the message store is (role `store`).
    public var store: StoreLocation
    /// The lanes, limits and defaults of messages.
    public var validation: MessageValidator.Configuration
    /// Retry policies for messages that bring none.
    public var policies: [Channel: RetryPolicy]
    /// The most sends per second of each provider of a channel that `routing` gives none of its own.
    public var ratesPerSecond: [Channel: Double]
    /// Which providers take which messages.
    public var routing: RoutingConfiguration
    /// Limits of the response handler.
    public var ledger: MessageLedger.Configuration
    /// Whether mail domains are looked up before mails are accepted, and at whom; nil: not.
    public var mailDomainCheck: MailDomainCheck.Configuration?
    /// How long an idempotency key is remembered.
    public var idempotencyWindow: Duration
    /// Where response workers share what provider ids mean; nil: each knows its own (roles `responses`).
    public var sharedIndex: SharedIndexSettings?
    /// How long a group waits for a member that does not answer, before another takes its work.
    public var sessionTimeout: Duration

    /// Makes a value from its parts. - Parameter storePath: The SQLite file, unless `store` says more.
    public init(
        client: ClientConfiguration = ClientConfiguration(clientID: "mdc-center"),
        roles: Set<CenterRole> = Set(CenterRole.allCases),
        storePath: String = "mdc-messages.sqlite",
        store: StoreLocation? = nil,
        validation: MessageValidator.Configuration = MessageValidator.Configuration(),
        policies: [Channel: RetryPolicy] = [:],
        ratesPerSecond: [Channel: Double] = [:],
        routing: RoutingConfiguration = RoutingConfiguration(),
        ledger: MessageLedger.Configuration = MessageLedger.Configuration(),
        mailDomainCheck: MailDomainCheck.Configuration? = nil,
        idempotencyWindow: Duration = IdempotencyKeys.defaultWindow,
        sharedIndex: SharedIndexSettings? = nil,
        sessionTimeout: Duration = .seconds(10)
    ) {
        self.client = client
        self.roles = roles
        self.store = store ?? .file(storePath)
        self.validation = validation
        self.policies = policies
        self.ratesPerSecond = ratesPerSecond
        self.routing = routing
        self.ledger = ledger
        self.mailDomainCheck = mailDomainCheck
        self.idempotencyWindow = idempotencyWindow
        self.sharedIndex = sharedIndex
        self.sessionTimeout = sessionTimeout
    }
}

/// The message centre in one process: the roles that its configuration names, over any Kafka-protocol broker.
///
/// A `Service`: `run()` works until graceful shutdown, then finishes what is under way, commits and closes. After a crash
/// the next start goes on where this one was: nothing is kept but in the log (and the store, which follows it).
public final class MessageCenter: Service, Sendable {
    /// The way in for code of this process. It accepts messages once the centre is ready.
    public let messages: MessageClient
    /// The store, where this process has that role.
    public let store: MessageStore?
    /// The templates of messages.
    public let templates: TemplateBook

    private let configuration: MessageCenterConfiguration
    private let providers: [any Provider]
    private let group: any EventLoopGroup
    private let logger: Logger
    private let producer: Producer
    private let writerID: String
    private let keys: IdempotencyKeys
    private let readiness = Mutex<(isReady: Bool, failure: (any Error)?)>((false, nil))
    private let stopSignal = AsyncSignal()

    /// - Parameters:
    ///   - providers: Any number for each channel, with different names; closed by the centre at its end.
    ///   - producer: An idempotent one with `acks=all`; made by the centre if nil. It is closed by the centre.
    /// - Throws: ``PipelineError`` if the store cannot be opened or the configuration is wrong.
    public init(
        _ configuration: MessageCenterConfiguration,
        providers: [any Provider],
        producer: Producer? = nil,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) throws {
        guard Set(providers.map(\.name)).count == providers.count else {
            throw PipelineError(.configuration, "two providers have the same name; receipts tell them apart by it")
        }
        self.configuration = configuration
        self.providers = providers
        self.group = eventLoopGroup
        self.logger = logger
        if let producer {
            self.producer = producer
        } else {
            var settings = ProducerConfiguration(client: configuration.client)
            settings.linger = .zero
            self.producer = try Producer(settings, eventLoopGroup: eventLoopGroup, logger: logger)
        }
        var generator = SystemRandomNumberGenerator()
        writerID = MessageID.random(at: SystemTime.now(), using: &generator)
        let store = configuration.roles.contains(.store) ? try MessageStore(configuration.store) : nil
        self.store = store
        let lookup = store.map(Self.lookup)
        keys = IdempotencyKeys(
            client: configuration.client,
            window: configuration.idempotencyWindow,
            eventLoopGroup: eventLoopGroup,
            logger: logger
        )
        templates = TemplateBook(
            client: configuration.client,
            producer: self.producer,
            eventLoopGroup: eventLoopGroup,
            logger: logger
        )
        messages = MessageClient(
            producer: self.producer,
            validator: MessageValidator(configuration.validation),
            keys: keys,
            templates: templates,
            mailDomains: configuration.mailDomainCheck.map {
                MailDomainCheck($0, group: eventLoopGroup, logger: logger)
            },
            lookup: lookup,
            logger: logger
        )
    }

    private static func lookup(_ store: MessageStore) -> MessageClient.Lookup {
        @Sendable func known(_ id: String, _ channel: Channel) async throws(PipelineError) -> MessageStore.Knowledge {
            do {
                return try await store.known(id, channel: channel)
            } catch  where error.code == .unavailable {
                // Within the window the log knows; the store only remembers longer.
                return .nothing
            }
        }
        return known
    }

    /// What a message of a channel gets that says nothing itself.
    var policies: [Channel: RetryPolicy] { configuration.policies }

    /// The sink to give to a callback listener of this process.
    public var receipts: any ReceiptSink { ProducerReceiptSink(producer: producer) }

    /// Returns when all roles are at work and the store has caught up with the log.
    ///
    /// - Throws: what made the start fail.
    public func whenReady() async throws {
        while true {
            let (isReady, failure) = readiness.withLock { $0 }
            if let failure { throw failure }
            if isReady { return }
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    /// Asks `run()` to finish, for those who do not use a service group.
    public func stop() { stopSignal.notify() }

    /// Works until graceful shutdown, cancellation or `stop()`.
    public func run() async throws {
        do {
            try await work()
        } catch {
            readiness.withLock { $0.failure = error }
            await keys.close()
            await templates.close()
            try? await producer.close()
            for provider in providers { await provider.shutdown() }
            store?.close()
            throw error
        }
    }

    private func work() async throws {
        let admin = try Admin(configuration.client, eventLoopGroup: group, logger: logger)
        do {
            try await Topics.create(
                lanes: configuration.validation.lanes,
                idempotencyWindow: configuration.idempotencyWindow,
                admin: admin
            )
        } catch {
            await admin.close()
            throw error
        }
        await admin.close()
        let (roles, projection) = try makeRoles()
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for role in roles {
                tasks.addTask { [logger] in
                    do {
                        try await role.run()
                    } catch {
                        logger.error(
                            "a role of the message centre failed",
                            metadata: ["role": "\(role.name)", "error": "\(error)"]
                        )
                        throw error
                    }
                }
            }
            try await projection?.catchUp()
            readiness.withLock { $0.isReady = true }
            logger.info("message centre ready", metadata: ["roles": "\(roles.map(\.name).joined(separator: " "))"])
            let stopSignal = stopSignal
            tasks.addTask {
                await withTaskCancellationHandler {
                    await withGracefulShutdownHandler {
                        await stopSignal.wait()
                    } onGracefulShutdown: {
                        stopSignal.notify()
                    }
                } onCancel: {
                    stopSignal.notify()
                }
            }
            do {
                // The first to end is the wait for the end; a role ends before it only by an error.
                try await tasks.next()
                for role in roles { role.stop() }
                try await tasks.waitForAll()
            } catch {
                for role in roles { role.stop() }
                stopSignal.notify()
                tasks.cancelAll()
                throw error
            }
        }
        await keys.close()
        await templates.close()
        try await producer.close()
        for provider in providers { await provider.shutdown() }
        store?.close()
        logger.info("message centre stopped")
    }

    // MARK: - Roles

    private func consumer(_ group: String?) throws -> Consumer {
        var settings = ConsumerConfiguration(client: configuration.client, groupID: group)
        settings.autoOffsetReset = .earliest
        settings.sessionTimeout = configuration.sessionTimeout
        settings.assignors = [.range]
        return try Consumer(settings, eventLoopGroup: self.group, logger: logger)
    }

    /// The routing, with the rate of the channel for providers that have none.
    private func routing(_ channel: Channel) -> RoutingConfiguration {
        var routing = configuration.routing
        guard let rate = configuration.ratesPerSecond[channel] else { return routing }
        for provider in providers where provider.channel == channel {
            var traits = routing.providers[provider.name] ?? ProviderTraits()
            traits.ratePerSecond = traits.ratePerSecond ?? rate
            routing.providers[provider.name] = traits
        }
        return routing
    }

    private func makeRoles() throws -> ([any Role], StoreProjection?) {
        let writer = RecordWriter(producer: producer, logger: logger)
        let plain = ConsumerConfiguration(client: configuration.client, groupID: nil)
        var roles: [any Role] = []
        var projection: StoreProjection?
        if configuration.roles.contains(.store), let store {
            let made = StoreProjection(store: store, consumer: try consumer(nil), logger: logger)
            projection = made
            roles.append(made)
        }
        if configuration.roles.contains(.responses) {
            var ledger = configuration.ledger
            ledger.policies.merge(configuration.policies) { old, _ in old }
            roles.append(
                ResponseHandler(
                    configuration: ledger,
                    consumer: try consumer("mdc.responses"),
                    recovery: LaneLookup(configuration: plain, eventLoopGroup: group, logger: logger),
                    writer: writer,
                    writerID: writerID,
                    index: try configuration.sharedIndex?.makeIndex(),
                    logger: logger
                )
            )
        }
        if configuration.roles.contains(.timers) {
            roles.append(TimerService(consumer: try consumer("mdc.timers"), writer: writer, logger: logger))
        }
        if configuration.roles.contains(.dispatcher) {
            for channel in Channel.allCases {
                let serving = providers.filter { $0.channel == channel }
                guard !serving.isEmpty else { continue }
                roles.append(
                    Dispatcher(
                        lanes: configuration.validation.lanes[channel],
                        providers: serving,
                        routing: routing(channel),
                        policy: configuration.policies[channel] ?? RetryPolicy(),
                        consumer: try consumer("mdc.dispatch.\(channel)"),
                        recovery: ResultScan(configuration: plain, eventLoopGroup: group, logger: logger),
                        client: configuration.client,
                        writer: writer,
                        writerID: writerID,
                        logger: logger
                    )
                )
            }
        }
        if configuration.roles.contains(.ingest) {
            roles.append(
                InboxService(consumer: try consumer("mdc.ingest"), client: messages, writer: writer, logger: logger)
            )
        }
        return (roles, projection)
    }
}
