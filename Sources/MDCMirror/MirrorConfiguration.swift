// SPDX-License-Identifier: Apache-2.0

public import MDCClient
import MDCModel

/// What a mirror copies, from where to where.
public struct MirrorConfiguration: Sendable {
    /// The mirror's name: its position, its offset map and its transactions at the target carry it.
    public var name: String
    /// The cluster that is copied.
    public var source: ClientConfiguration
    /// The cluster that is copied to.
    public var target: ClientConfiguration
    /// Whether a topic of the source is mirrored.
    public var isMirrored: @Sendable (String) -> Bool = { _ in true }
    /// Whether the offsets of a group of the source are translated.
    public var isGroupMirrored: @Sendable (String) -> Bool = { _ in true }
    /// Put before the names of topics at the target.
    public var prefix = ""
    /// Where a partition begins that has no position yet: with its oldest record, or with what comes.
    public var startsAtEnd = false
    /// The mirror that filled the source from the target, where this one leads back: what that one brought is not copied again.
    public var failback: String?
    /// Replicas of topics that are made at the target; nil for its default.
    public var replicationFactor: Int16?
    /// How long a transaction collects records before it is committed.
    public var interval: Duration = .milliseconds(200)
    /// How often topics and settings are compared.
    public var topicInterval: Duration = .seconds(15)
    /// How often offsets of groups are translated.
    public var groupInterval: Duration = .seconds(5)
    /// Records in one transaction at most.
    public var maxRecords = 20_000

    /// A mirror with defaults.
    public init(name: String, source: ClientConfiguration, target: ClientConfiguration) {
        self.name = name
        self.source = source
        self.target = target
    }

    /// The group at the target whose offsets are the mirror's positions.
    public static func group(of name: String) -> String { "mdc-mirror.\(name)" }
    /// The topic at the target that has the offset map.
    public static func offsetsTopic(of name: String) -> String { "mdc-mirror.\(name).offsets" }
    /// Topics and groups whose names begin so are mirrors' own.
    public static let ownPrefix = "mdc-mirror."

    /// Throws ``MirrorError`` on what cannot be.
    public func validate() throws(MirrorError) {
        let allowed = name.utf8.allSatisfy { byte in
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "-")
                || byte == UInt8(ascii: "_")
        }
        guard !name.isEmpty, name.utf8.count <= 100, allowed else {
            throw MirrorError(
                .configuration,
                "the name '\(name)' cannot be: use 1 to 100 of a-z, A-Z, 0-9, '-' and '_'"
            )
        }
        guard maxRecords > 0, interval > .zero, topicInterval > .zero, groupInterval > .zero else {
            throw MirrorError(
                .configuration,
                "intervals and the number of records in a transaction must be more than 0"
            )
        }
    }
}

/// What a mirror ends with.
public struct MirrorError: Error, Sendable, CustomStringConvertible {
    /// The kind of error.
    public enum Code: String, Sendable {
        /// A setting cannot be, or does not fit what is at the clusters.
        case configuration
        /// Another process runs a mirror of this name.
        case replaced
    }

    /// The kind.
    public let code: Code
    /// What happened and what helps.
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

/// Where a mirror is with one partition. Kept as metadata of its committed offset: `<cluster id> <topic id>`.
struct MirrorOrigin: Equatable {
    var clusterID: String
    var topicID: String

    var text: String { "\(clusterID) \(topicID)" }

    init(clusterID: String?, topicID: TopicID) {
        self.clusterID = clusterID ?? "-"
        self.topicID = "\(topicID)"
    }

    init?(_ text: String) {
        let words = text.split(separator: " ")
        guard words.count == 2 else { return nil }
        clusterID = String(words[0])
        topicID = String(words[1])
    }
}
