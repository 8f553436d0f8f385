// SPDX-License-Identifier: Apache-2.0

/// Where a share group begins to read a partition that it has never read.
enum ShareOffsetReset: Equatable, Sendable {
    case earliest
    case latest
    /// The first record that is not older than this many milliseconds.
    case byDuration(Int64)

    /// Reads `earliest`, `latest` or `by_duration:PnDTnHnMn.nS`.
    init?(_ text: String) {
        switch text {
        case "earliest": self = .earliest
        case "latest": self = .latest
        default:
            let prefix = "by_duration:"
            guard text.hasPrefix(prefix), let duration = Self.milliseconds(text.dropFirst(prefix.count)) else {
                return nil
            }
            self = .byDuration(duration)
        }
    }

    /// The milliseconds of an ISO 8601 duration in days, hours, minutes and seconds.
    private static func milliseconds(_ text: Substring) -> Int64? {
        guard text.first == "P" || text.first == "p" else { return nil }
        var total = 0.0
        var number = ""
        var isTime = false
        var hasUnit = false
        for character in text.dropFirst().uppercased() {
            if character.isASCII && (character.isNumber || character == ".") {
                number.append(character)
                continue
            }
            if character == "T" && !isTime && number.isEmpty {
                isTime = true
                continue
            }
            let unit: Double? =
                switch (character, isTime) {
                case ("D", false): 86_400_000
                case ("H", true): 3_600_000
                case ("M", true): 60_000
                case ("S", true): 1_000
                default: nil
                }
            guard let unit, let value = Double(number) else { return nil }
            total += value * unit
            number = ""
            hasUnit = true
        }
        guard hasUnit, number.isEmpty, total < 9e15 else { return nil }
        return Int64(total)
    }
}

/// The settings of one share group: the node's, overridden by those of the group.
struct ShareGroupSettings: Equatable, Sendable {
    /// `share.session.timeout.ms`
    var sessionTimeout: Int32 = 45_000
    /// `share.heartbeat.interval.ms`
    var heartbeatInterval: Int32 = 5_000
    /// `group.share.max.size`
    var maxSize: Int32 = 200
    /// `share.record.lock.duration.ms`
    var recordLockDuration: Int32 = 30_000
    /// `share.delivery.count.limit`
    var deliveryCountLimit: Int32 = 5
    /// `share.partition.max.record.locks`
    var maxRecordLocks: Int32 = 2_000
    /// `share.auto.offset.reset`
    var autoOffsetReset = ShareOffsetReset.latest
    /// `share.isolation.level`
    var readCommitted = false
    /// `share.renew.acknowledge.enable`
    var renewEnabled = true
}
