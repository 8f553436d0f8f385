// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCModel
    import MDCProtocol
    import NIOCore

    @testable import MDCBroker

    /// A producer with a transactional id, which writes to both partitions of the ledger, commits, aborts, loses patience, falls
    /// silent and dies.
    final class ClusterTransactor {
        struct Write {
            var partition: Int32
            var sequence: Int32
            var value: String
            var isUnderWay = false
            var isDone = false
        }

        struct Transaction {
            var number: Int
            var writes: [Write]
            /// The partitions were added (first protocol).
            var isAdded: Bool
            /// A write of it may arrive after later ones. The first protocol cannot tell it from one of the next transaction, so
            /// that the producer needs another epoch first, as clients have it.
            var hasLateWrites = false
            /// How it is to end, from the moment at which the coordinator is asked to.
            var commits: Bool?
        }

        let number: Int
        var id: String { "t\(number)" }
        /// Whether it speaks the second protocol: a new epoch with each transaction, partitions are added by writing.
        let isSecond: Bool
        var producer: ProducerIdentity?
        var sequences: [Int32: Int32] = [:]
        var transaction: Transaction?
        var place = ClusterPlace()
        var leaders: [Int32: ClusterPlace] = [:]
        var isAsking = false
        /// Answers of before are not for it any more.
        var life = 0
        var nextTransaction = 0
        var nextValue = 0
        /// Does nothing until then.
        var silentUntil: Int64 = 0
        let connection: UInt64

        init(number: Int, isSecond: Bool, connection: UInt64) {
            self.number = number
            self.isSecond = isSecond
            self.connection = connection
        }

        /// Another process takes over.
        func beginAnew() {
            life += 1
            producer = nil
            transaction = nil
            isAsking = false
        }

        /// The transaction is over.
        func finish(as next: ProducerIdentity?) {
            life += 1
            isAsking = false
            if let transaction {
                // As Java's does: what was not acknowledged gives its sequence numbers back.
                for partition in Set(transaction.writes.map(\.partition)) {
                    let lost = transaction.writes.first { $0.partition == partition && !$0.isDone }
                    if let lost { sequences[partition] = lost.sequence }
                }
            }
            transaction = nil
            guard let next, next != producer else { return }
            producer = next
            sequences = [:]
        }
    }

    extension ClusterSimulator {
        static let ledgerTopic = "ledger"
        private static let client: Int32 = -1
        private static let timeout: Int32 = 1_500

        /// What a transactional producer does next.
        func transact(_ client: ClusterTransactor) {
            guard !client.isAsking, isHealed || scheduler.now >= client.silentUntil else { return }
            guard client.producer != nil else { return initialize(client) }
            guard let transaction = client.transaction else { return isHealed ? () : begin(client) }
            if transaction.commits != nil { return end(client) }
            if !transaction.isAdded { return add(client) }
            if !isHealed {
                switch workload.below(200) {
                case 0: return die(client)
                case 1: client.silentUntil = scheduler.now + Int64(workload.number(in: 100_000...4_000_000))
                case 2...5: return decide(client, false)
                default: break
                }
            }
            if transaction.writes.allSatisfy(\.isDone) { return decide(client, !workload.once(in: 4)) }
            for index in transaction.writes.indices { write(client, index) }
        }

        private func die(_ client: ClusterTransactor) {
            onlyTrace("    producer \(client.id) dies")
            client.beginAnew()
        }

        private func decide(_ client: ClusterTransactor, _ commits: Bool) {
            client.transaction?.commits = commits
            if commits, let number = client.transaction?.number { checker.asksToCommit(number) }
            end(client)
        }

        // MARK: Coordinator

        private func coordinator(of client: ClusterTransactor) -> ClusterNode? {
            let topic = InternalTopic.transactionState.name
            guard let count = network.nodes.first?.services?.store.image.topic(topic)?.partitions.count else {
                return nil
            }
            let partition = GroupCoordinatorService.partition(of: client.id, count: Int32(count))
            return leader(topic, partition, &client.place)
        }

        /// Asks a node; `done` gets nil where no answer comes. Nothing else is asked meanwhile.
        private func ask<Answer>(
            _ client: ClusterTransactor,
            _ node: ClusterNode?,
            _ request: @escaping (ClusterNode.Services, @escaping (Answer) -> Void) -> Void,
            done: @escaping (Answer?) -> Void
        ) {
            guard let node else { return }
            client.isAsking = true
            let life = client.life
            let once = OnceOnly<Answer> { answer in
                guard client.life == life else { return }
                client.isAsking = false
                done(answer)
            }
            let id = node.id
            network.transmit(client.connection, from: Self.client, to: id, run: node.run) { [self] node in
                guard let services = node.services else { return }
                request(services) { [self] answer in
                    guard !network.isCut(id, Self.client), workload.below(1000) >= network.lost else { return }
                    scheduler.after(Int64(200 + workload.below(1500))) { once.call(answer) }
                }
            } failed: {
                once.call(nil)
            }
            scheduler.after(Int64(900_000 + workload.below(1_500_000))) { once.call(nil) }
        }

        private func initialize(_ client: ClusterTransactor) {
            let request = InitProducerIdRequest(
                transactionalId: client.id,
                transactionTimeoutMs: Self.timeout,
                producerId: -1,
                producerEpoch: -1
            )
            ask(client, coordinator(of: client)) { services, answer in
                let answer = Unsafe(answer)
                services.coordinators.transactions.initProducerID(request, version: 5) { answer.value($0) }
            } done: { [self] (response: InitProducerIdResponse?) in
                guard let response, response.errorCode == 0 else { return }
                client.life += 1
                client.producer = ProducerIdentity(id: response.producerId, epoch: response.producerEpoch)
                client.sequences = [:]
                onlyTrace("    producer \(client.id) is \(response.producerId), epoch \(response.producerEpoch)")
            }
        }

        private func begin(_ client: ClusterTransactor) {
            guard !workload.once(in: 3) else { return }
            client.nextTransaction += 1
            let number = client.number * 1_000_000 + client.nextTransaction
            var writes: [ClusterTransactor.Write] = []
            for _ in 0..<workload.number(in: 1...3) {
                let partition = Int32(workload.below(2))
                let sequence = client.sequences[partition] ?? 0
                client.sequences[partition] = sequence + 1
                writes.append(
                    .init(partition: partition, sequence: sequence, value: "\(client.id)-\(client.nextValue)")
                )
                client.nextValue += 1
            }
            checker.begins(number, writes.map { ($0.partition, $0.value) })
            client.transaction = .init(number: number, writes: writes, isAdded: client.isSecond, commits: nil)
        }

        private func add(_ client: ClusterTransactor) {
            guard let producer = client.producer, let transaction = client.transaction else { return }
            let partitions = Set(transaction.writes.map(\.partition)).sorted().map {
                TopicPartition(topic: Self.ledgerTopic, partition: PartitionID($0))
            }
            ask(client, coordinator(of: client)) { services, answer in
                let answer = Unsafe(answer)
                services.coordinators.transactions.add(
                    partitions,
                    to: client.id,
                    producer,
                    version: TransactionVersion.first
                ) { answer.value($0) }
            } done: { [self] (code: ErrorCode?) in
                guard let code else { return }
                if code == .none { client.transaction?.isAdded = true } else { failed(client, code) }
            }
        }

        /// Ends the transaction, again and again until there is an answer.
        private func end(_ client: ClusterTransactor) {
            guard let producer = client.producer, let transaction = client.transaction,
                let commits = transaction.commits
            else { return }
            // Who has added nothing has nothing to end.
            if !transaction.isAdded { return client.finish(as: nil) }
            let request = EndTxnRequest(
                transactionalId: client.id,
                producerId: producer.id,
                producerEpoch: producer.epoch,
                committed: commits
            )
            let version: Int16 = client.isSecond ? 5 : 4
            ask(client, coordinator(of: client)) { services, answer in
                let answer = Unsafe(answer)
                services.coordinators.transactions.endTransaction(request, version: version) { answer.value($0) }
            } done: { [self] (response: EndTxnResponse?) in
                guard let response else { return }
                let code = ErrorCode(rawValue: response.errorCode)
                guard code == .none else { return failed(client, code) }
                onlyTrace("    producer \(client.id) has \(commits ? "committed" : "aborted") \(transaction.number)")
                if commits { checker.isCommitted(transaction.number) }
                let next = ProducerIdentity(id: response.producerId, epoch: response.producerEpoch)
                client.finish(as: client.isSecond ? next : nil)
                if transaction.hasLateWrites, !client.isSecond { client.beginAnew() }
            }
        }

        private func failed(_ client: ClusterTransactor, _ code: ErrorCode) {
            switch code {
            case .concurrentTransactions, .coordinatorLoadInProgress, .coordinatorNotAvailable, .notCoordinator,
                .requestTimedOut, .notEnoughReplicas, .notEnoughReplicasAfterAppend, .notLeaderOrFollower:
                return
            default:
                // Fenced, timed out, or something that only a new beginning ends.
                onlyTrace("    producer \(client.id) begins anew: \(code)")
                client.beginAnew()
            }
        }

        // MARK: Writing

        private func write(_ client: ClusterTransactor, _ index: Int) {
            guard let producer = client.producer, let transaction = client.transaction else { return }
            let write = transaction.writes[index]
            // In order: what comes before in the partition is settled first.
            let isFirst = transaction.writes[..<index].allSatisfy { $0.partition != write.partition || $0.isDone }
            guard !write.isDone, !write.isUnderWay, isFirst else { return }
            var place = client.leaders[write.partition] ?? ClusterPlace()
            let node = leader(Self.ledgerTopic, write.partition, &place)
            client.leaders[write.partition] = place
            guard let node, let topic = place.topic,
                let bytes = try? encoded(write, producer)
            else { return }
            client.transaction?.writes[index].isUnderWay = true
            let (life, id, isSecond) = (client.life, client.id, client.isSecond)
            let once = OnceOnly<ClusterServer.Produced> { [self] result in
                guard client.life == life, client.transaction != nil else { return }
                client.transaction?.writes[index].isUnderWay = false
                written(client, index, result)
            }
            // Late writes are what verification is for.
            let late = Int64(workload.once(in: 12) ? workload.below(2_000_000) : 0)
            if late > 0 { client.transaction?.hasLateWrites = true }
            let from = node.id
            scheduler.after(late) { [self] in
                network.transmit(client.connection, from: Self.client, to: from, run: node.run) { [self] node in
                    node.server?.produce(
                        topic,
                        write.partition,
                        bytes,
                        of: producer,
                        in: id,
                        adds: isSecond
                    ) { [self] result in
                        guard !network.isCut(from, Self.client), workload.below(1000) >= network.lost else { return }
                        scheduler.after(Int64(200 + workload.below(1500))) { once.call(result) }
                    }
                } failed: {
                    once.call(nil)
                }
            }
            scheduler.after(Int64(900_000 + workload.below(1_500_000))) { once.call(nil) }
        }

        private func encoded(_ write: ClusterTransactor.Write, _ producer: ProducerIdentity) throws -> ByteBuffer {
            var builder = RecordBatchBuilder()
            builder.settings.isTransactional = true
            builder.settings.producerID = ProducerID(producer.id)
            builder.settings.producerEpoch = producer.epoch
            builder.settings.baseSequence = write.sequence
            let now = Timestamp(1_700_000_000_000 + scheduler.now / 1000)
            builder.append(key: nil, value: ByteBuffer(string: write.value), headers: [], timestamp: now)
            return try builder.build()
        }

        private func written(_ client: ClusterTransactor, _ index: Int, _ result: ClusterServer.Produced?) {
            switch result {
            case nil: break
            case .done: client.transaction?.writes[index].isDone = true
            case .failed(.duplicateSequenceNumber, _): client.transaction?.writes[index].isDone = true
            case .failed(let code, let reason):
                onlyTrace("    '\(client.transaction?.writes[index].value ?? "")' is refused: \(code) \(reason)")
                switch code {
                case .invalidTxnState, .transactionAbortable: decide(client, false)
                default: failedWrite(client, code)
                }
            }
        }

        private func failedWrite(_ client: ClusterTransactor, _ code: ErrorCode) {
            switch code {
            case .unknownTopicId, .unknownTopicOrPartition, .kafkaStorageError: break
            default: failed(client, code)
            }
        }
    }
#endif
