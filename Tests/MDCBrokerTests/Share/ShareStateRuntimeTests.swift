// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Testing

@testable import MDCBroker

/// The share coordinator over a log in memory that commits late, refuses, or loses what it took.
struct ShareStateRuntimeTests {
    private let key = SharePartitionKey("g", TopicID(high: 1, low: 1), 0)

    private func service(_ topics: MemoryTopics) -> ShareCoordinatorService {
        let service = ShareCoordinatorService(access: topics, updatesPerSnapshot: 5, logger: Logger(label: "test"))
        service.start()
        return service
    }

    private func ask(_ service: ShareCoordinatorService, _ event: ShareStateEvent) -> Box<ShareStateAnswer> {
        let box = Box<ShareStateAnswer>()
        service.ask(event, of: key) { box.put($0) }
        return box
    }

    private func write(_ offset: Int64) -> ShareStateEvent {
        .write(
            ShareStateWrite(
                stateEpoch: 0,
                leaderEpoch: 0,
                startOffset: -1,
                deliveryCompleteCount: 0,
                batches: [.init(first: offset, last: offset, state: .acknowledged, deliveryCount: 1)]
            )
        )
    }

    @Test("the first question makes the topic")
    func firstQuestion() {
        let topics = MemoryTopics()
        let service = service(topics)
        #expect(service.submit(.delete, of: key, { _ in }).refusal?.code == .notCoordinator)
        #expect(ask(service, .read(leaderEpoch: 0)).all.map(\.state) == [.absent])
        #expect(ask(service, .initialize(stateEpoch: 0, startOffset: 3)).all.map(\.code) == [.none])
    }

    @Test("answers wait for the commit, and reads for the writes before them")
    func lateCommit() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        topics.setCommitsAtOnce(false)
        let made = ask(service, .initialize(stateEpoch: 0, startOffset: 0))
        let written = ask(service, write(4))
        let read = ask(service, .summary(leaderEpoch: -1))
        #expect(made.all.isEmpty && written.all.isEmpty && read.all.isEmpty)
        topics.settle()
        #expect(made.all.count == 1 && written.all.map(\.code) == [.none])
        #expect(read.all.first?.state.batches.map(\.first) == [4])
    }

    @Test("what the log refuses did not happen")
    func refusal() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        _ = ask(service, .initialize(stateEpoch: 0, startOffset: 0))
        topics.setRefusal(.kafkaStorageError)
        #expect(ask(service, write(4)).all.map(\.code) == [.coordinatorNotAvailable])
        topics.setRefusal(nil)
        #expect(ask(service, .summary(leaderEpoch: -1)).all.first?.state.batches.isEmpty == true)
        #expect(ask(service, write(5)).all.map(\.code) == [.none])
    }

    @Test("what was lost after it was appended is told to those who wait, and the log is read anew")
    func loss() {
        let topics = MemoryTopics(partitions: 3)
        let service = service(topics)
        _ = ask(service, .initialize(stateEpoch: 0, startOffset: 0))
        topics.setCommitsAtOnce(false)
        let written = ask(service, write(4))
        topics.settle(.failure(CoordinatorStorageError(code: .notLeaderOrFollower, description: "gone")))
        #expect(written.all.map(\.code) == [.notCoordinator])
        topics.setCommitsAtOnce(true)
        topics.settle()
        #expect(ask(service, .summary(leaderEpoch: -1)).all.first?.state.startOffset == 0)
    }

    @Test("a node that starts again knows what was written")
    func reload() {
        let topics = MemoryTopics(partitions: 3)
        let first = service(topics)
        _ = ask(first, .initialize(stateEpoch: 0, startOffset: 0))
        for offset in Int64(2)..<20 { _ = ask(first, write(offset * 2)) }
        let again = service(topics)
        let expected = ask(first, .summary(leaderEpoch: -1)).all.first?.state
        #expect(expected?.batches.count == 18)
        // The topic is one of those that the memory has; a topic that is gone takes its states with it.
        #expect(ask(again, .summary(leaderEpoch: -1)).all.first?.state == expected)
    }
}
