// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

extension GroupCommand {
    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows groups with members, committed offsets and lag.",
            discussion: "LAG is how many offsets a partition's committed offset is behind its end."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The names of the groups.")
        var names: [String]

        func run() async throws {
            let groups = try await connection.withAdmin { admin in
                var groups: [DescribedGroup] = []
                for name in names { groups.append(try await DescribedGroup(name, admin)) }
                return groups
            }
            try output.print(groups) { groups.map(\.text).joined(separator: "\n") }
        }
    }
}

/// What is known of a group: its members, and how far it is in each partition.
struct GroupReport: Encodable {
    struct Assigned: Encodable {
        let topic: String
        let partitions: [Int32]
    }

    struct Member: Encodable {
        let member: String
        @Nullable var instance: String?
        let clientID: String
        let host: String
        let assignment: [Assigned]
        /// In groups of the consumer protocol: its epoch, and what it is to have when the group has settled.
        @Nullable var epoch: Int32?
        @Nullable var target: [Assigned]?
    }

    struct Partition: Encodable {
        let topic: String
        let partition: Int32
        @Nullable var committedOffset: Int64?
        @Nullable var endOffset: Int64?
        @Nullable var lag: Int64?
        @Nullable var member: String?
        let metadata: String
    }

    let group: String
    let type: String
    @Nullable var epoch: Int32?
    let state: String
    let protocolType: String
    let assignor: String
    let members: [Member]
    let partitions: [Partition]
    /// Of the partitions whose lag is known.
    let totalLag: Int64

    init(_ name: String, _ admin: Admin) async throws {
        let description = try await Self.description(name, admin)
        let offsets = try await admin.groupOffsets(name)
        var owners: [TopicPartition: String] = [:]
        for member in description.members {
            for partition in member.assignment { owners[partition] = member.id }
        }
        let all = Set(offsets.keys).union(owners.keys).sorted()

        // A committed offset may outlive its topic; asking for the end of what is gone would wait in vain.
        let counts = Dictionary(
            uniqueKeysWithValues: try await admin.describeTopics(nil).map { ($0.name, Int32($0.partitions.count)) }
        )
        let existing = all.filter { $0.partition.rawValue < counts[$0.topic, default: 0] }
        let ends = existing.isEmpty ? [:] : try await admin.endOffsets(existing)

        group = description.id
        type = description.type
        epoch = description.epoch
        state = description.state
        protocolType = description.protocolType
        assignor = description.assignor
        members = description.members.sorted { $0.id < $1.id }.map(Self.member)
        partitions = all.map { key in
            let committed = offsets[key].map(\.offset.rawValue).flatMap { $0 >= 0 ? $0 : nil }
            let end = ends[key]?.rawValue
            var lag: Int64?
            if let committed, let end { lag = max(0, end - committed) }
            return Partition(
                topic: key.topic,
                partition: key.partition.rawValue,
                committedOffset: committed,
                endOffset: end,
                lag: lag,
                member: owners[key],
                metadata: offsets[key]?.metadata ?? ""
            )
        }
        totalLag = partitions.reduce(0) { $0 + ($1.lag ?? 0) }
    }

    /// Brokers say in one of two ways that a group does not exist.
    private static func description(_ name: String, _ admin: Admin) async throws -> GroupDescription {
        do {
            guard let found = try await admin.describeGroups([name]).first, found.state != "Dead" else {
                throw CommandError.noGroup(name)
            }
            return found
        } catch let error as ClientError where error.errorCode == .groupIdNotFound {
            throw CommandError.noGroup(name)
        }
    }

    private static func member(_ member: GroupDescription.Member) -> Member {
        Member(
            member: member.id,
            instance: member.instanceID,
            clientID: member.clientID,
            host: member.clientHost,
            assignment: assigned(member.assignment),
            epoch: member.epoch,
            target: member.target.map(assigned)
        )
    }

    private static func assigned(_ partitions: [TopicPartition]) -> [Assigned] {
        Dictionary(grouping: partitions, by: \.topic).sorted { $0.key < $1.key }.map {
            Assigned(topic: $0.key, partitions: $0.value.map(\.partition.rawValue).sorted())
        }
    }

    var text: String {
        var text = "group \(group)   type \(type)   state \(state)"
        if let epoch { text += "   epoch \(epoch)" }
        if !assignor.isEmpty { text += "   assignor \(assignor)" }
        text += "   members \(members.count)   total lag \(totalLag)\n"
        if !members.isEmpty {
            let isConsumer = type == "consumer"
            var table = Table(
                [.text("MEMBER"), .text("CLIENT"), .text("HOST")]
                    + (isConsumer ? [.number("EPOCH"), .text("PARTITIONS"), .text("TARGET")] : [.text("PARTITIONS")])
            )
            for member in members {
                let partitions = Self.text(member.assignment)
                // A target is worth a look while it is not reached.
                let target = member.target.map(Self.text) ?? ""
                let rest =
                    isConsumer
                    ? [member.epoch.map { "\($0)" } ?? "-", partitions, target == partitions ? "" : target]
                    : [partitions]
                table.add([member.instance ?? member.member, member.clientID, member.host] + rest)
            }
            text += "\n" + table.rendered()
        }
        guard !partitions.isEmpty else { return text + "no committed offsets\n" }
        var table = Table([
            .text("TOPIC"), .number("PARTITION"), .number("COMMITTED"), .number("END"), .number("LAG"), .text("MEMBER"),
        ])
        for partition in partitions {
            table.add([
                partition.topic,
                "\(partition.partition)",
                partition.committedOffset.map { "\($0)" } ?? "-",
                partition.endOffset.map { "\($0)" } ?? "-",
                partition.lag.map { "\($0)" } ?? "-",
                partition.member ?? "-",
            ])
        }
        return text + "\n" + table.rendered()
    }

    private static func text(_ assignment: [Assigned]) -> String {
        assignment.map { "\($0.topic)[\(ranges($0.partitions))]" }.joined(separator: " ")
    }

    /// `[0, 1, 2, 5]` as `0-2,5`.
    private static func ranges(_ numbers: [Int32]) -> String {
        var ranges: [ClosedRange<Int32>] = []
        for number in numbers {
            if let last = ranges.last, last.upperBound + 1 == number {
                ranges[ranges.count - 1] = last.lowerBound...number
            } else {
                ranges.append(number...number)
            }
        }
        return ranges.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
            .joined(separator: ",")
    }
}
