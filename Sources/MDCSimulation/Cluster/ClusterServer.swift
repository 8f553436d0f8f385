// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel
    import MDCProtocol
    import NIOCore

    @testable import MDCBroker

    /// What a client is told of a partition's ends.
    struct ClusterEnds {
        var leaderEpoch: Int32
        var start: Int64
        var end: Int64?
        var stable: Int64?
    }

    /// What a node answers to followers, producers and consumers: what the handlers of requests do, without sockets.
    final class ClusterServer: @unchecked Sendable {
        // Sendable: a simulation has one thread.
        let services: ClusterNode.Services
        private let node: ClusterNode
        private var sessions = FetchSessionCache(capacity: 100)

        init(_ node: ClusterNode, _ services: ClusterNode.Services) {
            self.node = node
            self.services = services
        }

        // MARK: Followers

        /// A follower's fetch. See `FetchHandler`.
        func received(_ bytes: ByteBuffer, from link: SimulatedLink) {
            var bytes = bytes
            guard let header = try? RequestHeader(readingHeadOf: &bytes),
                let view = try? FetchRequestView(bytes, version: header.requestApiVersion),
                let targets = try? FetchHandler.targets(of: view)
            else { return link.close() }
            var random = services.environment.generator
            let verdict = sessions.begin(
                sessionID: view.sessionID,
                epoch: view.sessionEpoch,
                byID: true,
                targets: targets,
                forgotten: FetchHandler.forgotten(of: view),
                now: UInt64(services.loop.microseconds) * 1000,
                random: &random
            )
            var toRead = targets
            switch verdict {
            case .failed(let code):
                return answer(FetchResponse(errorCode: code.rawValue), header, link)
            case .incremental(let id): toRead = sessions.targets(of: id)
            case .sessionless, .created: break
            }
            let reader = FetchReader(
                registry: services.registry,
                parameters: FetchParameters(
                    maxBytes: Int(view.maxBytes),
                    minBytes: Int(view.minBytes),
                    readCommitted: false,
                    copyMaxBytes: .max,
                    replica: FetchingReplica(node: view.replicaID, brokerEpoch: view.replicaEpoch)
                )
            )
            let refused = reader.noteProgress(toRead)
            var outcome = reader.read(toRead, copyMaxBytes: .max)
            if !refused.isEmpty { outcome.refuse(refused) }
            wait(
                outcome,
                toRead,
                verdict,
                reader,
                header,
                link,
                until: services.loop.microseconds + Int64(view.maxWaitMs) * 1000,
                since: services.loop.microseconds
            )
        }

        /// Answers when there is something to tell, or time is over.
        private func wait(
            _ outcome: FetchReader.Outcome,
            _ targets: [FetchTarget],
            _ verdict: FetchSessionCache.Verdict,
            _ reader: FetchReader,
            _ header: RequestHeader,
            _ link: SimulatedLink,
            until deadline: Int64,
            since started: Int64
        ) {
            let isOver = services.loop.microseconds >= deadline || targets.isEmpty
            guard outcome.bytes >= reader.parameters.minBytes || outcome.isUrgent || isOver else {
                // Less and less often, where nothing happens for long.
                let waited = max(0, services.loop.microseconds - started)
                let pause = 3_000 + waited / 4 + Int64(services.environment.random() % 12_000)
                return services.loop.after(pause) { [self] in
                    let next = reader.read(targets, copyMaxBytes: .max)
                    wait(next, targets, verdict, reader, header, link, until: deadline, since: started)
                }
            }
            var findings = outcome.findings
            var response = FetchResponse()
            switch verdict {
            case .created(let id), .incremental(let id):
                response.sessionId = id
                let news = sessions.note(id, findings.map { ($0.target.key, $0.answer, $0.partition) })
                if case .incremental = verdict { findings = zip(findings, news).filter { $0.1 }.map { $0.0 } }
            case .sessionless, .failed: break
            }
            for finding in findings {
                var data = finding.data
                if case .copied(let buffer) = finding.records { data.records = buffer }
                let id = finding.target.topic.id
                if let index = response.responses.firstIndex(where: { $0.topicId == id }) {
                    response.responses[index].partitions.append(data)
                } else {
                    response.responses.append(.init(topicId: id, partitions: [data]))
                }
            }
            answer(response, header, link)
        }

        private func answer(_ response: FetchResponse, _ header: RequestHeader, _ link: SimulatedLink) {
            guard
                let frame = try? Frame.response(
                    response,
                    version: header.requestApiVersion,
                    correlationId: header.correlationId
                )
            else { return link.close() }
            link.reply(frame)
        }

        // MARK: Clients

        /// What became of a producer's batch.
        enum Produced {
            case done(offset: Int64, leaderEpoch: Int32)
            case failed(ErrorCode, String = "")
        }

        /// Appends a producer's batch with `acks=all`, and tells when it is committed. See `ProduceHandler`.
        func produce(_ id: TopicID, _ index: Int32, _ batch: ByteBuffer, _ done: @escaping (Produced) -> Void) {
            append(id, index, done) { partition, now throws(LogError) in
                try partition.append(batch, as: .client, now: now)
            }
        }

        /// The same within a transaction, which is open or begins with a ticket.
        func produce(
            _ id: TopicID,
            _ index: Int32,
            _ batch: ByteBuffer,
            of producer: ProducerIdentity,
            ticket: UInt64?,
            _ done: @escaping (Produced) -> Void
        ) {
            append(id, index, done) { partition, now throws(LogError) in
                try partition.append(batch, of: producer, ticket: ticket, now: now)
            }
        }

        private func append(
            _ id: TopicID,
            _ index: Int32,
            _ done: @escaping (Produced) -> Void,
            _ body: (Partition, Timestamp) throws(LogError) -> AppendResult
        ) {
            let partition: Partition
            switch services.registry.find(id: id, partition: index) {
            case .found(let found): partition = found
            case .noSuchTopic: return done(.failed(.unknownTopicId))
            case .noSuchPartition: return done(.failed(.unknownTopicOrPartition))
            case .notLeader: return done(.failed(.notLeaderOrFollower))
            case .offline: return done(.failed(.kafkaStorageError))
            }
            guard partition.minInSync <= partition.inSyncCount else { return done(.failed(.notEnoughReplicas)) }
            do throws(LogError) {
                let result = try body(partition, services.environment.wall())
                let (offset, epoch) = (result.firstOffset.rawValue, partition.leaderEpoch.rawValue)
                let once = Once(done)
                partition.whenCommitted(upTo: result.lastOffset + 1) { outcome in
                    switch outcome {
                    case .success: once.call(.done(offset: offset, leaderEpoch: epoch))
                    case .failure(let error): once.call(.failed(error.kafkaError, error.message))
                    }
                }
            } catch {
                done(.failed(error.kafkaError, error.message))
            }
        }

        /// Answers once, from callbacks that say they may come from anywhere.
        private final class Once: @unchecked Sendable {
            // Sendable: a simulation has one thread.
            private var done: ((Produced) -> Void)?
            init(_ done: @escaping (Produced) -> Void) { self.done = done }
            func call(_ result: Produced) {
                let done = done
                self.done = nil
                done?(result)
            }
        }

        /// Deletes the first records of a partition. See `DeleteRecordsHandler`.
        func deleteRecords(
            _ id: TopicID,
            _ index: Int32,
            before offset: Int64,
            _ done: @escaping @Sendable (Result<Offset, Refusal>) -> Void
        ) {
            guard case .found(let partition) = services.registry.find(id: id, partition: index) else {
                return done(.failure(Refusal(code: .notLeaderOrFollower, message: "another node leads")))
            }
            let loop = services.loop
            RecordDeletion(
                partition: partition,
                timers: loop,
                deadline: loop.microseconds / 1000 + 5_000,
                now: { loop.microseconds / 1000 }
            )
            .run(before: offset, done)
        }

        /// Where a partition begins and ends for its readers; nil where the node does not lead it or does not know yet. See
        /// `ListOffsetsHandler`.
        func offsets(_ id: TopicID, _ index: Int32) -> ClusterEnds? {
            guard case .found(let partition) = services.registry.find(id: id, partition: index) else { return nil }
            return ClusterEnds(
                leaderEpoch: partition.leaderEpoch.rawValue,
                start: partition.log.logStartOffset.rawValue,
                end: partition.isHighWatermarkKnown ? partition.readableEnd(readCommitted: false).rawValue : nil,
                stable: partition.isHighWatermarkKnown ? partition.readableEnd(readCommitted: true).rawValue : nil
            )
        }

        /// What a consumer gets.
        struct Fetched {
            var error: ErrorCode
            var records: ByteBuffer?
            var highWatermark: Int64
            var divergence: Int32
            var stable: Int64 = -1
            /// Aborted transactions: producers and first offsets.
            var aborted: [(producer: Int64, first: Int64)] = []
        }

        /// A consumer's look at one partition.
        func fetch(
            _ topic: FetchTopic,
            _ index: Int32,
            from offset: Int64,
            leaderEpoch: Int32,
            lastEpoch: Int32,
            readCommitted: Bool = false
        ) -> Fetched {
            let target = FetchTarget(
                topic: topic,
                index: index,
                fetchOffset: offset,
                maxBytes: 4096,
                currentLeaderEpoch: leaderEpoch,
                lastFetchedEpoch: lastEpoch
            )
            let reader = FetchReader(
                registry: services.registry,
                parameters: FetchParameters(
                    maxBytes: 1 << 16,
                    minBytes: 0,
                    readCommitted: readCommitted,
                    copyMaxBytes: .max
                )
            )
            guard let found = reader.read([target], copyMaxBytes: .max).findings.first else {
                return Fetched(error: .unknownServerError, records: nil, highWatermark: -1, divergence: -1)
            }
            var records: ByteBuffer?
            if case .copied(let buffer) = found.records { records = buffer }
            return Fetched(
                error: ErrorCode(rawValue: found.data.errorCode),
                records: records,
                highWatermark: found.data.highWatermark,
                divergence: found.data.divergingEpoch.epoch,
                stable: found.data.lastStableOffset,
                aborted: (found.data.abortedTransactions ?? []).map { ($0.producerId, $0.firstOffset) }
            )
        }
    }
#endif
