// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel

extension TopicSettings {
    /// How records are stored: `compression.type` and the levels of the codecs that have some (KIP-390).
    static let compression: [TopicSetting] = [
        TopicSetting(
            name: "compression.type",
            synonym: "compression.type",
            type: .string,
            documentation: "producer keeps batches as their producers compressed them; uncompressed, gzip, snappy, lz4 "
                + "and zstd compress again on the broker what came otherwise.",
            apply: { settings, text in
                switch text {
                case "producer": settings.compression.codec = nil
                case "uncompressed": settings.compression.codec = CompressionCodec.none
                case "gzip": settings.compression.codec = .gzip
                case "snappy": settings.compression.codec = .snappy
                case "lz4": settings.compression.codec = .lz4
                case "zstd": settings.compression.codec = .zstd
                default: return "expected producer, uncompressed, gzip, snappy, lz4 or zstd"
                }
                return nil
            },
            value: { settings in
                guard let codec = settings.compression.codec else { return "producer" }
                return codec == .none ? "uncompressed" : codec.description
            }
        ),
        level("compression.gzip.level", \.gzipLevel, 1...9, standard: -1, "Level where compression.type is gzip."),
        // The library's best level is 12; Kafka knows more names for it.
        level(
            "compression.lz4.level",
            \.lz4Level,
            1...17,
            standard: 9,
            most: 12,
            "Level where compression.type is lz4."
        ),
        level(
            "compression.zstd.level",
            \.zstdLevel,
            -131_072...22,
            standard: 3,
            "Level where compression.type is zstd."
        ),
    ]

    /// A codec's level. `standard` is the number that means the codec's own default, `most` the highest that it has.
    private static func level<T: FixedWidthInteger & Sendable>(
        _ name: String,
        _ path: any (WritableKeyPath<StoredCompression, T?> & Sendable),
        _ range: ClosedRange<T>,
        standard: T,
        most: T = .max,
        _ documentation: String
    ) -> TopicSetting {
        TopicSetting(
            name: name,
            synonym: name,
            type: .int,
            documentation: "\(documentation) \(standard) is the codec's default.",
            apply: { settings, text in
                guard let value = T(text), value == standard || range.contains(value) else {
                    return "expected a number from \(range.lowerBound) to \(range.upperBound)"
                        + (range.contains(standard) ? "" : ", or \(standard) for the default")
                }
                settings.compression[keyPath: path] = value == standard ? nil : min(value, most)
                return nil
            },
            value: { settings in String(settings.compression[keyPath: path] ?? standard) }
        )
    }
}
