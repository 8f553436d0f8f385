// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
public import Logging
public import MDCClient
public import NIOCore
public import ServiceLifecycle

/// Tells clients what becomes of their messages: signed posts to their webhooks.
///
/// A `Service` beside a centre that has the role `store`; the role `timers` must be at work somewhere. Several processes
/// share the work.
public final class FeedbackService: Service {
    private let webhooks: TopicTable<WebhookEntry>
    private let roles: [any Role]
    private let client: HTTPClient
    private let producer: Producer
    private let logger: Logger
    private let stopSignal = AsyncSignal()
    private let isAsked = StopFlag()

    /// - Parameters:
    ///   - center: Must be ready before `run()`.
    ///   - group: Runs the connections; not shut down by the service.
    /// - Throws: ``PipelineError`` with code `configuration` if the centre has no store.
    public convenience init(
        center: MessageCenter,
        client: ClientConfiguration,
        policy: WebhookPolicy = WebhookPolicy(),
        group: any EventLoopGroup,
        logger: Logger
    ) throws {
        try self.init(
            center: center,
            client: client,
            policy: policy,
            group: group,
            logger: logger,
            beforeCommit: nil
        )
    }

    init(
        center: MessageCenter,
        client: ClientConfiguration,
        policy: WebhookPolicy,
        group: any EventLoopGroup,
        logger: Logger,
        beforeCommit: (@Sendable () throws -> Void)?
    ) throws {
        guard let store = center.store else {
            throw PipelineError(.configuration, "webhooks need the role store in their process; add it")
        }
        func consumer(_ groupID: String?) throws -> Consumer {
            var settings = ConsumerConfiguration(client: client, groupID: groupID)
            settings.autoOffsetReset = .earliest
            settings.assignors = [.range]
            return try Consumer(settings, eventLoopGroup: group, logger: logger)
        }
        webhooks = TopicTable(topic: Topics.webhooks, consumer: try consumer(nil), logger: logger)
        var settings = ProducerConfiguration(client: client)
        settings.linger = .zero
        producer = try Producer(settings, eventLoopGroup: group, logger: logger)
        self.logger = logger
        let writer = RecordWriter(producer: producer, logger: logger)
        self.client = HTTPExchange.makeClient(
            group: group,
            connections: policy.concurrency,
            connectTimeout: policy.timeout
        )
        roles = [
            FeedbackPlanner(
                webhooks: webhooks,
                store: store,
                consumer: try consumer("mdc.feedback.plan"),
                writer: writer,
                logger: logger
            ),
            FeedbackSender(
                webhooks: webhooks,
                policy: policy,
                consumer: try consumer("mdc.feedback.send"),
                writer: writer,
                client: self.client,
                logger: logger,
                beforeCommit: beforeCommit
            ),
        ]
    }

    /// Asks `run()` to finish.
    public func stop() {
        isAsked.set()
        stopSignal.notify()
    }

    /// Works until graceful shutdown, cancellation or `stop()`.
    public func run() async throws {
        var failure: (any Error)?
        do {
            try await work()
        } catch {
            failure = error
        }
        try? await producer.close()
        try? await client.shutdown()
        guard let failure else { return }
        // What the centre beside it closed first is no failure: nothing was committed that is not done.
        guard isAsked.isSet || Task.isCancelled else { throw failure }
        logger.debug("reports under way were left", metadata: ["error": "\(failure)"])
    }

    private func work() async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { [webhooks] in try await webhooks.run() }
            do {
                // Nothing is decided before the webhooks are known.
                try await webhooks.whenLoaded()
                for role in roles { tasks.addTask { try await role.run() } }
                tasks.addTask { [self] in
                    await withTaskCancellationHandler {
                        await withGracefulShutdownHandler {
                            await stopSignal.wait()
                        } onGracefulShutdown: {
                            self.stop()
                        }
                    } onCancel: {
                        // Of this task: by the caller, or because a role failed.
                        stopSignal.notify()
                    }
                }
                try await tasks.next()
                end()
                try await tasks.waitForAll()
            } catch {
                end()
                tasks.cancelAll()
                throw error
            }
        }
    }

    private func end() {
        for role in roles { role.stop() }
        webhooks.stop()
        stopSignal.notify()
    }
}
