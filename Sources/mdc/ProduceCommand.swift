// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// The codecs by their names on the command line.
enum CompressionName: String, ExpressibleByArgument, CaseIterable {
    case none
    case gzip
    case snappy
    case lz4
    case zstd

    var codec: CompressionCodec {
        switch self {
        case .none: .none
        case .gzip: .gzip
        case .snappy: .snappy
        case .lz4: .lz4
        case .zstd: .zstd
        }
    }
}

/// `mdc produce`
struct ProduceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "produce",
        abstract: "Sends lines as records: from standard input, or from a file.",
        discussion: """
            Waits until every record is acknowledged, then prints how many went where. Exits with 1 if any failed.
            Example: printf 'a:1\\nb:2\\n' | mdc produce orders --key-separator :
            """
    )

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    @Argument(help: "The topic.")
    var topic: String

    @Option(name: .shortAndLong, help: ArgumentHelp("Read the lines from this file.", valueName: "path"))
    var file: String?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("What stands before it in a line is the key; a line without it has none.", valueName: "text")
    )
    var keySeparator: String?

    @Option(
        name: [.customShort("H"), .long],
        help: ArgumentHelp("A header of every record; may repeat.", valueName: "name=value")
    )
    var header: [KeyValueArgument] = []

    @Option(
        help: ArgumentHelp(
            "How a line is read: value (with --key-separator a key before it), or json.",
            discussion:
                "An object in the form that `mdc consume -o json` prints; topic, partition, offset and timestamp are passed over."
        )
    )
    var format = LineFormat.value

    @Option(name: .shortAndLong, help: "The partition; chosen by key, or spread, when absent.")
    var partition: Int32?

    @Option(name: [.customShort("z"), .long], help: "How batches are compressed.")
    var compression = CompressionName.none

    func validate() throws {
        if keySeparator == "" { throw ValidationError("--key-separator is empty: name what divides key and value") }
        if format == .json && keySeparator != nil {
            throw ValidationError("--key-separator and --format json exclude each other: the object has the key")
        }
        if let partition, partition < 0 {
            throw ValidationError("--partition is \(partition): partitions count from 0")
        }
    }

    func run() async throws {
        var lines = try LineReader(path: file)
        defer { lines.close() }
        let tally = ProduceTally()
        let start = ContinuousClock.now
        try await connection.explainingErrors {
            let producer = try Producer(
                configuration,
                eventLoopGroup: connection.eventLoopGroup,
                logger: connection.logger
            )
            do {
                if let partition { try await check(partition) }
                if file == nil, isatty(STDIN_FILENO) == 1 {
                    StandardOutput.note("one record a line; Ctrl-D ends")
                }
                try await send(&lines, producer, tally)
            } catch {
                try? await producer.close()
                throw error
            }
            // Failures of single records are in the tally.
            try? await producer.flush()
            try? await producer.close()
        }
        let elapsed = start.duration(to: .now)
        let summary = tally.summary(topic: topic, seconds: elapsed / .seconds(1))
        try output.print(summary) { summary.text }
        if let failure = tally.firstFailure {
            throw CommandError(
                "\(summary.failed) of \(summary.failed + summary.records) records were not delivered; the first: "
                    + CommandError(failure, bootstrap: connection.bootstrap).description
            )
        }
    }

    private var configuration: ProducerConfiguration {
        var configuration = ProducerConfiguration(client: connection.client)
        configuration.compression = compression.codec
        configuration.maxBlock = .seconds(connection.timeout)
        configuration.deliveryTimeout = .seconds(max(30, connection.timeout))
        return configuration
    }

    private func check(_ partition: Int32) async throws {
        let admin = try Admin(
            connection.client,
            eventLoopGroup: connection.eventLoopGroup,
            logger: connection.logger
        )
        defer { Task { await admin.close() } }
        guard let found = try? await admin.describeTopics([topic]).first else { return }
        guard partition < Int32(found.partitions.count) else {
            throw CommandError(
                "topic '\(topic)' has no partition \(partition): it has \(found.partitions.count), counted from 0"
            )
        }
    }

    private func send(_ lines: inout LineReader, _ producer: Producer, _ tally: ProduceTally) async throws {
        let headers = header.map { RecordHeader(key: $0.key, value: ByteBuffer(string: $0.value)) }
        let separator = keySeparator.map { Array($0.utf8) }
        while var line = try await lines.next() {
            let size = line.readableBytes
            if format == .json {
                try await send(
                    try JSONRecord(line, number: lines.lineNumber),
                    headers,
                    size,
                    lines.lineNumber,
                    producer,
                    tally
                )
                continue
            }
            var key: ByteBuffer?
            if let separator, let at = line.readableBytesView.firstRange(of: separator) {
                key = line.readSlice(length: at.lowerBound - line.readerIndex)
                line.moveReaderIndex(forwardBy: separator.count)
            }
            let record = ProducerRecord(topic: topic, partition: partition, key: key, value: line, headers: headers)
            try await enqueue(record, size, lines.lineNumber, producer, tally)
        }
    }

    private func send(
        _ line: JSONRecord,
        _ headers: [RecordHeader],
        _ size: Int,
        _ number: Int,
        _ producer: Producer,
        _ tally: ProduceTally
    ) async throws {
        let record = ProducerRecord(
            topic: topic,
            partition: partition,
            key: line.key,
            value: line.value,
            headers: headers + line.headers
        )
        try await enqueue(record, size, number, producer, tally)
    }

    private func enqueue(
        _ record: ProducerRecord,
        _ size: Int,
        _ number: Int,
        _ producer: Producer,
        _ tally: ProduceTally
    ) async throws {
        do {
            try await producer.enqueue(record) { tally.add($0, bytes: size) }
        } catch let error as ClientError where error.code == .recordTooLarge {
            tally.add(.failure(ClientError(error.code, "line \(number): \(error.message)")), bytes: size)
        }
    }
}

/// Counts what was acknowledged, from whichever thread.
private final class ProduceTally: Sendable {
    struct Partition: Encodable {
        let partition: Int32
        var records: Int
        @Nullable var firstOffset: Int64?
        @Nullable var lastOffset: Int64?
    }

    struct Summary: Encodable {
        let topic: String
        let records: Int
        let failed: Int
        let bytes: Int
        let seconds: Double
        let partitions: [Partition]

        var text: String {
            let time = String(format: "%.2f", seconds)
            let rate = seconds > 0 ? Int(Double(records) / seconds) : 0
            let noun = records == 1 ? "record" : "records"
            var text = "produced \(records) \(noun) (\(bytes) bytes) to '\(topic)' in \(time) s, \(rate)/s\n"
            guard !partitions.isEmpty else { return text }
            var table = Table([.number("PARTITION"), .number("RECORDS"), .number("FIRST"), .number("LAST")])
            for partition in partitions {
                table.add([
                    "\(partition.partition)",
                    "\(partition.records)",
                    partition.firstOffset.map { "\($0)" } ?? "-",
                    partition.lastOffset.map { "\($0)" } ?? "-",
                ])
            }
            text += table.rendered()
            return text
        }
    }

    private struct State {
        var bytes = 0
        var failed = 0
        var firstFailure: ClientError?
        var partitions: [Int32: Partition] = [:]
    }

    private let state = Mutex(State())

    var firstFailure: ClientError? { state.withLock(\.firstFailure) }

    func add(_ result: Result<RecordMetadata, ClientError>, bytes: Int) {
        state.withLock { state in
            switch result {
            case .failure(let error):
                state.failed += 1
                if state.firstFailure == nil { state.firstFailure = error }
            case .success(let metadata):
                state.bytes += bytes
                let number = metadata.partition
                var partition = state.partitions[number] ?? Partition(partition: number, records: 0)
                partition.records += 1
                if metadata.offset >= 0 {
                    partition.firstOffset = min(partition.firstOffset ?? .max, metadata.offset)
                    partition.lastOffset = max(partition.lastOffset ?? .min, metadata.offset)
                }
                state.partitions[number] = partition
            }
        }
    }

    func summary(topic: String, seconds: Double) -> Summary {
        state.withLock { state in
            Summary(
                topic: topic,
                records: state.partitions.values.reduce(0) { $0 + $1.records },
                failed: state.failed,
                bytes: state.bytes,
                seconds: (seconds * 1000).rounded() / 1000,
                partitions: state.partitions.values.sorted { $0.partition < $1.partition }
            )
        }
    }
}
