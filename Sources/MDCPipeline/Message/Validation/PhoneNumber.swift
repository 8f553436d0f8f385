// SPDX-License-Identifier: Apache-2.0

/// A phone number in E.164 form: `+`, country calling code, national number, at most 15 digits.
public struct PhoneNumber: Sendable, Hashable, CustomStringConvertible {
    /// The country calling code, such as `91`.
    public let countryCode: String
    /// The number within the country, without trunk prefix.
    public let nationalNumber: String

    /// The text form.
    public var description: String { "+\(countryCode)\(nationalNumber)" }

    /// Reads a number. Blanks, hyphens, dots and parentheses are passed over; `00` stands for `+`.
    ///
    /// - Returns: The number, or what is wrong with it and how to fix it.
    public static func parse(_ text: String) -> Result<PhoneNumber, Problem> {
        var digits: [UInt8] = []
        var international = false
        for (index, byte) in text.utf8.enumerated() {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digits.append(byte)
            case UInt8(ascii: "+") where digits.isEmpty && !international: international = true
            case UInt8(ascii: " "), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "("), UInt8(ascii: ")"): continue
            default:
                return .failure(
                    Problem("has something that is not a digit at position \(index + 1); use the form +919876543210")
                )
            }
            guard digits.count <= 17 else { return .failure(Problem("has more than 15 digits; E.164 allows 15")) }
        }
        if !international {
            guard digits.starts(with: [0x30, 0x30]) else {
                return .failure(Problem("lacks the country calling code; use the form +919876543210"))
            }
            digits.removeFirst(2)
        }
        guard !digits.isEmpty else { return .failure(Problem("is empty; give a number such as +919876543210")) }
        guard digits.count <= 15 else { return .failure(Problem("has \(digits.count) digits; E.164 allows 15")) }
        return split(digits)
    }

    private static func split(_ digits: [UInt8]) -> Result<PhoneNumber, Problem> {
        for length in 1...min(3, digits.count) {
            let code = String(decoding: digits[0..<length], as: UTF8.self)
            guard let lengths = CountryCallingCodes.nationalLengths[code] else { continue }
            let national = String(decoding: digits[length...], as: UTF8.self)
            if national.hasPrefix("0"), !CountryCallingCodes.leadingZero.contains(code) {
                return .failure(Problem("has a 0 after +\(code); leave out the trunk prefix"))
            }
            guard lengths.contains(national.utf8.count) else {
                let expected =
                    lengths.lowerBound == lengths.upperBound
                    ? "\(lengths.lowerBound)" : "\(lengths.lowerBound) to \(lengths.upperBound)"
                return .failure(
                    Problem("has \(national.utf8.count) digits after +\(code); numbers there have \(expected)")
                )
            }
            return .success(PhoneNumber(countryCode: code, nationalNumber: national))
        }
        let start = String(decoding: digits.prefix(3), as: UTF8.self)
        return .failure(Problem("starts with +\(start), which is no country calling code"))
    }

    /// What is wrong with a number.
    public struct Problem: Error, Sendable, Hashable, CustomStringConvertible {
        /// The text form.
        public var description: String
        init(_ description: String) { self.description = description }
    }
}
