// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel

/// What `mdc.keys` says about the messages that were submitted with an idempotency key. Pure; bounded by time and number.
///
/// The first claim of a key, in the order of its partition, is the one that counts: it says by what words the key may be used.
/// `done` says that the message of the claim is durable in its lane.
struct KeyTable: Sendable {
    /// What is known of a key.
    struct Entry: Sendable, Equatable {
        /// What the message says, as a number.
        var digest: UInt64
        /// When it was claimed.
        var at: Timestamp
        /// Who claimed it: unique for each submission.
        var by: UInt64
        /// Whether its message is in its lane.
        var isDone = false
    }

    private struct ID: Hashable, Sendable {
        var high: UInt64
        var low: UInt64
    }

    private var entries: [ID: Entry] = [:]
    private var order: Deque<(id: ID, at: Timestamp)> = []
    private let windowMilliseconds: Int64
    private let keysMax: Int

    init(windowMilliseconds: Int64, keysMax: Int) {
        precondition(windowMilliseconds > 0 && keysMax > 0, "a table of keys needs room")
        self.windowMilliseconds = windowMilliseconds
        self.keysMax = keysMax
    }

    /// Keys that are known.
    var count: Int { entries.count }

    /// What is known of the key of a message, at a point in time.
    func entry(_ messageID: String, now: Timestamp) -> Entry? {
        guard let id = Self.id(messageID), let entry = entries[id], now - entry.at < windowMilliseconds else {
            return nil
        }
        return entry
    }

    /// Notes a claim; only the first within the window counts.
    mutating func claim(_ messageID: String, digest: UInt64, at: Timestamp, by: UInt64) {
        guard let id = Self.id(messageID) else { return }
        if let known = entries[id], at - known.at < windowMilliseconds { return }
        entries[id] = Entry(digest: digest, at: at, by: by)
        order.append((id, at))
        forget(before: at + -windowMilliseconds)
    }

    /// Notes that the message of a key is in its lane.
    mutating func done(_ messageID: String) {
        guard let id = Self.id(messageID) else { return }
        entries[id]?.isDone = true
    }

    private mutating func forget(before: Timestamp) {
        while let first = order.first, first.at < before || order.count > keysMax {
            order.removeFirst()
            // A key that was claimed anew has a later place of its own.
            if entries[first.id]?.at == first.at { entries[first.id] = nil }
        }
    }

    private static func id(_ text: String) -> ID? {
        guard MessageID.isValid(text) else { return nil }
        var words: (UInt64, UInt64) = (0, 0)
        for byte in text.utf8 where byte != UInt8(ascii: "-") {
            words.0 = words.0 << 4 | words.1 >> 60
            words.1 = words.1 << 4 | UInt64(byte < 0x3A ? byte - 0x30 : byte - 0x57)
        }
        return ID(high: words.0, low: words.1)
    }
}

/// A record of `mdc.keys`.
enum KeyRecord: Equatable {
    case claim(digest: UInt64, at: Timestamp, by: UInt64)
    case done

    /// `c:<digest>:<ms since 1970>:<claimant>`, numbers but the time in hexadecimal; or `d`.
    var text: String {
        switch self {
        case .claim(let digest, let at, let by):
            "c:\(String(digest, radix: 16)):\(at.rawValue):\(String(by, radix: 16))"
        case .done: "d"
        }
    }

    init?(_ text: String) {
        if text == "d" {
            self = .done
            return
        }
        let parts = text.split(separator: ":")
        guard parts.count == 4, parts[0] == "c", let digest = UInt64(parts[1], radix: 16), let at = Int64(parts[2]),
            let by = UInt64(parts[3], radix: 16)
        else { return nil }
        self = .claim(digest: digest, at: Timestamp(at), by: by)
    }
}

extension MessageDraft {
    /// What the recipient gets and on which way, as a number: the same key must come with the same. Times and policies do not
    /// count, so that a submission "in ten minutes" can be repeated. To be asked of a validated draft.
    var contentDigest: UInt64 {
        var bytes: [UInt8] = []
        func add(_ text: String?) {
            guard let text else { return bytes.append(0) }
            bytes.append(1)
            withUnsafeBytes(of: UInt32(text.utf8.count).littleEndian) { bytes.append(contentsOf: $0) }
            bytes.append(contentsOf: text.utf8)
        }
        for part in [channel.rawValue, lane, to, sender, template] { add(part) }
        if let templateSource {
            // What was said, not what the template made of it: the template may have changed when it is said again.
            add("template:" + templateSource.digest)
            return SHA256.hash(bytes)[0..<8].reduce(0) { $0 << 8 | UInt64($1) }
        }
        for part in [content.subject, content.text, content.html, content.title] { add(part) }
        for (name, value) in (content.data ?? [:]).sorted(by: { $0.key < $1.key }) {
            add(name)
            add(value)
        }
        for file in content.attachments ?? [] {
            for part in [file.name, file.contentType, file.data, file.contentID] { add(part) }
        }
        return SHA256.hash(bytes)[0..<8].reduce(0) { $0 << 8 | UInt64($1) }
    }
}
