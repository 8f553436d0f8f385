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
                var groups: [GroupReport] = []
                for name in names { groups.append(try await GroupReport(name, admin)) }
                return groups
            }
            try output.print(groups) { groups.map(\.text).joined(separator: "\n") }
        }
    }
}

/// What is known of a group: its members, and how far it is in each partition.
private struct GroupReport: Encodable {
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
            // The old request does not show groups of the new protocol either.
            if try await admin.listGroups().contains(where: { $0.id == name }) {
                throw CommandError(
                    "group '\(name)' uses the new consumer protocol (KIP-848), whose members cannot be shown yet"
                )
            }
            throw CommandError.noGroup(name)
        }
    }

    private static func member(_ member: GroupDescription.Member) -> Member {
        Member(
            member: member.id,
            instance: member.instanceID,
            clientID: member.clientID,
            host: member.clientHost,
            assignment: Dictionary(grouping: member.assignment, by: \.topic).sorted { $0.key < $1.key }.map {
                Assigned(topic: $0.key, partitions: $0.value.map(\.partition.rawValue).sorted())
            }
        )
    }

    var text: String {
        var text = "group \(group)   state \(state)"
        if !assignor.isEmpty { text += "   assignor \(assignor)" }
        text += "   members \(members.count)   total lag \(totalLag)\n"
        if !members.isEmpty {
            var table = Table([.text("MEMBER"), .text("CLIENT"), .text("HOST"), .text("PARTITIONS")])
            for member in members {
                let assignment = member.assignment.map { "\($0.topic)[\(Self.ranges($0.partitions))]" }
                table.add([
                    member.instance ?? member.member, member.clientID, member.host, assignment.joined(separator: " "),
                ])
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
