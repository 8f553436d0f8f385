// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOPosix

extension BrokerServices {
    /// A partition by name, for requests that check the client's leader epoch (KIP-320).
    func find(_ topic: String, _ index: Int32, currentLeaderEpoch: Int32 = -1) -> Result<Partition, Refusal> {
        let partition: Partition
        switch partitions.find(name: topic, partition: index) {
        case .found(let found): partition = found
        case .noSuchTopic, .noSuchPartition:
            return .failure(Refusal(code: .unknownTopicOrPartition, message: "there is no \(topic)-\(index)"))
        case .offline(let reason): return .failure(Refusal(code: .kafkaStorageError, message: reason))
        case .notLeader:
            return .failure(Refusal(code: .notLeaderOrFollower, message: "this node does not lead \(topic)-\(index)"))
        }
        if currentLeaderEpoch >= 0 && currentLeaderEpoch != partition.leaderEpoch.rawValue {
            let isOld = currentLeaderEpoch < partition.leaderEpoch.rawValue
            return .failure(
                Refusal(
                    code: isOld ? .fencedLeaderEpoch : .unknownLeaderEpoch,
                    message: "the leader epoch is \(partition.leaderEpoch)"
                )
            )
        }
        return .success(partition)
    }
}

/// ListOffsets, versions 1–11.
struct ListOffsetsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ListOffsetsRequest, _ context: RequestContext) {
        let isCheap = request.topics.allSatisfy { $0.partitions.allSatisfy { $0.timestamp < 0 && $0.timestamp != -3 } }
        if isCheap { return answer(request, context) }
        // A search by time reads batches.
        services.blocking.submit { _ in self.answer(request, context) }
    }

    private func answer(_ request: ListOffsetsRequest, _ context: RequestContext) {
        var response = ListOffsetsResponse()
        for topic in request.topics {
            response.topics.append(
                .init(
                    name: topic.name,
                    partitions: topic.partitions.map { find($0, topic.name, request.isolationLevel == 1, context) }
                )
            )
        }
        context.respond(response)
    }

    private func find(
        _ asked: ListOffsetsRequest.ListOffsetsPartition,
        _ topic: String,
        _ readCommitted: Bool,
        _ context: RequestContext
    ) -> ListOffsetsResponse.ListOffsetsPartitionResponse {
        var answer = ListOffsetsResponse.ListOffsetsPartitionResponse(partitionIndex: asked.partitionIndex)
        do throws(Refusal) {
            let partition = try services.find(
                topic,
                asked.partitionIndex,
                currentLeaderEpoch: asked.currentLeaderEpoch
            ).get()
            guard asked.timestamp != -1 || partition.isHighWatermarkKnown else {
                // Where an earlier leader may have told of more, the end is not known yet (KIP-207).
                throw Refusal(
                    code: context.version >= 5 ? .offsetNotAvailable : .leaderNotAvailable,
                    message: "the new leader does not know yet what is committed"
                )
            }
            guard let found = try look(partition, asked.timestamp, readCommitted) else { return answer }
            answer.offset = found.offset.rawValue
            answer.timestamp = found.timestamp.rawValue
            if context.version >= 4 { answer.leaderEpoch = found.leaderEpoch.rawValue }
        } catch {
            answer.errorCode = error.code.rawValue
            context.connection.worker.metrics.failed(.listOffsets, error.code)
        }
        return answer
    }

    private func look(
        _ partition: Partition,
        _ timestamp: Int64,
        _ readCommitted: Bool
    ) throws(Refusal) -> OffsetAndTimestamp? {
        let end = partition.readableEnd(readCommitted: readCommitted)
        let lookup: OffsetLookup
        switch timestamp {
        case -1:
            return OffsetAndTimestamp(offset: end, timestamp: .none, leaderEpoch: partition.leaderEpoch)
        case -2: lookup = .earliest
        case -3: lookup = .maxTimestamp
        case -4: lookup = .earliestLocal
        // Nothing was moved to another tier, nor waits to be: there is no such offset.
        case -5: return nil
        case -6:
            return OffsetAndTimestamp(
                offset: partition.log.logStartOffset,
                timestamp: .none,
                leaderEpoch: partition.leaderEpoch
            )
        case 0...: lookup = .timestamp(Timestamp(timestamp))
        default: throw Refusal(code: .unsupportedVersion, message: "the timestamp \(timestamp) has no meaning")
        }
        do throws(LogError) {
            // Consumers see nothing at or after the end of what is committed.
            guard let found = try partition.log.offset(for: lookup) else { return nil }
            return found.offset < end || timestamp == -2 || timestamp == -4 ? found : nil
        } catch {
            throw Refusal(code: error.kafkaError, message: error.message)
        }
    }
}

/// OffsetForLeaderEpoch, versions 2–4.
struct OffsetForLeaderEpochHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: OffsetForLeaderEpochRequest, _ context: RequestContext) {
        let asksForDigest = request.topics.contains { topic in
            topic.partitions.contains { !$0.unknownTaggedFields.isEmpty }
        }
        // A digest is read from the disk.
        if asksForDigest { return services.blocking.submit { _ in answer(request, context) } }
        answer(request, context)
    }

    private func answer(_ request: OffsetForLeaderEpochRequest, _ context: RequestContext) {
        var digests = 0
        var response = OffsetForLeaderEpochResponse()
        for topic in request.topics {
            var result = OffsetForLeaderEpochResponse.OffsetForLeaderTopicResult(topic: topic.topic)
            for asked in topic.partitions {
                var end = OffsetForLeaderEpochResponse.EpochEndOffset(partition: asked.partition)
                switch services.find(topic.topic, asked.partition, currentLeaderEpoch: asked.currentLeaderEpoch) {
                case .failure(let refusal): end.errorCode = refusal.code.rawValue
                case .success(let partition):
                    let (epoch, offset) = partition.log.endOffset(for: LeaderEpoch(asked.leaderEpoch))
                    end.leaderEpoch = epoch.rawValue
                    end.endOffset = epoch == .unknown ? -1 : offset.rawValue
                    // One a request: what a request costs is bounded.
                    if digests == 0, let digest = digest(asked, partition) {
                        digests += 1
                        end.unknownTaggedFields = [UnknownTaggedField(tag: LogDigest.tag, bytes: digest.bytes)]
                    }
                }
                result.partitions.append(end)
            }
            response.topics.append(result)
        }
        context.respond(response)
    }

    /// The digest of a stretch, where a follower asks for it.
    private func digest(
        _ asked: OffsetForLeaderEpochRequest.OffsetForLeaderPartition,
        _ partition: Partition
    ) -> LogDigest? {
        guard let field = asked.unknownTaggedFields.first(where: { $0.tag == LogDigest.tag }),
            let (from, end) = LogDigest.question(field.bytes), end <= partition.log.logEndOffset
        else { return nil }
        return LogDigest.of(partition.log, from: from, upTo: end)
    }
}

/// DeleteRecords, versions 0–2. Answered when all replicas in sync begin there too: else the log's start would go back with the
/// next leader.
struct DeleteRecordsHandler: Sendable {
    typealias Result = DeleteRecordsResponse.DeleteRecordsPartitionResult
    let services: BrokerServices

    private static let milliseconds: @Sendable () -> Int64 = NodeEnvironment.system.monotonic

    func handle(_ request: DeleteRecordsRequest, _ context: RequestContext) {
        services.blocking.submit { _ in
            let work = request.topics.flatMap { topic in topic.partitions.map { (topic.name, $0) } }
            let results = ResultsInOrder<Result>(work.count) { results in
                var response = DeleteRecordsResponse()
                var next = 0
                for topic in request.topics {
                    let end = next + topic.partitions.count
                    response.topics.append(.init(name: topic.name, partitions: Array(results[next..<end])))
                    next = end
                }
                context.respond(response)
            }
            for (index, (topic, asked)) in work.enumerated() {
                delete(topic, asked, within: Int64(request.timeoutMs)) { results.put($0, at: index) }
            }
            if work.isEmpty { results.finishEmpty() }
        }
    }

    private func delete(
        _ topic: String,
        _ asked: DeleteRecordsRequest.DeleteRecordsPartition,
        within milliseconds: Int64,
        _ done: @escaping @Sendable (Result) -> Void
    ) {
        let answer: @Sendable (ErrorCode, Int64) -> Void = {
            done(Result(partitionIndex: asked.partitionIndex, lowWatermark: $1, errorCode: $0.rawValue))
        }
        do throws(Refusal) {
            let partition = try services.find(topic, asked.partitionIndex).get()
            RecordDeletion(
                partition: partition,
                timers: services.timers,
                deadline: Self.milliseconds() + milliseconds,
                now: Self.milliseconds
            )
            .run(before: asked.offset) { result in
                switch result {
                case .success(let start): answer(.none, start.rawValue)
                case .failure(let refusal): answer(refusal.code, -1)
                }
            }
        } catch {
            answer(error.code, -1)
        }
    }
}

/// Lets go of a partition's first records, on all its replicas in sync.
struct RecordDeletion: Sendable {
    let partition: Partition
    let timers: any TimerService
    /// Milliseconds of `now`.
    let deadline: Int64
    let now: @Sendable () -> Int64

    /// How often it is looked whether the followers have done it.
    private static let pause: Int64 = 10

    /// Deletes what is before `asked` (-1: all that is committed); `done` gets the log's new start. May block.
    func run(before asked: Int64, _ done: @escaping @Sendable (Result<Offset, Refusal>) -> Void) {
        if partition.isInternal || !partition.log.settings.cleanupPolicy.contains(.delete) {
            return done(
                .failure(
                    Refusal(
                        code: .policyViolation,
                        message: "records of a compacted or internal topic are not deleted"
                    )
                )
            )
        }
        let end = partition.highWatermark
        let offset = asked == -1 ? end : Offset(asked)
        guard offset >= 0, offset <= end else {
            return done(
                .failure(
                    Refusal(code: .offsetOutOfRange, message: "the offset lies beyond the high watermark")
                )
            )
        }
        do throws(LogError) {
            try partition.log.deleteRecords(before: offset)
        } catch {
            return done(.failure(Refusal(code: error.kafkaError, message: error.message)))
        }
        wait(offset, done)
    }

    private func wait(_ offset: Offset, _ done: @escaping @Sendable (Result<Offset, Refusal>) -> Void) {
        if partition.isDeleted {
            return done(.failure(Refusal(code: .notLeaderOrFollower, message: "another node leads now")))
        }
        if partition.startsEverywhere(at: offset) { return done(.success(partition.log.logStartOffset)) }
        guard now() < deadline else {
            return done(.failure(Refusal(code: .requestTimedOut, message: "replicas have not done it yet; try again")))
        }
        _ = timers.schedule(after: .milliseconds(Self.pause)) { wait(offset, done) }
    }
}
