// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Offsets that are committed inside transactions.
extension GroupCoordinatorShard {
    mutating func commitTransactionalOffsets(
        _ request: TxnOffsetCommitRequest,
        _ origin: RequestOrigin,
        _ ticket: UInt64,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        var error = transactionalCommitError(request)
        // The transaction ended between the question whether it is under way and now.
        if !tickets.giveBack(ticket, of: request.producerId) && error == .none { error = .invalidTxnState }
        var response = TxnOffsetCommitResponse()
        for topic in request.topics {
            var answered = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic(name: topic.name)
            for partition in topic.partitions {
                let metadata = partition.committedMetadata ?? ""
                var code = error
                if code == .none && metadata.utf8.count > settings.maxOffsetMetadataBytes {
                    code = .offsetMetadataTooLarge
                }
                answered.partitions.append(.init(partitionIndex: partition.partitionIndex, errorCode: code.rawValue))
                guard code == .none else { continue }
                let change = OffsetChange(
                    group: request.groupId,
                    topic: topic.name,
                    partition: partition.partitionIndex,
                    value: CommittedOffset(
                        offset: partition.committedOffset,
                        leaderEpoch: partition.committedLeaderEpoch,
                        metadata: metadata,
                        commitTimestamp: now.wall
                    )
                )
                out.records.append(change.record)
                out.offsetChanges.append(change)
            }
            response.topics.append(answered)
        }
        if !out.records.isEmpty {
            out.batch = .transactional(ProducerIdentity(id: request.producerId, epoch: request.producerEpoch))
        }
        out.answer(token, .commitTransactionalOffsets(response))
    }

    /// Whether the group takes the commit. Clients before version 3 name no member: they are taken at their word, and
    /// fenced by their producer's epoch alone (KIP-447).
    private func transactionalCommitError(_ request: TxnOffsetCommitRequest) -> ErrorCode {
        let namesMember =
            request.generationId >= 0 || !request.memberId.isEmpty || request.groupInstanceId != nil
        if let group = consumerGroups[request.groupId] {
            if !namesMember { return .none }
            let code = group.commitError(memberID: request.memberId, epoch: request.generationId, version: 9)
            // This API has no word for a stale epoch.
            return code == .staleMemberEpoch ? .illegalGeneration : code
        }
        guard let group = classicGroups[request.groupId] else {
            return request.generationId < 0 ? .none : .illegalGeneration
        }
        if request.generationId < 0 && group.state == .empty || !namesMember { return .none }
        let error = group.validate(request.memberId, request.groupInstanceId)
        if error != .none { return error }
        return request.generationId == group.generation ? .none : .illegalGeneration
    }

    /// A transaction ends: what it committed comes into force, or vanishes. The marker is written in any case, so that the
    /// partition's log knows that the transaction is over.
    mutating func endTransaction(
        _ marker: TransactionEndMarker,
        _ token: RequestToken,
        _ out: inout CoordinatorResult
    ) {
        tickets.void(of: marker.producer.id)
        out.batch = .marker(marker)
        out.answer(token, .done(.none))
    }
}

extension GroupCoordinatorService {
    /// Writes the end of a transaction to a partition of `__consumer_offsets`; `done` is called when it is committed.
    func endTransaction(
        _ marker: TransactionEndMarker,
        partition: Int32,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        submit(toPartition: partition, .endTransaction(marker)) { outcome in
            switch outcome {
            case .response(.done(let code)), .failed(let code): done(code)
            default: done(.unknownServerError)
            }
        }
    }
}
