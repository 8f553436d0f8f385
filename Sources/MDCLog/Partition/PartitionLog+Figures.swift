// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

/// A partition in numbers, for metrics.
public struct PartitionFigures: Sendable, Hashable {
    /// Bytes of record batches.
    public var sizeInBytes: Int
    /// Number of segments.
    public var segments: Int
    /// First offset that can be read.
    public var logStart: Offset
    /// Offset that the next record gets.
    public var logEnd: Offset
    /// End of what consumers may read.
    public var highWatermark: Offset
    /// Idempotent producers that have a state here.
    public var producers: Int
    /// Transactions that are open.
    public var openTransactions: Int
    /// Whether no append is accepted.
    public var isOffline: Bool
}

extension PartitionLog {
    /// The partition in numbers, of about one moment. Waits for an append that is under way.
    public var figures: PartitionFigures {
        let (producers, open) = appender.withLock { ($0.producers.entries.count, $0.producers.open.count) }
        let (segments, logStart, end, committed, isOffline) = published.withLock {
            ($0.segments, $0.logStart, $0.end, $0.committed, $0.offline != nil)
        }
        return PartitionFigures(
            sizeInBytes: segments.reduce(0) { $0 + $1.size },
            segments: segments.count,
            logStart: logStart,
            logEnd: end,
            highWatermark: committed,
            producers: producers,
            openTransactions: open,
            isOffline: isOffline || directory.refusal != nil
        )
    }
}
