// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Produce, versions 3–13. Appends on the event loop that read the request; answers when what was appended is committed.
/// Versions 0–2 are announced and refused (clients take their absence for a lack of compression, KAFKA-18659).
struct ProduceHandler: Sendable {
    let services: BrokerServices

    func handle(_ context: RequestContext) {
        let body = context.takeBody()
        if services.quotas.limits(.producerByteRate) {
            context.throttle(
                services.quotas.record(
                    .producerByteRate,
                    clientID: context.clientID,
                    Double(body.readableBytes),
                    now: context.receivedAt
                )
            )
        }
        do throws(ProtocolError) {
            let view = try ProduceRequestView(body, version: context.version)
            if view.transactionalID != nil { return admit(view, context) }
            try serve(context, view, .none)
        } catch {
            context.closeConnection("malformed Produce request: \(error)")
        }
    }

    /// What one partition must reach before the answer may leave.
    fileprivate struct Commitment {
        var partition: Partition
        var offset: Offset
        /// Whether the in-sync replicas must have it too (`acks=all`).
        var onAll: Bool

        var isReached: Bool {
            onAll ? partition.isCommitted(upTo: offset) : partition.log.durableEndOffset >= offset
        }

        func whenReached(_ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
            onAll
                ? partition.whenCommitted(upTo: offset, done) : partition.log.whenDurable(upTo: offset, done)
        }
    }

    func serve(
        _ context: RequestContext,
        _ view: ProduceRequestView,
        _ admission: ProduceAdmission
    ) throws(ProtocolError) {
        var writer = try ProduceResponseWriter(
            version: context.version,
            correlationID: context.correlationID,
            topicCount: view.topicCount
        )
        var commitments: [Commitment] = []
        var endpoints: [ProduceResponse.NodeEndpoint] = []
        var hasFailed = false
        let now = services.now()
        var ordinal = -1
        for (index, item) in view.partitions.enumerated() {
            if item.topic.ordinal != ordinal {
                try beginTopics(&writer, view, after: ordinal, upTo: item.topic)
                ordinal = item.topic.ordinal
            }
            var response = append(item, view, admission, index, now, &commitments)
            if response.errorCode != 0 {
                hasFailed = true
                hint(&response, item.topic, context.version, &endpoints)
                context.connection.worker.metrics.failed(.produce, ErrorCode(rawValue: response.errorCode))
            }
            if view.acks != 0 { try writer.partition(Self.fitted(response, context.version)) }
        }
        if view.acks == 0 {
            // Nothing is answered; a closed connection is how the client learns that something is wrong.
            if hasFailed { return context.closeConnection("a Produce request with acks=0 failed") }
            return context.finishWithoutResponse()
        }
        guard ordinal + 1 == view.topicCount else {
            return context.closeConnection("a Produce request lists a topic without partitions")
        }
        let frame = try writer.finish(throttleTimeMs: context.throttleMilliseconds, nodeEndpoints: endpoints)
        let open = commitments.filter { !$0.isReached }
        if open.isEmpty { return context.respond(frame: frame) }
        let pending = PendingProduce(
            services: services,
            context: context,
            frame: frame,
            open: open,
            deadline: context.receivedAt + UInt64(max(0, view.timeoutMs)) * 1_000_000
        )
        context.connection.worker.watch(pending)
        for (index, commitment) in open.enumerated() {
            commitment.whenReached { pending.reached(index, $0) }
        }
    }

    /// Tells a client that asked the wrong node who leads, so that it need not ask for metadata (KIP-951).
    private func hint(
        _ response: inout ProduceResponse.PartitionProduceResponse,
        _ topic: TopicReference,
        _ version: Int16,
        _ endpoints: inout [ProduceResponse.NodeEndpoint]
    ) {
        guard version >= 10, response.errorCode == ErrorCode.notLeaderOrFollower.rawValue else { return }
        let name = version >= 13 ? nil : topic.name.string ?? ""
        services.hint(&response, ofName: name, id: topic.id, &endpoints)
    }

    private func beginTopics(
        _ writer: inout ProduceResponseWriter,
        _ view: ProduceRequestView,
        after: Int,
        upTo topic: TopicReference
    ) throws(ProtocolError) {
        guard view.acks != 0 else { return }
        guard topic.ordinal == after + 1 else {
            throw ProtocolError(.malformed, field: "ProduceRequest.topicData", detail: "a topic lists no partitions")
        }
        try writer.beginTopic(topic)
    }

    /// Leaves out what the version cannot carry.
    private static func fitted(
        _ response: ProduceResponse.PartitionProduceResponse,
        _ version: Int16
    ) -> ProduceResponse.PartitionProduceResponse {
        guard version < 8, response.errorMessage != nil || !response.recordErrors.isEmpty else { return response }
        var response = response
        response.errorMessage = nil
        response.recordErrors = []
        return response
    }

    private func append(
        _ item: ProduceRequestView.Partition,
        _ view: ProduceRequestView,
        _ admission: ProduceAdmission,
        _ index: Int,
        _ now: Timestamp,
        _ commitments: inout [Commitment]
    ) -> ProduceResponse.PartitionProduceResponse {
        let byID = view.version >= 13
        let partition: Partition
        switch find(item, view) {
        case .found(let found): partition = found
        case .noSuchTopic: return Self.failed(item, byID ? .unknownTopicId : .unknownTopicOrPartition, nil)
        case .noSuchPartition: return Self.failed(item, .unknownTopicOrPartition, nil)
        case .notLeader: return Self.failed(item, .notLeaderOrFollower, "this node does not lead the partition")
        case .offline(let reason): return Self.failed(item, .kafkaStorageError, reason)
        }
        let producer = Self.transactionalProducer(item.records)
        if let (code, message) = refusal(item, view, partition, producer, admission, index) {
            return Self.failed(item, code, message)
        }
        do throws(LogError) {
            let records = item.records ?? ByteBuffer()
            let result =
                if let producer {
                    try partition.append(records, of: producer, ticket: admission.tickets[index], now: now)
                } else {
                    try partition.append(records, as: .client, now: now)
                }
            commitments.append(
                Commitment(partition: partition, offset: result.lastOffset + 1, onAll: view.acks == -1)
            )
            return ProduceResponse.PartitionProduceResponse(
                index: item.index,
                baseOffset: result.firstOffset.rawValue,
                logAppendTimeMs: result.logAppendTime.rawValue,
                logStartOffset: result.logStartOffset.rawValue
            )
        } catch {
            if isOfAnotherLeader(error, partition) {
                return Self.failed(item, .notLeaderOrFollower, "the node has lost the cluster; ask for the metadata")
            }
            var answer = Self.failed(item, error.kafkaError, error.message)
            if error.kafkaError == .invalidRecord && partition.log.settings.isCompacted {
                answer.recordErrors = Self.withoutKeys(item.records, partition.topicPartition)
            }
            return answer
        }
    }

    /// Whether what looks like a gap in a producer's numbers may have been acknowledged by another leader: this one has not
    /// heard of the cluster for so long that it may have been deposed. A gap would be fatal for the producer.
    private func isOfAnotherLeader(_ error: LogError, _ partition: Partition) -> Bool {
        guard error.kafkaError == .outOfOrderSequenceNumber || error.kafkaError == .unknownProducerId,
            let replication = partition.replication, !replication.isAlone
        else { return false }
        return !services.membership.isInContact
    }

    /// The records that a compacted topic refuses, by their place in the batch (KIP-467): a client then knows which of its
    /// messages are to blame and which were refused along with them.
    private static func withoutKeys(
        _ records: ByteBuffer?,
        _ partition: TopicPartition
    ) -> [ProduceResponse.BatchIndexAndErrorMessage] {
        guard let records, let found = try? RecordBatchReader(records).records() else { return [] }
        return found.enumerated().filter { $0.element.key == nil }.map { index, _ in
            .init(
                batchIndex: Int32(index),
                batchIndexErrorMessage:
                    "Compacted topic cannot accept message without key in topic partition \(partition)."
            )
        }
    }

    private func refusal(
        _ item: ProduceRequestView.Partition,
        _ view: ProduceRequestView,
        _ partition: Partition,
        _ producer: ProducerIdentity?,
        _ admission: ProduceAdmission,
        _ index: Int
    ) -> (ErrorCode, String)? {
        if !(-1...1).contains(view.acks) { return (.invalidRequiredAcks, "acks must be 0, 1 or -1 (all)") }
        if partition.isInternal {
            return (.invalidTopicException, "\(partition.topicPartition.topic) is written by the broker alone")
        }
        if view.acks == -1 && partition.minInSync > partition.inSyncCount {
            return (
                .notEnoughReplicas,
                "min.insync.replicas is \(partition.minInSync), but \(partition.inSyncCount) replicas are in sync"
            )
        }
        if producer != nil && view.transactionalID == nil {
            return (.transactionalIdAuthorizationFailed, "a transactional batch came without a transactional id")
        }
        if let code = admission.refused[index] {
            return (code, "the records cannot join the transaction: \(code)")
        }
        return nil
    }

    func find(_ item: ProduceRequestView.Partition, _ view: ProduceRequestView) -> PartitionRegistry.Lookup {
        view.version >= 13
            ? services.partitions.find(id: item.topic.id, partition: item.index)
            : services.partitions.find(name: item.topic.name.string ?? "", partition: item.index)
    }

    /// The producer whose transaction the first batch belongs to; nil where it belongs to none. Later batches are of the
    /// same producer.
    static func transactionalProducer(_ records: ByteBuffer?) -> ProducerIdentity? {
        typealias Layout = RecordBatchHeader.Layout
        guard let records,
            let bits = records.getInteger(at: records.readerIndex + Layout.attributes, as: Int16.self),
            RecordBatchAttributes(rawValue: bits).isTransactional,
            let id = records.getInteger(at: records.readerIndex + Layout.producerID, as: Int64.self),
            let epoch = records.getInteger(at: records.readerIndex + Layout.producerEpoch, as: Int16.self)
        else { return nil }
        return ProducerIdentity(id: id, epoch: epoch)
    }

    private static func failed(
        _ item: ProduceRequestView.Partition,
        _ code: ErrorCode,
        _ message: String?
    ) -> ProduceResponse.PartitionProduceResponse {
        ProduceResponse.PartitionProduceResponse(
            index: item.index,
            errorCode: code.rawValue,
            baseOffset: -1,
            errorMessage: message
        )
    }

    /// Answers versions 0–2: every partition with UNSUPPORTED_VERSION.
    static func refuseVersion(_ context: RequestContext) {
        do throws(ProtocolError) {
            let request = try context.decode(ProduceRequest.self)
            if request.acks == 0 { return context.closeConnection("Produce version \(context.version) is not served") }
            context.respond(
                ProduceResponse(
                    responses: request.topicData.map { topic in
                        .init(
                            name: topic.name,
                            partitionResponses: topic.partitionData.map {
                                .init(
                                    index: $0.index,
                                    errorCode: ErrorCode.unsupportedVersion.rawValue,
                                    baseOffset: -1
                                )
                            }
                        )
                    }
                )
            )
        } catch {
            context.closeConnection("malformed Produce request: \(error)")
        }
    }
}

/// A produce request whose answer waits for its partitions, at most for the time that the client gave.
private final class PendingProduce: ExpiringRequest {
    private let services: BrokerServices
    private let context: RequestContext
    private let frame: ByteBuffer
    private let open: [ProduceHandler.Commitment]
    private let deadline: UInt64
    private let missing: Atomic<Int>
    private let hasFailed = Atomic<Bool>(false)
    /// What partitions are told whose records are in the log but cannot be committed here; by their place in `open`.
    private let refusals = Mutex<[Int: ErrorCode]>([:])
    private let isAnswered = Atomic<Bool>(false)

    init(
        services: BrokerServices,
        context: RequestContext,
        frame: ByteBuffer,
        open: [ProduceHandler.Commitment],
        deadline: UInt64
    ) {
        self.services = services
        self.context = context
        self.frame = frame
        self.open = open
        self.deadline = deadline
        missing = Atomic(open.count)
    }

    var isFinished: Bool { isAnswered.load(ordering: .relaxed) }

    func reached(_ index: Int, _ result: Result<Void, LogError>) {
        if case .failure(let error) = result {
            if error.code == .notLeader || error.code == .notEnoughReplicas {
                refusals.withLock { $0[index] = error.kafkaError }
            } else {
                hasFailed.store(true, ordering: .relaxed)
            }
        }
        guard missing.subtract(1, ordering: .acquiringAndReleasing).newValue == 0,
            !isAnswered.exchange(true, ordering: .acquiringAndReleasing)
        else { return }
        if hasFailed.load(ordering: .relaxed) {
            // The log was closed or deleted before the records were safe. The client sends them again.
            context.closeConnection("what a Produce request appended did not become durable")
            return
        }
        let refused = refusals.withLock { $0 }
        if refused.isEmpty { context.respond(frame: frame) } else { answer { refused[$0] } }
    }

    func expire(now: UInt64) {
        guard now >= deadline, !isAnswered.exchange(true, ordering: .acquiringAndReleasing) else { return }
        let refused = refusals.withLock { $0 }
        answer { index in refused[index] ?? (self.open[index].isReached ? nil : .requestTimedOut) }
    }

    /// Answers with an error where the records are not safe yet. They stay, and may become so.
    private func answer(_ error: (Int) -> ErrorCode?) {
        do throws(ProtocolError) {
            var frame = frame
            frame.moveReaderIndex(forwardBy: 4)
            _ = try ResponseHeader(readingHeadOf: &frame, apiKey: .produce, apiVersion: context.version)
            let answer = try ProduceResponse(reading: &frame, version: context.version)
            context.respond(with(answer, error))
        } catch {
            context.closeConnection("a Produce answer cannot be changed: \(error)")
        }
    }

    private func with(_ answer: ProduceResponse, _ error: (Int) -> ErrorCode?) -> ProduceResponse {
        var answer = answer
        for topic in answer.responses.indices {
            for index in answer.responses[topic].partitionResponses.indices {
                let place = answer.responses[topic].partitionResponses[index]
                let found = open.indices.compactMap { which -> ErrorCode? in
                    let partition = self.open[which].partition
                    guard partition.topicPartition.partition.rawValue == place.index,
                        self.context.version >= 13
                            ? partition.topicID == answer.responses[topic].topicId
                            : partition.topicPartition.topic == answer.responses[topic].name
                    else { return nil }
                    return error(which)
                }.first
                guard let code = found else { continue }
                context.connection.worker.metrics.failed(.produce, code)
                var refused = ProduceResponse.PartitionProduceResponse(
                    index: place.index,
                    errorCode: code.rawValue,
                    baseOffset: -1
                )
                if context.version >= 10, code == .notLeaderOrFollower {
                    let (name, id) = (answer.responses[topic].name, answer.responses[topic].topicId)
                    let known = context.version >= 13 ? nil : name
                    services.hint(&refused, ofName: known, id: id, &answer.nodeEndpoints)
                }
                answer.responses[topic].partitionResponses[index] = refused
            }
        }
        return answer
    }
}
