// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// Transactions over the wire, in both protocols, against a node in this process.
@Suite(.serialized) struct TransactionBrokerTests {
    private static let unstable = -100 - Int64(ErrorCode.unstableOffsetCommit.rawValue)

    private static func small(_ configuration: inout BrokerConfiguration) {
        configuration.transactionTopicPartitions = 2
        configuration.offsetsTopicPartitions = 2
    }

    @Test func featuresAreAnnounced() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            let request = ApiVersionsRequest(clientSoftwareName: "test", clientSoftwareVersion: "1")
            let newest = try connection.call(request, version: 4)
            #expect(newest.finalizedFeatures.contains { $0.name == "transaction.version" && $0.maxVersionLevel == 2 })
            #expect(newest.supportedFeatures.contains { $0.name == "transaction.version" && $0.minVersion == 0 })
            // Gotcha 2: older Java clients cannot read a feature whose lowest level is 0.
            let older = try connection.call(request, version: 3)
            #expect(!older.supportedFeatures.contains { $0.minVersion == 0 })
        }
    }

    @Test func stateTopicIsMadeWhenACoordinatorIsLookedFor() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            func topics() throws -> [String] {
                try connection.call(MetadataRequest(topics: nil), version: 9).topics.compactMap(\.name)
            }
            #expect(try !topics().contains("__transaction_state"))
            let early = try connection.call(
                InitProducerIdRequest(transactionalId: "t", transactionTimeoutMs: 1_000),
                version: 4
            )
            #expect(early.errorCode == ErrorCode.notCoordinator.rawValue)
            var client = try TransactionClient(connection, "t")
            #expect(try topics().contains("__transaction_state"))
            try client.begin()
            #expect(client.producer.epoch == 0)
        }
    }

    @Test(arguments: [false, true]) func commitsAreSeenAndAbortsAreNot(isSecond: Bool) async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t", partitions: 2)
            var client = try TransactionClient(connection, "id", isSecond: isSecond)
            try client.begin()
            for (round, commit) in [true, false, true, false].enumerated() {
                for partition: Int32 in [0, 1] {
                    if !isSecond { #expect(try client.add("t", [partition]) == .none) }
                    #expect(try client.produce(["\(round)a", "\(round)b"], "t", partition) == .none)
                    #expect(try client.produce(["\(round)c"], "t", partition) == .none)
                }
                let open = try connection.fetchCommitted("t")
                #expect(open.lastStableOffset == Int64(round * 4), "nothing of an open transaction is stable")
                #expect(try client.end(commit: commit) == .none)
            }
            for partition: Int32 in [0, 1] {
                #expect(
                    try connection.committedValues("t", partition: partition) == ["0a", "0b", "0c", "2a", "2b", "2c"]
                )
                let data = try connection.fetch("t", from: 0, partition: partition)
                #expect(data.abortedTransactions == nil, "only readers of committed records are told")
                #expect(data.highWatermark == 16)
            }
        }
    }

    /// Gotcha 8: sorted by first offset, and only what the records returned need.
    @Test func abortedTransactionsAreSortedByFirstOffset() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var clients: [TransactionClient] = []
            for index in 0..<4 {
                var client = try TransactionClient(connection, "id\(index)", isSecond: index % 2 == 0)
                try client.begin()
                if !client.isSecond { #expect(try client.add("t") == .none) }
                #expect(try client.produce(["\(index)"], "t") == .none)
                clients.append(client)
            }
            // They end in another order than they began.
            for index in [2, 0, 3, 1] { #expect(try clients[index].end(commit: index == 3) == .none) }
            let data = try connection.fetchCommitted("t")
            #expect(data.abortedTransactions?.map(\.firstOffset) == [0, 1, 2])
            #expect(data.abortedTransactions?.map(\.producerId) == [0, 1, 2].map { clients[$0].producer.id })
            #expect(try connection.committedValues("t") == ["3"])
            let later = try connection.fetchCommitted("t", from: data.highWatermark)
            #expect(later.abortedTransactions?.isEmpty ?? true)
        }
    }

    @Test(arguments: [false, true]) func secondProducerFencesTheFirst(isSecond: Bool) async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var zombie = try TransactionClient(connection, "id", isSecond: isSecond)
            try zombie.begin()
            if !isSecond { #expect(try zombie.add("t") == .none) }
            #expect(try zombie.produce(["zombie"], "t") == .none)
            var client = try TransactionClient(connection, "id", isSecond: isSecond)
            try client.begin()
            #expect(try zombie.produce(["late"], "t") == .invalidProducerEpoch)
            #expect(try zombie.end(commit: true) == .producerFenced)
            #expect(try zombie.add("t") == .producerFenced)
            if !isSecond { #expect(try client.add("t") == .none) }
            #expect(try client.produce(["new"], "t") == .none)
            #expect(try client.end(commit: true) == .none)
            #expect(try connection.committedValues("t") == ["new"])
        }
    }

    /// KIP-890: what comes late of a transaction that has ended opens no other, which nobody would ever end.
    @Test(arguments: [false, true]) func lateRecordsOpenNoTransaction(isSecond: Bool) async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id", isSecond: isSecond)
            try client.begin()
            if !isSecond { #expect(try client.add("t") == .none) }
            #expect(try client.produce(["a"], "t") == .none)
            var late = client
            #expect(try client.end(commit: false) == .none)
            #expect(try late.produce(["late"], "t") == (isSecond ? .invalidProducerEpoch : .transactionAbortable))
            let data = try connection.fetchCommitted("t")
            #expect(data.lastStableOffset == data.highWatermark)
        }
    }

    @Test func partitionsMustBeAddedInTheFirstProtocol() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id")
            try client.begin()
            #expect(try client.produce(["a"], "t") == .transactionAbortable)
            #expect(try client.add("nowhere") == .unknownTopicOrPartition)
            let request = client.produceRequest(try client.batch(["a"], "t"), "t")
            let older = try connection.call(request, version: 9)
            #expect(older.responses[0].partitionResponses[0].errorCode == ErrorCode.invalidTxnState.rawValue)
            #expect(try client.add("t") == .none)
            #expect(try client.produce(["a"], "t") == .none)
            var nameless = request
            nameless.transactionalId = nil
            let refused = try connection.call(nameless, version: 9)
            #expect(
                refused.responses[0].partitionResponses[0].errorCode
                    == ErrorCode.transactionalIdAuthorizationFailed.rawValue
            )
        }
    }

    /// Requests that are sent without waiting for answers join their transaction in order.
    @Test(arguments: [false, true]) func pipelinedProduceKeepsItsOrder(isSecond: Bool) async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id", isSecond: isSecond)
            try client.begin()
            for round in 0..<20 {
                if !isSecond { #expect(try client.add("t") == .none) }
                var sent: [Int32] = []
                for index in 0..<5 {
                    let batch = try client.batch(["\(round).\(index)"], "t")
                    client.sequences["t-0", default: 0] += 1
                    sent.append(try connection.send(client.produceRequest(batch, "t"), version: isSecond ? 12 : 11))
                }
                for correlation in sent {
                    let answer = try connection.receive(
                        ProduceResponse.self,
                        version: isSecond ? 12 : 11,
                        correlation: correlation
                    )
                    #expect(answer.responses[0].partitionResponses[0].errorCode == 0)
                }
                #expect(try client.end(commit: true) == .none)
            }
            let wanted = (0..<20).flatMap { round in (0..<5).map { "\(round).\($0)" } }
            #expect(try connection.committedValues("t") == wanted)
        }
    }

    // MARK: Offsets

    @Test(arguments: [false, true]) func offsetsOfATransactionAreSeenWithItsCommit(isSecond: Bool) async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            _ = try connection.call(FindCoordinatorRequest(keyType: 0, coordinatorKeys: ["g"]), version: 4)
            var client = try TransactionClient(connection, "id", isSecond: isSecond)
            try client.begin()
            func addOffsets() throws {
                if isSecond { return }
                let response = try connection.call(
                    AddOffsetsToTxnRequest(
                        transactionalId: "id",
                        producerId: client.producer.id,
                        producerEpoch: client.producer.epoch,
                        groupId: "g"
                    ),
                    version: 3
                )
                #expect(response.errorCode == 0)
            }
            if !isSecond {
                #expect(try client.commitOffset(1, "t", group: "g") == .invalidTxnState, "the group was not added")
            }
            try addOffsets()
            #expect(try client.commitOffset(5, "t", group: "g") == .none)
            #expect(try connection.committedOffset("t", group: "g", requireStable: true) == Self.unstable)
            #expect(try connection.committedOffset("t", group: "g", requireStable: false) == -1)
            #expect(try client.end(commit: false) == .none)
            #expect(try connection.committedOffset("t", group: "g", requireStable: true) == -1)
            try addOffsets()
            #expect(try client.commitOffset(6, "t", group: "g") == .none)
            #expect(try client.end(commit: true) == .none)
            #expect(try connection.committedOffset("t", group: "g", requireStable: true) == 6)
            #expect(try client.commitOffset(7, "nowhere", group: "g") == .unknownTopicOrPartition)
            try addOffsets()
            #expect(
                try client.commitOffset(7, "t", group: "g", generation: 3, member: "ghost") == .illegalGeneration
            )
            #expect(try client.end(commit: false) == .none)
        }
    }

    /// aiokafka adds the group to the transaction before it looks for the group's coordinator.
    @Test func groupJoinsBeforeAnyGroupIsKnown() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            var client = try TransactionClient(connection, "id")
            try client.begin()
            let response = try connection.call(
                AddOffsetsToTxnRequest(
                    transactionalId: "id",
                    producerId: client.producer.id,
                    producerEpoch: client.producer.epoch,
                    groupId: "g"
                ),
                version: 0
            )
            #expect(response.errorCode == 0)
            let described = try connection.call(DescribeTransactionsRequest(transactionalIds: ["id"]), version: 0)
            #expect(described.transactionStates[0].topics.map(\.topic) == ["__consumer_offsets"])
            #expect(try client.end(commit: true) == .none)
        }
    }

    // MARK: Restart

    @Test func openTransactionsSurviveARestart() async throws {
        let fixture = BrokerFixture(Self.small)
        try await fixture.start()
        var client: TransactionClient
        var other: TransactionClient
        do {
            let connection = try fixture.connect()
            try connection.createTopic("t")
            _ = try connection.call(FindCoordinatorRequest(keyType: 0, coordinatorKeys: ["g"]), version: 4)
            client = try TransactionClient(connection, "id", isSecond: true)
            try client.begin()
            #expect(try client.produce(["a"], "t") == .none)
            #expect(try client.commitOffset(3, "t", group: "g") == .none)
            other = try TransactionClient(connection, "other", isSecond: true)
            try other.begin()
            #expect(try other.produce(["b"], "t") == .none)
        }
        try await fixture.stop()
        try await fixture.start()
        let connection = try fixture.connect()
        #expect(try connection.committedOffset("t", group: "g", requireStable: true) == Self.unstable)
        #expect(try connection.fetchCommitted("t").lastStableOffset == 0)
        var resumed = try TransactionClient(connection, "id", isSecond: true)
        resumed.producer = client.producer
        resumed.sequences = client.sequences
        #expect(try resumed.produce(["c"], "t") == .none)
        #expect(try resumed.end(commit: true) == .none)
        #expect(try connection.committedOffset("t", group: "g", requireStable: true) == 3)
        #expect(try connection.fetchCommitted("t").lastStableOffset == 1, "the other transaction is still open")
        var successor = try TransactionClient(connection, "other", isSecond: true)
        try successor.begin()
        #expect(successor.producer.id == other.producer.id && successor.producer.epoch > other.producer.epoch)
        let data = try connection.fetchCommitted("t")
        #expect(data.abortedTransactions?.map(\.firstOffset) == [1])
        let values = try connection.committedValues("t")
        #expect(values == ["a", "c"])
        try await fixture.stop()
    }

    // MARK: Time and administration

    @Test func timeoutAborts() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id", isSecond: true)
            try client.begin(timeout: 100)
            #expect(try client.produce(["a"], "t") == .none)
            var state = ""
            for _ in 0..<3_000 where state != "CompleteAbort" {
                state = try connection.call(DescribeTransactionsRequest(transactionalIds: ["id"]), version: 0)
                    .transactionStates[0].transactionState
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect(state == "CompleteAbort")
            #expect(try client.produce(["b"], "t") == .invalidProducerEpoch)
            #expect(try client.end(commit: true) == .invalidTxnState)
            // Its own abort it may still ask for: it learns the epoch that it goes on with.
            #expect(try client.end(commit: false) == .none)
            #expect(try client.produce(["c"], "t") == .none)
            #expect(try client.end(commit: true) == .none)
            #expect(try connection.committedValues("t") == ["c"])
        }
    }

    /// A transaction that no coordinator knows is found by its open offset and ended by a marker.
    @Test func hangingTransactionIsEndedByAMarker() async throws {
        try await BrokerFixture.with({ configuration in
            Self.small(&configuration)
            configuration.verifiesTransactionPartitions = false
        }) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id")
            try client.begin()
            // Not added, so its coordinator never ends it.
            #expect(try client.produce(["a"], "t") == .none)
            let described = try connection.call(
                DescribeProducersRequest(topics: [.init(name: "t", partitionIndexes: [0])]),
                version: 0
            )
            let producer = described.topics[0].partitions[0].activeProducers[0]
            #expect(producer.currentTxnStartOffset == 0 && producer.producerId == client.producer.id)
            let marker = WriteTxnMarkersRequest.WritableTxnMarker(
                producerId: producer.producerId,
                producerEpoch: Int16(producer.producerEpoch),
                transactionResult: false,
                topics: [.init(name: "t", partitionIndexes: [0]), .init(name: "nowhere", partitionIndexes: [3])],
                coordinatorEpoch: producer.coordinatorEpoch
            )
            let codes = try connection.call(WriteTxnMarkersRequest(markers: [marker]), version: 1)
                .markers[0].topics.map { $0.partitions.map(\.errorCode) }
            #expect(codes == [[0], [ErrorCode.unknownTopicOrPartition.rawValue]])
            #expect(try connection.fetchCommitted("t").lastStableOffset == 2)
            #expect(try connection.committedValues("t") == [])
        }
    }

    /// KAFKA-19999: a marker that is sent again neither fails for ever nor ends the transaction that came after.
    @Test func markersAreIdempotent() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t")
            var client = try TransactionClient(connection, "id", isSecond: true)
            try client.begin()
            #expect(try client.produce(["a"], "t") == .none)
            #expect(try client.end(commit: true) == .none)
            let marker = WriteTxnMarkersRequest.WritableTxnMarker(
                producerId: client.producer.id,
                producerEpoch: client.producer.epoch,
                transactionResult: true,
                topics: [.init(name: "t", partitionIndexes: [0])],
                transactionVersion: 2
            )
            func again() throws -> Int16 {
                try connection.call(WriteTxnMarkersRequest(markers: [marker]), version: 2)
                    .markers[0].topics[0].partitions[0].errorCode
            }
            #expect(try again() == 0)
            #expect(try connection.fetchCommitted("t").highWatermark == 2, "it was not written twice")
            #expect(try client.produce(["b"], "t") == .none)
            #expect(try again() == ErrorCode.invalidProducerEpoch.rawValue)
            #expect(try connection.fetchCommitted("t").lastStableOffset == 2)
            #expect(try client.end(commit: true) == .none)
            #expect(try connection.committedValues("t") == ["a", "b"])
        }
    }

    @Test func brokersMayAddAndVerifyInBatches() async throws {
        try await BrokerFixture.with(Self.small) { fixture in
            let connection = try fixture.connect()
            try connection.createTopic("t", partitions: 3)
            var client = try TransactionClient(connection, "id")
            try client.begin()
            func ask(_ partitions: [Int32], verifyOnly: Bool) throws -> [Int16] {
                let response = try connection.call(
                    AddPartitionsToTxnRequest(transactions: [
                        .init(
                            transactionalId: "id",
                            producerId: client.producer.id,
                            producerEpoch: client.producer.epoch,
                            verifyOnly: verifyOnly,
                            topics: [.init(name: "t", partitions: partitions)]
                        ),
                        .init(transactionalId: "nobody", topics: [.init(name: "t", partitions: [0])]),
                    ]),
                    version: 5
                )
                #expect(response.errorCode == 0)
                #expect(
                    response.resultsByTransaction[1].topicResults[0].resultsByPartition[0].partitionErrorCode
                        == ErrorCode.invalidProducerIdMapping.rawValue
                )
                return response.resultsByTransaction[0].topicResults[0].resultsByPartition.map(\.partitionErrorCode)
            }
            let abortable = ErrorCode.transactionAbortable.rawValue
            #expect(try ask([0, 1], verifyOnly: true) == [abortable, abortable])
            #expect(try ask([0], verifyOnly: false) == [0])
            #expect(try ask([0, 1], verifyOnly: true) == [0, abortable])
            let listed = try connection.call(ListTransactionsRequest(stateFilters: ["Ongoing", "Odd"]), version: 2)
            #expect(listed.transactionStates.map(\.transactionalId) == ["id"] && listed.unknownStateFilters == ["Odd"])
            let malformed = try connection.call(ListTransactionsRequest(transactionalIdPattern: "("), version: 2)
            #expect(malformed.errorCode == ErrorCode.invalidRegularExpression.rawValue)
        }
    }
}
