// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// A question to a name server, and its answer (RFC 1035), as far as mail domains need them. Pure; bad input gives nil.
enum DNSMessage {
    enum RecordType: UInt16, Sendable { case a = 1, mx = 15, aaaa = 28 }

    struct Answer: Sendable, Equatable {
        /// 0: no error, 3: there is no such name.
        var code: UInt8
        /// It did not fit the datagram.
        var isTruncated: Bool
        /// Records of the type that was asked for.
        var count = 0
        /// Whether the only one says that no mail is taken (RFC 7505).
        var isNullMX = false
    }

    /// - Returns: nil if the name cannot stand in a question.
    static func question(id: UInt16, name: String, type: RecordType) -> ByteBuffer? {
        var out = ByteBuffer()
        // One question, recursion wanted.
        for word in [id, 0x0100, 1, 0, 0, 0] as [UInt16] { out.writeInteger(word) }
        let labels = name.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard name.utf8.count <= 253, !labels.isEmpty else { return nil }
        for label in labels {
            guard (1...63).contains(label.count) else { return nil }
            out.writeInteger(UInt8(label.count))
            out.writeBytes(label)
        }
        out.writeInteger(UInt8(0))
        out.writeInteger(type.rawValue)
        out.writeInteger(UInt16(1))
        return out
    }

    /// Reads the answer to a question; nil if it is none, or another's.
    static func answer(_ message: ByteBuffer, to question: ByteBuffer, type: RecordType) -> Answer? {
        let bytes = Array(message.readableBytesView)
        let asked = Array(question.readableBytesView)
        func word(_ at: Int) -> UInt16? {
            at + 1 < bytes.count ? UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1]) : nil
        }
        // The question comes back as it was asked, but for capitals.
        guard bytes.count >= asked.count, bytes[0] == asked[0], bytes[1] == asked[1], bytes[2] & 0x80 != 0,
            word(4) == 1, let count = word(6),
            zip(bytes[12..<asked.count], asked[12...]).allSatisfy({ lower($0) == lower($1) })
        else { return nil }
        var answer = Answer(code: bytes[3] & 0x0F, isTruncated: bytes[2] & 0x02 != 0)
        var at = asked.count
        var isNull = false
        for _ in 0..<count {
            guard let after = skipName(bytes, at), let kind = word(after), let length = word(after + 8),
                after + 10 + Int(length) <= bytes.count
            else { return answer.isTruncated ? answer : nil }
            let data = after + 10
            if kind == type.rawValue {
                answer.count += 1
                // Preference and the name of the root.
                isNull = type == .mx && length == 3 && bytes[data + 2] == 0
            }
            at = data + Int(length)
        }
        answer.isNullMX = isNull && answer.count == 1
        return answer
    }

    private static func lower(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte + 32 : byte }

    /// Where a name ends: at the root, or at a pointer.
    private static func skipName(_ bytes: [UInt8], _ start: Int) -> Int? {
        var at = start
        while at < bytes.count {
            let length = Int(bytes[at])
            if length == 0 { return at + 1 }
            if length & 0xC0 == 0xC0 { return at + 2 <= bytes.count ? at + 2 : nil }
            guard length < 64 else { return nil }
            at += length + 1
        }
        return nil
    }
}
