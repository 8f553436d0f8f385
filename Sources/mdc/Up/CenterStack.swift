// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCBroker
import MDCClient
import MDCPipeline
import NIOCore
import NIOPosix
import ServiceLifecycle

/// The message centre with its callback listener and simulated providers, over the broker of the same process.
///
/// A `Service` that runs beside the broker and ends before it: the centre still commits while it stops.
struct CenterStack: Service {
    /// Where everything can be reached.
    struct Addresses: Sendable {
        var broker: Broker.Addresses
        var callbacks: HostPort
        /// The HTTP interface, if there is one.
        var api: HostPort?
    }

    let broker: Broker
    let settings: UpSettings
    let providers: [ProviderSettings]
    let routing: RoutingConfiguration
    let stores: StoreSettings
    let logger: Logger
    /// Called once everything is at work; when it returns true the whole process stops.
    let whenReady: @Sendable (MessageCenter, Addresses) async throws -> Bool

    func run() async throws {
        // Without an address the broker stopped before it served; it tells why itself.
        guard let addresses = await broker.whenReady() else { return }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: System.coreCount)
        do {
            try await work(addresses, group)
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
        try await group.shutdownGracefully()
    }

    private func work(_ addresses: Broker.Addresses, _ group: any EventLoopGroup) async throws {
        let client = ClientConfiguration(bootstrapServers: ["\(addresses.advertised)"], clientID: "mdc-center")
        var producing = ProducerConfiguration(client: client)
        producing.linger = .zero
        let producer = try Producer(producing, eventLoopGroup: group, logger: logger)
        let receipts = ProducerReceiptSink(producer: producer)
        // A provider that signs what it was told needs the listener's address before the listener has one.
        let known = "http://\(settings.callbacks.host):\(settings.callbacks.port)"
        let simulated: SimulatedProviders
        do {
            simulated = try await SimulatedProviders(
                .init(
                    behavior: settings.simulator,
                    requestTimeout: settings.requestTimeout,
                    listenerHost: settings.callbacks.host,
                    listenerPort: settings.callbacks.port,
                    channels: Set(MDCPipeline.Channel.allCases).subtracting(providers.map(\.channel)),
                    routes: providers.compactMap { $0.route(publicURL: settings.publicURL ?? known) }
                ),
                receipts: receipts,
                group: group,
                logger: logger
            )
        } catch {
            try? await producer.close()
            throw error
        }
        let configured: ConfiguredProviders
        do {
            configured = try await ConfiguredProviders(
                providers,
                publicURL: settings.publicURL ?? "http://\(settings.callbacks.host):\(simulated.callbackPort)",
                receipts: receipts,
                group: group,
                logger: logger
            )
        } catch {
            await simulated.shutdown()
            try? await producer.close()
            throw error
        }
        do {
            try await serve(client, producer, simulated, configured, addresses, group)
        } catch {
            await configured.shutdown()
            await simulated.shutdown()
            throw error
        }
        await configured.shutdown()
        await simulated.shutdown()
    }

    private func serve(
        _ client: ClientConfiguration,
        _ producer: Producer,
        _ simulated: SimulatedProviders,
        _ configured: ConfiguredProviders,
        _ addresses: Broker.Addresses,
        _ group: any EventLoopGroup
    ) async throws {
        let center = try MessageCenter(
            MessageCenterConfiguration(
                client: client,
                storePath: settings.storePath,
                store: stores.location,
                validation: settings.validation,
                policies: settings.policies,
                routing: routing,
                mailDomainCheck: settings.messages.mailDomainCheck,
                idempotencyWindow: settings.messages.idempotencyWindow,
                sharedIndex: stores.sharedIndex,
                sessionTimeout: settings.sessionTimeout
            ),
            providers: simulated.providers + configured.providers,
            producer: producer,
            eventLoopGroup: group,
            logger: logger
        )
        let api = try settings.api.map {
            try APIServer($0, center: center, client: client, producer: producer, group: group, logger: logger)
        }
        var all = Addresses(
            broker: addresses,
            callbacks: HostPort(host: settings.callbacks.host, port: simulated.callbackPort)
        )
        all.api = settings.api.map { HostPort(host: $0.host, port: $0.port) }
        // A demonstration has no clients to be told.
        let feedback =
            settings.hasWebhooks
            ? try FeedbackService(center: center, client: client, group: group, logger: logger)
            : nil
        let pulls = try PullService(providers, center: center, producer: producer, group: group, logger: logger)
        try await run(center, [api, feedback, pulls], api, all)
    }

    private func run(
        _ center: MessageCenter,
        _ services: [(any Service)?],
        _ api: APIServer?,
        _ addresses: Addresses
    ) async throws {
        try await withThrowingTaskGroup(of: Step.self) { tasks in
            tasks.addTask {
                try await center.run()
                return .centerEnded
            }
            for service in services {
                guard let service else { continue }
                tasks.addTask {
                    try await center.whenReady()
                    try await service.run()
                    return .serverEnded
                }
            }
            tasks.addTask {
                try await center.whenReady()
                var addresses = addresses
                if let api { addresses.api?.port = try await api.boundPort() }
                return try await whenReady(center, addresses) ? .jobDone : .nothingToDo
            }
            do {
                while let step = try await tasks.next() {
                    if step == .centerEnded { tasks.cancelAll() }
                    if step == .jobDone { center.stop() }
                }
            } catch {
                center.stop()
                tasks.cancelAll()
                throw error
            }
        }
    }

    /// What ended.
    private enum Step {
        /// The centre: it was told to stop.
        case centerEnded
        /// A server beside the centre: it was told to stop, too.
        case serverEnded
        /// What was to be done once everything was ready; the process has no other purpose.
        case jobDone
        /// The announcement; now the centre works until it is told to stop.
        case nothingToDo
    }
}
