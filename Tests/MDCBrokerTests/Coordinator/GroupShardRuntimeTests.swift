// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization
import Testing

@testable import MDCBroker

/// A node in memory: its log commits when told to, refuses when told to, and its clock moves when told to.
final class MemoryTopics: InternalTopicAccess {
    fileprivate struct State {
        var partitions: Int32?
        var batches: [Int32: [(base: Offset, bytes: ByteBuffer)]] = [:]
        var ends: [Int32: Offset] = [:]
        var watchers:
            [(partition: Int32, offset: Offset, done: @Sendable (Result<Void, CoordinatorStorageError>) -> Void)] = []
        var commitsAtOnce = true
        var refusal: ErrorCode?
        var now = CoordinatorTime(monotonic: 1_000, wall: 1_700_000_000_000)
        var timers: [(at: Int64, id: Int, work: @Sendable () -> Void)] = []
        var nextTimer = 0
        var image = GroupTopicImage()
    }

    private let state: Mutex<State>

    init(partitions: Int32? = nil) {
        state = Mutex(State(partitions: partitions, image: MDCBrokerTests.topicImage(1)))
    }

    func partitionCount(of topic: InternalTopic) -> Int32? { state.withLock { $0.partitions } }

    func create(
        _ topic: InternalTopic,
        _ done: @escaping @Sendable (Result<Int32, CoordinatorStorageError>) -> Void
    ) {
        state.withLock { $0.partitions = 3 }
        done(.success(3))
    }

    func endpoint(of topic: InternalTopic, partition: Int32) -> CoordinatorEndpoint? {
        CoordinatorEndpoint(nodeID: 1, host: "localhost", port: 9092)
    }

    func append(
        _ batch: ByteBuffer,
        to topic: InternalTopic,
        partition: Int32
    ) throws(CoordinatorStorageError) -> Offset {
        let result: Result<Offset, CoordinatorStorageError> = state.withLock { state in
            if let code = state.refusal { return .failure(CoordinatorStorageError(code: code, description: "refused")) }
            let base = state.ends[partition] ?? 0
            var iterator = RecordBatchIterator(batch)
            let count = (try? iterator.next())?.header.recordCount ?? 0
            state.batches[partition, default: []].append((base, batch))
            state.ends[partition] = base + Int64(count)
            return .success(base + Int64(count))
        }
        return try result.get()
    }

    func whenCommitted(
        upTo offset: Offset,
        of topic: InternalTopic,
        partition: Int32,
        _ done: @escaping @Sendable (Result<Void, CoordinatorStorageError>) -> Void
    ) {
        let isCommitted = state.withLock { state in
            if !state.commitsAtOnce { state.watchers.append((partition, offset, done)) }
            return state.commitsAtOnce
        }
        if isCommitted { done(.success(())) }
    }

    func endOffset(of topic: InternalTopic, partition: Int32) throws(CoordinatorStorageError) -> Offset {
        state.withLock { $0.ends[partition] ?? 0 }
    }

    func read(
        _ topic: InternalTopic,
        partition: Int32,
        from offset: Offset
    ) throws(CoordinatorStorageError) -> InternalTopicRead {
        state.withLock { state in
            let index = state.batches[partition]?.firstIndex { $0.base >= offset } ?? 0
            let batches = state.batches[partition] ?? []
            let next = index + 1 < batches.count ? batches[index + 1].base : nil
            return InternalTopicRead(batches: batches[index].bytes, nextOffset: next)
        }
    }

    func topicImage() -> GroupTopicImage { state.withLock { $0.image } }
    var topicImageVersion: UInt64 { state.withLock { $0.image.version } }
    func now() -> CoordinatorTime { state.withLock { $0.now } }

    func schedule(after milliseconds: Int64, _ work: @escaping @Sendable () -> Void) -> @Sendable () -> Void {
        let id = state.withLock { state in
            state.nextTimer += 1
            state.timers.append((state.now.monotonic + milliseconds, state.nextTimer, work))
            return state.nextTimer
        }
        return { [self] in state.withLock { $0.timers.removeAll { $0.id == id } } }
    }

    func runBlocking(_ work: @escaping @Sendable () -> Void) { work() }

    // MARK: Strings to pull

    func setCommitsAtOnce(_ value: Bool) { state.withLock { $0.commitsAtOnce = value } }
    func setRefusal(_ code: ErrorCode?) { state.withLock { $0.refusal = code } }

    /// Commits, or loses, everything that was appended.
    func settle(_ result: Result<Void, CoordinatorStorageError> = .success(())) {
        let watchers = state.withLock { state in
            let watchers = state.watchers
            state.watchers = []
            return watchers
        }
        for watcher in watchers { watcher.done(result) }
    }

    func advance(_ milliseconds: Int64) {
        let end = now().monotonic + milliseconds
        while true {
            let work: (@Sendable () -> Void)? = state.withLock { state in
                guard let next = state.timers.min(by: { $0.at < $1.at }), next.at <= end else { return nil }
                state.timers.removeAll { $0.id == next.id }
                state.now.monotonic = max(state.now.monotonic, next.at)
                return next.work
            }
            guard let work else { break }
            work()
        }
        state.withLock { $0.now.monotonic = end }
    }
}

/// Keeps what it is given.
final class Box<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    func put(_ value: Value) { values.withLock { $0.append(value) } }
    var all: [Value] { values.withLock { $0 } }
}

@Suite struct GroupShardRuntimeTests {
    private func service(_ topics: MemoryTopics) -> GroupCoordinatorService {
        let service = GroupCoordinatorService(access: topics, settings: GroupSettings(), logger: Logger(label: "test"))
        service.start()
        return service
    }

    private func commit(_ service: GroupCoordinatorService, _ offset: Int64, topic: String = "t") -> Box<ErrorCode> {
        let box = Box<ErrorCode>()
        let request = OffsetCommitRequest(
            groupId: "g",
            topics: [.init(name: topic, partitions: [.init(partitionIndex: 0, committedOffset: offset)])]
        )
        service.commitOffsets(request, RequestOrigin(apiVersion: 9)) {
            box.put(ErrorCode(rawValue: $0.topics[0].partitions[0].errorCode))
        }
        return box
    }

    private func fetch(_ service: GroupCoordinatorService) -> Box<Int64> {
        let box = Box<Int64>()
        let request = OffsetFetchRequest(groups: [
            .init(groupId: "g", topics: [.init(name: "t", partitionIndexes: [0])])
        ])
        service.fetchOffsets(request, RequestOrigin(apiVersion: 9)) {
            let group = $0.groups[0]
            box.put(
                group.errorCode == 0 ? group.topics[0].partitions[0].committedOffset : -100 - Int64(group.errorCode)
            )
        }
        return box
    }

    @Test func lookingForACoordinatorCreatesTheTopic() {
        let topics = MemoryTopics()
        let service = service(topics)
        #expect(commit(service, 1).all == [.notCoordinator])
        let found = Box<FindCoordinatorResponse>()
        service.findCoordinator(
            FindCoordinatorRequest(coordinatorKeys: ["g", "h"]),
            RequestOrigin(apiVersion: 4),
            found.put
        )
        #expect(found.all[0].coordinators.map(\.nodeId) == [1, 1])
        service.findCoordinator(FindCoordinatorRequest(key: "g"), RequestOrigin(apiVersion: 0), found.put)
        #expect(found.all[1].port == 9092 && found.all[1].coordinators.isEmpty)
        #expect(commit(service, 1).all == [.none])
    }

    @Test func answersWaitForTheCommitAndReadsForTheWritesBeforeThem() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        topics.setCommitsAtOnce(false)
        let first = commit(service, 1)
        let second = commit(service, 2)
        let read = fetch(service)
        #expect(first.all.isEmpty && second.all.isEmpty && read.all.isEmpty)
        topics.settle()
        #expect(first.all == [.none] && second.all == [.none] && read.all == [2])
        #expect(fetch(service).all == [2])
    }

    @Test func whatTheLogRefusesDidNotHappen() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        #expect(commit(service, 1).all == [.none])
        topics.setRefusal(.notEnoughReplicas)
        #expect(commit(service, 2).all == [.coordinatorNotAvailable])
        topics.setRefusal(.messageTooLarge)
        #expect(commit(service, 2).all == [.invalidCommitOffsetSize])
        topics.setRefusal(nil)
        #expect(fetch(service).all == [1])
    }

    @Test func aRefusedGroupChangeReloadsTheShard() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        let joins = Box<JoinGroupResponse>()
        let request = JoinGroupRequest(
            groupId: "g",
            sessionTimeoutMs: 10_000,
            rebalanceTimeoutMs: 10_000,
            protocolType: "consumer",
            protocols: [.init(name: "range")]
        )
        service.joinGroup(request, RequestOrigin(clientID: "c", apiVersion: 2), joins.put)
        topics.advance(200)
        #expect(joins.all.count == 1 && joins.all[0].generationId == 1 && joins.all[0].protocolName == "range")
        topics.setRefusal(.notLeaderOrFollower)
        let syncs = Box<SyncGroupResponse>()
        let sync = SyncGroupRequest(groupId: "g", generationId: 1, memberId: joins.all[0].memberId)
        service.syncGroup(sync, RequestOrigin(apiVersion: 2), syncs.put)
        #expect(syncs.all.map(\.errorCode) == [ErrorCode.notCoordinator.rawValue])
        topics.setRefusal(nil)
        // What was not on the log is forgotten.
        service.syncGroup(sync, RequestOrigin(apiVersion: 2), syncs.put)
        #expect(syncs.all.last?.errorCode == ErrorCode.unknownMemberId.rawValue)
    }

    @Test func aLostAppendTellsEveryoneWhoWaits() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        topics.setCommitsAtOnce(false)
        let lost = commit(service, 1)
        topics.settle(.failure(CoordinatorStorageError(code: .notLeaderOrFollower, description: "lost")))
        #expect(lost.all == [.notCoordinator])
        topics.settle()
        topics.setCommitsAtOnce(true)
        #expect(commit(service, 2).all == [.none])
    }

    @Test func aRestartFindsWhatWasAcknowledged() {
        let topics = MemoryTopics(partitions: 3)
        let before = service(topics)
        for offset in 1...50 { #expect(commit(before, Int64(offset)).all == [.none]) }
        let after = service(topics)
        #expect(fetch(after).all == [50])
        #expect(after.committedOffsets().map(\.offset) == [50])
    }

    @Test func unknownTopicsAreRefusedByNameAndByID() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        #expect(commit(service, 1, topic: "nope").all == [.unknownTopicOrPartition])
        let responses = Box<OffsetCommitResponse>()
        let request = OffsetCommitRequest(
            groupId: "g",
            topics: [topicT, TopicID(high: 9, low: 9)].map {
                .init(topicId: $0, partitions: [.init(partitionIndex: 0, committedOffset: 7)])
            }
        )
        service.commitOffsets(request, RequestOrigin(apiVersion: 10), responses.put)
        let codes = responses.all[0].topics.map { ErrorCode(rawValue: $0.partitions[0].errorCode) }
        #expect(codes == [.none, .unknownTopicId])
        #expect(responses.all[0].topics.map(\.topicId) == [topicT, TopicID(high: 9, low: 9)])
        let fetched = Box<OffsetFetchResponse>()
        service.fetchOffsets(
            OffsetFetchRequest(groups: [.init(groupId: "g", topics: nil)]),
            RequestOrigin(apiVersion: 10),
            fetched.put
        )
        #expect(fetched.all[0].groups[0].topics.map(\.topicId) == [topicT])
    }

    @Test func responsesFitOldVersions() throws {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        let bytes = Box<Int>()
        for version in Int16(0)...9 {
            let request = JoinGroupRequest(groupId: "", memberId: "x", protocolType: "consumer")
            service.joinGroup(request, RequestOrigin(apiVersion: version)) {
                bytes.put((try? $0.encoded(version: version).readableBytes) ?? -1)
            }
        }
        for version in Int16(0)...5 {
            let request = LeaveGroupRequest(groupId: "g", memberId: "x")
            service.leaveGroup(request, RequestOrigin(apiVersion: version)) {
                bytes.put((try? $0.encoded(version: version).readableBytes) ?? -1)
                if version < 3 { bytes.put($0.errorCode == ErrorCode.unknownMemberId.rawValue ? 0 : -1) }
            }
        }
        for version in Int16(1)...10 {
            var request = OffsetFetchRequest(groupId: "g", topics: [.init(name: "t", partitionIndexes: [0])])
            if version >= 8 { request = OffsetFetchRequest(groups: [.init(groupId: "g")]) }
            service.fetchOffsets(request, RequestOrigin(apiVersion: version)) {
                bytes.put((try? $0.encoded(version: version).readableBytes) ?? -1)
            }
        }
        for version in Int16(0)...6 {
            service.findCoordinator(
                FindCoordinatorRequest(key: "g", coordinatorKeys: ["g"]),
                RequestOrigin(apiVersion: version)
            ) { bytes.put((try? $0.encoded(version: version).readableBytes) ?? -1) }
            service.describeGroups(DescribeGroupsRequest(groups: ["g"]), RequestOrigin(apiVersion: version)) {
                bytes.put((try? $0.encoded(version: version).readableBytes) ?? -1)
            }
        }
        #expect(bytes.all.count == 10 + 6 + 3 + 10 + 14)
        #expect(!bytes.all.contains(-1))
    }
}
