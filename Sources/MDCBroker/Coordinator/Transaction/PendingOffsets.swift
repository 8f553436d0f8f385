// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Offsets that were committed inside transactions which are not decided yet, of one shard of groups. They become visible
/// with the transaction's commit, and vanish with its abort.
struct PendingOffsets: Equatable, Sendable {
    private struct Entry: Equatable {
        var value: CommittedOffset
        /// The order in which they came, over all producers.
        var order: UInt64
        /// Something that was committed later is in force already.
        var isOutdated = false
    }

    private struct Place: Hashable {
        var group: String
        var topic: String
        var partition: Int32
    }

    private var byProducer: [Int64: [Place: Entry]] = [:]
    /// Which producers have something pending for a group. A group without has no entry.
    private var producers: [String: Set<Int64>] = [:]
    private var nextOrder: UInt64 = 0

    /// Two that hold the same are equal, whatever came before.
    static func == (left: PendingOffsets, right: PendingOffsets) -> Bool {
        left.values == right.values
    }

    private var values: [Int64: [Place: CommittedOffset?]] {
        byProducer.mapValues { $0.mapValues { $0.isOutdated ? nil : $0.value } }
    }

    var isEmpty: Bool { byProducer.isEmpty }
    /// The groups that have something pending.
    var groups: Set<String> { Set(producers.keys) }

    func contains(group: String) -> Bool { producers[group] != nil }
    func contains(producer: Int64) -> Bool { byProducer[producer] != nil }

    /// Whether a transaction that is not decided changes this offset.
    func contains(group: String, topic: String, partition: Int32) -> Bool {
        guard let candidates = producers[group] else { return false }
        let place = Place(group: group, topic: topic, partition: partition)
        return candidates.contains { byProducer[$0]?[place] != nil }
    }

    /// The offsets of a group that something is pending for.
    func places(of group: String) -> [(topic: String, partition: Int32)] {
        var found: Set<Place> = []
        for producer in producers[group] ?? [] {
            found.formUnion((byProducer[producer] ?? [:]).keys.filter { $0.group == group })
        }
        return found.sorted { ($0.topic, $0.partition) < ($1.topic, $1.partition) }.map { ($0.topic, $0.partition) }
    }

    /// Keeps a change until its producer's transaction ends.
    mutating func hold(_ change: OffsetChange, of producer: Int64) {
        guard let value = change.value else { return }
        nextOrder += 1
        let place = Place(group: change.group, topic: change.topic, partition: change.partition)
        byProducer[producer, default: [:]][place] = Entry(value: value, order: nextOrder)
        producers[change.group, default: []].insert(producer)
    }

    /// Another commit of the same offset came into force: what is pending and was committed before it will not.
    mutating func outdate(group: String, topic: String, partition: Int32, before order: UInt64 = .max) {
        let place = Place(group: group, topic: topic, partition: partition)
        for producer in producers[group] ?? [] {
            guard let entry = byProducer[producer]?[place], entry.order < order else { continue }
            byProducer[producer]?[place]?.isOutdated = true
        }
    }

    /// The offset was deleted: nothing of it remains.
    mutating func remove(group: String, topic: String, partition: Int32) {
        let place = Place(group: group, topic: topic, partition: partition)
        for producer in producers[group] ?? [] {
            byProducer[producer]?[place] = nil
            forget(group, of: producer)
        }
    }

    private mutating func forget(_ group: String, of producer: Int64) {
        if byProducer[producer]?.isEmpty == true { byProducer[producer] = nil }
        if byProducer[producer]?.keys.contains(where: { $0.group == group }) == true { return }
        producers[group]?.remove(producer)
        if producers[group]?.isEmpty == true { producers[group] = nil }
    }

    /// Ends a producer's transaction; returns what comes into force.
    mutating func end(_ producer: Int64, isCommit: Bool) -> [OffsetChange] {
        guard let entries = byProducer.removeValue(forKey: producer) else { return [] }
        for group in Set(entries.keys.map(\.group)) { forget(group, of: producer) }
        guard isCommit else { return [] }
        var changes: [OffsetChange] = []
        for (place, entry) in entries.sorted(by: { $0.value.order < $1.value.order }) where !entry.isOutdated {
            outdate(group: place.group, topic: place.topic, partition: place.partition, before: entry.order)
            changes.append(
                OffsetChange(group: place.group, topic: place.topic, partition: place.partition, value: entry.value)
            )
        }
        return changes
    }
}
