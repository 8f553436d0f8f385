// SPDX-License-Identifier: Apache-2.0

import Hummingbird
public import Logging
public import MDCClient
import MDCModel
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// The HTTP interface of the centre: submission, queries, reports, and a stream of events. docs/rest.md is its description
/// for people, `/openapi.json` for programs.
///
/// It keeps nothing but the API keys, which it follows on the log. A submission is answered once it is durable.
public final class APIServer: Service {
    /// Where and how it listens.
    public struct Configuration: Sendable {
        /// Where it listens.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// The largest body, in bytes.
        public var bodyBytesMax: Int
        /// The most requests at work at once; more are told to come again (503).
        public var inFlightMax: Int
        /// The most event streams at once; each holds a consumer.
        public var streamsMax: Int
        /// A connection without a request is closed after this time.
        public var idleTimeout: Duration

        /// Makes a value from its parts.
        public init(
            host: String = "127.0.0.1",
            port: Int = 0,
            bodyBytesMax: Int = 4 << 20,
            inFlightMax: Int = 128,
            streamsMax: Int = 32,
            idleTimeout: Duration = .seconds(60)
        ) {
            self.host = host
            self.port = port
            self.bodyBytesMax = bodyBytesMax
            self.inFlightMax = inFlightMax
            self.streamsMax = streamsMax
            self.idleTimeout = idleTimeout
        }
    }

    private let configuration: Configuration
    private let desk: APIDesk
    private let keys: TopicTable<APIKey>
    private let group: any EventLoopGroup
    private let logger: Logger
    private let port = ListeningPort()

    /// - Parameters:
    ///   - center: Must have the role `store`, and be ready before `run()` serves.
    ///   - producer: Takes the audit log; not closed by the server.
    ///   - group: Runs the connections; not shut down by the server.
    /// - Throws: ``PipelineError`` with code `configuration` if the centre has no store.
    public init(
        _ configuration: Configuration,
        center: MessageCenter,
        client: ClientConfiguration,
        producer: Producer,
        group: any EventLoopGroup,
        logger: Logger
    ) throws {
        guard let store = center.store else {
            throw PipelineError(.configuration, "the HTTP interface needs the role store in its process; add it")
        }
        self.configuration = configuration
        self.group = group
        self.logger = logger
        let plain = ConsumerConfiguration(client: client, groupID: nil)
        keys = TopicTable(
            topic: Topics.apiKeys,
            consumer: try Consumer(plain, eventLoopGroup: group, logger: logger),
            logger: logger
        )
        desk = APIDesk(
            configuration: configuration,
            keys: keys,
            messages: center.messages,
            store: store,
            streams: EventStreams(
                keys: keys,
                store: store,
                consumer: plain,
                max: configuration.streamsMax,
                group: group,
                logger: logger
            ),
            templates: center.templates,
            audit: AuditLog(producer: producer, logger: logger),
            logger: logger
        )
    }

    /// The port, once it listens. - Throws: if it could not be bound.
    public func boundPort() async throws -> Int { try await port.value() }

    /// Serves until graceful shutdown or cancellation; requests under way are answered first, event streams are ended.
    public func run() async throws {
        do {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask { [keys] in try await keys.run() }
                try await keys.whenLoaded()
                tasks.addTask { [self] in
                    defer { keys.stop() }
                    try await serve()
                }
                do {
                    try await tasks.waitForAll()
                } catch {
                    keys.stop()
                    tasks.cancelAll()
                    throw error
                }
            }
            port.settle(.failure(ListeningPort.Stopped()))
        } catch {
            keys.stop()
            port.settle(.failure(error))
            throw error
        }
    }

    private func serve() async throws {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .notice)
        let port = port
        let application = Application(
            responder: desk,
            server: .http1(configuration: .init(idleTimeout: TimeAmount(configuration.idleTimeout))),
            configuration: .init(
                address: .hostname(configuration.host, port: configuration.port),
                serverName: nil,
                backlog: 512
            ),
            onServerRunning: { channel in port.settle(.success(channel.localAddress?.port ?? 0)) },
            eventLoopGroupProvider: .shared(group),
            logger: quiet
        )
        // As in the callback listener: cancellation is turned into the graceful kind.
        let services = ServiceGroup(configuration: .init(services: [application], logger: quiet))
        let serving = Task { try await services.run() }
        let desk = desk
        let stop: @Sendable () -> Void = {
            desk.streams.stop()
            Task { await services.triggerGracefulShutdown() }
        }
        try await withTaskCancellationHandler {
            try await withGracefulShutdownHandler {
                try await serving.value
            } onGracefulShutdown: {
                stop()
            }
        } onCancel: {
            stop()
        }
    }
}
