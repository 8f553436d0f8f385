// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// What particular clients send that others do not. Each was found by running the client.
@Suite("Old clients", .serialized)
struct OldClientTests {
    typealias Raw = RawKafkaConnection

    @Test("sarama 1.22 leaves out the maximum timestamp: the broker puts it in", arguments: CompressionCodec.allCases)
    func missingMaxTimestamp(codec: CompressionCodec) async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            var settings = RecordBatchBuilder.Settings()
            settings.codec = codec
            var builder = RecordBatchBuilder(settings)
            for timestamp in [1_700_000_000_000, 1_700_000_000_900, 1_700_000_000_500] as [Timestamp] {
                builder.append(key: nil, value: ByteBuffer(string: "x"), headers: [], timestamp: timestamp)
            }
            var batch = try builder.build()
            batch.withUnsafeMutableReadableBytes { bytes in
                var header = RecordBatchHeader(reading: UnsafeRawBufferPointer(bytes))
                header.maxTimestamp = -1
                header.crc = header.checksum(
                    records: UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.Layout.size...])
                )
                header.write(to: bytes)
            }
            #expect(try client.produce("t", batch).errorCode == 0)
            let records = try client.fetch("t", from: 0).records ?? ByteBuffer()
            let header = try RecordBatchValidator.validate(records)
            #expect(header.maxTimestamp == 1_700_000_000_900)
            let newest = try client.call(
                ListOffsetsRequest(topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, timestamp: -3)])]),
                version: 7
            )
            #expect(newest.topics[0].partitions[0].timestamp == 1_700_000_000_900)
            // Damaged records are found on the way.
            var damaged = batch
            damaged.setInteger(UInt8(0xEE), at: damaged.writerIndex - 2)
            #expect(try client.produce("t", damaged).errorCode == 2)
        }
    }

    @Test("librdkafka wants to know which records of a batch a compacted topic refuses (KIP-467)")
    func recordErrors() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t", configs: ["cleanup.policy": "compact"])
            var builder = RecordBatchBuilder()
            for key in ["a", nil, "b", nil] as [String?] {
                builder.append(
                    key: key.map { ByteBuffer(string: $0) },
                    value: ByteBuffer(string: "x"),
                    timestamp: 1_700_000_000_000
                )
            }
            let batch = try builder.build()
            let refused = try client.produce("t", batch, version: 8)
            #expect(refused.errorCode == ErrorCode.invalidRecord.rawValue)
            #expect(refused.recordErrors.map(\.batchIndex) == [1, 3])
            #expect(refused.recordErrors.allSatisfy { $0.batchIndexErrorMessage?.contains("t-0") == true })
            let old = try client.produce("t", batch, version: 7)
            #expect(old.errorCode == ErrorCode.invalidRecord.rawValue && old.recordErrors.isEmpty)
        }
    }

    @Test("A group's record may be larger than max.message.bytes: an internal topic takes it")
    func largeGroupRecords() async throws {
        try await BrokerFixture.with({ $0.groupInitialRebalanceDelay = 0 }) { fixture in
            let client = try fixture.connect()
            while try client.call(FindCoordinatorRequest(key: "large"), version: 2).errorCode != 0 {}
            func join(_ id: String) throws -> JoinGroupResponse {
                try client.call(
                    JoinGroupRequest(
                        groupId: "large",
                        sessionTimeoutMs: 30_000,
                        rebalanceTimeoutMs: 30_000,
                        memberId: id,
                        protocolType: "consumer",
                        protocols: [.init(name: "p", metadata: ByteBuffer(repeating: 7, count: 3 << 20))]
                    ),
                    version: 5
                )
            }
            var joined = try join("")
            while joined.errorCode != 0 { joined = try join(joined.memberId) }
            let assignment = ByteBuffer(repeating: 9, count: 4 << 20)
            let synced = try client.call(
                SyncGroupRequest(
                    groupId: "large",
                    generationId: joined.generationId,
                    memberId: joined.memberId,
                    assignments: [.init(memberId: joined.memberId, assignment: assignment)]
                ),
                version: 3
            )
            #expect(synced.errorCode == 0 && synced.assignment == assignment)
            // It is on the log whole: a broker that starts anew knows the group.
            try await fixture.stop()
            try await fixture.start()
            let again = try fixture.connect()
            var state = ""
            for _ in 0..<2_000 where state != "Stable" {
                let described = try again.call(DescribeGroupsRequest(groups: ["large"]), version: 5)
                state = described.groups[0].groupState
                if state == "Stable" { #expect(described.groups[0].members[0].memberAssignment == assignment) }
            }
            #expect(state == "Stable")
        }
    }
}
