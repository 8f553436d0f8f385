// SPDX-License-Identifier: Apache-2.0

import DequeModule

/// What the reports say about providers: of the last ones, how many speak of delivery. Pure.
///
/// A provider turns poor when half of its last reports are bad, and good again when less than a third are.
struct ProviderHealth: Sendable {
    static let window = 200
    static let reportsMin = 50
    static let poorFrom = 0.5
    static let goodBelow = 1.0 / 3

    private struct Record: Sendable {
        var last: Deque<Bool> = []
        var bad = 0
        var isPoor = false
    }

    private var providers: [String: Record] = [:]

    /// Notes a report, or that none came; what is new about the provider: whether it is poor, and the share of bad reports.
    mutating func note(_ provider: String, isDelivered: Bool) -> (isPoor: Bool, share: Double)? {
        var record = providers[provider] ?? Record()
        defer { providers[provider] = record }
        record.last.append(isDelivered)
        record.bad += isDelivered ? 0 : 1
        if record.last.count > Self.window { record.bad -= record.last.removeFirst() ? 0 : 1 }
        guard record.last.count >= Self.reportsMin else { return nil }
        let share = Double(record.bad) / Double(record.last.count)
        let isPoor = record.isPoor ? share >= Self.goodBelow : share >= Self.poorFrom
        guard isPoor != record.isPoor else { return nil }
        record.isPoor = isPoor
        return (isPoor, share)
    }
}
