// SPDX-License-Identifier: Apache-2.0

/// A 128-bit id as Kafka uses it for topics, directories and client instances.
///
/// On the wire it is 16 bytes, big-endian; as text it is 22 characters of URL-safe base64 without padding.
/// Source: KIP-516.
public struct KafkaUUID: Hashable, Sendable, Comparable, CustomStringConvertible, LosslessStringConvertible {
    /// The first eight bytes, most significant first.
    public let high: UInt64
    /// The last eight bytes, most significant first.
    public let low: UInt64

    /// Makes an id from its two halves.
    @inlinable public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// All bits zero: "no id".
    public static let zero = KafkaUUID(high: 0, low: 0)

    /// A random id (RFC 9562 version 4) from `generator`, never one whose text starts with a dash (command lines
    /// would take it for an option).
    public static func random(using generator: inout some RandomNumberGenerator) -> KafkaUUID {
        while true {
            let high = generator.next() & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
            let low = generator.next() & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
            let id = KafkaUUID(high: high, low: low)
            if id.description.utf8.first != UInt8(ascii: "-") { return id }
        }
    }

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)

    /// The 22 characters of URL-safe base64.
    public var description: String {
        String(unsafeUninitializedCapacity: 22) { text in
            // 128 bits are 21 groups of six and one of two, which base64 pads with zeros on the right.
            for index in 0..<22 {
                let six: UInt64
                let shift = 122 - index * 6
                if shift >= 64 {
                    six = high >> UInt64(shift - 64)
                } else if shift >= 0 {
                    six = (shift > 58 ? high << UInt64(64 - shift) : 0) | low >> UInt64(shift)
                } else {
                    six = low << UInt64(-shift)
                }
                text[index] = Self.alphabet[Int(six & 0x3F)]
            }
            return 22
        }
    }

    /// Reads the 22 characters of URL-safe base64; nil where the text is anything else.
    public init?(_ description: String) {
        guard description.utf8.count == 22 else { return nil }
        var high: UInt64 = 0
        var low: UInt64 = 0
        for (index, character) in description.utf8.enumerated() {
            guard let position = Self.alphabet.firstIndex(of: character) else { return nil }
            var six = UInt64(position)
            var width: UInt64 = 6
            if index == 21 {
                guard six & 0x0F == 0 else { return nil }
                six >>= 4
                width = 2
            }
            high = high << width | low >> (64 - width)
            low = low << width | six
        }
        self.init(high: high, low: low)
    }

    public static func < (lhs: KafkaUUID, rhs: KafkaUUID) -> Bool {
        (lhs.high, lhs.low) < (rhs.high, rhs.low)
    }
}

/// The id of a topic: made at its creation and never used again, so that a topic that was deleted and made anew
/// under the same name is told from its predecessor.
public typealias TopicID = KafkaUUID
