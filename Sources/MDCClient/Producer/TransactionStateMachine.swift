// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Where a transactional producer stands, without I/O: which call is allowed now, which partitions are in the transaction,
/// and what an error does to it.
///
///     uninitialized → ready → open → ending → ready
///                              └→ failed → ending (abort) → ready
///     broken: from anywhere, for good
struct TransactionStateMachine {
    private enum State {
        case uninitialized
        case initializing
        case ready
        case open
        /// It must be aborted.
        case failed(ClientError)
        /// The outcome was asked for; the answer is missing. The same call may be made again.
        case ending(isCommit: Bool)
        /// Nothing works any longer.
        case broken(ClientError)
    }

    private var state = State.uninitialized
    /// Partitions that the coordinator knows to be in the transaction.
    private var admitted: Set<TopicPartition> = []
    /// Partitions that were written to, or about to be.
    private var touched: Set<TopicPartition> = []
    /// Whether offsets were sent.
    private var hasOffsets = false
    /// Groups that the coordinator knows to be in the transaction.
    private var admittedGroups: Set<String> = []
    /// Whether partitions join by being written to, and each end takes a new epoch (KIP-890).
    var isSecond = false

    // MARK: Calls

    private func refusal(_ call: String) -> ClientError {
        switch state {
        case .broken(let error): return error
        case .failed(let error):
            return ClientError(.transactionFailed, "\(call): the transaction failed; abort it", cause: error)
        case .uninitialized: return ClientError(.invalidState, "\(call): call initTransactions first")
        case .initializing: return ClientError(.invalidState, "\(call): initTransactions has not ended yet")
        case .ready: return ClientError(.invalidState, "\(call): no transaction is open; call beginTransaction first")
        case .open: return ClientError(.invalidState, "\(call): a transaction is open; commit or abort it first")
        case .ending(let isCommit):
            let name = isCommit ? "commitTransaction" : "abortTransaction"
            return ClientError(.invalidState, "\(call): the transaction is ending; call \(name) again")
        }
    }

    /// `initTransactions` is called.
    mutating func startInitialization() throws(ClientError) {
        switch state {
        case .uninitialized: state = .initializing
        case .broken(let error): throw error
        default: throw ClientError(.invalidState, "initTransactions was called before; once is enough")
        }
    }

    /// It ended; with an error it may be called again, unless that is final.
    mutating func initializationEnded(_ error: ClientError?) {
        guard case .initializing = state else { return }
        guard let error else {
            state = .ready
            return
        }
        state = Self.isFinal(error) ? .broken(error) : .uninitialized
    }

    mutating func begin() throws(ClientError) {
        guard case .ready = state else { throw refusal("beginTransaction") }
        state = .open
        admitted = []
        touched = []
        admittedGroups = []
        hasOffsets = false
    }

    /// Why no record is accepted now; nil where it is.
    var appendError: ClientError? {
        if case .open = state { return nil }
        return refusal("send")
    }

    /// Offsets of a group are sent.
    mutating func startOffsets() throws(ClientError) {
        guard case .open = state else { throw refusal("sendOffsets") }
        hasOffsets = true
    }

    /// The end is asked for.
    mutating func startEnd(isCommit: Bool) throws(ClientError) {
        switch (state, isCommit) {
        case (.open, _), (.failed, false): state = .ending(isCommit: isCommit)
        case (.ending(isCommit), _): break
        default: throw refusal(isCommit ? "commitTransaction" : "abortTransaction")
        }
    }

    /// Whether the coordinator knows of the transaction, or may.
    var hasBegun: Bool { !touched.isEmpty || !admitted.isEmpty || hasOffsets }

    /// The coordinator answered the end; with an error the call may be made again, unless that is final.
    mutating func ended(_ error: ClientError?) {
        guard case .ending(let isCommit) = state else { return }
        guard let error else {
            state = .ready
            return
        }
        if Self.isFinal(error) {
            state = .broken(error)
        } else if isCommit, error.errorCode == .transactionAbortable || error.errorCode == .invalidTxnState {
            state = .failed(error)
        }
    }

    // MARK: Partitions

    /// Whether records may be sent to a partition; notes that they are.
    mutating func admits(_ partition: TopicPartition) -> Bool {
        guard isSecond || admitted.contains(partition) else { return false }
        touched.insert(partition)
        return true
    }

    mutating func added(_ partitions: [TopicPartition]) { admitted.formUnion(partitions) }
    func knows(group: String) -> Bool { isSecond || admittedGroups.contains(group) }
    mutating func added(group: String) { admittedGroups.insert(group) }

    // MARK: Errors

    /// Whether nothing more of the transaction is sent.
    var isHalted: Bool {
        switch state {
        case .failed, .broken, .ending(isCommit: false): true
        default: false
        }
    }

    /// Something of the transaction failed.
    mutating func fail(_ error: ClientError) {
        if Self.isFinal(error) {
            state = .broken(error)
            return
        }
        switch state {
        // A commit that waits for its records cannot succeed any longer.
        case .open, .ending(isCommit: true): state = .failed(error)
        default: break
        }
    }

    /// Errors that end the producer.
    static func isFinal(_ error: ClientError) -> Bool {
        if error.code == .fenced || error.code == .unsupportedVersion { return true }
        switch error.errorCode {
        case .producerFenced?, .invalidProducerIdMapping?, .transactionalIdAuthorizationFailed?,
            .invalidTransactionTimeout?:
            return true
        default: return false
        }
    }
}

extension ClientError {
    /// An error of a transaction's coordinator. That another producer took over has a code of its own.
    static func transaction(_ code: ErrorCode, _ doing: String) -> ClientError {
        switch code {
        case .producerFenced, .invalidProducerEpoch:
            ClientError(
                .fenced,
                "\(doing): another producer with this transactional id has taken over, or the transaction timed out",
                errorCode: code
            )
        default: .broker(code, doing)
        }
    }
}
