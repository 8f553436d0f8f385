// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Gotcha 7: sessions with epochs, 70 and 71, a bounded cache.
@Suite("Fetch sessions")
struct FetchSessionTests {
    private let topic = FetchTopic(name: "t", id: .zero)

    private func target(_ index: Int32, offset: Int64 = 0) -> FetchTarget {
        FetchTarget(
            topic: topic,
            index: index,
            fetchOffset: offset,
            maxBytes: 100,
            currentLeaderEpoch: -1,
            lastFetchedEpoch: -1
        )
    }

    private func begin(
        _ cache: inout FetchSessionCache,
        _ id: Int32,
        _ epoch: Int32,
        _ targets: [FetchTarget] = [],
        forgotten: [FetchKey] = [],
        byID: Bool = false,
        now: UInt64 = 0
    ) -> FetchSessionCache.Verdict {
        var random = SystemRandomNumberGenerator()
        return cache.begin(
            sessionID: id,
            epoch: epoch,
            byID: byID,
            targets: targets,
            forgotten: forgotten,
            now: now,
            random: &random
        )
    }

    private func create(_ cache: inout FetchSessionCache, _ targets: [FetchTarget], now: UInt64 = 0) throws -> Int32 {
        guard case .created(let id) = begin(&cache, 0, 0, targets, now: now) else {
            Issue.record("no session was made")
            return 0
        }
        return id
    }

    @Test("Epoch -1 makes no session; epoch 0 makes one")
    func full() throws {
        var cache = FetchSessionCache(capacity: 2)
        #expect(begin(&cache, 0, -1, [target(0)]) == .sessionless)
        #expect(cache.count == 0)
        let id = try create(&cache, [target(0)])
        #expect(id != 0 && cache.count == 1)
    }

    @Test("Epochs must follow one another: 71; an unknown session: 70")
    func epochs() throws {
        var cache = FetchSessionCache(capacity: 2)
        let id = try create(&cache, [target(0)])
        #expect(begin(&cache, id, 1) == .incremental(id))
        #expect(begin(&cache, id, 1) == .failed(.invalidFetchSessionEpoch))
        #expect(begin(&cache, id, 2) == .incremental(id))
        #expect(begin(&cache, id &+ 1, 3) == .failed(.fetchSessionIdNotFound))
    }

    @Test("A session keeps to names or to ids")
    func topicIDs() throws {
        var cache = FetchSessionCache(capacity: 2)
        let id = try create(&cache, [target(0)])
        #expect(begin(&cache, id, 1, byID: true) == .failed(.fetchSessionTopicIdError))
    }

    @Test("Partitions are added, changed and forgotten")
    func changes() throws {
        var cache = FetchSessionCache(capacity: 2)
        let id = try create(&cache, [target(0), target(1)])
        _ = begin(&cache, id, 1, [target(1, offset: 9), target(2)], forgotten: [target(0).key])
        #expect(cache.restless(id, readCommitted: false).targets.map(\.index) == [1, 2])
        #expect(cache.restless(id, readCommitted: false).targets.first?.fetchOffset == 9)
    }

    @Test("A full fetch that names a session ends it")
    func closing() throws {
        var cache = FetchSessionCache(capacity: 2)
        let id = try create(&cache, [target(0)])
        #expect(begin(&cache, id, -1, [target(0)]) == .sessionless)
        #expect(cache.count == 0)
    }

    @Test("The cache is bounded: a busy session is not pushed out, an idle one is")
    func bounded() throws {
        var cache = FetchSessionCache(capacity: 1, evictableAfter: 100)
        let first = try create(&cache, [target(0)], now: 0)
        #expect(begin(&cache, 0, 0, [target(0)], now: 50) == .sessionless)
        let second = try create(&cache, [target(0)], now: 100)
        #expect(begin(&cache, first, 1) == .failed(.fetchSessionIdNotFound))
        #expect(begin(&cache, second, 1) == .incremental(second))
    }

    @Test("Only news is told, and the next read begins behind what had records")
    func news() throws {
        var cache = FetchSessionCache(capacity: 1)
        let id = try create(&cache, [target(0), target(1), target(2)])
        func note(_ index: Int32, records: Bool = false, error: Bool = false, end: Int64) -> Bool {
            cache.note(
                id,
                [
                    (
                        target(index).key,
                        FetchAnswer(hasRecords: records, isError: error, highWatermark: end, logStart: 0), nil
                    )
                ]
            )[0]
        }
        #expect(note(0, end: 5))
        #expect(!note(0, end: 5))
        #expect(note(0, end: 6))
        #expect(note(1, records: true, end: 6))
        #expect(cache.restless(id, readCommitted: false).targets.map(\.index) == [2, 0, 1])
        #expect(note(2, error: true, end: -1))
        #expect(note(2, end: 0))
    }

    @Test("The epoch wraps to 1, not to 0, which would mean a new session")
    func wrap() {
        var session = FetchSession(id: 1, byID: false, targets: [target(0)])
        #expect(session.nextEpoch == 1)
        let zero = session.advance(0)
        let one = session.advance(1)
        #expect(!zero && one && session.nextEpoch == 2)
    }
}
