// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Makes the ids of messages (RFC 9562).
enum MessageID {
    /// A UUIDv7: 48 bits of time, 74 random bits.
    static func random(at now: Timestamp, using generator: inout some RandomNumberGenerator) -> String {
        let high = UInt64(bitPattern: now.rawValue) << 16 | 0x7000 | UInt64.random(in: 0...0x0FFF, using: &generator)
        let low = 1 << 63 | UInt64.random(in: 0..<1 << 62, using: &generator)
        return text(high, low)
    }

    /// A UUIDv8 that depends on tenant and key alone, so that the same key is the same message everywhere.
    static func derived(tenant: String, key: String) -> String {
        var input = Array("mdc:\(tenant.utf8.count):".utf8)
        input.append(contentsOf: tenant.utf8)
        input.append(contentsOf: key.utf8)
        let digest = SHA256.hash(input)
        let high = digest[0..<8].reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        let low = digest[8..<16].reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        return text(high & ~0xF000 | 0x8000, low & ~(3 << 62) | 1 << 63)
    }

    /// Whether the text is a UUID in lower case with hyphens.
    static func isValid(_ text: String) -> Bool {
        let bytes = text.utf8
        guard bytes.count == 36 else { return false }
        for (index, byte) in bytes.enumerated() {
            switch index {
            case 8, 13, 18, 23: guard byte == UInt8(ascii: "-") else { return false }
            default:
                guard (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte) else { return false }
            }
        }
        return true
    }

    private static let digits: [UInt8] = Array("0123456789abcdef".utf8)

    private static func text(_ high: UInt64, _ low: UInt64) -> String {
        String(unsafeUninitializedCapacity: 36) { bytes in
            var at = 0
            for nibble in 0..<32 {
                if nibble == 8 || nibble == 12 || nibble == 16 || nibble == 20 {
                    bytes[at] = UInt8(ascii: "-")
                    at += 1
                }
                let word = nibble < 16 ? high : low
                bytes[at] = digits[Int(word >> UInt64(60 - (nibble & 15) * 4) & 15)]
                at += 1
            }
            return 36
        }
    }
}
