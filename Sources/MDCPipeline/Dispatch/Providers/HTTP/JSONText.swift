// SPDX-License-Identifier: Apache-2.0

import Foundation

/// JSON text of a value that always can be one.
func encodeJSON(_ value: some Encodable) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(value) else {
        preconditionFailure("\(type(of: value)) is not encodable as JSON")
    }
    return String(decoding: data, as: UTF8.self)
}

/// Now, in milliseconds since 1970: what providers and simulators write into their requests.
func wallClockMilliseconds() -> Int64 { Int64(Date().timeIntervalSince1970 * 1000) }
