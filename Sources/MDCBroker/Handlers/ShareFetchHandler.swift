// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Acknowledgements of one request on their way to the share partitions; tells when all are answered.
final class ShareAcknowledgements: Sendable {
    private struct State {
        var codes: [ShareTarget: ErrorCode] = [:]
        var missing = 1
    }

    private let state = Mutex(State())
    private let done: @Sendable ([ShareTarget: ErrorCode]) -> Void

    /// `done` gets the outcome of each partition that something was said of, from any thread.
    init(_ done: @escaping @Sendable ([ShareTarget: ErrorCode]) -> Void) { self.done = done }

    /// Hands the entries of one partition on.
    func take(
        _ entries: [ShareAcknowledgement],
        of target: ShareTarget,
        by member: ShareMemberKey,
        _ manager: SharePartitionManager
    ) {
        state.withLock { $0.missing += 1 }
        switch manager.share(member.groupID, target) {
        case .failure(let code): put(code, target)
        case .success(let share):
            share.acknowledge(entries, by: member.memberID) { self.put($0, target) }
        }
    }

    func refuse(_ code: ErrorCode, of target: ShareTarget) {
        state.withLock { $0.missing += 1 }
        put(code, target)
    }

    /// All were handed on.
    func close() { put(nil, nil) }

    private func put(_ code: ErrorCode?, _ target: ShareTarget?) {
        let complete: [ShareTarget: ErrorCode]? = state.withLock { state in
            if let code, let target { state.codes[target] = code }
            state.missing -= 1
            return state.missing == 0 ? state.codes : nil
        }
        if let complete { done(complete) }
    }
}

/// ShareFetch, versions 1–2: acknowledges what a member has and hands it more.
struct ShareFetchHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ShareFetchRequest, _ context: RequestContext) {
        guard let groupID = request.groupId, !groupID.isEmpty, let memberID = request.memberId, !memberID.isEmpty else {
            return refuse(context, .invalidRequest, "name the group and the member")
        }
        let member = ShareMemberKey(groupID: groupID, memberID: memberID)
        let hasWords = request.topics.contains { $0.partitions.contains { !$0.acknowledgementBatches.isEmpty } }
        if request.shareSessionEpoch == 0 && hasWords {
            return refuse(context, .invalidRequest, "a session cannot begin with acknowledgements")
        }
        let isFetchless = request.maxBytes == 0 && request.maxRecords == 0 && request.minBytes == 0
        if request.isRenewAck && !(isFetchless && request.maxWaitMs == 0) {
            return refuse(context, .invalidRequest, "a request that renews locks fetches nothing")
        }
        let verdict = services.shares.sessions.withLock { sessions in
            sessions.fetch(
                member,
                epoch: request.shareSessionEpoch,
                connection: context.connection.id,
                targets: request.topics.flatMap { topic in
                    topic.partitions.map { ShareTarget(topic.topicId, $0.partitionIndex) }
                },
                forgotten: request.forgottenTopicsData.flatMap { topic in
                    topic.partitions.map { ShareTarget(topic.topicId, $0) }
                }
            )
        }
        if case .failed(let code) = verdict { return refuse(context, code, nil) }
        serve(request, member, verdict, context)
    }

    private func serve(
        _ request: ShareFetchRequest,
        _ member: ShareMemberKey,
        _ verdict: ShareSessionCache.Verdict,
        _ context: RequestContext
    ) {
        let settings = services.shares.settings(member.groupID)
        let targets =
            verdict == .final || request.isRenewAck
            ? [] : services.shares.sessions.withLock { $0.targets(of: member) }
        let joint = Joint(context, lockTimeout: settings.recordLockDuration, all: verdict == .created ? targets : [])
        let words = ShareAcknowledgements { joint.acknowledged($0) }
        for topic in request.topics {
            for partition in topic.partitions where !partition.acknowledgementBatches.isEmpty {
                let entries = partition.acknowledgementBatches.map {
                    ShareAcknowledgement(first: $0.firstOffset, last: $0.lastOffset, types: $0.acknowledgeTypes)
                }
                let target = ShareTarget(topic.topicId, partition.partitionIndex)
                if !request.isRenewAck && entries.contains(where: { $0.types.contains(4) }) {
                    words.refuse(.invalidRequest, of: target)
                } else {
                    words.take(entries, of: target, by: member, services.shares)
                }
            }
        }
        words.close()
        if verdict == .final { services.shares.sessionEnded(member, isFarewell: true) }
        DelayedShareFetch(
            context: context,
            services: services,
            parameters: .init(
                groupID: member.groupID,
                memberID: member.memberID,
                maxRecords: Int(request.maxRecords),
                maxBytes: min(Int(max(0, request.maxBytes)), services.configuration.fetchMaxBytes),
                batchSize: request.batchSize > 0 ? Int(request.batchSize) : Int.max,
                isStrict: request.shareAcquireMode == 1,
                maxWait: Int64(request.maxWaitMs)
            ),
            targets: targets
        ) { joint.fetched($0) }.start()
    }

    private func refuse(_ context: RequestContext, _ code: ErrorCode, _ message: String?) {
        context.connection.worker.metrics.failed(.shareFetch, code)
        context.respond(ShareFetchResponse(errorCode: code.rawValue, errorMessage: message))
    }

    /// Joins both halves of a ShareFetch: it is answered when what it acknowledged is stored and its fetch has ended.
    private final class Joint: Sendable {
        private struct State {
            var codes: [ShareTarget: ErrorCode]?
            var found: [ShareTarget: SharePartition.Finding]?
        }

        private let context: RequestContext
        private let lockTimeout: Int32
        /// The partitions to name even where there is nothing to say of them.
        private let all: [ShareTarget]
        private let state = Mutex(State())

        init(_ context: RequestContext, lockTimeout: Int32, all: [ShareTarget]) {
            self.context = context
            self.lockTimeout = lockTimeout
            self.all = all
        }

        func acknowledged(_ codes: [ShareTarget: ErrorCode]) { finish { $0.codes = codes } }
        func fetched(_ found: [ShareTarget: SharePartition.Finding]) { finish { $0.found = found } }

        private func finish(_ change: (inout State) -> Void) {
            let whole: ([ShareTarget: ErrorCode], [ShareTarget: SharePartition.Finding])? = state.withLock { state in
                change(&state)
                guard let codes = state.codes, let found = state.found else { return nil }
                return (codes, found)
            }
            if let whole { context.respond(answer(whole.0, whole.1)) }
        }

        private func answer(
            _ codes: [ShareTarget: ErrorCode],
            _ found: [ShareTarget: SharePartition.Finding]
        ) -> ShareFetchResponse {
            var names = Set(all)
            names.formUnion(codes.keys)
            for (target, finding) in found where !finding.acquired.isEmpty || finding.code != .none {
                names.insert(target)
            }
            var response = ShareFetchResponse(acquisitionLockTimeoutMs: lockTimeout)
            let ordered = names.sorted { ($0.topicID, $0.partition) < ($1.topicID, $1.partition) }
            for target in ordered {
                let finding = found[target] ?? SharePartition.Finding()
                let code = codes[target] ?? .none
                for failure in [code, finding.code] where failure != .none {
                    context.connection.worker.metrics.failed(.shareFetch, failure)
                }
                let data = ShareFetchResponse.PartitionData(
                    partitionIndex: target.partition,
                    errorCode: finding.code.rawValue,
                    acknowledgeErrorCode: code.rawValue,
                    records: finding.records,
                    acquiredRecords: finding.acquired.map {
                        .init(firstOffset: $0.first, lastOffset: $0.last, deliveryCount: $0.deliveryCount)
                    }
                )
                if response.responses.last?.topicId == target.topicID {
                    response.responses[response.responses.count - 1].partitions.append(data)
                } else {
                    response.responses.append(.init(topicId: target.topicID, partitions: [data]))
                }
            }
            return response
        }
    }
}

/// ShareAcknowledge, versions 1–2.
struct ShareAcknowledgeHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ShareAcknowledgeRequest, _ context: RequestContext) {
        guard let groupID = request.groupId, !groupID.isEmpty, let memberID = request.memberId, !memberID.isEmpty else {
            return refuse(context, .invalidRequest, "name the group and the member")
        }
        let member = ShareMemberKey(groupID: groupID, memberID: memberID)
        let verdict = services.shares.sessions.withLock { $0.acknowledge(member, epoch: request.shareSessionEpoch) }
        if case .failed(let code) = verdict { return refuse(context, code, nil) }
        let lockTimeout = services.shares.settings(groupID).recordLockDuration
        let words = ShareAcknowledgements { codes in
            var response = ShareAcknowledgeResponse(acquisitionLockTimeoutMs: lockTimeout)
            for topic in request.topics {
                response.responses.append(
                    .init(
                        topicId: topic.topicId,
                        partitions: topic.partitions.map { partition in
                            let code = codes[ShareTarget(topic.topicId, partition.partitionIndex)] ?? .none
                            if code != .none { context.connection.worker.metrics.failed(.shareAcknowledge, code) }
                            return .init(partitionIndex: partition.partitionIndex, errorCode: code.rawValue)
                        }
                    )
                )
            }
            context.respond(response)
        }
        for topic in request.topics {
            for partition in topic.partitions where !partition.acknowledgementBatches.isEmpty {
                let entries = partition.acknowledgementBatches.map {
                    ShareAcknowledgement(first: $0.firstOffset, last: $0.lastOffset, types: $0.acknowledgeTypes)
                }
                let target = ShareTarget(topic.topicId, partition.partitionIndex)
                if !request.isRenewAck && entries.contains(where: { $0.types.contains(4) }) {
                    words.refuse(.invalidRequest, of: target)
                } else {
                    words.take(entries, of: target, by: member, services.shares)
                }
            }
        }
        words.close()
        if verdict == .final { services.shares.sessionEnded(member, isFarewell: true) }
    }

    private func refuse(_ context: RequestContext, _ code: ErrorCode, _ message: String?) {
        context.connection.worker.metrics.failed(.shareAcknowledge, code)
        context.respond(ShareAcknowledgeResponse(errorCode: code.rawValue, errorMessage: message))
    }
}
