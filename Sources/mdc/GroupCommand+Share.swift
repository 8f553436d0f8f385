// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel

/// What `mdc group describe` shows of one group, of whichever kind.
enum DescribedGroup: Encodable {
    case group(GroupReport)
    case share(ShareGroupReport)

    init(_ name: String, _ admin: Admin) async throws {
        if let share = try await ShareGroupReport(name, admin) {
            self = .share(share)
        } else {
            self = .group(try await GroupReport(name, admin))
        }
    }

    func encode(to encoder: any Encoder) throws {
        switch self {
        case .group(let report): try report.encode(to: encoder)
        case .share(let report): try report.encode(to: encoder)
        }
    }

    var text: String {
        switch self {
        case .group(let report): report.text
        case .share(let report): report.text
        }
    }
}

/// What is known of a share group: its members, and the first record of each partition that is not done.
struct ShareGroupReport: Encodable {
    struct Assigned: Encodable {
        let topic: String
        let partitions: [Int32]
    }

    struct Member: Encodable {
        let member: String
        let clientID: String
        let host: String
        let epoch: Int32
        let assignment: [Assigned]
    }

    struct Partition: Encodable {
        let topic: String
        let partition: Int32
        @Nullable var startOffset: Int64?
        @Nullable var lag: Int64?
    }

    let group: String
    let type: String
    let epoch: Int32
    let state: String
    let assignor: String
    let members: [Member]
    let partitions: [Partition]
    /// Of the partitions whose lag is known.
    let totalLag: Int64

    /// Nil where there is no share group of that name.
    init?(_ name: String, _ admin: Admin) async throws {
        guard let description = try await admin.describeShareGroup(name) else { return nil }
        let offsets = try await admin.shareGroupOffsets(name)
        group = description.id
        type = "share"
        epoch = description.epoch
        state = description.state
        assignor = description.assignor
        members = description.members.sorted { $0.id < $1.id }.map { member in
            Member(
                member: member.id,
                clientID: member.clientID,
                host: member.clientHost,
                epoch: member.epoch,
                assignment: Dictionary(grouping: member.assignment, by: \.topic).sorted { $0.key < $1.key }.map {
                    Assigned(topic: $0.key, partitions: $0.value.map(\.partition.rawValue).sorted())
                }
            )
        }
        partitions = offsets.sorted { $0.key < $1.key }.map { key, offset in
            Partition(
                topic: key.topic,
                partition: key.partition.rawValue,
                startOffset: offset.start?.rawValue,
                lag: offset.lag
            )
        }
        totalLag = partitions.reduce(0) { $0 + ($1.lag ?? 0) }
    }

    var text: String {
        var text = "group \(group)   type share   state \(state)   epoch \(epoch)   assignor \(assignor)"
        text += "   members \(members.count)   total lag \(totalLag)\n"
        if !members.isEmpty {
            var table = Table([.text("MEMBER"), .text("CLIENT"), .text("HOST"), .text("PARTITIONS")])
            for member in members {
                let assignment = member.assignment.map { assigned in
                    "\(assigned.topic)[\(assigned.partitions.map(String.init).joined(separator: ","))]"
                }
                table.add([member.member, member.clientID, member.host, assignment.joined(separator: " ")])
            }
            text += "\n" + table.rendered()
        }
        guard !partitions.isEmpty else { return text + "no partition was read yet\n" }
        var table = Table([.text("TOPIC"), .number("PARTITION"), .number("START"), .number("LAG")])
        for partition in partitions {
            table.add([
                partition.topic,
                "\(partition.partition)",
                partition.startOffset.map { "\($0)" } ?? "-",
                partition.lag.map { "\($0)" } ?? "-",
            ])
        }
        return text + "\n" + table.rendered()
    }
}
