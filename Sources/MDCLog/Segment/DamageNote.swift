// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The file beside a sealed segment that says that scrubbing has found damage in it: `<base>.damage`. Without it a restart
/// would serve the segment again until the next scrub reaches it.
///
/// On disk: the lines `mdc-damage 1`, `position N`, `offsets FIRST NEXT`, `reason TEXT`, and `crc N` with the CRC-32C of all
/// before in decimal.
enum DamageNote {
    static func encode(_ report: DamageReport, _ segment: Segment) -> [UInt8] {
        let next = report.nextOffset ?? segment.nextOffset
        let reason = report.reason.split(whereSeparator: \.isNewline).joined(separator: " ")
        let text = """
            mdc-damage 1
            position \(report.position)
            offsets \(report.firstOffset) \(next)
            reason \(reason)

            """
        var bytes = Array(text.utf8)
        bytes.append(contentsOf: "crc \(bytes.checksum)\n".utf8)
        return bytes
    }

    /// Reads a note; nil where it is itself damaged.
    static func decode(_ bytes: [UInt8], of segment: Segment, _ topicPartition: TopicPartition) -> DamageReport? {
        let lines = bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
        guard lines.count == 5, lines[0] == "mdc-damage 1" else { return nil }
        let body = Array((lines[..<4].joined(separator: "\n") + "\n").utf8)
        let words = lines.map { $0.split(separator: " ") }
        guard lines[4] == "crc \(body.checksum)", words[1].count == 2, let position = Int(words[1][1]),
            words[2].count == 3, let first = Int64(words[2][1]), let next = Int64(words[2][2])
        else { return nil }
        return DamageReport(
            topicPartition: topicPartition,
            path: segment.path(FileName.log),
            position: position,
            firstOffset: Offset(first),
            nextOffset: Offset(next),
            reason: String(lines[3].dropFirst("reason ".count))
        )
    }

    /// What stands for a note that cannot be read: the whole segment is in doubt.
    static func unreadable(_ segment: Segment, _ topicPartition: TopicPartition) -> DamageReport {
        DamageReport(
            topicPartition: topicPartition,
            path: segment.path(FileName.log),
            position: 0,
            firstOffset: segment.baseOffset,
            nextOffset: segment.nextOffset,
            reason: "damage was found before; the note of it, \(segment.path(FileName.damage)), cannot be read"
        )
    }
}
