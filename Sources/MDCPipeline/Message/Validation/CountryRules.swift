// SPDX-License-Identifier: Apache-2.0

/// What is known of short messages to a country, by calling code: what mobile numbers begin with, and whether a name may be shown as
/// the sender. Rules change; so what they find is a warning where the message may arrive all the same.
enum CountryRules {
    /// Whether networks show names as senders.
    enum SenderNames: Sendable, Hashable {
        case shown
        /// Only names that were registered with the networks.
        case registered
        /// They refuse them, or put a number in their place.
        case refused
    }

    static func senderNames(_ code: String) -> SenderNames {
        refused.contains(code) ? .refused : registered.contains(code) ? .registered : .shown
    }

    private static let refused: Set<String> = [
        "1", "32", "52", "54", "55", "56", "57", "58", "64", "82", "86", "502", "503", "504", "505", "506", "507",
        "593", "595",
        "598", "886",
    ]
    private static let registered: Set<String> = [
        "7", "20", "27", "40", "60", "62", "63", "65", "66", "84", "90", "91", "92", "94", "98", "212", "216", "234",
        "254", "375",
        "380", "420", "852", "880", "962", "964", "965", "966", "968", "971", "973", "974", "977", "998",
    ]

    /// Whether a national number can be a mobile phone's; nil: not known for this country.
    static func isMobile(_ number: PhoneNumber) -> Bool? {
        guard let prefixes = mobile[number.countryCode] else { return nil }
        return prefixes.contains { number.nationalNumber.hasPrefix($0) }
    }

    private static let mobile: [String: [String]] = {
        var table: [String: [String]] = [:]
        for entry in text.split(whereSeparator: \.isWhitespace) {
            let parts = entry.split(separator: ":")
            table[String(parts[0])] = parts[1].split(separator: ",").map(String.init)
        }
        return table
    }()

    /// Beginnings of mobile numbers (and of ranges that may be mobile, such as personal numbers).
    private static let text = """
        20:10,11,12,15 27:6,7,8 30:69 31:6,97 32:4 33:6,7 34:6,7 36:20,30,31,50,70 39:3 40:7 41:7 43:6 44:7 45:2,3,4,5,6,7,8,9
        46:7 47:4,9,58,59 48:45,50,51,53,57,60,66,69,72,73,78,79,88 49:15,16,17 51:9 60:1 61:4,5 62:8 63:9 64:2 65:8,9 66:6,8,9
        81:70,80,90,60 82:1 84:3,5,7,8,9 86:1 90:5 91:6,7,8,9 92:3 94:7 351:9 352:6 353:8 358:4,5 380:39,50,63,66,67,68,73,9
        420:6,7 421:9 852:4,5,6,7,8,9 886:9 966:5 971:5 972:5
        """
}
