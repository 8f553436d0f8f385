// SPDX-License-Identifier: Apache-2.0

import MDCMirror
import MDCModel
import NIOCore
import Testing

@Suite struct OffsetMapTests {
    /// Runs as a mirror makes them: gaps at the source, and a marker at the target after each transaction.
    private static func history(_ transactions: Int, seed: UInt64) -> (
        map: OffsetMap, records: [(source: Offset, target: Offset)], stored: [OffsetMap.Entry]
    ) {
        var random = Generator(state: seed)
        var map = OffsetMap()
        var records: [(source: Offset, target: Offset)] = []
        var stored: [OffsetMap.Entry] = []
        var source: Int64 = 7
        var target: Int64 = 3
        for _ in 0..<transactions {
            var placed: [(source: Offset, target: Offset)] = []
            for _ in 0..<(1 + random.next() % 6) {
                if random.next() % 5 == 0 { source += Int64(1 + random.next() % 3) }
                placed.append((Offset(source), Offset(target)))
                source += 1
                target += 1
            }
            target += 1
            records += placed
            stored += map.append(OffsetMap.runs(placed))
        }
        return (map, records, stored)
    }

    @Test(arguments: 1...20) func aPlaceIsNeverTooFarAndTheYoungestAreExact(seed: UInt64) throws {
        let (map, records, _) = Self.history(3_000, seed: seed)
        let exactFrom = try #require(map.entries.last).number - 511
        let first = try #require(map.entries.first { $0.number >= exactFrom }).run.source
        for (index, record) in records.enumerated() {
            let found = try #require(map.translate(record.source))
            #expect(found <= record.target)
            if record.source >= first { #expect(found == record.target) }
            // A place in a gap is that of the next record, or of an earlier one.
            if index + 1 < records.count, records[index + 1].source > record.source + 1 {
                let gap = try #require(map.translate(record.source + 1))
                #expect(gap <= records[index + 1].target)
            }
            #expect(try #require(map.translateBack(record.target)) <= record.source)
        }
        #expect(map.translate(0) == records[0].target)
        #expect(map.translate(records[records.count - 1].source + 100) == records[records.count - 1].target + 1)
    }

    @Test func itIsBounded() {
        let (map, _, stored) = Self.history(60_000, seed: 5)
        #expect(stored.count > 60_000)
        #expect(map.entries.count <= (OffsetMap.topLevel + 1) * OffsetMap.slots + 1)
        #expect(map.entries.map(\.number) == map.entries.map(\.number).sorted())
    }

    /// What a compacted topic keeps: the last record of each key.
    @Test(arguments: 1...5) func whatIsStoredGivesTheSameMap(seed: UInt64) throws {
        let (map, _, stored) = Self.history(5_000, seed: seed)
        var latest: [String: OffsetMapRecord] = [:]
        for entry in stored {
            let record = OffsetMapRecord(topic: "orders", partition: 3, entry: entry)
            latest[String(buffer: record.key)] = record
        }
        var compacted = OffsetMap()
        for record in latest.values { compacted.insert(record.entry) }
        #expect(compacted == map)
        var whole = OffsetMap()
        for entry in stored {
            let record = OffsetMapRecord(topic: "orders", partition: 3, entry: entry)
            whole.insert(try #require(OffsetMapRecord(key: record.key, value: record.value)).entry)
        }
        #expect(whole == map)
    }

    @Test func recordsThatAreNoneAreRefused() {
        for (key, value) in [
            ("orders 0 1", "1 2 3 4"), ("orders -1 0 0", "1 2 3 4"), ("orders 0 0 0", "1 2 3"),
            ("orders 0 0 0", "1 2 3 0"), ("", ""),
            ("orders 0 0 0", "1 -2 3 4"),
        ] {
            #expect(OffsetMapRecord(key: ByteBuffer(string: key), value: ByteBuffer(string: value)) == nil)
        }
        #expect(OffsetMapRecord(key: nil, value: nil) == nil)
    }

    @Test func anUnknownTargetEndsARun() {
        let runs = OffsetMap.runs([(1, 10), (2, 11), (3, -1), (4, 13), (6, 14)])
        #expect(
            runs == [
                OffsetRun(source: 1, target: 10, count: 2), OffsetRun(source: 4, target: 13, count: 1),
                OffsetRun(source: 6, target: 14, count: 1),
            ]
        )
    }
}

/// A small generator of its own, so that a seed gives the same everywhere.
private struct Generator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state >> 33
    }
}
