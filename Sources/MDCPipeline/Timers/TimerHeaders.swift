// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// What a record of `mdc.timers` says beside the value that it delivers.
struct TimerHeaders: Sendable, Equatable {
    /// When to deliver.
    var due: Timestamp
    /// The topic to deliver to.
    var topic: String
    /// The key of the delivered record.
    var key: String

    init(due: Timestamp, topic: String, key: String) {
        self.due = due
        self.topic = topic
        self.key = key
    }

    /// Reads the headers; nil if one is missing or wrong.
    init?(_ headers: [RecordHeader]) {
        var values: [String: String] = [:]
        for header in headers { values[header.key] = header.value.map { String(buffer: $0) } }
        guard let due = values["due"].flatMap({ Int64($0) }), let topic = values["topic"], let key = values["key"]
        else {
            return nil
        }
        self.init(due: Timestamp(due), topic: topic, key: key)
    }

    var records: [RecordHeader] {
        [
            RecordHeader(key: "due", value: ByteBuffer(string: String(due.rawValue))),
            RecordHeader(key: "topic", value: ByteBuffer(string: topic)),
            RecordHeader(key: "key", value: ByteBuffer(string: key)),
        ]
    }
}
