// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Dispatch
import Foundation
import MDCClient
import MDCModel
import Synchronization

/// Where `mdc consume` begins: `earliest`, `latest`, an offset, or a time.
enum ConsumeStart: ExpressibleByArgument, Equatable {
    case earliest
    case latest
    case offset(Int64)
    case time(Timestamp)

    init?(argument: String) {
        switch argument {
        case "earliest": self = .earliest
        case "latest": self = .latest
        default:
            if argument.hasPrefix("@") {
                let text = String(argument.dropFirst())
                if let milliseconds = Int64(text), milliseconds >= 0 {
                    self = .time(Timestamp(milliseconds))
                } else if let date = try? Date(text, strategy: .iso8601) {
                    self = .time(Timestamp(Int64(date.timeIntervalSince1970 * 1000)))
                } else {
                    return nil
                }
            } else {
                guard let offset = Int64(argument), offset >= 0 else { return nil }
                self = .offset(offset)
            }
        }
    }
}

/// `mdc consume`
struct ConsumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "consume",
        abstract: "Prints the records of a topic, and goes on with those that come.",
        discussion: """
            Without a group it reads all partitions from the first record on. With --group it shares the partitions \
            with the group's other members, goes on where the group has committed, and commits what it has printed.

            In --format stand for a record's parts: %t topic, %p partition, %o offset, %T time (milliseconds since \
            1970), %k key, %s value, %h headers, %K and %S lengths of key and value in bytes (-1 for none), %% a \
            percent sign; \\n, \\t and \\\\ as usual. -o json prints an object a line.
            """
    )

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "The topic.")
    var topic: String

    @Option(
        help: ArgumentHelp(
            "Where to begin: earliest, latest, an offset, or @ and a time (ISO 8601, or milliseconds since 1970).",
            discussion: "With --group it counts only where the group has committed nothing.",
            valueName: "start"
        )
    )
    var from = ConsumeStart.earliest

    @Option(name: .shortAndLong, help: "Only this partition; may repeat.")
    var partition: [Int32] = []

    @Option(name: .shortAndLong, help: ArgumentHelp("Read as a member of this group.", valueName: "name"))
    var group: String?

    @Option(name: [.customShort("n"), .long], help: ArgumentHelp("Stop after this many records.", valueName: "count"))
    var maxMessages: Int?

    @Flag(help: "Stop where the partitions ended when the command began. By default it goes on until Ctrl-C.")
    var untilEnd = false

    @Option(
        help: ArgumentHelp(
            "Where to stop, in each partition: an offset, or @ and a time; what is there is not printed.",
            discussion: "A partition without a record that young is read to where it ended when the command began.",
            valueName: "stop"
        )
    )
    var until: ConsumeStart?

    @Flag(help: "Only records of committed transactions.")
    var readCommitted = false

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("How a record is printed; '%s\\n' when absent.", valueName: "format")
    )
    var format: RecordFormat?

    @Option(name: .shortAndLong, help: "table prints values (or --format), json an object a line.")
    var output = OutputFormat.table

    func validate() throws {
        if let maxMessages, maxMessages < 1 {
            throw ValidationError("--max-messages is \(maxMessages): it must be at least 1")
        }
        switch until {
        case .earliest?, .latest?: throw ValidationError("--until is an offset or @ and a time; see --until-end")
        case .offset?, .time?, nil: break
        }
        if until != nil && untilEnd { throw ValidationError("--until and --until-end exclude each other") }
        if format != nil && output == .json { throw ValidationError("--format and -o json exclude each other") }
        if let number = partition.first(where: { $0 < 0 }) {
            throw ValidationError("--partition is \(number): partitions count from 0")
        }
        guard group != nil else { return }
        if group == "" { throw ValidationError("--group is empty: name the group") }
        if !partition.isEmpty {
            throw ValidationError("--partition and --group exclude each other: the group shares out the partitions")
        }
        switch from {
        case .earliest, .latest: break
        default: throw ValidationError("--from with --group is earliest or latest: the group's offsets rule")
        }
    }

    func run() async throws {
        let interrupts = Interrupts()
        try await connection.explainingErrors {
            let partitions = try await self.partitions()
            let consumer = try Consumer(
                configuration,
                eventLoopGroup: connection.eventLoopGroup,
                logger: connection.logger
            )
            do {
                try await read(consumer, partitions, interrupts)
                await consumer.close()
            } catch {
                await consumer.close()
                throw error
            }
        }
    }

    private var configuration: ConsumerConfiguration {
        var configuration = ConsumerConfiguration(client: connection.client, groupID: group)
        configuration.autoOffsetReset = from == .latest ? .latest : .earliest
        configuration.isolation = readCommitted ? .readCommitted : .readUncommitted
        configuration.enableAutoCommit = group != nil
        configuration.autoCommitInterval = .seconds(1)
        return configuration
    }

    /// The partitions to read. Throws `CommandError` for what does not exist.
    private func partitions() async throws -> [TopicPartition] {
        try await connection.withAdmin { admin in
            let found: [TopicDescription]
            do {
                found = try await admin.describeTopics([topic])
            } catch let error as ClientError where error.code == .unknownTopicOrPartition {
                throw CommandError.noTopic(topic)
            }
            let all = found.first?.partitions.map(\.id) ?? []
            if let missing = partition.first(where: { !all.contains(PartitionID($0)) }) {
                throw CommandError(
                    "topic '\(topic)' has no partition \(missing): it has \(all.count), counted from 0"
                )
            }
            let wanted = partition.isEmpty ? all : Set(partition).sorted().map { PartitionID($0) }
            return wanted.map { TopicPartition(topic: topic, partition: $0) }
        }
    }

    private func read(_ consumer: Consumer, _ partitions: [TopicPartition], _ interrupts: Interrupts) async throws {
        let stops = untilEnd || until != nil
        let ends = try await ends(consumer, partitions)
        if group != nil {
            try await consumer.subscribe([topic])
        } else {
            try await consumer.assign(try await offsets(consumer, partitions))
        }
        var printer = RecordPrinter(output == .json ? .json : .format(format ?? .value))
        var left = maxMessages ?? .max
        var idleSince: ContinuousClock.Instant?
        while left > 0, !interrupts.isSet {
            let records = try await consumer.poll(maxRecords: min(500, left), timeout: .milliseconds(200))
            for record in records {
                // What came after the command began is not asked for.
                if let end = ends[record.topicPartition], record.offset >= end { continue }
                printer.add(record)
                left -= 1
            }
            printer.flush()
            guard stops else { continue }
            let assigned = consumer.assignment
            if assigned.isEmpty {
                // A member may be given nothing, because others have it all.
                guard consumer.memberID != nil else { continue }
                let since = idleSince ?? .now
                idleSince = since
                if since.duration(to: .now) > .seconds(5) { return }
            } else {
                idleSince = nil
                if try assigned.allSatisfy({ try isAtEnd($0, ends, consumer) }) { return }
            }
        }
    }

    /// Where each partition is read to; empty for no end.
    private func ends(_ consumer: Consumer, _ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        switch until {
        case .offset(let offset)?: return Dictionary(uniqueKeysWithValues: partitions.map { ($0, Offset(offset)) })
        case .time(let time)?:
            let found = try await consumer.offsetsForTimes(
                Dictionary(uniqueKeysWithValues: partitions.map { ($0, time) })
            )
            return try await consumer.endOffsets(partitions).merging(found.mapValues(\.offset)) { $1 }
        case .earliest?, .latest?, nil: return untilEnd ? try await consumer.endOffsets(partitions) : [:]
        }
    }

    private func isAtEnd(
        _ partition: TopicPartition,
        _ ends: [TopicPartition: Offset],
        _ consumer: Consumer
    ) throws -> Bool {
        guard let end = ends[partition] else { return true }
        do {
            guard let position = try consumer.position(partition) else { return false }
            return position >= end
        } catch let error as ClientError where error.code == .partitionNotAssigned {
            return true
        }
    }

    private func offsets(_ consumer: Consumer, _ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset]
    {
        switch from {
        case .earliest: return try await consumer.beginningOffsets(partitions)
        case .latest: return try await consumer.endOffsets(partitions)
        case .offset(let offset): return Dictionary(uniqueKeysWithValues: partitions.map { ($0, Offset(offset)) })
        case .time(let time):
            let found = try await consumer.offsetsForTimes(
                Dictionary(uniqueKeysWithValues: partitions.map { ($0, time) })
            )
            // A partition without a record that young is read from its end.
            return try await consumer.endOffsets(partitions).merging(found.mapValues(\.offset)) { $1 }
        }
    }
}

/// Notes Ctrl-C and SIGTERM, so that a group can be left in order; a second one ends the process at once.
///
/// Unchecked, for signal sources are not declared `Sendable`; they are stored in `init` and never touched again.
private final class Interrupts: @unchecked Sendable {
    private let count = Mutex(0)
    private var sources: [any DispatchSourceSignal] = []

    init() {
        for number in [SIGINT, SIGTERM] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { [weak self] in
                guard let self else { return }
                let count = self.count.withLock { count in
                    count += 1
                    return count
                }
                if count > 1 { exit(128 + number) }
            }
            source.activate()
            sources.append(source)
        }
    }

    var isSet: Bool { count.withLock { $0 > 0 } }
}
