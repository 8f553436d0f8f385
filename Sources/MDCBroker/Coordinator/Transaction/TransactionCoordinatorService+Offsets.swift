// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// TxnOffsetCommit: the group's coordinator keeps the offsets, this one vouches for the transaction.
extension TransactionCoordinatorService {
    /// TxnOffsetCommit, versions 0–5. From version 5 on the group joins the transaction by this request.
    func commitOffsets(
        _ request: TxnOffsetCommitRequest,
        _ origin: RequestOrigin,
        groups: GroupCoordinatorService,
        _ reply: @escaping Reply<TxnOffsetCommitResponse>
    ) {
        var known = request
        known.topics = []
        var refused: [TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic] = []
        let image = access.topicImage()
        for topic in request.topics {
            if image.byName[topic.name] != nil {
                known.topics.append(topic)
            } else {
                refused.append(Self.refused(topic, .unknownTopicOrPartition))
            }
        }
        let (unknown, asked) = (refused, known)
        let refuse: @Sendable (ErrorCode) -> Void = { code in
            let told = Self.told(code, origin.apiVersion)
            reply(TxnOffsetCommitResponse(topics: asked.topics.map { Self.refused($0, told) } + unknown))
        }
        if request.groupId.isEmpty { return refuse(.invalidGroupId) }
        if request.transactionalId.isEmpty { return refuse(.invalidRequest) }
        guard !asked.topics.isEmpty else { return reply(TxnOffsetCommitResponse(topics: unknown)) }
        guard let partition = offsetsPartition(of: request.groupId) else { return refuse(.notCoordinator) }
        let producer = ProducerIdentity(id: request.producerId, epoch: request.producerEpoch)
        groups.submit(request.groupId, .beginTransactionalCommit(producer)) { [self] outcome in
            guard case .response(.transactionalCommitBegun(let ticket)) = outcome else {
                if case .failed(let code) = outcome { return refuse(code) }
                return refuse(.unknownServerError)
            }
            admit([partition], to: request.transactionalId, producer, adds: origin.apiVersion >= 5) { code in
                guard code == .none else {
                    groups.submit(request.groupId, .dropTransactionalCommit(producer, ticket: ticket)) { _ in }
                    return refuse(code)
                }
                groups.submit(
                    request.groupId,
                    .commitTransactionalOffsets(asked, origin, ticket: ticket)
                ) { outcome in
                    switch outcome {
                    case .response(.commitTransactionalOffsets(var response)):
                        response.topics += unknown
                        reply(response)
                    case .failed(let code): refuse(code)
                    default: refuse(.unknownServerError)
                    }
                }
            }
        }
    }

    /// What a client of some version makes sense of.
    private static func told(_ code: ErrorCode, _ version: Int16) -> ErrorCode {
        switch code {
        // Clients older than 2.0 know no loading.
        case .coordinatorLoadInProgress where version < 2: .coordinatorNotAvailable
        case .transactionAbortable where version < 4: .invalidTxnState
        default: code
        }
    }

    private static func refused(
        _ topic: TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic,
        _ code: ErrorCode
    ) -> TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic {
        .init(
            name: topic.name,
            partitions: topic.partitions.map { .init(partitionIndex: $0.partitionIndex, errorCode: code.rawValue) }
        )
    }
}
