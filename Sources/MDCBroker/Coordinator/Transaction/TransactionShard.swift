// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The transactional ids of one partition of `__transaction_state`, as a pure state machine: events and time go in;
/// records, answers, orders to write markers and the next deadline come out. No I/O, no clock, no randomness.
///
/// The caller appends the records of a result as one batch, and sends its answers and carries out its orders only once
/// they are committed: what a marker says must not be taken back. If the append is refused it throws the shard away and
/// loads it anew.
struct TransactionShard: Sendable {
    let settings: TransactionSettings
    private(set) var transactions: [String: Transaction] = [:]
    /// Requests to end that are answered when the markers have been tried once.
    private var ending: [String: (token: RequestToken, next: ProducerIdentity)] = [:]
    private var deadlines = DeadlineQueue()
    /// When ids are next looked through for expired ones, on the monotonic clock.
    private var nextExpiryCheck: Int64

    init(settings: TransactionSettings, now: CoordinatorTime) {
        self.settings = settings
        nextExpiryCheck = now.monotonic + settings.expirationCheckInterval
    }

    /// When ``tick(_:)`` is wanted next, on the monotonic clock.
    var nextDeadline: Int64 { min(nextExpiryCheck, deadlines.next ?? .max) }

    // MARK: Steps

    /// Takes one event. `token` names the request; its answer comes in this result or a later one.
    mutating func handle(_ event: TransactionEvent, token: RequestToken, now: CoordinatorTime) -> TransactionResult {
        var out = TransactionResult()
        var response: TransactionResponse?
        switch event {
        case .initialize(let id, let timeout, let expected, let fresh):
            response = initialize(id, timeout, expected, fresh, now, &out)
        case .add(let id, let producer, let partitions, let version):
            response = .code(add(id, producer, partitions, version, now, &out))
        case .verify(let id, let producer, let partitions):
            switch transactions[id]?.missing(partitions, producer: producer) {
            case .success(let missing)?: response = .missing(missing)
            case .failure(let refusal)?: response = .code(refusal.code)
            case nil: response = .code(.invalidProducerIdMapping)
            }
        case .end(let id, let producer, let isCommit, let version, let fresh):
            response = end(id, producer, isCommit, version, fresh, token, now, &out)
        case .marked(let order, let isDone):
            marked(order, isDone: isDone, now, &out)
            response = .code(.none)
        case .describe(let id): response = .describe(describe(id))
        case .list(let request): response = .list(list(request, now))
        }
        if let response { out.answers.append(TransactionAnswer(token: token, response: response)) }
        return out
    }

    /// Does what is due.
    mutating func tick(_ now: CoordinatorTime) -> TransactionResult {
        var out = TransactionResult()
        while let id = deadlines.popDue(at: now.monotonic) {
            guard let deadline = transactions[id]?.deadline else { continue }
            if deadline <= now.monotonic { abort(id, byItself: false, now, &out) } else { schedule(id) }
        }
        if nextExpiryCheck <= now.monotonic { expire(now, &out) }
        return out
    }

    private mutating func schedule(_ id: String) {
        if let deadline = transactions[id]?.deadline { deadlines.schedule(id, at: deadline) }
    }

    private func record(_ id: String) -> CoordinatorRecord { .transaction(id, transactions[id]) }

    // MARK: Producers

    private mutating func initialize(
        _ id: String,
        _ timeout: Int32,
        _ expected: ProducerIdentity?,
        _ fresh: Int64?,
        _ now: CoordinatorTime,
        _ out: inout TransactionResult
    ) -> TransactionResponse {
        guard timeout > 0, timeout <= settings.maxTimeout else {
            return .producer(.invalidTransactionTimeout, .none)
        }
        var transaction: Transaction
        if let present = transactions[id] {
            transaction = present
        } else {
            guard let fresh else { return .needsProducerID }
            transaction = Transaction(id: id, producerID: fresh, timeout: timeout, now: now)
        }
        switch transaction.initialize(timeout: timeout, expected: expected, fresh: fresh, now: now) {
        case .granted(let changed):
            transactions[id] = transaction
            if changed { out.records.append(record(id)) }
            return .producer(.none, transaction.producer)
        case .needsProducerID: return .needsProducerID
        case .mustAbort:
            // The client comes again, and gets its epoch once the abort is complete.
            abort(id, byItself: expected != nil, now, &out)
            return .producer(.concurrentTransactions, .none)
        case .refused(let code): return .producer(code, .none)
        }
    }

    private mutating func abort(
        _ id: String,
        byItself: Bool,
        _ now: CoordinatorTime,
        _ out: inout TransactionResult
    ) {
        transactions[id]?.fence(byItself: byItself, now)
        out.records.append(record(id))
        if let order = transactions[id]?.markerOrder { out.markers.append(order) }
    }

    // MARK: Transactions

    private mutating func add(
        _ id: String,
        _ producer: ProducerIdentity,
        _ partitions: [TopicPartition],
        _ version: Int16,
        _ now: CoordinatorTime,
        _ out: inout TransactionResult
    ) -> ErrorCode {
        // In place: a copy would cost its set of partitions.
        switch transactions[id]?.add(partitions, producer: producer, version: version, now: now) {
        case .success(true)?:
            schedule(id)
            out.records.append(record(id))
            return .none
        case .success(false)?: return .none
        case .failure(let refusal)?: return refusal.code
        case nil: return .invalidProducerIdMapping
        }
    }

    private mutating func end(
        _ id: String,
        _ producer: ProducerIdentity,
        _ isCommit: Bool,
        _ version: Int16,
        _ fresh: Int64?,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout TransactionResult
    ) -> TransactionResponse? {
        let ending = transactions[id]?.end(
            isCommit: isCommit,
            producer: producer,
            version: version,
            fresh: fresh,
            now: now
        )
        switch ending {
        case .decided(let next)?:
            out.records.append(record(id))
            if let order = transactions[id]?.markerOrder { out.markers.append(order) }
            self.ending[id] = (token, next)
            return nil
        case .completed(let next)?:
            out.records.append(record(id))
            return .producer(.none, next)
        case .repeated(let next)?: return .producer(.none, next)
        case .needsProducerID?: return .needsProducerID
        case .refused(let code)?: return .producer(code, .none)
        case nil: return .producer(.invalidProducerIdMapping, .none)
        }
    }

    private mutating func marked(
        _ order: MarkerOrder,
        isDone: Bool,
        _ now: CoordinatorTime,
        _ out: inout TransactionResult
    ) {
        let id = order.transactionalID
        // An order of an earlier transaction, or carried out twice.
        guard let transaction = transactions[id], transaction.status.isPreparing, transaction.markerOrder == order
        else {
            return
        }
        if isDone {
            transactions[id]?.complete(now)
            out.records.append(record(id))
        }
        // The outcome is on disk, whatever becomes of the markers.
        if let (token, next) = ending.removeValue(forKey: id) {
            out.answers.append(TransactionAnswer(token: token, response: .producer(.none, next)))
        }
    }

    // MARK: Expiry

    /// Forgets ids that nobody has used for long. At most some thousand records a step.
    private mutating func expire(_ now: CoordinatorTime, _ out: inout TransactionResult) {
        nextExpiryCheck = now.monotonic + settings.expirationCheckInterval
        for id in transactions.keys.sorted() {
            guard let transaction = transactions[id], transaction.status.isIdle,
                now.wall - transaction.lastUpdate >= settings.expiration
            else { continue }
            if out.records.count >= 5_000 {
                nextExpiryCheck = now.monotonic + 1
                return
            }
            transactions[id] = nil
            out.records.append(.transaction(id, nil))
        }
    }

    // MARK: Loading

    /// Applies one record of the log, in order. Throws where it cannot be read; the caller decides whether to go on.
    mutating func replay(_ record: CoordinatorRecord, now: CoordinatorTime) throws(ProtocolError) {
        guard case .transaction(let id, let value) = try TransactionRecord(record) else { return }
        guard let value else {
            transactions[id] = nil
            return
        }
        guard let transaction = Transaction(id: id, value, now: now) else {
            throw ProtocolError(
                .malformed,
                field: "TransactionLogValue.transactionStatus",
                detail: "there is no status \(value.transactionStatus)"
            )
        }
        transactions[id] = transaction.status == .dead ? nil : transaction
    }

    /// Ends the loading: what was decided is carried out, perhaps for the second time.
    mutating func activate(now: CoordinatorTime) -> TransactionResult {
        var out = TransactionResult()
        for id in transactions.keys.sorted() {
            guard let transaction = transactions[id] else { continue }
            if transaction.status == .ongoing, !PlantedCoordinatorBug.timeoutIsForgotten.isPlanted { schedule(id) }
            if transaction.status.isPreparing, !PlantedCoordinatorBug.decisionIsForgotten.isPlanted {
                out.markers.append(transaction.markerOrder)
            }
        }
        nextExpiryCheck = now.monotonic + settings.expirationCheckInterval
        return out
    }

    // MARK: Administration

    private func describe(_ id: String) -> DescribeTransactionsResponse.TransactionState {
        guard let transaction = transactions[id] else {
            return .init(
                errorCode: (id.isEmpty ? ErrorCode.invalidRequest : .transactionalIdNotFound).rawValue,
                transactionalId: id
            )
        }
        let value = transaction.logValue
        return .init(
            transactionalId: id,
            transactionState: transaction.status.name,
            transactionTimeoutMs: transaction.timeout,
            transactionStartTimeMs: transaction.startTimestamp.rawValue,
            producerId: transaction.producerID,
            producerEpoch: transaction.epoch,
            topics: (value.transactionPartitions ?? []).map { .init(topic: $0.topic, partitions: $0.partitionIds) }
        )
    }

    private func list(
        _ request: ListTransactionsRequest,
        _ now: CoordinatorTime
    ) -> [ListTransactionsResponse.TransactionState] {
        let states = Set(request.stateFilters)
        let producers = Set(request.producerIdFilters)
        let pattern = request.transactionalIdPattern.flatMap { $0.isEmpty ? nil : TopicPattern($0) }
        return transactions.values.filter { transaction in
            if !states.isEmpty && !states.contains(transaction.status.name) { return false }
            if !producers.isEmpty && !producers.contains(transaction.producerID) { return false }
            if request.durationFilter >= 0 {
                // How long a transaction has been under way; an idle id has no duration.
                guard !transaction.status.isIdle else { return false }
                if now.wall - transaction.startTimestamp <= request.durationFilter { return false }
            }
            return pattern?.matches(transaction.id) ?? true
        }.map { .init(transactionalId: $0.id, producerId: $0.producerID, transactionState: $0.status.name) }
            .sorted { $0.transactionalId < $1.transactionalId }
    }

    /// How many ids are in each state.
    var counts: [TransactionStatus: Int] {
        transactions.values.reduce(into: [:]) { $0[$1.status, default: 0] += 1 }
    }
}
