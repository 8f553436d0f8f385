// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Logging
import MDCLog
import MDCModel
import NIOConcurrencyHelpers
import Testing

@testable import MDCBroker

@Suite("A leader's replication with its log")
struct LeaderReplicationTests {
    /// The disk may be done just as the controller commits another in-sync set, so that it is this event which makes records
    /// committed; who waits for them must hear of it then, since no other event need come.
    @Test("What becomes committed as the in-sync set changes is told to who waits")
    func committedByChange() async throws {
        var template = Array("/tmp/mdc-replication-test-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        defer { BrokerFixture.remove(folder) }
        var logger = Logger(label: "replication")
        logger.logLevel = .critical
        let logs = try LogManager.open(configuration: LogConfiguration(directories: [folder]), logger: logger)
        let id = TopicID(high: 1, low: 1)
        let log = try logs.createPartition(
            TopicPartition(topic: "t", partition: 0),
            topicID: id,
            settings: LogSettings()
        )
        log.updateHighWatermark(0)
        log.lead(in: 1)
        let leader = LeaderReplica(
            node: 1,
            leaderEpoch: 1,
            partitionEpoch: 1,
            replicas: [1, 2, 3],
            inSync: [1, 2, 3],
            highWatermark: 0,
            logEnd: 0,
            durableEnd: 0,
            settings: LeaderReplica.Settings(minInSync: 2),
            now: LeaderReplication.now()
        )
        let replication = LeaderReplication(
            topicID: id,
            log: log,
            replica: leader,
            hooks: ReplicationHooks(propose: { _, _ in }, mayEnter: { _, _ in true })
        )
        let batch = try RawKafkaConnection.batch(["a", "b"])
        _ = try log.append(batch, as: .client, leaderEpoch: 1, now: Timestamp(mdc_wall_clock_ms()))
        await withCheckedContinuation { next in log.whenDurable(upTo: 2) { _ in next.resume() } }
        // All followers have it, and only the leader's own disk has not been heard of.
        for node in [2, 3] as [Int32] {
            _ = try replication.fetched(by: node, brokerEpoch: 1, from: 2, logStart: 0)
        }
        let told = NIOLockedValueBox(false)
        replication.whenCommitted(upTo: 2) { _ in told.withLockedValue { $0 = true } }
        #expect(!told.withLockedValue { $0 })
        let advanced = replication.update(partitionEpoch: 1, replicas: [1, 2, 3], inSync: [1, 2, 3], minInSync: 2)
        #expect(advanced && told.withLockedValue { $0 } && log.highWatermark == 2)
        // Nothing more can be committed once more replicas are asked for than are in sync: who waits is told at once.
        let refused = NIOLockedValueBox<[LogError.Code]>([])
        replication.whenCommitted(upTo: 4) { result in
            if case .failure(let error) = result { refused.withLockedValue { $0.append(error.code) } }
        }
        #expect(!replication.set(minInSync: 3) && refused.withLockedValue { $0 } == [])
        #expect(!replication.set(minInSync: 4) && refused.withLockedValue { $0 } == [.notEnoughReplicas])
        replication.retire()
        try logs.close()
    }
}
