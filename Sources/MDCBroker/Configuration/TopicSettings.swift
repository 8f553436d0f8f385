// SPDX-License-Identifier: Apache-2.0

public import MDCLog

/// A setting of a topic, by its name in Kafka.
public struct TopicSetting: Sendable {
    /// The name.
    public var name: String
    /// The node's setting that gives its default.
    public var synonym: String?
    /// What kind of value it takes.
    public var type: SettingType
    /// What it does.
    public var documentation: String
    /// Puts a value into the log's settings; returns what is wrong with it, or nil.
    var apply: @Sendable (inout LogSettings, String) -> String?
    /// The value as text.
    var value: @Sendable (LogSettings) -> String
}

/// All settings of topics.
public enum TopicSettings {
    /// In the order they are listed.
    public static let all: [TopicSetting] = sizes + times + policies + compression + throttles
    /// By name.
    public static let byName: [String: TopicSetting] = Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })

    /// The log's settings of a topic that has set `overrides`, over the node's `defaults`; unknown names are passed over.
    public static func settings(_ overrides: [String: String], defaults: LogSettings) -> LogSettings {
        var settings = defaults
        for (name, value) in overrides { _ = byName[name]?.apply(&settings, value) }
        return settings
    }

    /// What is wrong with `overrides`; nil where they can be used.
    public static func problem(_ overrides: [String: String], defaults: LogSettings) -> String? {
        var settings = defaults
        for (name, value) in overrides.sorted(by: { $0.key < $1.key }) {
            guard let setting = byName[name] else {
                let near = Spelling.nearest(to: name, among: byName.keys).map { "; did you mean \($0)?" } ?? ""
                return "there is no topic setting \(name)\(near)"
            }
            if let problem = setting.apply(&settings, value) { return "\(name)=\(value): \(problem)" }
        }
        return settings.problem
    }

    private static func number<T: FixedWidthInteger & Sendable>(
        _ name: String,
        _ synonym: String?,
        _ type: SettingType,
        _ path: any (WritableKeyPath<LogSettings, T> & Sendable),
        _ range: ClosedRange<T>,
        _ documentation: String
    ) -> TopicSetting {
        TopicSetting(
            name: name,
            synonym: synonym,
            type: type,
            documentation: documentation,
            apply: { settings, text in
                guard let value = T(text) else { return "expected a whole number" }
                guard range.contains(value) else {
                    return "expected a number from \(range.lowerBound) to \(range.upperBound)"
                }
                settings[keyPath: path] = value
                return nil
            },
            value: { String($0[keyPath: path]) }
        )
    }

    private static let sizes: [TopicSetting] = [
        number(
            "segment.bytes",
            "log.segment.bytes",
            .int,
            \.segmentBytes,
            14...Int(Int32.max),
            "Bytes after which a segment is rolled."
        ),
        number(
            "segment.index.bytes",
            "log.index.size.max.bytes",
            .int,
            \.segmentIndexBytes,
            4...Int(Int32.max),
            "Bytes of an offset index after which its segment is rolled."
        ),
        number(
            "index.interval.bytes",
            "log.index.interval.bytes",
            .int,
            \.indexIntervalBytes,
            0...Int(Int32.max),
            "Bytes between entries of the offset index."
        ),
        number(
            "max.message.bytes",
            "message.max.bytes",
            .int,
            \.maxMessageBytes,
            0...Int(Int32.max),
            "The most bytes of a record batch."
        ),
        number(
            "retention.bytes",
            "log.retention.bytes",
            .long,
            \.retentionBytes,
            -1...Int64.max,
            "Bytes of a partition beyond which old segments go; -1 for no limit."
        ),
    ]

    private static let times: [TopicSetting] = [
        number(
            "retention.ms",
            "log.retention.ms",
            .long,
            \.retentionMilliseconds,
            -1...Int64.max,
            "Age at which segments go; -1 for never."
        ),
        number(
            "segment.ms",
            "log.roll.ms",
            .long,
            \.segmentMilliseconds,
            1...Int64.max,
            "Age at which a segment is rolled."
        ),
        number(
            "delete.retention.ms",
            "log.cleaner.delete.retention.ms",
            .long,
            \.deleteRetentionMilliseconds,
            0...Int64.max,
            "How long compaction keeps tombstones."
        ),
        number(
            "min.compaction.lag.ms",
            "log.cleaner.min.compaction.lag.ms",
            .long,
            \.minCompactionLagMilliseconds,
            0...Int64.max,
            "How long a record stays uncompacted at least."
        ),
        number(
            "max.compaction.lag.ms",
            "log.cleaner.max.compaction.lag.ms",
            .long,
            \.maxCompactionLagMilliseconds,
            1...Int64.max,
            "How long a record stays uncompacted at most."
        ),
        number(
            "file.delete.delay.ms",
            "log.segment.delete.delay.ms",
            .long,
            \.fileDeleteDelayMilliseconds,
            0...Int64.max,
            "How long removed files stay on disk."
        ),
        number(
            "message.timestamp.before.max.ms",
            "log.message.timestamp.before.max.ms",
            .long,
            \.timestampBeforeMaxMilliseconds,
            0...Int64.max,
            "How far back a record's timestamp may lie."
        ),
        number(
            "message.timestamp.after.max.ms",
            "log.message.timestamp.after.max.ms",
            .long,
            \.timestampAfterMaxMilliseconds,
            0...Int64.max,
            "How far ahead a record's timestamp may lie."
        ),
    ]

    private static let policies: [TopicSetting] = [
        TopicSetting(
            name: "cleanup.policy",
            synonym: "log.cleanup.policy",
            type: .list,
            documentation: "delete, compact, or both with a comma between.",
            apply: { settings, text in
                var policy: CleanupPolicy = []
                for part in text.split(separator: ",") {
                    switch part.trimmed {
                    case "delete": policy.insert(.delete)
                    case "compact": policy.insert(.compact)
                    default: return "expected delete, compact or both"
                    }
                }
                if policy.isEmpty { return "expected delete, compact or both" }
                settings.cleanupPolicy = policy
                return nil
            },
            value: { settings in
                [
                    settings.cleanupPolicy.contains(.compact) ? "compact" : nil,
                    settings.cleanupPolicy.contains(.delete) ? "delete" : nil,
                ]
                .compactMap { $0 }.joined(separator: ",")
            }
        ),
        TopicSetting(
            name: "message.timestamp.type",
            synonym: "log.message.timestamp.type",
            type: .string,
            documentation: "CreateTime or LogAppendTime.",
            apply: { settings, text in
                switch text {
                case "CreateTime": settings.timestampType = .createTime
                case "LogAppendTime": settings.timestampType = .logAppendTime
                default: return "expected CreateTime or LogAppendTime"
                }
                return nil
            },
            value: { $0.timestampType == .createTime ? "CreateTime" : "LogAppendTime" }
        ),
        TopicSetting(
            name: "min.cleanable.dirty.ratio",
            synonym: "log.cleaner.min.cleanable.ratio",
            type: .double,
            documentation: "Share of uncompacted bytes at which compaction begins, 0 to 1.",
            apply: { settings, text in
                guard let value = Double(text), (0...1).contains(value) else { return "expected a number from 0 to 1" }
                settings.minCleanableDirtyRatio = value
                return nil
            },
            value: { String($0.minCleanableDirtyRatio) }
        ),
        TopicSetting(
            name: "preallocate",
            synonym: "log.preallocate",
            type: .boolean,
            documentation: "Whether space is reserved before it is written.",
            apply: { settings, text in
                guard let value = Bool(text) else { return "expected true or false" }
                settings.preallocates = value
                return nil
            },
            value: { String($0.preallocates) }
        ),
        TopicSetting(
            name: "durability",
            synonym: "durability",
            type: .string,
            documentation:
                "fsync: acknowledged means on stable storage; replicated: in the page cache of the replicas.",
            apply: { settings, text in
                switch text {
                case "fsync": settings.durability = .fsync
                case "replicated": settings.durability = .os
                default: return "expected fsync or replicated"
                }
                return nil
            },
            value: { $0.durability == .fsync ? "fsync" : "replicated" }
        ),
        fixed(
            "unclean.leader.election.enable",
            "unclean.leader.election.enable",
            .boolean,
            "false",
            "Whether a replica that is not in sync may lead."
        ),
        TopicSetting(
            name: "min.insync.replicas",
            synonym: "min.insync.replicas",
            type: .int,
            documentation: "In-sync replicas that acks=all needs.",
            apply: { _, text in
                guard let value = Int32(text), value >= 1 else { return "expected a number from 1" }
                return nil
            },
            value: { _ in "1" }
        ),
    ]

    /// Names of the settings that say which replicas are throttled (KIP-73).
    static let leaderThrottled = "leader.replication.throttled.replicas"
    static let followerThrottled = "follower.replication.throttled.replicas"

    private static let throttles: [TopicSetting] = [
        (leaderThrottled, "Replicas that send no more than leader.replication.throttled.rate to others out of sync"),
        (followerThrottled, "Replicas that copy no more than follower.replication.throttled.rate while out of sync"),
    ].map { name, text in
        TopicSetting(
            name: name,
            synonym: nil,
            type: .list,
            documentation: text + ": partition:node with commas between, or * for all.",
            apply: { _, text in
                ThrottledReplicas(text) == nil ? "expected partition:node,partition:node,… or *" : nil
            },
            value: { _ in "" }
        )
    }

    private static func fixed(
        _ name: String,
        _ synonym: String,
        _ type: SettingType,
        _ only: String,
        _ documentation: String
    ) -> TopicSetting {
        TopicSetting(
            name: name,
            synonym: synonym,
            type: type,
            documentation: documentation,
            apply: { $1 == only ? nil : "only \(only) is supported" },
            value: { _ in only }
        )
    }
}

extension Substring {
    fileprivate var trimmed: Substring {
        var text = self
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return text
    }
}
