// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCModel
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

    // MARK: Transactions

    /// Takes over the transactional id: fences a producer that used it before, and ends what that one left open. Once,
    /// before the first transaction; may be repeated after an error that is retriable. Throws `ClientError`.
    public func initTransactions() async throws {
        try await sender.initTransactions()
    }

    /// Begins a transaction: what is sent from now on is part of it. Throws `ClientError` (`invalidState`, `fenced`).
    public func beginTransaction() throws {
        try sender.beginTransaction()
    }

    /// Commits offsets of a consumer's group as part of the transaction: they count with its commit, and not at all with
    /// its abort. Each is the next offset to read. Throws `ClientError`; the transaction must then be aborted.
    public func sendOffsets(
        _ offsets: [TopicPartition: OffsetAndMetadata],
        group: ConsumerGroupMetadata
    ) async throws {
        try await sender.sendOffsets(offsets, group: group)
    }

    /// Delivers what was accepted and commits the transaction. After an error with code `timeout` or `connection` the
    /// outcome is open: call it again. With `transactionFailed` the transaction must be aborted, with `fenced` the
    /// producer is of no more use.
    public func commitTransaction() async throws {
        try await sender.endTransaction(isCommit: true)
    }

    /// Drops what was not sent yet and aborts the transaction. May be called again after a `timeout`.
    public func abortTransaction() async throws {
        try await sender.endTransaction(isCommit: false)
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
