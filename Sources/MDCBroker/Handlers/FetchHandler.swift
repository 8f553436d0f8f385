// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix
import Synchronization

/// Fetch, versions 4–18: long polls, incremental sessions (KIP-227), topic ids (13+), epoch checks (KIP-320).
struct FetchHandler: Sendable {
    let services: BrokerServices

    func handle(_ context: RequestContext) {
        do throws(ProtocolError) {
            try serve(context, try FetchRequestView(context.takeBody(), version: context.version))
        } catch {
            context.closeConnection("malformed Fetch request: \(error)")
        }
    }

    private func serve(_ context: RequestContext, _ view: FetchRequestView) throws(ProtocolError) {
        let byID = view.version >= 13
        let targets = try Self.targets(of: view)
        let verdict = services.fetchSessions.withLock { sessions in
            var random = SystemRandomNumberGenerator()
            return sessions.begin(
                sessionID: view.sessionID,
                epoch: view.sessionEpoch,
                byID: byID,
                targets: targets,
                forgotten: Self.forgotten(of: view),
                now: mdc_monotonic_ns(),
                random: &random
            )
        }
        let replica =
            view.replicaID >= 0 ? FetchingReplica(node: view.replicaID, brokerEpoch: view.replicaEpoch) : nil
        let readCommitted = view.isolationLevel == 1
        var toRead = targets
        var watch: FetchSessionWatch?
        switch verdict {
        case .failed(let code): return answerError(context, code)
        case .sessionless, .created: break
        case .incremental(let id) where replica != nil:
            // Each fetch tells how far the follower is, in all partitions.
            toRead = services.fetchSessions.withLock { $0.targets(of: id) }
        case .incremental(let id):
            (toRead, watch) = services.fetchSessions.withLock { $0.restless(id, readCommitted: readCommitted) }
        }
        let owed =
            replica != nil
            ? 0 : services.quotas.delay(.consumerByteRate, clientID: context.clientID, now: context.receivedAt)
        if owed > 0 { return answerThrottled(context, verdict, owed) }
        let live = services.live
        var parameters = FetchParameters(
            maxBytes: min(Int(max(0, view.maxBytes)), live.fetchMaxBytes),
            minBytes: Int(view.minBytes),
            readCommitted: readCommitted,
            copyMaxBytes: live.fetchCopyMaxBytes,
            replica: replica
        )
        if replica != nil { parameters.throttle = services.replicas?.throttle }
        if replica == nil && view.version >= 11 && services.replicas != nil { allowFollowers(view, &parameters) }
        let reader = FetchReader(registry: services.partitions, parameters: parameters)
        let refused = reader.noteProgress(toRead)
        var outcome = reader.read(toRead, on: context.connection.worker)
        if !refused.isEmpty { outcome.refuse(refused) }
        if outcome.bytes >= reader.parameters.minBytes || outcome.isUrgent || view.maxWaitMs <= 0
            || (toRead.isEmpty && watch == nil)
        {
            answer(context, verdict, outcome)
        } else {
            let again = again(verdict, toRead, isFollower: replica != nil, readCommitted: readCommitted)
            DelayedFetch(context: context, targets: again, watch: watch, reader: reader) { outcome in
                self.answer(context, verdict, outcome)
            }.start(outcome, maxWaitMilliseconds: view.maxWaitMs)
        }
    }

    /// A consumer that names its rack is told of a follower there, and may read from it (KIP-392).
    private func allowFollowers(_ view: FetchRequestView, _ parameters: inout FetchParameters) {
        guard let rack = view.rackID.string, !rack.isEmpty else { return }
        parameters.mayReadFollowers = true
        parameters.preferredReplica = { [services] partition, offset in
            services.preferredReplica(partition, rack: rack, offset: offset)
        }
    }

    /// What a waiting fetch reads when it is woken: of a consumer's session, what has changed.
    private func again(
        _ verdict: FetchSessionCache.Verdict,
        _ targets: [FetchTarget],
        isFollower: Bool,
        readCommitted: Bool
    ) -> @Sendable () -> [FetchTarget] {
        guard !isFollower, case .incremental(let id) = verdict else { return { targets } }
        let services = services
        return { services.fetchSessions.withLock { $0.restless(id, readCommitted: readCommitted).targets } }
    }

    static func targets(of view: FetchRequestView) throws(ProtocolError) -> [FetchTarget] {
        var targets: [FetchTarget] = []
        targets.reserveCapacity(view.partitionCount)
        var topic: FetchTopic?
        var ordinal = -1
        for partition in view.partitions {
            if partition.topic.ordinal != ordinal {
                ordinal = partition.topic.ordinal
                topic = FetchTopic(
                    name: partition.topic.name.string ?? "",
                    id: partition.topic.id,
                    isByID: view.version >= 13
                )
            }
            guard let topic else { continue }
            targets.append(
                FetchTarget(
                    topic: topic,
                    index: partition.index,
                    fetchOffset: partition.fetchOffset,
                    maxBytes: partition.maxBytes,
                    currentLeaderEpoch: partition.currentLeaderEpoch,
                    lastFetchedEpoch: partition.lastFetchedEpoch,
                    logStartOffset: partition.logStartOffset
                )
            )
        }
        return targets
    }

    static func forgotten(of view: FetchRequestView) -> [FetchKey] {
        view.forgottenPartitions.map {
            FetchKey(name: $0.topic.name.string ?? "", id: $0.topic.id, index: $0.index)
        }
    }

    // MARK: Answering

    private func answerError(_ context: RequestContext, _ code: ErrorCode) {
        context.connection.worker.metrics.failed(.fetch, code)
        context.respond(FetchResponse(errorCode: code.rawValue))
    }

    /// Answers a client that took more than its share before: at once, with nothing.
    private func answerThrottled(_ context: RequestContext, _ verdict: FetchSessionCache.Verdict, _ owed: Int32) {
        context.throttle(owed)
        switch verdict {
        case .created(let id), .incremental(let id): context.respond(FetchResponse(sessionId: id))
        case .sessionless, .failed: context.respond(FetchResponse())
        }
    }

    /// Answers on the loop; records that are not in memory are read by the pool first.
    private func answer(_ context: RequestContext, _ verdict: FetchSessionCache.Verdict, _ outcome: FetchReader.Outcome)
    {
        let isCold = outcome.findings.contains {
            if case .files(let read) = $0.records { !read.isResident } else { false }
        }
        guard isCold else { return send(context, verdict, outcome.findings) }
        services.blocking.submit { _ in
            var findings = outcome.findings
            for index in findings.indices {
                guard case .files(let read) = findings[index].records, !read.isResident else { continue }
                do throws(LogError) {
                    // However many clients read what is cold, at once only the pool's threads hold some of it.
                    try read.load()
                } catch {
                    findings[index].records = .none
                    findings[index].data.errorCode = error.kafkaError.rawValue
                }
            }
            self.send(context, verdict, findings)
        }
    }

    private func send(_ context: RequestContext, _ verdict: FetchSessionCache.Verdict, _ all: [FetchFinding]) {
        var findings = all
        var sessionID: Int32 = 0
        switch verdict {
        case .created(let id):
            sessionID = id
            _ = note(id, findings)
        case .incremental(let id):
            sessionID = id
            let isNews = note(id, findings)
            findings = zip(findings, isNews).filter { $0.1 }.map { $0.0 }
        case .sessionless, .failed: break
        }
        if services.quotas.limits(.consumerByteRate), findings.first?.isForFollower != true {
            let bytes = findings.reduce(0) { $0 + $1.records.length }
            context.throttle(
                services.quotas.record(
                    .consumerByteRate,
                    clientID: context.clientID,
                    Double(bytes),
                    now: mdc_monotonic_ns()
                )
            )
        }
        do throws(ProtocolError) {
            context.respond(pieces: try encode(context, sessionID, findings))
        } catch {
            context.closeConnection("a Fetch answer cannot be encoded: \(error)")
        }
    }

    private func note(_ id: Int32, _ findings: [FetchFinding]) -> [Bool] {
        let answers = findings.map { ($0.target.key, $0.answer, $0.partition) }
        return services.fetchSessions.withLock { $0.note(id, answers) }
    }

    /// What a client that asked with the wrong epoch is told of the leader, so that it need not ask for metadata (KIP-951).
    private func leaderHint(_ finding: FetchFinding, _ version: Int16) -> FetchResponse.LeaderIdAndEpoch? {
        guard version >= 16,
            [ErrorCode.fencedLeaderEpoch.rawValue, ErrorCode.notLeaderOrFollower.rawValue]
                .contains(finding.data.errorCode)
        else { return nil }
        if let partition = finding.partition {
            return .init(leaderId: partition.leader, leaderEpoch: partition.leaderEpoch.rawValue)
        }
        let topic = finding.target.topic
        return services.leader(ofName: topic.isByID ? nil : topic.name, id: topic.id, finding.target.index)
            .map { .init(leaderId: $0.node, leaderEpoch: $0.epoch) }
    }

    private func encode(
        _ context: RequestContext,
        _ sessionID: Int32,
        _ findings: [FetchFinding]
    ) throws(ProtocolError) -> [ResponsePiece] {
        // Partitions of one topic that follow one another form one entry.
        var groups: [Range<Int>] = []
        var start = 0
        while start < findings.count {
            var end = start + 1
            while end < findings.count && findings[end].target.topic === findings[start].target.topic { end += 1 }
            groups.append(start..<end)
            start = end
        }
        var writer = try FetchResponseWriter<FetchFinding.Records>(
            version: context.version,
            correlationID: context.correlationID,
            throttleTimeMs: context.throttleMilliseconds,
            sessionID: sessionID,
            topicCount: groups.count,
            capacity: 128 + findings.count * 64
        )
        var endpoints: [FetchResponse.NodeEndpoint] = []
        for group in groups {
            let topic = findings[group.lowerBound].target.topic
            try writer.beginTopic(name: topic.bytes, id: topic.id, partitionCount: group.count)
            for finding in findings[group] {
                if finding.isError {
                    context.connection.worker.metrics.failed(.fetch, ErrorCode(rawValue: finding.data.errorCode))
                }
                let length = finding.records.length
                var data = finding.data
                if let hint = leaderHint(finding, context.version) {
                    data.currentLeader = hint
                    if !endpoints.contains(where: { $0.nodeId == hint.leaderId }),
                        let (host, port, rack) = services.endpoint(of: hint.leaderId)
                    {
                        endpoints.append(.init(nodeId: hint.leaderId, host: host, port: port, rack: rack))
                    }
                }
                try writer.partition(data, records: length > 0 ? finding.records : nil, length: length)
            }
        }
        var pieces: [ResponsePiece] = []
        for piece in try writer.finish(nodeEndpoints: endpoints) {
            switch piece {
            case .bytes(let buffer), .records(.copied(let buffer), _): pieces.append(.bytes(buffer))
            case .records(.files(let read), _): pieces += read.slices.map { .file($0) }
            case .records(.none, _): break
            }
        }
        return pieces
    }
}
