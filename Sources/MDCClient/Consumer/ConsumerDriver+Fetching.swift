// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Fetching, on the event loop.
extension ConsumerDriver {
    /// Starts every lookup and fetch that is due.
    func runFetches() {
        guard !core.isClosed else { return }
        let now = NIODeadline.now()
        let work = shared.withLock { shared in
            shared.fetchIsScheduled = false
            let plan = shared.fetch.plan(now: now) { core.metadata.leader(of: $0) }
            return (
                plan: plan, lookups: shared.fetch.takeLookups(now: now),
                validations: shared.fetch.takeValidations(now: now), unmute: shared.fetch.nextUnmute(now: now)
            )
        }
        if work.plan.lacksLeader { core.refreshMetadata() }
        for plan in work.plan.plans { fetch(plan) }
        if !work.lookups.isEmpty { lookUp(work.lookups) }
        if !work.validations.isEmpty { validate(work.validations) }
        fetchTimer?.cancel()
        fetchTimer = work.unmute.map { time in
            eventLoop.assumeIsolated().scheduleTask(deadline: time) { self.runFetches() }
        }
    }

    // MARK: Fetch requests

    private func fetch(_ plan: FetchState.Plan) {
        let topics = Dictionary(grouping: plan.partitions) { $0.partition.topic }.map { topic, partitions in
            FetchRequest.FetchTopic(
                topic: topic,
                topicId: core.metadata.topicID(topic),
                partitions: partitions.map {
                    FetchRequest.FetchPartition(
                        partition: $0.partition.partition.rawValue,
                        currentLeaderEpoch: $0.leaderEpoch,
                        fetchOffset: $0.offset.rawValue,
                        partitionMaxBytes: Int32(clamping: $0.maxBytes)
                    )
                }
            )
        }
        // Since version 13 topics go by their ids alone.
        let newest: Int16 = topics.contains { $0.topicId == .zero } ? 12 : 17
        let configuration = self.configuration
        // Where partitions wait for room in the buffer, a long poll for the others would keep them waiting.
        let wait = plan.isBehind ? min(configuration.fetchMaxWait, .milliseconds(20)) : configuration.fetchMaxWait
        let maxWait = Int32(clamping: TimeAmount(wait).nanoseconds / 1_000_000)
        core.send(
            FetchRequest.self,
            to: .broker(plan.node),
            purpose: .fetch(slot: plan.slot),
            versions: 4...newest,
            timeout: configuration.client.requestTimeout + configuration.fetchMaxWait
        ) { version in
            FetchRequest(
                maxWaitMs: maxWait,
                minBytes: Int32(clamping: configuration.fetchMinBytes),
                maxBytes: Int32(clamping: configuration.fetchMaxBytes),
                isolationLevel: configuration.isolation.rawValue,
                topics: topics,
                rackId: version >= 11 ? configuration.rack : ""
            )
        }.assumeIsolated().whenComplete { result in
            self.fetched(plan, result)
        }
    }

    private func fetched(_ plan: FetchState.Plan, _ result: Result<FetchResponse, any Error>) {
        let now = NIODeadline.now()
        var refresh = false
        var isReady = false
        switch result {
        case .success(let response) where response.errorCode == 0:
            let answers = answers(response)
            metrics.fetched(bytes: answers.values.reduce(0) { $0 + ($1.records?.readableBytes ?? 0) })
            shared.withLock { shared in
                for planned in plan.partitions {
                    guard let answer = answers[planned.partition] else {
                        shared.fetch.unanswered(planned, now: now)
                        continue
                    }
                    switch shared.fetch.answered(planned, answer, now: now) {
                    case .nothing: break
                    case .ready: isReady = true
                    case .refresh: refresh = true
                    }
                }
                shared.fetch.fetchEnded(plan)
            }
        case .success(let response):
            let error = ErrorCode(rawValue: response.errorCode)
            logger.debug("a fetch failed", metadata: [LogKey.error: "\(error)"])
            refresh = true
            unanswered(plan, now: now)
        case .failure(let error):
            refresh = true
            unanswered(plan, now: now)
            if let error = error as? ClientError, error.code == .unsupportedVersion || error.code == .invalidState {
                shared.withLock { $0.fetch.note(error) }
                isReady = true
            }
        }
        if isReady { wakePoll() }
        if refresh { core.refreshMetadata() }
        runFetches()
    }

    private func unanswered(_ plan: FetchState.Plan, now: NIODeadline) {
        shared.withLock { shared in
            for planned in plan.partitions { shared.fetch.unanswered(planned, now: now) }
            shared.fetch.fetchEnded(plan)
        }
    }

    private func answers(_ response: FetchResponse) -> [TopicPartition: FetchState.Answer] {
        var answers: [TopicPartition: FetchState.Answer] = [:]
        for topic in response.responses {
            let name = topic.topic.isEmpty ? core.metadata.topicName(topic.topicId) ?? "" : topic.topic
            for partition in topic.partitions {
                let key = TopicPartition(topic: name, partition: PartitionID(partition.partitionIndex))
                answers[key] = FetchState.Answer(
                    error: ErrorCode(rawValue: partition.errorCode),
                    highWatermark: partition.highWatermark,
                    lastStableOffset: partition.lastStableOffset,
                    preferredReplica: partition.preferredReadReplica,
                    aborted: (partition.abortedTransactions ?? []).map { ($0.producerId, $0.firstOffset) },
                    records: partition.records
                )
                if partition.errorCode != 0, partition.currentLeader.leaderId >= 0 {
                    let endpoint = response.nodeEndpoints.first { $0.nodeId == partition.currentLeader.leaderId }
                    _ = core.metadata.applyLeaderHint(
                        key,
                        leader: partition.currentLeader.leaderId,
                        leaderEpoch: partition.currentLeader.leaderEpoch,
                        endpoint: endpoint.map {
                            MetadataCache.Broker(
                                address: BrokerAddress(host: $0.host, port: Int($0.port)),
                                rack: $0.rack
                            )
                        }
                    )
                }
            }
        }
        return answers
    }

    // MARK: Positions

    /// Looks up where partitions begin: committed offsets in one request, the others by time.
    private func lookUp(_ lookups: [FetchState.Lookup]) {
        Task {
            let committed = lookups.filter { $0.start == .committed }
            if !committed.isEmpty { await lookUpCommitted(committed) }
            var byTime: [(FetchState.Lookup, Int64)] = []
            for lookup in lookups {
                guard case .reset(let reset) = lookup.start else { continue }
                byTime.append(
                    (lookup, reset == .latest ? ListOffsetsTimestamp.latest : ListOffsetsTimestamp.earliest)
                )
            }
            if !byTime.isEmpty { await lookUpByTime(byTime) }
            wakePoll()
            scheduleFetches()
        }
    }

    private func lookUpCommitted(_ lookups: [FetchState.Lookup]) async {
        do {
            let offsets = try await core.fetchOffsets(
                group: configuration.groupID ?? "",
                partitions: lookups.map(\.partition),
                until: core.apiDeadline
            )
            shared.withLock { shared in
                for lookup in lookups {
                    if let offset = offsets[lookup.partition] {
                        shared.fetch.found(lookup, offset: offset.offset, epoch: offset.leaderEpoch.rawValue)
                    } else {
                        shared.fetch.notCommitted(lookup)
                    }
                }
            }
        } catch {
            failed(lookups, error)
        }
    }

    private func lookUpByTime(_ lookups: [(FetchState.Lookup, Int64)]) async {
        do {
            let offsets = try await listOffsets(lookups.map { ($0.0.partition, $0.1) })
            shared.withLock { shared in
                for (lookup, _) in lookups {
                    if let found = offsets[lookup.partition] {
                        shared.fetch.found(lookup, offset: found.offset, epoch: -1)
                    }
                }
            }
        } catch {
            failed(lookups.map(\.0), error)
        }
    }

    private func failed(_ lookups: [FetchState.Lookup], _ error: any Error) {
        let failure = error as? ClientError ?? ClientError(.connection, "offsets cannot be looked up", cause: error)
        if failure.code == .closed { return }
        shared.withLock { shared in
            for lookup in lookups { shared.fetch.lookupFailed(lookup, failure, now: .now()) }
        }
    }

    // MARK: Validation

    /// Asks the new leaders whether what was read is still there (KIP-320).
    private func validate(_ validations: [FetchState.Validation]) {
        for validation in validations {
            guard let leader = core.metadata.leader(of: validation.partition)?.broker else {
                shared.withLock { $0.fetch.validationFailed(validation, now: .now()) }
                core.refreshMetadata()
                continue
            }
            core.send(OffsetForLeaderEpochRequest.self, to: .broker(leader), versions: 2...4) { version in
                OffsetForLeaderEpochRequest(
                    replicaId: version >= 3 ? -1 : -2,
                    topics: [
                        .init(
                            topic: validation.partition.topic,
                            partitions: [
                                .init(
                                    partition: validation.partition.partition.rawValue,
                                    currentLeaderEpoch: validation.leaderEpoch,
                                    leaderEpoch: validation.fetchEpoch
                                )
                            ]
                        )
                    ]
                )
            }.assumeIsolated().whenComplete { result in
                self.validated(validation, result)
            }
        }
    }

    private func validated(
        _ validation: FetchState.Validation,
        _ result: Result<OffsetForLeaderEpochResponse, any Error>
    ) {
        var cutTo: Offset?
        switch result {
        case .failure(let error as ClientError) where error.code == .unsupportedVersion:
            // A broker without this request cannot tell.
            cutTo = shared.withLock { $0.fetch.validated(validation, endOffset: nil) }
        case .success(let response):
            if let answer = response.topics.first?.partitions.first, answer.errorCode == 0 {
                let end = answer.endOffset >= 0 ? Offset(answer.endOffset) : nil
                cutTo = shared.withLock { $0.fetch.validated(validation, endOffset: end) }
            } else {
                shared.withLock { $0.fetch.validationFailed(validation, now: .now()) }
                core.refreshMetadata()
            }
        case .failure:
            shared.withLock { $0.fetch.validationFailed(validation, now: .now()) }
            core.refreshMetadata()
        }
        if let cutTo {
            logger.warning(
                "the log of a partition was cut behind the consumer, which goes on where it ends",
                metadata: [LogKey.partition: "\(validation.partition)", LogKey.offset: "\(cutTo)"]
            )
        }
        runFetches()
    }
}
