// SPDX-License-Identifier: Apache-2.0

public import Logging
import MDCModel
public import NIOCore
public import ServiceLifecycle

/// Writes records to topics: batched, compressed, and, by default, exactly once per record and in order per partition
/// whatever connections and brokers do.
///
/// A producer works from its creation on; `run()` only ties it to a service group, so that a graceful shutdown
/// delivers what was accepted. Without a service group, call `close()`.
public final class Producer: Service, Sendable {
    private let sender: ProducerSender

    /// Makes a producer. Nothing is sent before the first record. Throws `ClientError` (`configuration`).
    public init(_ configuration: ProducerConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) throws {
        try configuration.validate()
        sender = try ProducerSender(configuration, eventLoop: eventLoopGroup.next(), logger: logger)
    }

    /// Runs until graceful shutdown, then delivers what was accepted and closes.
    public func run() async throws {
        await sender.untilShutdownOrClosed()
        try await close()
    }

    /// Sends a record and waits for its acknowledgement. Throws `ClientError`.
    @discardableResult
    nonisolated(nonsending) public func send(_ record: ProducerRecord) async throws -> RecordMetadata {
        try await sender.send(record)
    }

    /// Accepts a record and returns; waits only while the buffer is full or the topic is not known yet.
    ///
    /// `done` is called once on an event loop when the record is acknowledged or has failed; it must not block.
    /// Throws `ClientError` where the record is not accepted; `done` is then not called.
    nonisolated(nonsending) public func enqueue(
        _ record: ProducerRecord,
        _ done: (@Sendable (Result<RecordMetadata, ClientError>) -> Void)? = nil
    ) async throws {
        if sender.tryEnqueue(record, done) { return }
        try await sender.enqueueWaiting(record, done)
    }

    /// Sends what was accepted without lingering, and returns when each such record is acknowledged or has failed.
    /// Throws the first failure among them.
    public func flush() async throws {
        try await sender.flush()
    }

    /// Delivers what was accepted, then closes the connections. Later calls of `send` throw `ClientError` (`closed`).
    public func close() async throws {
        try await sender.close()
    }
}
