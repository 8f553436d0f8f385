// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
public import MDCClient
import MDCModel
public import NIOCore

/// Reads and changes the API keys and webhooks on the log, for commands. Each change leaves an entry in the audit log.
public struct ClientRegistry: Sendable {
    private let client: ClientConfiguration
    let group: any EventLoopGroup
    private let logger: Logger

    /// Makes a value from its parts.
    public init(_ client: ClientConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) {
        self.client = client
        group = eventLoopGroup
        self.logger = logger
    }

    // MARK: - API keys

    /// All keys, the oldest first.
    public func apiKeys() async throws -> [APIKey] {
        try await values(Topics.apiKeys).values.sorted { ($0.createdAt, $0.id) < ($1.createdAt, $1.id) }
    }

    /// Keeps a key; returns when it is durable.
    public func put(_ key: APIKey, action: String) async throws {
        try await write(TopicTable.record(Topics.apiKeys, key: key.id, key), action: "\(action) \(key.id)", key.tenant)
    }

    // MARK: - The log

    func values<Value: Codable & Sendable>(_ topic: String) async throws -> [String: Value] {
        let consumer = try Consumer(
            ConsumerConfiguration(client: client, groupID: nil),
            eventLoopGroup: group,
            logger: logger
        )
        let table = TopicTable<Value>(topic: topic, consumer: consumer, logger: logger)
        return try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await table.run() }
            try await table.whenLoaded()
            table.stop()
            try await tasks.waitForAll()
            return table.values
        }
    }

    func write(_ record: ProducerRecord, action: String, _ tenant: String?) async throws {
        let producer = try Producer(
            ProducerConfiguration(client: client),
            eventLoopGroup: group,
            logger: logger
        )
        do {
            _ = try await producer.send(record)
            let entry = AuditEntry(at: SystemTime.now(), tenant: tenant, action: action)
            _ = try await producer.send(AuditLog.record(entry))
            try await producer.close()
        } catch {
            try? await producer.close()
            throw error
        }
    }
}
