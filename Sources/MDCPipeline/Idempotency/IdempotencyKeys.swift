// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCClient
import MDCModel
public import NIOCore
import Synchronization

/// The durable memory of idempotency keys: the topic `mdc.keys`, followed by each process that submits messages with keys.
///
/// A key is claimed on the log before its message goes into its lane, and marked as done after. So every submitter sees the
/// same: whether the key was used, for which words, and whether its message is on its way, however often processes die.
public final class IdempotencyKeys: Sendable {
    /// How long a key is remembered unless configured otherwise: a day.
    public static let defaultWindow = Duration.seconds(86_400)

    private let follower: TopicFollower
    private let box: KeyTableBox
    private let random = Mutex(SystemRandomNumberGenerator())

    /// - Parameters:
    ///   - window: How long a key is remembered.
    ///   - keysMax: The most keys in memory (some 100 bytes each); beyond, the oldest are forgotten.
    public init(
        client: ClientConfiguration,
        window: Duration = IdempotencyKeys.defaultWindow,
        keysMax: Int = 1_000_000,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) {
        let box = KeyTableBox(KeyTable(windowMilliseconds: window.milliseconds, keysMax: keysMax))
        self.box = box
        follower = TopicFollower(
            Topics.keys,
            client: client,
            eventLoopGroup: eventLoopGroup,
            logger: logger,
            since: { SystemTime.now() + -window.milliseconds },
            apply: { box.apply($0) }
        )
    }

    /// Ends the reading of the topic.
    public func close() async { await follower.close() }

    /// What a submission is to do about its key.
    enum Answer: Sendable, Equatable {
        /// The key is new: put the message into its lane.
        case new
        /// A submission before this one claimed the key, at that time, and may not have come to its end: put the message
        /// into its lane, and have the dispatcher look whether it was sent.
        case unfinished(since: Timestamp)
        /// The message is on its way.
        case done
        /// The key was used for other words.
        case conflict
    }

    /// Claims keys; returns what to do about each, in their order.
    func claim(
        _ keys: [(messageID: String, digest: UInt64)],
        writer: RecordWriter,
        now: Timestamp
    ) async throws(PipelineError) -> [Answer] {
        guard !keys.isEmpty else { return [] }
        try await follower.caughtUp()
        let known = box.entries(keys.map(\.messageID), now: now)
        var claims: [UInt64] = []
        var records: [ProducerRecord] = []
        for (index, key) in keys.enumerated() {
            let by = random.withLock { UInt64.random(in: 1 ... .max, using: &$0) }
            claims.append(by)
            guard known[index] == nil else { continue }
            records.append(Self.record(key.messageID, .claim(digest: key.digest, at: now, by: by)))
        }
        guard !records.isEmpty else {
            return keys.indices.map { Self.answer(known[$0], digest: keys[$0].digest, by: claims[$0]) }
        }
        try await writer.write(records)
        // Ours is in the log now; whoever's came first counts.
        try await follower.caughtUp()
        let settled = box.entries(keys.map(\.messageID), now: now)
        return keys.indices.map { Self.answer(settled[$0], digest: keys[$0].digest, by: claims[$0]) }
    }

    /// The record that says that a message is in its lane.
    static func done(_ messageID: String) -> ProducerRecord { record(messageID, .done) }

    private static func answer(_ entry: KeyTable.Entry?, digest: UInt64, by: UInt64) -> Answer {
        // Out of the bounds of the table again: as new as any.
        guard let entry else { return .new }
        if entry.digest != digest { return .conflict }
        if entry.isDone { return .done }
        return entry.by == by ? .new : .unfinished(since: entry.at)
    }

    private static func record(_ messageID: String, _ record: KeyRecord) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.keys,
            key: ByteBuffer(string: messageID),
            value: ByteBuffer(string: record.text)
        )
    }
}

/// The table, shared by who reads the topic and who asks.
final class KeyTableBox: Sendable {
    private let table: Mutex<KeyTable>

    init(_ table: KeyTable) { self.table = Mutex(table) }

    func apply(_ records: [ConsumerRecord]) {
        table.withLock { table in
            for record in records {
                guard let id = record.key.map({ String(buffer: $0) }),
                    let known = record.value.flatMap({ KeyRecord(String(buffer: $0)) })
                else { continue }
                switch known {
                case .claim(let digest, let at, let by): table.claim(id, digest: digest, at: at, by: by)
                case .done: table.done(id)
                }
            }
        }
    }

    func entries(_ messageIDs: [String], now: Timestamp) -> [KeyTable.Entry?] {
        table.withLock { table in messageIDs.map { table.entry($0, now: now) } }
    }
}
