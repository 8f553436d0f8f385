// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCModel
    import MDCRaft
    import NIOCore

    @testable import MDCBroker

    /// An idempotent producer with `acks=all`, which writes to one partition and repeats what was not acknowledged, as clients
    /// do: in order, to whoever leads by the newest metadata that it heard of.
    final class ClusterProducer {
        struct Batch {
            var sequence: Int32
            var values: [String]
            /// Where it is under way to: node, run and leader epoch.
            var target: [Int64]?
            var attempt = 0
            /// It was answered with success; those before it were not yet.
            var isDone = false
            /// Of the producer's topic.
            var generation: Int
        }

        let number: Int
        let topicName: String
        let partition: Int32
        /// Batches under way at once.
        let window: Int
        var id: Int64?
        var asksForID = false
        var place = ClusterPlace()
        /// Grows when the topic is found to be another one of its name.
        var generation = 0
        var batches: [Batch] = []
        var nextSequence: Int32 = 0
        var nextValue = 0
        let connection: UInt64

        init(number: Int, topic: String, partition: Int32, window: Int, connection: UInt64) {
            self.number = number
            topicName = topic
            self.partition = partition
            self.window = window
            self.connection = connection
        }

        func make(_ records: Int) {
            let values = (0..<records).map { "p\(number)-\(nextValue + $0)" }
            batches.append(Batch(sequence: nextSequence, values: values, generation: generation))
            nextSequence += Int32(records)
            nextValue += records
        }

        /// The topic was deleted and made again: nothing of before goes into the new one.
        func beginAnew() {
            generation += 1
            batches = []
            nextSequence = 0
            id = nil
            asksForID = false
        }

        func encoded(_ batch: Batch, now: Timestamp) throws(Wrong) -> ByteBuffer {
            var builder = RecordBatchBuilder()
            builder.settings.producerID = ProducerID(id ?? -1)
            builder.settings.producerEpoch = 0
            builder.settings.baseSequence = batch.sequence
            for value in batch.values {
                builder.append(key: nil, value: ByteBuffer(string: value), headers: [], timestamp: now)
            }
            do { return try builder.build() } catch { throw Wrong("a batch cannot be built: \(error)") }
        }
    }

    /// A consumer of one partition, from its beginning.
    final class ClusterConsumer {
        let topicName: String
        let partition: Int32
        var position: Int64 = 0
        var lastEpoch: Int32 = -1
        var place = ClusterPlace()

        init(topic: String, partition: Int32) {
            topicName = topic
            self.partition = partition
        }
    }

    /// What a client knows of a partition's place: what metadata say of older topics of its name, and of older leaderships, is
    /// no news.
    struct ClusterPlace {
        var topic: TopicID?
        var leaderEpoch: Int32 = -1
        /// How far the metadata were that named the topic.
        private var index: Int64 = -1

        /// Takes note of what a node says; false where that is older than what is known.
        mutating func note(_ id: TopicID, _ epoch: Int32, index newIndex: Int64) -> Bool {
            if id == topic {
                index = max(index, newIndex)
                guard epoch >= leaderEpoch else { return false }
            } else {
                guard newIndex > index else { return false }
                (topic, index) = (id, newIndex)
            }
            leaderEpoch = epoch
            return true
        }
    }

    extension ClusterSimulator {
        private static let client: Int32 = -1

        /// What a client that asks any node hears of a partition's leader, if it is news to it.
        func leader(_ topicName: String, _ partition: Int32, _ place: inout ClusterPlace) -> ClusterNode? {
            guard !network.nodes.isEmpty, let services = workload.pick(network.nodes).services,
                let topic = services.store.image.topic(topicName), topic.partitions.indices.contains(Int(partition))
            else { return nil }
            let state = topic.partitions[Int(partition)]
            guard place.note(topic.id, state.leaderEpoch, index: services.quorum.status.raft.applied), state.leader >= 0
            else { return nil }
            return network.node(state.leader)
        }

        // MARK: Producers

        func produce(_ producer: ClusterProducer) {
            guard producer.id != nil else { return askForID(producer) }
            let known = producer.place.topic
            let node = leader(producer.topicName, producer.partition, &producer.place)
            if let known, known != producer.place.topic { return producer.beginAnew() }
            if !isHealed, producer.batches.count < producer.window, !workload.once(in: 4) {
                producer.make(workload.number(in: 1...3))
            }
            guard !producer.batches.isEmpty, let node, let topic = producer.place.topic else { return }
            let target = [Int64(node.id), Int64(node.run), Int64(producer.place.leaderEpoch)]
            // What is under way to another connection is settled first: its records may come before or not at all.
            if let other = producer.batches.first(where: { $0.target != nil && $0.target != target })?.target {
                if network.node(Int32(other[0]))?.run != UInt64(other[1]) {
                    for index in producer.batches.indices where producer.batches[index].target == other {
                        producer.batches[index].target = nil
                    }
                }
                return
            }
            for index in producer.batches.indices where producer.batches[index].target == nil {
                if producer.batches[index].isDone { continue }
                producer.batches[index].target = target
                producer.batches[index].attempt += 1
                send(producer, producer.batches[index], topic, to: node)
            }
        }

        private func askForID(_ producer: ClusterProducer) {
            guard !producer.asksForID, let node = network.nodes.first(where: { _ in workload.once(in: 2) }) else {
                return
            }
            producer.asksForID = true
            let generation = producer.generation
            let run = Unsafe(self)
            let who = Unsafe(producer)
            node.perform {
                node.services?.quorum.submit(.reserveProducerIDs(count: 10)) { answer in
                    if who.value.generation == generation { who.value.asksForID = false }
                    guard case .done(_, let first) = answer else { return }
                    if run.value.producerIDs.contains(first) {
                        run.value.fail("the producer id \(first) is given out twice")
                    }
                    run.value.producerIDs.insert(first)
                    if who.value.generation == generation { who.value.id = first }
                }
            }
            // A node that ends never answers.
            scheduler.after(6_000_000) { if producer.id == nil { producer.asksForID = false } }
        }

        private func send(
            _ producer: ClusterProducer,
            _ batch: ClusterProducer.Batch,
            _ topic: TopicID,
            to node: ClusterNode
        ) {
            let bytes: ByteBuffer
            do throws(Wrong) {
                bytes = try producer.encoded(batch, now: Timestamp(1_700_000_000_000 + scheduler.now / 1000))
            } catch {
                return fail(error.description)
            }
            do throws(Wrong) {
                try checker.sent(batch.values, to: topic)
            } catch {
                return fail(error.description)
            }
            let (id, run, epoch) = (node.id, node.run, producer.partition)
            network.transmit(producer.connection, from: Self.client, to: id, run: run) { [self] node in
                node.server?.produce(topic, epoch, bytes) { [self] result in
                    answered(producer, batch, topic, node, run, result)
                }
            } failed: { [self] in
                settle(producer, batch, .requestTimedOut)
            }
            scheduler.after(Int64(900_000 + workload.below(1_500_000))) { [self] in
                settle(producer, batch, .requestTimedOut)
            }
        }

        private func answered(
            _ producer: ClusterProducer,
            _ batch: ClusterProducer.Batch,
            _ topic: TopicID,
            _ node: ClusterNode,
            _ run: UInt64,
            _ result: ClusterServer.Produced
        ) {
            switch result {
            case .failed(let code, let reason):
                onlyTrace("    node \(node.id) refuses '\(batch.values[0])': \(code) \(reason)")
                if code == .outOfOrderSequenceNumber, producer.batches.first?.sequence == batch.sequence,
                    producer.generation == batch.generation
                {
                    return fail(
                        "what came before '\(batch.values[0])' was acknowledged, and the leader does not have it"
                    )
                }
                if code == .duplicateSequenceNumber {
                    // It is in the log, where the leader has forgotten.
                    scheduler.after(Int64(200 + workload.below(1500))) { [self] in settle(producer, batch, nil) }
                    return
                }
                scheduler.after(Int64(200 + workload.below(1500))) { [self] in settle(producer, batch, code) }
            case .done(let offset, let epoch):
                // A promise from here on, whether the client hears of it or not.
                do throws(Wrong) {
                    try checker.acknowledged(
                        node,
                        topic,
                        producer.partition,
                        offset: offset,
                        values: batch.values,
                        leaderEpoch: epoch
                    )
                } catch {
                    return fail(error.description)
                }
                let isLost = network.isCut(node.id, Self.client) || workload.below(1000) < network.lost
                guard !isLost else { return }
                scheduler.after(Int64(200 + workload.below(1500))) { [self] in settle(producer, batch, nil) }
            }
        }

        private func settle(_ producer: ClusterProducer, _ batch: ClusterProducer.Batch, _ error: ErrorCode?) {
            guard
                let index = producer.batches.firstIndex(where: {
                    $0.sequence == batch.sequence && $0.attempt == batch.attempt && $0.target != nil
                        && $0.generation == batch.generation
                })
            else { return }
            producer.batches[index].target = nil
            if error == nil {
                producer.batches[index].isDone = true
                while producer.batches.first?.isDone == true { producer.batches.removeFirst() }
                return
            }
            // The connection is closed: what comes after it is sent again as well.
            for later in producer.batches.indices where later > index && !producer.batches[later].isDone {
                producer.batches[later].target = nil
            }
        }

        // MARK: Consumers

        func consume(_ consumer: ClusterConsumer) {
            let known = consumer.place.topic
            let leader = leader(consumer.topicName, consumer.partition, &consumer.place)
            if known != consumer.place.topic { (consumer.position, consumer.lastEpoch) = (0, -1) }
            guard let node = leader, let id = consumer.place.topic, !network.isCut(Self.client, node.id) else { return }
            let topic = FetchTopic(name: consumer.topicName, id: id, isByID: true)
            node.perform {
                if workload.once(in: 4) { askForEnds(id, consumer.partition, node) }
                read(consumer, topic, node, consumer.place.leaderEpoch)
            }
        }

        /// Ends that clients were told never go back.
        private func askForEnds(_ topic: TopicID, _ partition: Int32, _ node: ClusterNode) {
            guard let ends = node.server?.offsets(topic, partition) else { return }
            do throws(Wrong) {
                try checker.told(ends, topic, partition, by: node)
            } catch {
                fail(error.description)
            }
        }

        private func read(_ consumer: ClusterConsumer, _ topic: FetchTopic, _ node: ClusterNode, _ epoch: Int32) {
            let server = node.server
            guard
                let found = server?.fetch(
                    topic,
                    consumer.partition,
                    from: consumer.position,
                    leaderEpoch: epoch,
                    lastEpoch: consumer.lastEpoch,
                    readCommitted: consumer.topicName == Self.ledgerTopic
                )
            else { return }
            let limit = checker.mayStart(topic.id, consumer.partition)
            if found.error == .offsetOutOfRange, consumer.position < limit {
                // What it wanted was deleted.
                guard let start = server?.offsets(topic.id, consumer.partition)?.start else { return }
                guard start <= limit else {
                    return fail("partition \(consumer.partition) begins at \(start), and nobody deleted what is before")
                }
                if start > consumer.position { (consumer.position, consumer.lastEpoch) = (start, -1) }
                return
            }
            if found.error == .offsetOutOfRange || (found.divergence != -1 && consumer.position >= limit) {
                return fail(
                    "node \(node.id), which leads \(topic.name)-\(consumer.partition) in epoch \(epoch), does not have what a "
                        + "consumer has read before offset \(consumer.position)"
                )
            }
            guard found.error == .none, let records = found.records else { return }
            if consumer.topicName == Self.ledgerTopic {
                do {
                    try readCommitted(consumer, records, aborted: found.aborted, stable: found.stable)
                } catch {
                    fail("\(error)")
                }
                return
            }
            var batches = RecordBatchIterator(records)
            do {
                while let batch = try batches.next() {
                    for (offset, value) in try ClusterChecker.records(batch) where offset >= consumer.position {
                        guard offset < found.highWatermark else { break }
                        guard offset == consumer.position else {
                            return fail("partition \(consumer.partition) has a gap before offset \(offset)")
                        }
                        try checker.read(topic.id, consumer.partition, offset: offset, value: value)
                        consumer.position = offset + 1
                        consumer.lastEpoch = batch.header.partitionLeaderEpoch.rawValue
                    }
                }
            } catch {
                fail("\(error)")
            }
        }
    }

    /// Carries something into a callback that says that it may come from anywhere: here there is one thread.
    struct Unsafe<Value>: @unchecked Sendable {
        // Sendable: a simulation has one thread.
        let value: Value
        init(_ value: Value) { self.value = value }
    }
#endif
