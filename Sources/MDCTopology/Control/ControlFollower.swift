// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Follows the topic that says which topologies are paused.
final class ControlFollower: Sendable {
    static let partition = TopicPartition(topic: TopologyNames.control, partition: 0)
    static let paused = "paused"

    private let client: ClientConfiguration
    private let name: String
    private let shared: TopologyShared
    private let eventLoopGroup: any EventLoopGroup
    private let logger: Logger
    private let consumer = Mutex<Consumer?>(nil)

    init(
        _ client: ClientConfiguration,
        name: String,
        shared: TopologyShared,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) {
        self.client = client
        self.name = name
        self.shared = shared
        self.eventLoopGroup = eventLoopGroup
        self.logger = logger
    }

    /// Reads what is there.
    func catchUp() async throws {
        let reader = try Consumer(ConsumerConfiguration(client: client), eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let end = try await reader.endOffsets([Self.partition])[Self.partition] ?? 0
            try await reader.assign(try await reader.beginningOffsets([Self.partition]))
            while try (reader.position(Self.partition) ?? 0) < end {
                try Task.checkCancellation()
                apply(try await reader.poll(timeout: .milliseconds(100)))
            }
        } catch {
            await reader.close()
            throw error
        }
        consumer.withLock { $0 = reader }
    }

    /// Reads what comes, until the task is cancelled.
    func follow() async {
        guard let reader = consumer.withLock({ $0 }) else { return }
        while !Task.isCancelled {
            do {
                apply(try await reader.poll(timeout: .milliseconds(500)))
            } catch is CancellationError {
                break
            } catch {
                logger.warning("reading \(TopologyNames.control) failed; trying again", metadata: ["error": "\(error)"])
                try? await Task.sleep(for: .milliseconds(500))
            }
        }
        await reader.close()
    }

    private func apply(_ records: [ConsumerRecord]) {
        for record in records where record.key.map({ String(buffer: $0) }) == name {
            let isPaused = record.value.map { String(buffer: $0) } == Self.paused
            let isChange = shared.state.withLock { state in
                defer { state.isPaused = isPaused }
                return state.isPaused != isPaused
            }
            if isChange { logger.info(isPaused ? "paused" : "resumed") }
        }
    }
}
