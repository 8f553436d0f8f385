// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import NIOCore

extension ProducerStateMachine {
    /// What a broker, or the lack of one, said to one batch.
    enum BatchOutcome {
        case acknowledged(baseOffset: Int64, logAppendTime: Int64)
        case error(ErrorCode, String?)
        /// No answer: whether the batch was written is not known.
        case noAnswer(ClientError)
    }

    /// What to do with a batch after its answer.
    enum BatchAction {
        case succeed(ProducerBatch, baseOffset: Int64, logAppendTime: Int64)
        case fail(ProducerBatch, ClientError)
        /// The broker finds it too large: cut it and call `replace`.
        case split(ProducerBatch)
        /// It stays and is sent again. `refresh`: ask for metadata first.
        case `repeat`(refresh: Bool)
    }

    /// A request to `node` is over, answered or not.
    mutating func requestEnded(node: Int32) {
        let left = inFlightByNode[node, default: 1] - 1
        inFlightByNode[node] = left > 0 ? left : nil
    }

    /// The outcome of one batch of a request. Call for each batch in the request, then `requestEnded`.
    mutating func batchEnded(_ batch: ProducerBatch, _ outcome: BatchOutcome, now: NIODeadline) -> BatchAction {
        guard let topic = topicIndex[batch.topic] else { preconditionFailure("a batch of an unknown topic") }
        let key = PartitionKey(topic: topic, partition: Int(batch.partition))
        guard let position = topics[topic].partitions[key.partition].unacknowledged.firstIndex(where: { $0 === batch })
        else {
            // Abandoned at close.
            return .repeat(refresh: false)
        }
        topics[topic].partitions[key.partition].inFlight -= 1
        defer { settle(key) }
        switch outcome {
        case .acknowledged(let baseOffset, let logAppendTime):
            remove(at: position, key)
            topics[topic].partitions[key.partition].retryAttempts = 0
            return .succeed(batch, baseOffset: baseOffset, logAppendTime: logAppendTime)
        case .noAnswer(let error):
            if error.code == .unsupportedVersion || error.code == .closed || transaction.isHalted {
                return giveUp(batch, at: position, key, error)
            }
            return again(key, now: now, refresh: true)
        case .error(let code, let text):
            return failed(batch, at: position, key, code, text, now: now)
        }
    }

    private mutating func failed(
        _ batch: ProducerBatch,
        at position: Int,
        _ key: PartitionKey,
        _ code: ErrorCode,
        _ text: String?,
        now: NIODeadline
    ) -> BatchAction {
        switch code {
        case .duplicateSequenceNumber:
            remove(at: position, key)
            return .succeed(batch, baseOffset: -1, logAppendTime: -1)
        case _ where transaction.isHalted:
            // The transaction is given up: nothing is worth a second attempt.
            break
        case .messageTooLarge, .recordListTooLarge:
            guard batch.recordCount > 1 else { break }
            topics[key.topic].partitions[key.partition].isSettling = true
            return .split(batch)
        case .outOfOrderSequenceNumber where configuration.isIdempotent:
            // Behind a batch that failed this is what must happen; otherwise the broker lost its memory of us.
            if position > 0 || topics[key.topic].partitions[key.partition].isSettling {
                return again(key, now: now, refresh: false)
            }
            // A transaction cannot go on under another number; it is aborted.
            if configuration.isTransactional { break }
            return loseNumbering(batch, key, now: now)
        case .unknownProducerId where configuration.isIdempotent && !configuration.isTransactional,
            .invalidProducerEpoch where configuration.isIdempotent && !configuration.isTransactional,
            .producerFenced where configuration.isIdempotent && !configuration.isTransactional:
            return loseNumbering(batch, key, now: now)
        case let code where code.isRetriable:
            return again(key, now: now, refresh: Self.showsStaleMetadata(code))
        default:
            break
        }
        return giveUp(
            batch,
            at: position,
            key,
            .broker(code, "producing to \(batch.topic)-\(batch.partition)", detail: text)
        )
    }

    /// Errors after which the partition's leader should be looked up again.
    static func showsStaleMetadata(_ code: ErrorCode) -> Bool {
        switch code {
        case .notLeaderOrFollower, .leaderNotAvailable, .unknownTopicOrPartition, .unknownTopicId, .inconsistentTopicId,
            .fencedLeaderEpoch, .unknownLeaderEpoch, .replicaNotAvailable, .kafkaStorageError, .networkException,
            .offsetNotAvailable, .listenerNotFound:
            true
        default:
            false
        }
    }

    private mutating func again(_ key: PartitionKey, now: NIODeadline, refresh: Bool) -> BatchAction {
        let partition = topics[key.topic].partitions[key.partition]
        if !partition.isSettling {
            let pause = configuration.backoff.delay(attempt: partition.retryAttempts, using: &generator)
            topics[key.topic].partitions[key.partition].mutedUntil = now + pause
            topics[key.topic].partitions[key.partition].retryAttempts += 1
            topics[key.topic].partitions[key.partition].isSettling = true
        }
        return .repeat(refresh: refresh)
    }

    /// The broker does not know our numbering: the batch was not written; a fresh producer id starts at 0.
    private mutating func loseNumbering(_ batch: ProducerBatch, _ key: PartitionKey, now: NIODeadline) -> BatchAction {
        let partition = topics[key.topic].partitions[key.partition]
        // A batch of an older numbering says nothing about the present one.
        if batch.producerID == partition.producerID, batch.producerEpoch == partition.producerEpoch {
            topics[key.topic].partitions[key.partition].needsNewProducerID = true
        }
        return again(key, now: now, refresh: false)
    }

    private mutating func giveUp(
        _ batch: ProducerBatch,
        at position: Int,
        _ key: PartitionKey,
        _ error: ClientError
    ) -> BatchAction {
        let isLast = position == topics[key.topic].partitions[key.partition].unacknowledged.count - 1
        remove(at: position, key)
        if configuration.isIdempotent {
            if isLast, case .broker = error.code {
                // Refused, so not written, and nothing was numbered behind it: its numbers are free again.
                topics[key.topic].partitions[key.partition].nextSequence = batch.baseSequence
            } else if isLast, error.code == .recordTooLarge {
                topics[key.topic].partitions[key.partition].nextSequence = batch.baseSequence
            } else {
                // Batches behind it are refused as out of order: number them anew once all answers are there.
                topics[key.topic].partitions[key.partition].needsNewProducerID = true
                topics[key.topic].partitions[key.partition].isSettling = true
            }
        }
        return .fail(batch, error)
    }

    private mutating func remove(at position: Int, _ key: PartitionKey) {
        let batch = topics[key.topic].partitions[key.partition].unacknowledged.remove(at: position)
        if position < topics[key.topic].partitions[key.partition].sent {
            topics[key.topic].partitions[key.partition].sent -= 1
        }
        released(batch)
    }

    /// Once every answer is there, the batches that are left go out again from the first.
    private mutating func settle(_ key: PartitionKey) {
        guard topics[key.topic].partitions[key.partition].inFlight == 0 else { return }
        if topics[key.topic].partitions[key.partition].isSettling {
            topics[key.topic].partitions[key.partition].isSettling = false
            topics[key.topic].partitions[key.partition].sent = 0
        }
    }

    /// The parts of a batch that was too large take its place, with its sequence numbers.
    mutating func replace(_ batch: ProducerBatch, with parts: [ProducerBatch]) {
        guard let topic = topicIndex[batch.topic] else { preconditionFailure("a batch of an unknown topic") }
        let partition = Int(batch.partition)
        guard let position = topics[topic].partitions[partition].unacknowledged.firstIndex(where: { $0 === batch })
        else { return }
        topics[topic].partitions[partition].unacknowledged.replaceSubrange(position...position, with: parts)
        incompleteByGeneration[batch.generation, default: 0] += parts.count - 1
    }

    /// A batch that could not be cut fails after all.
    mutating func abandon(_ batch: ProducerBatch) {
        guard let topic = topicIndex[batch.topic] else { return }
        let key = PartitionKey(topic: topic, partition: Int(batch.partition))
        guard let position = topics[topic].partitions[key.partition].unacknowledged.firstIndex(where: { $0 === batch })
        else { return }
        remove(at: position, key)
        topics[topic].partitions[key.partition].needsNewProducerID = configuration.isIdempotent
    }
}
