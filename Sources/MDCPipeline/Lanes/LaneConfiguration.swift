// SPDX-License-Identifier: Apache-2.0

import TOMLKit

/// One lane: a topic whose partition count is its weight.
public struct Lane: Sendable, Hashable, Codable {
    /// Such as `critical`.
    public var name: String
    /// Partitions of its topic: its number of consumers, its share, its floor.
    public var partitions: Int

    /// Makes a value from its parts.
    public init(name: String, partitions: Int) {
        self.name = name
        self.partitions = partitions
    }
}

/// The lanes of one channel, the heaviest first.
public struct LaneSet: Sendable, Hashable {
    /// The channel.
    public var channel: Channel
    /// At least one lane, the heaviest first.
    public var lanes: [Lane]
    /// The lane of a message that names none.
    public var defaultLane: String

    /// Makes a value from its parts.
    public init(channel: Channel, lanes: [Lane], defaultLane: String) {
        self.channel = channel
        self.lanes = lanes
        self.defaultLane = defaultLane
    }

    /// The topic of a lane: `mdc.dispatch.<channel>.<lane>`.
    public func topic(of lane: String) -> String { Topics.dispatch(channel, lane) }
}

/// The lane sets of all channels.
public struct LaneConfiguration: Sendable, Hashable {
    /// critical 8, high 4, normal 2, bulk 1.
    public static let defaultLanes = [
        Lane(name: "critical", partitions: 8), Lane(name: "high", partitions: 4), Lane(name: "normal", partitions: 2),
        Lane(name: "bulk", partitions: 1),
    ]

    private var sets: [Channel: LaneSet]

    /// The defaults for each channel.
    public init() {
        sets = Dictionary(
            uniqueKeysWithValues: Channel.allCases.map {
                ($0, LaneSet(channel: $0, lanes: Self.defaultLanes, defaultLane: "normal"))
            }
        )
    }

    /// The lane set of a channel.
    public subscript(_ channel: Channel) -> LaneSet {
        get { sets[channel] ?? LaneSet(channel: channel, lanes: Self.defaultLanes, defaultLane: "normal") }
        set { sets[channel] = newValue }
    }

    /// Reads lane sets from TOML. Channels that are not named keep the defaults.
    ///
    /// ```toml
    /// [lanes.sms]
    /// critical = 8
    /// bulk = 1
    /// default = "bulk"
    /// ```
    /// - Throws: ``PipelineError`` with code `configuration`.
    public init(toml text: String) throws(PipelineError) {
        self.init()
        let root: TOMLTable
        do {
            root = try TOMLTable(string: text)
        } catch {
            throw PipelineError(.configuration, "the lane file is not valid TOML", cause: error)
        }
        guard let tables = root["lanes"]?.table else { return }
        for name in tables.keys {
            guard let channel = Channel(rawValue: name), let table = tables[name]?.table else {
                throw PipelineError(.configuration, "[lanes.\(name)]: use lanes.sms, lanes.email or lanes.push")
            }
            sets[channel] = try Self.laneSet(channel, table)
        }
    }

    private static func laneSet(_ channel: Channel, _ table: TOMLTable) throws(PipelineError) -> LaneSet {
        var lanes: [Lane] = []
        for name in table.keys where name != "default" {
            guard let partitions = table[name]?.int, (1...256).contains(partitions) else {
                throw PipelineError(.configuration, "lanes.\(channel).\(name): give a number of partitions, 1 to 256")
            }
            guard !name.isEmpty, name.utf8.count <= 32,
                name.utf8.allSatisfy({ EmailAddress.isAlphanumeric($0) || $0 == 0x2D })
            else {
                throw PipelineError(
                    .configuration,
                    "lanes.\(channel).\(name): lane names are letters, digits and hyphens"
                )
            }
            lanes.append(Lane(name: name, partitions: partitions))
        }
        guard !lanes.isEmpty else { throw PipelineError(.configuration, "lanes.\(channel) names no lane") }
        lanes.sort { ($1.partitions, $0.name) < ($0.partitions, $1.name) }
        let fallback = lanes.contains { $0.name == "normal" } ? "normal" : lanes[lanes.count - 1].name
        let chosen = table["default"]?.string ?? fallback
        guard lanes.contains(where: { $0.name == chosen }) else {
            throw PipelineError(.configuration, "lanes.\(channel).default: '\(chosen)' is not one of its lanes")
        }
        return LaneSet(channel: channel, lanes: lanes, defaultLane: chosen)
    }
}
