// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import NIOCore

extension ProducerStateMachine {
    /// Batches that go to one broker in one request; at most one per partition.
    struct PlannedRequest {
        let node: Int32
        var batches: [ProducerBatch]
        var size: Int
    }

    /// What to do now.
    struct DrainResult {
        var requests: [PlannedRequest] = []
        /// Batches whose time is over.
        var expired: [(batch: ProducerBatch, error: ClientError)] = []
        /// Topics with a partition that has something to send and no leader.
        var topicsWithoutLeader: Set<String> = []
        /// Partitions that must be added to the transaction before anything is sent to them.
        var partitionsToAdd: [TopicPartition] = []
        /// Ask for a producer id.
        var needsProducerID = false
        /// When to drain again by itself.
        var nextDrain: NIODeadline?
    }

    /// Collects what can be sent at `now`.
    mutating func drain(now: NIODeadline) -> DrainResult {
        wakeIsPending = false
        var result = DrainResult()
        var openRequests: [Int32: Int] = [:]
        let first = active.isEmpty ? 0 : Int.random(in: 0..<active.count, using: &generator)
        // Each round takes at most one batch of each partition; a request has room for one per partition.
        var tookAny = true
        var isFirstRound = true
        while tookAny {
            tookAny = false
            for step in active.indices {
                let key = active[(first + step) % active.count]
                if isFirstRound { expire(key, now: now, into: &result) }
                if take(from: key, now: now, openRequests: &openRequests, result: &result, notes: isFirstRound) {
                    tookAny = true
                }
            }
            isFirstRound = false
            openRequests.removeAll(keepingCapacity: true)
        }
        retireIdlePartitions()
        timer = result.nextDrain
        return result
    }

    private mutating func retireIdlePartitions() {
        active.removeAll { key in
            guard topics[key.topic].partitions[key.partition].isEmpty else { return false }
            topics[key.topic].partitions[key.partition].isActive = false
            return true
        }
    }

    /// Takes one batch of a partition into a request, where it may go now. `notes`: also record what it waits for.
    private mutating func take(
        from key: PartitionKey,
        now: NIODeadline,
        openRequests: inout [Int32: Int],
        result: inout DrainResult,
        notes: Bool
    ) -> Bool {
        func wait(until time: NIODeadline, _ result: inout DrainResult) {
            result.nextDrain = min(result.nextDrain ?? time, time)
        }
        let state = topics[key.topic].partitions[key.partition]
        if state.isEmpty || state.isSettling { return false }
        if notes {
            let oldest = state.sent < state.unacknowledged.count ? state.unacknowledged[state.sent] : state.queue.first
            if let oldest { wait(until: oldest.created + configuration.deliveryTimeout, &result) }
        }
        let isRepetition = state.sent < state.unacknowledged.count
        guard isRepetition || !state.queue.isEmpty else { return false }
        if state.mutedUntil > now {
            wait(until: state.mutedUntil, &result)
            return false
        }
        if !isRepetition {
            guard let readyAt = readiness(of: state, now: now) else { return false }
            guard readyAt <= now else {
                wait(until: readyAt, &result)
                return false
            }
        }
        // A batch whose answer was lost may be refused while those behind it pass. It must not fall out of the broker's
        // memory meanwhile, or it would be written twice.
        if !isRepetition, configuration.isIdempotent, let first = state.unacknowledged.first,
            state.nextOrdinal - first.ordinal >= Self.brokerMemory
        {
            return false
        }
        if state.leader < 0 {
            result.topicsWithoutLeader.insert(topics[key.topic].name)
            return false
        }
        if configuration.isTransactional {
            guard !transaction.isHalted else { return false }
            adoptEpoch(key)
            let partition = TopicPartition(
                topic: topics[key.topic].name,
                partition: PartitionID(Int32(key.partition))
            )
            guard transaction.admits(partition) else {
                result.partitionsToAdd.append(partition)
                return false
            }
        } else if configuration.isIdempotent, !hasProducerID(key) {
            if !producerIDIsRequested {
                producerIDIsRequested = true
                result.needsProducerID = true
            }
            return false
        }
        let size = (isRepetition ? state.unacknowledged[state.sent] : state.queue[0]).estimatedSize
        guard let request = request(for: state.leader, size: size, open: &openRequests, result: &result) else {
            return false
        }
        result.requests[request].batches.append(moveToFlight(key))
        result.requests[request].size += size
        return true
    }

    /// When the partition's first queued batch may go; now, where it is full or someone waits for it.
    private func readiness(of state: PartitionState, now: NIODeadline) -> NIODeadline? {
        guard let batch = state.queue.first else { return nil }
        if state.queue.count > 1 || batch.estimatedSize >= configuration.batchSize || isUnderPressure
            || batch.generation <= flushUpTo
        {
            return now
        }
        return batch.created + configuration.linger
    }

    /// The request that takes `size` bytes for a broker: one of this round that has room, or a new one where the
    /// broker may have another in flight.
    private mutating func request(
        for node: Int32,
        size: Int,
        open: inout [Int32: Int],
        result: inout DrainResult
    ) -> Int? {
        if let index = open[node] {
            if result.requests[index].size + size <= configuration.maxRequestSize { return index }
        }
        guard inFlightByNode[node, default: 0] < configuration.maxInFlight else { return nil }
        inFlightByNode[node, default: 0] += 1
        result.requests.append(PlannedRequest(node: node, batches: [], size: 0))
        open[node] = result.requests.count - 1
        return result.requests.count - 1
    }

    private mutating func moveToFlight(_ key: PartitionKey) -> ProducerBatch {
        func withState<R>(_ body: (inout PartitionState) -> R) -> R {
            body(&topics[key.topic].partitions[key.partition])
        }
        let isIdempotent = configuration.isIdempotent
        return withState { state in
            if state.sent == state.unacknowledged.count {
                let batch = state.queue.removeFirst()
                if isIdempotent {
                    batch.number(
                        producerID: state.producerID,
                        epoch: state.producerEpoch,
                        baseSequence: state.nextSequence
                    )
                    state.nextSequence = SequenceNumber.advance(state.nextSequence, by: batch.recordCount)
                }
                batch.ordinal = state.nextOrdinal
                state.nextOrdinal += 1
                state.lastBatchSize = batch.estimatedSize
                state.unacknowledged.append(batch)
            }
            let batch = state.unacknowledged[state.sent]
            batch.attempts += 1
            state.sent += 1
            state.inFlight += 1
            return batch
        }
    }

    // MARK: Producer ids

    /// Whether the partition can number its records; gives it the current id where it has none.
    private mutating func hasProducerID(_ key: PartitionKey) -> Bool {
        let state = topics[key.topic].partitions[key.partition]
        if state.producerID >= 0, !state.needsNewProducerID { return true }
        // The id whose numbering broke is of no use; any other is.
        if state.needsNewProducerID, state.inFlight > 0 { return false }
        guard producerID >= 0, producerID != state.producerID || producerEpoch != state.producerEpoch else {
            return false
        }
        renumber(key)
        return true
    }

    /// A transactional producer has one id and epoch for all partitions; each begins at 0 in a new epoch.
    private mutating func adoptEpoch(_ key: PartitionKey) {
        let state = topics[key.topic].partitions[key.partition]
        guard state.inFlight == 0, state.producerID != producerID || state.producerEpoch != producerEpoch else {
            return
        }
        renumber(key)
    }

    /// Takes what waits to be sent, and what was sent and is not under way, when a transaction is given up. What is under
    /// way ends with its answer, and is not sent again.
    mutating func dropUnsent() -> [ProducerBatch] {
        var dropped: [ProducerBatch] = []
        for topic in topics.indices {
            for index in topics[topic].partitions.indices {
                dropped += topics[topic].partitions[index].queue
                topics[topic].partitions[index].queue.removeAll()
                guard topics[topic].partitions[index].inFlight == 0 else { continue }
                if !topics[topic].partitions[index].unacknowledged.isEmpty {
                    topics[topic].partitions[index].needsNewProducerID = true
                }
                dropped += topics[topic].partitions[index].unacknowledged
                topics[topic].partitions[index].unacknowledged.removeAll()
                topics[topic].partitions[index].sent = 0
            }
        }
        dropped.forEach { released($0) }
        return dropped
    }

    /// Whether a partition's numbering broke, so that the producer must have a new epoch before it writes again.
    var needsNewEpoch: Bool { topics.contains { $0.partitions.contains { $0.needsNewProducerID } } }

    /// Numbers a settled partition's batches anew, from 0, for the current producer id.
    private mutating func renumber(_ key: PartitionKey) {
        var sequence: Int32 = 0
        for batch in topics[key.topic].partitions[key.partition].unacknowledged {
            batch.number(producerID: producerID, epoch: producerEpoch, baseSequence: sequence)
            sequence = SequenceNumber.advance(sequence, by: batch.recordCount)
        }
        topics[key.topic].partitions[key.partition].producerID = producerID
        topics[key.topic].partitions[key.partition].producerEpoch = producerEpoch
        topics[key.topic].partitions[key.partition].nextSequence = sequence
        topics[key.topic].partitions[key.partition].needsNewProducerID = false
    }

    /// The answer to the request for a producer id; nil where it failed and should be asked for again.
    mutating func producerIDArrived(_ id: (id: Int64, epoch: Int16)?) {
        producerIDIsRequested = false
        guard let id else { return }
        producerID = id.id
        producerEpoch = id.epoch
    }

    // MARK: Expiry

    private mutating func expire(_ key: PartitionKey, now: NIODeadline, into result: inout DrainResult) {
        let limit = configuration.deliveryTimeout
        var gone: [ProducerBatch] = []
        func isLate(_ batch: ProducerBatch) -> Bool { batch.created + limit <= now }
        let state = topics[key.topic].partitions[key.partition]
        if state.inFlight == 0 {
            while let batch = topics[key.topic].partitions[key.partition].unacknowledged.first, isLate(batch) {
                topics[key.topic].partitions[key.partition].unacknowledged.removeFirst()
                // Whether it was written is not known, so the numbering cannot go on behind it.
                topics[key.topic].partitions[key.partition].needsNewProducerID = configuration.isIdempotent
                gone.append(batch)
            }
        }
        if topics[key.topic].partitions[key.partition].unacknowledged.isEmpty {
            while let batch = topics[key.topic].partitions[key.partition].queue.first, isLate(batch) {
                gone.append(topics[key.topic].partitions[key.partition].queue.removeFirst())
            }
        }
        for batch in gone {
            released(batch)
            let seconds = Double(limit.nanoseconds) / 1e9
            result.expired.append(
                (
                    batch,
                    ClientError(
                        .deliveryTimeout,
                        "\(batch.recordCount) records for \(batch.topic)-\(batch.partition) were not acknowledged within \(seconds) s (attempts: \(batch.attempts)); is the broker reachable?"
                    )
                )
            )
        }
    }
}
