// SPDX-License-Identifier: Apache-2.0

/// Where a reader of `mdc.events` stands: the next offset of each partition. Its text is the id of a server-sent event, so
/// that `Last-Event-ID` says all that is needed to go on.
struct EventCursor: Sendable, Equatable, LosslessStringConvertible {
    /// By partition number.
    var offsets: [Int64]

    init(offsets: [Int64]) { self.offsets = offsets }

    /// Reads `12.0.7.40`; nil if it is not the form of one, for as many partitions as there are.
    init?(_ text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == Topics.keyedPartitions else { return nil }
        offsets = []
        for part in parts {
            guard let offset = Int64(part), offset >= 0 else { return nil }
            offsets.append(offset)
        }
    }

    var description: String { offsets.map(String.init).joined(separator: ".") }
}
