// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Domain names beyond ASCII in the form that every server understands (RFC 3492, RFC 5891).
enum Punycode {
    /// The domain with each label beyond ASCII as `xn--…`; nil if one cannot be encoded or comes out longer than 63 bytes.
    static func asciiDomain(_ domain: String) -> String? {
        guard domain.utf8.contains(where: { $0 >= 0x80 }) else { return domain }
        var labels: [String] = []
        for label in domain.precomposedStringWithCompatibilityMapping.lowercased().split(separator: ".") {
            if label.utf8.allSatisfy({ $0 < 0x80 }) {
                labels.append(String(label))
                continue
            }
            // Letters, digits, marks and hyphens make names; signs, spaces and invisible characters do not.
            let isName = label.unicodeScalars.allSatisfy { scalar in
                scalar.isASCII
                    ? EmailAddress.isAlphanumeric(UInt8(scalar.value)) || scalar == "-"
                    : scalar.properties.isAlphabetic || scalar.properties.numericType != nil || isMark(scalar)
            }
            guard isName, let encoded = encode(Array(label.unicodeScalars.map(\.value))),
                encoded.utf8.count + 4 <= 63
            else { return nil }
            labels.append("xn--" + encoded)
        }
        let name = labels.joined(separator: ".")
        return name.utf8.count <= 253 ? name : nil
    }

    private static func isMark(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .spacingMark: true
        default: scalar.value == 0x200C || scalar.value == 0x200D || scalar.value == 0x00B7 || scalar.value == 0x30FB
        }
    }

    /// RFC 3492, 6.3.
    static func encode(_ points: [UInt32]) -> String? {
        var out: [UInt8] = points.filter { $0 < 0x80 }.map { UInt8($0) }
        let basic = out.count
        var handled = basic
        if basic > 0 { out.append(UInt8(ascii: "-")) }
        var n: UInt32 = 128
        var delta = 0
        var bias = 72
        while handled < points.count {
            guard let next = points.filter({ $0 >= n }).min() else { return nil }
            let (step, overflow) = Int(next - n).multipliedReportingOverflow(by: handled + 1)
            guard !overflow, delta < Int.max - step else { return nil }
            delta += step
            n = next
            for point in points {
                if point < n { delta += 1 }
                guard point == n else { continue }
                var q = delta
                var k = 36
                while true {
                    let t = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias
                    if q < t { break }
                    out.append(digit(t + (q - t) % (36 - t)))
                    q = (q - t) / (36 - t)
                    k += 36
                }
                out.append(digit(q))
                bias = adapt(delta, handled + 1, isFirst: handled == basic)
                delta = 0
                handled += 1
            }
            delta += 1
            n += 1
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func digit(_ value: Int) -> UInt8 { UInt8(value < 26 ? 0x61 + value : 0x30 + value - 26) }

    private static func adapt(_ given: Int, _ count: Int, isFirst: Bool) -> Int {
        var delta = isFirst ? given / 700 : given / 2
        delta += delta / count
        var k = 0
        while delta > 455 {
            delta /= 35
            k += 36
        }
        return k + 36 * delta / (delta + 38)
    }
}
