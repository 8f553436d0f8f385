// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// One entry of the audit log: who asked for what, and what came of it. It never holds a secret, a query or a body.
struct AuditEntry: Codable, Sendable, Hashable {
    var at: Timestamp
    /// The id of the key; nil: nobody who is known.
    var key: String?
    var tenant: String?
    /// The method and the path, or the command.
    var action: String
    var status: Int?
    /// Messages that were handed over.
    var messages: Int?
    var remote: String?
    /// Entries about unknown or hasty callers that were left out before this one, because they were too many.
    var leftOut: Int?
}

/// Appends to `mdc.audit`. Entries are in order and are not waited for; what cannot be written is said in the process's log.
final class AuditLog: Sendable {
    private let producer: Producer
    private let logger: Logger
    private let strangers: Mutex<(bucket: TokenBucket, leftOut: Int)>

    init(producer: Producer, logger: Logger) {
        self.producer = producer
        self.logger = logger
        let bucket = TokenBucket(perSecond: 20, burst: 100, nowNanoseconds: SystemTime.monotonicNanoseconds())
        strangers = Mutex((bucket, 0))
    }

    func append(_ entry: AuditEntry) async {
        var entry = entry
        if entry.key == nil || entry.status == 429 {
            // Who has no key, or asks more than it may, must not be able to fill the log.
            let (isLeftOut, leftOut) = strangers.withLock { state -> (Bool, Int) in
                guard state.bucket.take(nowNanoseconds: SystemTime.monotonicNanoseconds()) == 0 else {
                    state.leftOut += 1
                    return (true, 0)
                }
                defer { state.leftOut = 0 }
                return (false, state.leftOut)
            }
            if isLeftOut { return }
            if leftOut > 0 { entry.leftOut = leftOut }
        }
        do {
            try await producer.enqueue(Self.record(entry)) { [logger] result in
                if case .failure(let error) = result {
                    logger.error("an audit entry was not written", metadata: ["error": "\(error)"])
                }
            }
        } catch {
            logger.error("an audit entry was not written", metadata: ["error": "\(error)"])
        }
    }

    static func record(_ entry: AuditEntry) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.audit,
            key: ByteBuffer(string: entry.key ?? "-"),
            value: ByteBuffer(string: encodeJSON(entry)),
            timestamp: entry.at
        )
    }
}
