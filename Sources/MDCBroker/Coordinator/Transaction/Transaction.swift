// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// One transactional id, as a pure state machine. A function that returns an error has changed nothing.
///
///     Empty → Ongoing → PrepareCommit → CompleteCommit → Ongoing …
///                     → PrepareAbort  → CompleteAbort  → Ongoing …
///
/// Sources: KIP-98, KIP-360 (epochs asked for by the producer), KIP-890 (a new epoch for each transaction).
struct Transaction: Equatable, Sendable {
    /// The last epoch that a producer may have: the one above is kept for fencing it.
    static let lastUsableEpoch = Int16.max - 1

    let id: String
    var producerID: Int64
    /// -1 before the first producer has been given one.
    var epoch: Int16 = -1
    /// The epoch before the last increase that the producer itself caused: a repeated request still names it. Known in
    /// memory only.
    var lastEpoch: Int16 = -1
    /// The producer id before the last change of it; -1 for none.
    var previousProducerID: Int64 = -1
    /// The producer id that the one now ending goes over to; -1 for none.
    var nextProducerID: Int64 = -1
    var timeout: Int32
    var status = TransactionStatus.empty
    var partitions: Set<TopicPartition> = []
    /// When the transaction began; -1 before the first.
    var startTimestamp: Timestamp = .none
    var lastUpdate: Timestamp
    /// What the client spoke when it last began or ended a transaction.
    var clientVersion: Int16 = TransactionVersion.first
    /// When an ongoing transaction is aborted, on the monotonic clock.
    var deadline: Int64?

    /// A transactional id that nobody used before.
    init(id: String, producerID: Int64, timeout: Int32, now: CoordinatorTime) {
        self.id = id
        self.producerID = producerID
        self.timeout = timeout
        lastUpdate = now.wall
    }

    var producer: ProducerIdentity { ProducerIdentity(id: producerID, epoch: epoch) }
    private var isExhausted: Bool { epoch >= Self.lastUsableEpoch }

    // MARK: InitProducerId

    enum Initialization: Equatable {
        /// The producer goes on as `producer`; `changed` where there is something to record.
        case granted(changed: Bool)
        /// The epochs of the producer id are used up.
        case needsProducerID
        /// A transaction is under way, which must be aborted before.
        case mustAbort
        case refused(ErrorCode)
    }

    /// A producer begins. `expected` is who it thinks it is, where it was somebody before.
    mutating func initialize(
        timeout: Int32,
        expected: ProducerIdentity?,
        fresh: Int64?,
        now: CoordinatorTime
    ) -> Initialization {
        if let expected, !isKnown(expected) { return .refused(.producerFenced) }
        switch status {
        case .prepareCommit, .prepareAbort: return .refused(.concurrentTransactions)
        case .ongoing:
            if let expected, expected.epoch != epoch { return .refused(.producerFenced) }
            return .mustAbort
        case .dead, .prepareEpochFence: return .refused(.unknownServerError)
        case .empty, .completeCommit, .completeAbort: break
        }
        if let expected, epoch >= 0, expected != producer {
            // The answer to the same request was lost: give it again.
            let isRepetition =
                expected.epoch == lastEpoch && (expected.id == producerID || expected.id == previousProducerID)
            guard isRepetition else { return .refused(.producerFenced) }
            if epoch <= Self.lastUsableEpoch {
                self.timeout = timeout
                return .granted(changed: false)
            }
        }
        if isExhausted {
            guard let fresh else { return .needsProducerID }
            previousProducerID = producerID
            lastEpoch = expected == nil ? -1 : epoch
            producerID = fresh
            epoch = 0
        } else {
            lastEpoch = expected == nil ? -1 : epoch
            epoch += 1
        }
        status = .empty
        partitions = []
        startTimestamp = .none
        self.timeout = timeout
        lastUpdate = now.wall
        deadline = nil
        return .granted(changed: true)
    }

    /// Whether a producer may be the one that the id belongs to: it has its producer id, or had the one before until
    /// the epochs were used up.
    private func isKnown(_ expected: ProducerIdentity) -> Bool {
        epoch == -1 || expected.id == producerID
            || (expected.id == previousProducerID && expected.epoch >= Self.lastUsableEpoch)
    }

    // MARK: Adding and verifying

    /// Why the producer may not work on the transaction now.
    private func refusal(_ producer: ProducerIdentity) -> ErrorCode? {
        if producer.id != producerID { return .invalidProducerIdMapping }
        if producer.epoch != epoch { return .producerFenced }
        if status.isPreparing { return .concurrentTransactions }
        if status == .dead || status == .prepareEpochFence { return .unknownServerError }
        return nil
    }

    /// Adds partitions; begins a transaction where none is under way. Tells whether there is something to record.
    mutating func add(
        _ added: [TopicPartition],
        producer: ProducerIdentity,
        version: Int16,
        now: CoordinatorTime
    ) -> Result<Bool, TransactionRefusal> {
        if let code = refusal(producer) { return .failure(TransactionRefusal(code: code)) }
        if status == .ongoing && partitions.isSuperset(of: added) { return .success(false) }
        if status == .ongoing, PlantedCoordinatorBug.secondPartitionIsNotRecorded.isPlanted {
            partitions.formUnion(added)
            return .success(false)
        }
        if status != .ongoing {
            status = .ongoing
            partitions = []
            startTimestamp = now.wall
            deadline = now.monotonic + Int64(timeout)
        }
        partitions.formUnion(added)
        clientVersion = version
        lastUpdate = now.wall
        return .success(true)
    }

    /// The partitions that are not in the transaction.
    func missing(
        _ asked: [TopicPartition],
        producer: ProducerIdentity
    ) -> Result<[TopicPartition], TransactionRefusal> {
        if let code = refusal(producer) { return .failure(TransactionRefusal(code: code)) }
        return .success(status == .ongoing ? asked.filter { !partitions.contains($0) } : asked)
    }

    // MARK: Ending

    enum Ending: Equatable {
        /// The outcome is decided; markers must be written. The producer goes on as `next`.
        case decided(next: ProducerIdentity)
        /// There was nothing to end: it is complete at once.
        case completed(next: ProducerIdentity)
        /// It ended so before: the answer is given again.
        case repeated(ProducerIdentity)
        case needsProducerID
        case refused(ErrorCode)
    }

    /// The producer commits or aborts.
    mutating func end(
        isCommit: Bool,
        producer: ProducerIdentity,
        version: Int16,
        fresh: Int64?,
        now: CoordinatorTime
    ) -> Ending {
        version >= TransactionVersion.second
            ? endWithNewEpoch(isCommit, producer, fresh, now) : endInEpoch(isCommit, producer, now)
    }

    /// The first protocol: the epoch stays.
    private mutating func endInEpoch(
        _ isCommit: Bool,
        _ producer: ProducerIdentity,
        _ now: CoordinatorTime
    ) -> Ending {
        if producer.id != producerID { return .refused(.invalidProducerIdMapping) }
        if producer.epoch != epoch, !PlantedCoordinatorBug.epochIsNotCompared.isPlanted {
            return .refused(.producerFenced)
        }
        switch (status, isCommit) {
        case (.ongoing, _):
            clientVersion = TransactionVersion.first
            prepare(isCommit, now)
            return .decided(next: self.producer)
        case (.completeCommit, true), (.completeAbort, false): return .repeated(self.producer)
        case (.prepareCommit, true), (.prepareAbort, false): return .refused(.concurrentTransactions)
        case (.dead, _), (.prepareEpochFence, _): return .refused(.unknownServerError)
        default: return .refused(.invalidTxnState)
        }
    }

    /// The second protocol: the end takes the next epoch, so that what comes late of this transaction is fenced.
    private mutating func endWithNewEpoch(
        _ isCommit: Bool,
        _ producer: ProducerIdentity,
        _ fresh: Int64?,
        _ now: CoordinatorTime
    ) -> Ending {
        // The epoch went up, or the producer id changed, and the producer does not know it yet: a repetition.
        let isBumped = producer.id == producerID && epoch == producer.epoch + 1 && producer.epoch < Int16.max
        let isOverflow =
            producer.id == previousProducerID && producer.epoch >= Self.lastUsableEpoch && epoch == 0
        if producer.id != producerID && !isOverflow { return .refused(.invalidProducerIdMapping) }
        let isCurrent = producer == self.producer && epoch < Int16.max
        switch status {
        case .ongoing, .empty:
            guard isCurrent else { return .refused(.producerFenced) }
        case .prepareCommit, .prepareAbort:
            guard isBumped else { return .refused(.producerFenced) }
            return .refused((status == .prepareCommit) == isCommit ? .concurrentTransactions : .invalidTxnState)
        case .completeCommit, .completeAbort:
            guard isBumped || isOverflow || isCurrent else { return .refused(.producerFenced) }
            if !isCurrent {
                guard (status == .completeCommit) == isCommit else { return .refused(.invalidTxnState) }
                return .repeated(self.producer)
            }
        case .dead, .prepareEpochFence: return .refused(.unknownServerError)
        }
        // Nothing was written: there is nothing to commit, but an abort still takes the next epoch.
        if status != .ongoing && isCommit { return .refused(.invalidTxnState) }
        if isExhausted {
            guard let fresh else { return .needsProducerID }
            nextProducerID = fresh
        }
        let wasOngoing = status == .ongoing
        clientVersion = TransactionVersion.second
        lastEpoch = epoch
        if !PlantedCoordinatorBug.endKeepsTheEpoch.isPlanted { epoch += 1 }
        prepare(isCommit, now)
        if !wasOngoing {
            partitions = []
            startTimestamp = now.wall
        }
        let next = nextProducerID >= 0 ? ProducerIdentity(id: nextProducerID, epoch: 0) : self.producer
        guard partitions.isEmpty else { return .decided(next: next) }
        complete(now)
        return .completed(next: next)
    }

    /// Aborts an ongoing transaction on behalf of a newer producer, the timeout or an administrator. The epoch is raised,
    /// so that the producer that began it is fenced; unless it asked for it itself, and will be told the new epoch.
    mutating func fence(byItself: Bool, _ now: CoordinatorTime) {
        precondition(status == .ongoing, "only an ongoing transaction is fenced")
        lastEpoch = byItself ? epoch : -1
        if epoch < Int16.max, !PlantedCoordinatorBug.abortKeepsTheEpoch.isPlanted { epoch += 1 }
        prepare(false, now)
    }

    private mutating func prepare(_ isCommit: Bool, _ now: CoordinatorTime) {
        status = isCommit ? .prepareCommit : .prepareAbort
        lastUpdate = now.wall
        deadline = nil
    }

    /// All markers are on disk.
    mutating func complete(_ now: CoordinatorTime) {
        precondition(status.isPreparing, "only a decided transaction is completed")
        status = status == .prepareCommit ? .completeCommit : .completeAbort
        partitions = []
        lastUpdate = now.wall
        if nextProducerID >= 0 {
            previousProducerID = producerID
            producerID = nextProducerID
            nextProducerID = -1
            // The last epoch that the producer saw.
            lastEpoch = Self.lastUsableEpoch
            epoch = 0
        }
    }

    /// The order that ends the transaction in its partitions.
    var markerOrder: MarkerOrder {
        MarkerOrder(
            transactionalID: id,
            producer: producer,
            isCommit: status == .prepareCommit,
            bumpsEpoch: clientVersion >= TransactionVersion.second,
            partitions: partitions.sorted()
        )
    }
}

/// Why a transaction does not do what is asked.
struct TransactionRefusal: Error, Equatable {
    var code: ErrorCode
}
