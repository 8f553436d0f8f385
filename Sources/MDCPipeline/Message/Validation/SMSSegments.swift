// SPDX-License-Identifier: Apache-2.0

/// How a text is cut into short messages (3GPP TS 23.038 and 23.040).
public struct SMSSegments: Sendable, Hashable {
    /// The alphabet that the text needs.
    public enum Encoding: String, Sendable, Hashable, Codable {
        /// Seven bits a character; characters of the extension table take two places.
        case gsm7
        /// Sixteen bits a unit.
        case ucs2
    }

    /// The alphabet that the text needs.
    public let encoding: Encoding
    /// Places taken: septets (GSM-7) or UTF-16 units (UCS-2).
    public let units: Int
    /// The number of short messages that it takes.
    public let count: Int
    /// The first character that is not in the GSM alphabet, if one is the reason for UCS-2.
    public let firstForeign: Character?

    /// Counts a text. A character of two places is never cut in two.
    public init(_ text: String) {
        var septets: [UInt8] = []
        septets.reserveCapacity(text.utf8.count)
        for character in text.unicodeScalars {
            if Self.basic.contains(character) {
                septets.append(1)
            } else if Self.extended.contains(character) {
                septets.append(2)
            } else {
                self.firstForeign = Character(character)
                self.encoding = .ucs2
                let widths = text.unicodeScalars.map { UInt8($0.value > 0xFFFF ? 2 : 1) }
                (self.units, self.count) = Self.cut(widths, single: 70, part: 67)
                return
            }
        }
        self.firstForeign = nil
        self.encoding = .gsm7
        (self.units, self.count) = Self.cut(septets, single: 160, part: 153)
    }

    private static func cut(_ widths: [UInt8], single: Int, part: Int) -> (units: Int, count: Int) {
        let units = widths.reduce(0) { $0 + Int($1) }
        guard units > single else { return (units, 1) }
        var count = 1
        var used = 0
        for width in widths {
            if used + Int(width) > part {
                count += 1
                used = 0
            }
            used += Int(width)
        }
        return (units, count)
    }

    private static let basic = Set(
        ("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
            + "¿abcdefghijklmnopqrstuvwxyzäöñüà").unicodeScalars
    )
    private static let extended = Set("\u{0C}^{}\\[~]|€".unicodeScalars)
}
