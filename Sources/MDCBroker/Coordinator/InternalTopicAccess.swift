// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// An internal topic that a coordinator keeps its state in.
struct InternalTopic: Hashable, Sendable {
    let name: String

    /// Group states and committed offsets.
    static let consumerOffsets = InternalTopic(name: "__consumer_offsets")
    /// States of transactions.
    static let transactionState = InternalTopic(name: "__transaction_state")
    /// What share groups have read of each partition.
    static let shareGroupState = InternalTopic(name: "__share_group_state")
    /// All there are: clients may not write to them.
    static let all = [consumerOffsets, transactionState, shareGroupState]
}

/// Part of an internal topic, read back.
struct InternalTopicRead: Sendable {
    /// Whole batches.
    var batches: ByteBuffer
    /// Where to go on; nil at the end.
    var nextOffset: Offset?
}

/// Where the clients of a coordinator find it.
struct CoordinatorEndpoint: Equatable, Sendable {
    var nodeID: Int32
    var host: String
    var port: Int32
}

/// Why a coordinator's record could not be appended or read.
struct CoordinatorStorageError: Error, CustomStringConvertible {
    /// What a client is told.
    var code: ErrorCode
    var description: String
}

/// What coordinators need of the node: internal topics, topic names, and a clock with timers. The broker implements it
/// over its partitions, tests over memory.
protocol InternalTopicAccess: Sendable {
    /// How many partitions `topic` has; nil where it does not exist.
    func partitionCount(of topic: InternalTopic) -> Int32?
    /// Creates `topic` if it is not there, compacted, with as many partitions as configured. `done` may run on any thread.
    func create(_ topic: InternalTopic, _ done: @escaping @Sendable (Result<Int32, CoordinatorStorageError>) -> Void)
    /// Where `partition` is led; nil where it has no leader.
    func endpoint(of topic: InternalTopic, partition: Int32) -> CoordinatorEndpoint?
    /// Appends one batch and returns the offset after it. Does not wait for the disk and calls nobody back.
    func append(_ batch: ByteBuffer, to topic: InternalTopic, partition: Int32) throws(CoordinatorStorageError)
        -> Offset
    /// Calls `done`, perhaps at once and from any thread, when everything before `offset` is committed.
    func whenCommitted(
        upTo offset: Offset,
        of topic: InternalTopic,
        partition: Int32,
        _ done: @escaping @Sendable (Result<Void, CoordinatorStorageError>) -> Void
    )
    /// The end of `partition`'s log.
    func endOffset(of topic: InternalTopic, partition: Int32) throws(CoordinatorStorageError) -> Offset
    /// Reads from `offset`, or from the log's start where that lies later.
    func read(
        _ topic: InternalTopic,
        partition: Int32,
        from offset: Offset
    ) throws(CoordinatorStorageError) -> InternalTopicRead
    /// Lets go of everything before `offset`. May block.
    func trim(_ topic: InternalTopic, partition: Int32, before offset: Offset)
    /// The topics there are now.
    func topicImage() -> GroupTopicImage
    /// Grows with each change of the topics.
    var topicImageVersion: UInt64 { get }
    /// Both clocks.
    func now() -> CoordinatorTime
    /// Runs `work` after `milliseconds`, on any thread; the returned closure cancels it.
    func schedule(after milliseconds: Int64, _ work: @escaping @Sendable () -> Void) -> @Sendable () -> Void
    /// Runs `work`, which may block, soon and away from the event loops.
    func runBlocking(_ work: @escaping @Sendable () -> Void)
}

extension InternalTopicAccess {
    /// Keeps everything: a log that grows is no error.
    func trim(_: InternalTopic, partition _: Int32, before _: Offset) {}
}
