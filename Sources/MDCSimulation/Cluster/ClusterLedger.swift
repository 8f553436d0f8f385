// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel
    import NIOCore

    @testable import MDCBroker

    /// What became of transactions, as their producers were told, and as consumers see it.
    struct ClusterLedger {
        enum Outcome {
            /// Nobody has asked to commit it.
            case open
            /// Somebody has, and was not told what came of it.
            case asked
            case committed
        }

        struct Transaction {
            var values: [(partition: Int32, value: String)]
            var outcome = Outcome.open
            /// What committed readers got of it.
            var read: Set<String> = []
        }

        var transactions: [Int: Transaction] = [:]
        var owners: [String: Int] = [:]
        /// What committed readers got, by partition and offset.
        var read: [Int32: [Int64: String]] = [:]

        var committedCount: Int { transactions.values.count { $0.outcome == .committed } }
    }

    extension ClusterChecker {
        mutating func begins(_ number: Int, _ values: [(Int32, String)]) {
            ledger.transactions[number] = .init(values: values.map { ($0.0, $0.1) })
            for (_, value) in values { ledger.owners[value] = number }
        }

        mutating func asksToCommit(_ number: Int) { ledger.transactions[number]?.outcome = .asked }
        mutating func isCommitted(_ number: Int) { ledger.transactions[number]?.outcome = .committed }

        /// A reader of what is committed gets a record.
        mutating func readCommitted(_ partition: Int32, _ offset: Int64, _ value: String) throws(Wrong) {
            if let before = ledger.read[partition]?[offset] {
                guard before == value else {
                    throw Wrong(
                        "a committed reader gets '\(value)' at offset \(offset) of ledger-\(partition), after '\(before)'"
                    )
                }
                return
            }
            ledger.read[partition, default: [:]][offset] = value
            guard let number = ledger.owners[value], let transaction = ledger.transactions[number] else {
                throw Wrong("'\(value)' in ledger-\(partition) is of no transaction")
            }
            guard transaction.outcome != .open else {
                throw Wrong("'\(value)' is read as committed, and nobody asked to commit its transaction")
            }
            guard ledger.transactions[number]?.read.insert(value).inserted == true else {
                throw Wrong("'\(value)' is read as committed twice, the second time at offset \(offset)")
            }
        }

        /// At the end, when everything is read: transactions are there whole or not at all.
        func checkLedger() throws(Wrong) {
            for (number, transaction) in ledger.transactions.sorted(by: { $0.key < $1.key }) {
                let missing = transaction.values.map(\.value).filter { !transaction.read.contains($0) }
                if transaction.outcome == .committed, let first = missing.first {
                    throw Wrong("'\(first)' is missing; its producer was told that transaction \(number) is committed")
                }
                if !missing.isEmpty && missing.count < transaction.values.count {
                    throw Wrong("of transaction \(number) '\(missing[0])' is missing, and other records are there")
                }
            }
        }
    }

    extension ClusterServer {
        /// Appends a batch of a transaction with `acks=all`. See `ProduceHandler.admit`.
        func produce(
            _ topic: TopicID,
            _ index: Int32,
            _ batch: ByteBuffer,
            of producer: ProducerIdentity,
            in id: String,
            adds: Bool,
            _ done: @escaping (Produced) -> Void
        ) {
            guard case .found(let partition) = services.registry.find(id: topic, partition: index),
                !partition.hasOpenTransaction(producer)
            else { return produce(topic, index, batch, of: producer, ticket: nil, done) }
            let ticket = partition.takeTicket(producer)
            let (me, answer) = (Unsafe(self), Unsafe(done))
            services.coordinators.transactions.admit([partition.topicPartition], to: id, producer, adds: adds) { code in
                guard code == .none else {
                    partition.giveBack(ticket, of: producer)
                    return answer.value(.failed(code, "not admitted"))
                }
                me.value.produce(topic, index, batch, of: producer, ticket: ticket, answer.value)
            }
        }
    }

    extension ClusterSimulator {
        /// A committed reader's look at the ledger.
        func readCommitted(
            _ consumer: ClusterConsumer,
            _ records: ByteBuffer,
            aborted: [(producer: Int64, first: Int64)],
            stable: Int64
        ) throws {
            var waiting = aborted.sorted { $0.first < $1.first }[...]
            var skipped: Set<Int64> = []
            var batches = RecordBatchIterator(records)
            while let batch = try batches.next() {
                let header = batch.header
                let end = header.lastOffset.rawValue + 1
                guard end <= stable else { return }
                while let next = waiting.first, next.first < end {
                    skipped.insert(next.producer)
                    waiting = waiting.dropFirst()
                }
                if header.attributes.isControl {
                    skipped.remove(header.producerID.rawValue)
                } else if !skipped.contains(header.producerID.rawValue) {
                    for (offset, value) in try ClusterChecker.records(batch) where offset >= consumer.position {
                        try checker.readCommitted(consumer.partition, offset, value)
                    }
                }
                consumer.position = max(consumer.position, end)
                consumer.lastEpoch = header.partitionLeaderEpoch.rawValue
            }
        }
    }
#endif
