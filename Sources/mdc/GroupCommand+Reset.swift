// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

/// Where `mdc group reset` moves a group to.
enum ResetTarget: ExpressibleByArgument, Equatable {
    case start(ConsumeStart)
    /// So many records forward, or back where negative.
    case shift(Int64)

    init?(argument: String) {
        if argument.hasPrefix("+") || argument.hasPrefix("-") {
            guard let count = Int64(argument) else { return nil }
            self = .shift(count)
        } else {
            guard let start = ConsumeStart(argument: argument) else { return nil }
            self = .start(start)
        }
    }
}

extension GroupCommand {
    struct Reset: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Moves the committed offsets of a group without members.",
            discussion: """
                Offsets beyond a partition's first or end offset become that one.
                Example: mdc group reset billing --topic orders --to @2026-01-31T08:00:00Z --dry-run
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The name of the group.")
        var name: String

        @Option(help: "The topic.")
        var topic: String

        @Option(name: .shortAndLong, help: "Only this partition; may repeat.")
        var partition: [Int32] = []

        @Option(
            parsing: .unconditional,
            help: ArgumentHelp(
                "earliest, latest, an offset, @ and a time (ISO 8601, or milliseconds since 1970), or +N, -N records.",
                valueName: "target"
            )
        )
        var to: ResetTarget

        @Flag(help: "Only show what would be committed.")
        var dryRun = false

        private struct Row: Encodable {
            let topic: String
            let partition: Int32
            @Nullable var before: Int64?
            let after: Int64
        }

        private struct Result: Encodable {
            let group: String
            let isDryRun: Bool
            let partitions: [Row]
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                let partitions = try await self.partitions(admin)
                let committed = try await admin.groupOffsets(name, partitions: partitions)
                let targets = try await self.targets(partitions, committed, admin)
                if !dryRun { try await commit(targets, admin) }
                return targets.sorted { $0.key < $1.key }.map { key, offset in
                    let before = committed[key].flatMap { $0.offset >= 0 ? $0.offset.rawValue : nil }
                    return Row(
                        topic: key.topic,
                        partition: key.partition.rawValue,
                        before: before,
                        after: offset.rawValue
                    )
                }
            }
            try output.print(Result(group: name, isDryRun: dryRun, partitions: rows)) {
                var table = Table([.text("TOPIC"), .number("PARTITION"), .number("BEFORE"), .number("AFTER")])
                for row in rows {
                    table.add([row.topic, "\(row.partition)", row.before.map { "\($0)" } ?? "-", "\(row.after)"])
                }
                return (dryRun ? "would move group \(name)\n" : "moved group \(name)\n") + table.rendered()
            }
        }

        private func partitions(_ admin: Admin) async throws -> [TopicPartition] {
            guard let found = try await admin.describeTopics(nil).first(where: { $0.name == topic }) else {
                throw CommandError.noTopic(topic)
            }
            let all = found.partitions.map(\.id)
            if let missing = partition.first(where: { !all.contains(PartitionID($0)) }) {
                throw CommandError("topic '\(topic)' has no partition \(missing): it has \(all.count), counted from 0")
            }
            let wanted = partition.isEmpty ? all : Swift.Set(partition).map { PartitionID($0) }
            return wanted.map { TopicPartition(topic: topic, partition: $0) }
        }

        private func targets(
            _ partitions: [TopicPartition],
            _ committed: [TopicPartition: OffsetAndMetadata],
            _ admin: Admin
        ) async throws -> [TopicPartition: Offset] {
            let first = try await admin.beginningOffsets(partitions)
            let end = try await admin.endOffsets(partitions)
            let byTime = try await self.offsetsByTime(partitions)
            var targets: [TopicPartition: Offset] = [:]
            for key in partitions {
                guard let first = first[key], let end = end[key] else { continue }
                let wanted: Offset
                switch to {
                case .start(.earliest): wanted = first
                case .start(.latest): wanted = end
                case .start(.offset(let offset)): wanted = Offset(offset)
                case .start(.time): wanted = byTime[key] ?? end
                case .shift(let count):
                    // A partition without a committed offset has nothing to be moved from.
                    guard let from = committed[key]?.offset, from >= 0 else { continue }
                    let (sum, overflow) = from.rawValue.addingReportingOverflow(count)
                    wanted = overflow ? (count > 0 ? end : first) : Offset(sum)
                }
                targets[key] = min(max(wanted, first), end)
            }
            guard !targets.isEmpty else {
                throw CommandError(
                    "group '\(name)' has committed nothing in '\(topic)' to move from: name an offset or earliest instead"
                )
            }
            return targets
        }

        private func offsetsByTime(_ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
            guard case .start(.time(let time)) = to else { return [:] }
            let consumer = try Consumer(
                ConsumerConfiguration(client: connection.client),
                eventLoopGroup: connection.eventLoopGroup,
                logger: connection.logger
            )
            do {
                let times = Dictionary(uniqueKeysWithValues: partitions.map { ($0, time) })
                let found = try await consumer.offsetsForTimes(times)
                await consumer.close()
                return found.mapValues(\.offset)
            } catch {
                await consumer.close()
                throw error
            }
        }

        private func commit(_ targets: [TopicPartition: Offset], _ admin: Admin) async throws {
            do {
                try await admin.alterGroupOffsets(name, targets.mapValues { OffsetAndMetadata($0) })
            } catch let error as ClientError where error.errorCode == .unknownMemberId {
                throw CommandError(
                    "group '\(name)' has members, which would go on from where they are: stop them first "
                        + "(`mdc group describe \(name)` shows them)"
                )
            }
        }
    }
}
