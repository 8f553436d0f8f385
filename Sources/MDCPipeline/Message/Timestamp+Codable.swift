// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// In JSON a point in time is a number: milliseconds since 1970-01-01T00:00:00Z.
extension Timestamp: Codable {
    /// Reads milliseconds since 1970.
    public init(from decoder: any Decoder) throws {
        self.init(try decoder.singleValueContainer().decode(Int64.self))
    }

    /// Writes milliseconds since 1970.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(rawValue)
    }
}
