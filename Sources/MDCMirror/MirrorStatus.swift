// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// How far a mirror is.
public struct MirrorStatus: Sendable {
    /// One partition.
    public struct Partition: Sendable, Hashable {
        /// The partition at the source.
        public var partition: TopicPartition
        /// The source offset that is read next.
        public var position: Offset
        /// Where the source ends.
        public var end: Offset

        /// Makes a value.
        public init(partition: TopicPartition, position: Offset, end: Offset) {
            self.partition = partition
            self.position = position
            self.end = end
        }

        /// Offsets at the source that are not at the target yet.
        public var lag: Int64 { max(end - position, 0) }
    }

    /// The partitions, sorted.
    public var partitions: [Partition] = []
    /// Records written and committed since the start.
    public var records: Int64 = 0
    /// Bytes of their keys and values.
    public var bytes: Int64 = 0
    /// Transactions committed since the start.
    public var transactions: Int64 = 0
    /// Times that the mirror began anew after a failure.
    public var restarts: Int64 = 0
    /// Source offsets that were deleted before they could be read.
    public var lost: Int64 = 0
    /// Offsets of groups that were set.
    public var groupOffsets: Int64 = 0
    /// Topics that are not mirrored any more, and why.
    public var stopped: [String: String] = [:]
    /// Whether it copies right now: false while a cluster cannot be reached.
    public var isRunning = false

    /// Nothing yet.
    public init() {}

    /// All partitions' lag.
    public var lag: Int64 { partitions.reduce(0) { $0 + $1.lag } }

    /// As Prometheus' text.
    public var prometheus: String {
        var text = ""
        func metric(_ name: String, _ kind: String, _ help: String, _ values: [(labels: String, value: Int64)]) {
            text += "# HELP mdc_mirror_\(name) \(help)\n# TYPE mdc_mirror_\(name) \(kind)\n"
            for (labels, value) in values { text += "mdc_mirror_\(name)\(labels) \(value)\n" }
        }
        metric(
            "running",
            "gauge",
            "1 while records are copied, 0 while a cluster is out of reach",
            [("", isRunning ? 1 : 0)]
        )
        metric("records_total", "counter", "Records committed at the target", [("", records)])
        metric("bytes_total", "counter", "Bytes of their keys and values", [("", bytes)])
        metric("transactions_total", "counter", "Transactions committed at the target", [("", transactions)])
        metric("restarts_total", "counter", "Times the mirror began anew after a failure", [("", restarts)])
        metric("lost_offsets_total", "counter", "Source offsets deleted before they were read", [("", lost)])
        metric("group_offsets_total", "counter", "Offsets of groups that were set", [("", groupOffsets)])
        metric("stopped_topics", "gauge", "Topics that wait for an operator", [("", Int64(stopped.count))])
        metric(
            "lag_offsets",
            "gauge",
            "Source offsets not at the target yet",
            partitions.map { ("{topic=\"\($0.partition.topic)\",partition=\"\($0.partition.partition)\"}", $0.lag) }
        )
        return text
    }
}
