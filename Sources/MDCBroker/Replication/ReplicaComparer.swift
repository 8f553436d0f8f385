// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix
import Synchronization

/// Compares what this node follows with its leaders, stretch by stretch, one at a time, at leisure.
final class ReplicaComparer: Sendable {
    private struct State {
        var comparison = ReplicaComparison()
        var isStopped = false
    }

    /// Milliseconds between two stretches, and between two looks where nothing is due.
    private static let stretchPause: Int64 = 50
    private static let idlePause: Int64 = 2_000
    private static let timeout: Int64 = 10_000

    private let manager: ReplicaManager
    private let peers: PeerRequests
    private let eventLoop: any EventLoop
    private let blocking: any WorkQueue
    /// Milliseconds between two passes over a replica (`replica.compare.interval.ms`); 0 for never.
    private let interval: @Sendable () -> Int64
    private let logger: Logger
    private let state = Mutex(State())
    /// Bytes that were found equal are not counted, stretches are.
    let stretches = Atomic<Int>(0)
    let differences = Atomic<Int>(0)

    init(
        manager: ReplicaManager,
        peers: PeerRequests,
        eventLoop: any EventLoop,
        blocking: any WorkQueue,
        interval: @escaping @Sendable () -> Int64,
        logger: Logger
    ) {
        self.manager = manager
        self.peers = peers
        self.eventLoop = eventLoop
        self.blocking = blocking
        self.interval = interval
        self.logger = logger
    }

    func start() { step(after: Self.idlePause) }

    func stop() { state.withLock { $0.isStopped = true } }

    private func step(after milliseconds: Int64) {
        guard !state.withLock({ $0.isStopped }) else { return }
        eventLoop.scheduleTask(in: .milliseconds(milliseconds)) { [self] in
            blocking.submit { [self] _ in compareNext() }
        }
    }

    /// Has the leaders of replicas that are to be emptied drop them from the in-sync set: a fetch that asks for less than is
    /// committed says that the replica has lost it. What comes back is not needed.
    private func withdraw() {
        for replica in manager.withdrawing() {
            let request = FetchRequest(
                replicaState: .init(replicaId: manager.node, replicaEpoch: manager.directory.ownBrokerEpoch),
                maxWaitMs: 0,
                minBytes: 0,
                maxBytes: 1,
                sessionId: 0,
                sessionEpoch: -1,
                topics: [
                    .init(
                        topicId: replica.log.topicID,
                        partitions: [
                            .init(
                                partition: replica.log.topicPartition.partition.rawValue,
                                currentLeaderEpoch: replica.leaderEpoch,
                                fetchOffset: replica.start.rawValue,
                                lastFetchedEpoch: -1,
                                logStartOffset: replica.start.rawValue,
                                partitionMaxBytes: 1
                            )
                        ]
                    )
                ]
            )
            peers.send(request, version: 17, to: replica.leader, .checksums, within: Self.timeout) { _ in }
        }
    }

    private func compareNext() {
        withdraw()
        let interval = interval()
        guard interval > 0 else { return step(after: Self.idlePause) }
        let replicas = manager.comparable()
        let extents = replicas.mapValues { ReplicaComparison.Extent(start: $0.start.rawValue, end: $0.end.rawValue) }
        let next = state.withLock { $0.comparison.next(extents, interval: interval, now: LeaderReplication.now()) }
        guard let next, let replica = replicas[next.key],
            let own = LogDigest.of(replica.log, from: Offset(next.from), upTo: replica.end)
        else { return step(after: Self.idlePause) }
        // What cannot be read here is asked for as far as it would go.
        let end = own.isSound ? Offset(own.end) : replica.end
        let request = OffsetForLeaderEpochRequest(
            replicaId: manager.node,
            topics: [
                .init(
                    topic: replica.log.topicPartition.topic,
                    partitions: [
                        .init(
                            partition: next.key.index,
                            currentLeaderEpoch: replica.leaderEpoch,
                            leaderEpoch: replica.leaderEpoch,
                            unknownTaggedFields: [
                                UnknownTaggedField(
                                    tag: LogDigest.tag,
                                    bytes: LogDigest.question(from: Offset(own.first), upTo: end)
                                )
                            ]
                        )
                    ]
                )
            ]
        )
        peers.send(request, version: 4, to: replica.leader, .checksums, within: Self.timeout) { [self] response in
            let partition = response?.topics.first?.partitions.first
            let digest = partition?.unknownTaggedFields.first { $0.tag == LogDigest.tag }.flatMap {
                LogDigest($0.bytes)
            }
            blocking.submit { [self] _ in
                judge(next.key, replica, own, digest)
                step(after: Self.stretchPause)
            }
        }
    }

    private func judge(
        _ key: ReplicaFetcher.Key,
        _ replica: ReplicaManager.Comparable,
        _ own: LogDigest,
        _ leader: LogDigest?
    ) {
        var finding = ReplicaComparison.judge(own: own, leader: leader)
        // The log may have been cut or trimmed since it was read: only what is there still counts.
        if finding == .different,
            LogDigest.of(replica.log, from: Offset(own.first), upTo: Offset(max(own.end, own.first + 1))) != own
                && own.isSound || replica.log.logStartOffset.rawValue > own.first
        {
            finding = .unknown
        }
        state.withLock { $0.comparison.compared(key, finding, upTo: own.end) }
        stretches.add(1, ordering: .relaxed)
        let metadata: Logger.Metadata = [
            "partition": "\(replica.log.topicPartition)", "leader": "\(replica.leader)", "from": "\(own.first)",
            "upTo": "\(max(own.end, leader?.end ?? own.end))",
        ]
        switch finding {
        case .equal, .unknown: break
        case .leaderDamaged:
            differences.add(1, ordering: .relaxed)
            logger.error(
                "the leader's copy of a partition is damaged; this replica is left as it is",
                metadata: metadata
            )
        case .different:
            differences.add(1, ordering: .relaxed)
            logger.error("a replica differs from its leader and is copied anew", metadata: metadata)
            manager.rebuild(key)
            withdraw()
        }
    }
}

extension ReplicaManager {
    /// A followed replica, as far as it can be compared.
    struct Comparable: Sendable {
        var log: PartitionLog
        var leader: Int32
        var leaderEpoch: Int32
        var start: Offset
        var end: Offset
    }
}
