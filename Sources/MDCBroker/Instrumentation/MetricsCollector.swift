// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCLog
import MDCModel
import Synchronization

/// Gathers everything that `/metrics` shows. docs/metrics.md lists it; a test compares the two.
struct MetricsCollector {
    let services: BrokerServices
    let server: ServerContext
    let workers: [LoopWorker]
    /// Milliseconds since 1970.
    let startedAt: Int64

    func add(to report: inout MetricsReport) {
        addNetwork(&report)
        addQuotas(&report)
        addStorage(&report)
        addGroups(&report)
        addReplication(&report)
        report.add(
            "mdc_transactional_ids",
            "gauge",
            "Transactional ids, by state of their transaction.",
            series: services.transactions.counts().sorted { $0.key.rawValue < $1.key.rawValue }
                .map { ([("state", $0.key.name)], String($0.value)) }
        )
        report.add(
            "mdc_start_time_seconds",
            "gauge",
            "When the node became ready, since 1970.",
            Double(startedAt) / 1000
        )
    }

    // MARK: Network

    private func addNetwork(_ report: inout MetricsReport) {
        let loops = workers.map { $0.metrics.snapshot }
        report.addRequests(loops)
        report.addDelays(loops)
        report.add(
            "mdc_network_received_bytes_total",
            "counter",
            "Bytes from clients.",
            loops.reduce(0) { $0 + $1.bytesIn }
        )
        report.add("mdc_network_sent_bytes_total", "counter", "Bytes to clients.", loops.reduce(0) { $0 + $1.bytesOut })
        report.add(
            "mdc_event_loop_busy_seconds_total",
            "counter",
            "Time that event loops spent on requests.",
            series: loops.enumerated().map { ([("loop", String($0))], String(Double($1.busyNanoseconds) / 1e9)) }
        )
        report.add("mdc_connections", "gauge", "Connections of clients.", server.limiter.count)
        report.add("mdc_request_memory_bytes", "gauge", "Bytes of half received requests.", server.memory.used)
        let sessions = services.fetchSessions.withLock { ($0.count, $0.partitionCount) }
        report.add("mdc_fetch_sessions", "gauge", "Incremental fetch sessions.", sessions.0)
        report.add("mdc_fetch_session_partitions", "gauge", "Partitions in fetch sessions.", sessions.1)
    }

    private func addQuotas(_ report: inout MetricsReport) {
        let throttled = services.quotas.throttled
        report.add(
            "mdc_throttled_total",
            "counter",
            "Times that a client was held back, by quota.",
            series: throttled.map { ([("quota", $0.key.rawValue)], String($0.throttled.count)) }
        )
        report.add(
            "mdc_throttle_seconds_total",
            "counter",
            "Time for which clients were held back, by quota.",
            series: throttled.map { ([("quota", $0.key.rawValue)], String(Double($0.throttled.milliseconds) / 1000)) }
        )
    }

    // MARK: Storage

    /// All partitions of a topic in numbers.
    private struct TopicFigures {
        var bytes = 0
        var records: Int64 = 0
    }

    private func addStorage(_ report: inout MetricsReport) {
        let logs = services.logs
        report.add("mdc_log_sync_rounds_total", "counter", "Rounds in which appends went to disk.", logs.syncRounds)
        report.addSyncRounds(services.syncRounds.snapshot)
        report.add("mdc_log_open_files", "gauge", "Segment files that are open.", logs.openFileCount)
        let directories = logs.directoryUsage()
        report.add(
            "mdc_disk_available_bytes",
            "gauge",
            "Free bytes of the file system of a data folder.",
            series: directories.map { ([("directory", $0.path)], String($0.availableBytes ?? 0)) }
        )
        report.add(
            "mdc_disk_size_bytes",
            "gauge",
            "Size of the file system of a data folder.",
            series: directories.map { ([("directory", $0.path)], String($0.totalBytes ?? 0)) }
        )
        report.add(
            "mdc_data_folder_offline",
            "gauge",
            "1 where a data folder has failed.",
            series: directories.map { ([("directory", $0.path)], $0.offlineReason == nil ? "0" : "1") }
        )
        let status = services.controller.quorum.status
        let sizes = (snapshot: status.snapshotBytes, log: status.logBytes)
        report.add(
            "mdc_metadata_snapshot_bytes",
            "gauge",
            "Bytes of the newest snapshot of the metadata.",
            sizes.snapshot
        )
        report.add("mdc_metadata_log_bytes", "gauge", "Bytes of changes of the metadata since then.", sizes.log)
        addQuorum(status, &report)
        report.add("mdc_topics", "gauge", "Topics.", services.metadata.image.topics.count)
        let partitions = services.partitions.all
        report.add("mdc_partitions", "gauge", "Partitions led by this node.", partitions.count)
        addPartitions(partitions.map { ($0.topicPartition, $0.log.figures) }, &report)
    }

    private func addPartitions(
        _ all: [(name: TopicPartition, figures: PartitionFigures)],
        _ report: inout MetricsReport
    ) {
        report.add(
            "mdc_partitions_offline",
            "gauge",
            "Partitions that take no records.",
            all.count { $0.figures.isOffline } + services.partitions.offlineCount
        )
        report.add(
            "mdc_log_segments",
            "gauge",
            "Segments of all partitions.",
            all.reduce(0) { $0 + $1.figures.segments }
        )
        report.add(
            "mdc_producers",
            "gauge",
            "States of idempotent producers, one for each partition that they write to.",
            all.reduce(0) { $0 + $1.figures.producers }
        )
        report.add(
            "mdc_partition_transactions_open",
            "gauge",
            "Transactions that are open, one for each partition that they write to.",
            all.reduce(0) { $0 + $1.figures.openTransactions }
        )
        var topics: [String: TopicFigures] = [:]
        for (name, figures) in all {
            topics[name.topic, default: TopicFigures()].bytes += figures.sizeInBytes
            topics[name.topic, default: TopicFigures()].records += figures.logEnd.rawValue
        }
        let sorted = topics.sorted { $0.key < $1.key }
        report.begin("mdc_log_size_bytes", "gauge", "Bytes of record batches, by topic.")
        for (name, figures) in sorted { report.series("mdc_log_size_bytes", [("topic", name)], String(figures.bytes)) }
        report.begin("mdc_topic_records_total", "counter", "Offsets given out, by topic.")
        for (name, figures) in sorted {
            report.series("mdc_topic_records_total", [("topic", name)], String(figures.records))
        }
        let shown = services.configuration.showsPartitionMetrics ? all.sorted { $0.name < $1.name } : []
        addEach("mdc_partition_size_bytes", "Bytes of record batches, by partition.", shown, &report) { $0.sizeInBytes }
        addEach("mdc_partition_start_offset", "First offset, by partition.", shown, &report) { $0.logStart.rawValue }
        addEach("mdc_partition_end_offset", "Offset of the next record, by partition.", shown, &report) {
            $0.logEnd.rawValue
        }
    }

    private func addEach<Value: BinaryInteger>(
        _ metric: String,
        _ help: String,
        _ partitions: [(name: TopicPartition, figures: PartitionFigures)],
        _ report: inout MetricsReport,
        _ value: (PartitionFigures) -> Value
    ) {
        report.begin(metric, "gauge", help)
        for (name, figures) in partitions {
            report.series(
                metric,
                [("topic", name.topic), ("partition", String(name.partition.rawValue))],
                String(value(figures))
            )
        }
    }

    // MARK: Replication

    private func addQuorum(_ status: QuorumNode.Status, _ report: inout MetricsReport) {
        let brokers = services.metadata.image.brokers.values
        report.add(
            "mdc_quorum_leader",
            "gauge",
            "The node that leads the metadata quorum; -1 for none.",
            Int(status.leader)
        )
        report.add("mdc_quorum_epoch", "gauge", "The epoch of the metadata quorum.", status.epoch)
        report.add(
            "mdc_quorum_committed_index",
            "gauge",
            "Changes of the metadata that are committed.",
            status.committed
        )
        report.add(
            "mdc_active_controller",
            "gauge",
            "Whether this node is the active controller.",
            status.isActiveController ? 1 : 0
        )
        report.addQuorumReplicas(status)
        report.add("mdc_brokers", "gauge", "Brokers that have registered.", brokers.count)
        report.add("mdc_brokers_fenced", "gauge", "Brokers that are fenced.", brokers.count { $0.isFenced })
        let partitions = services.metadata.image.topics.values.lazy.flatMap(\.partitions)
        report.add(
            "mdc_partitions_leaderless",
            "gauge",
            "Partitions of the cluster that nobody leads.",
            partitions.count { $0.leader == -1 }
        )
        report.add(
            "mdc_partitions_moving",
            "gauge",
            "Partitions of the cluster that are on their way to other nodes.",
            partitions.count { $0.isMoving }
        )
        report.add(
            "mdc_partitions_not_preferred",
            "gauge",
            "Partitions of the cluster that another than the preferred replica leads.",
            partitions.count { $0.leader != -1 && $0.leader != $0.replicas.first }
        )
    }

    private func addReplication(_ report: inout MetricsReport) {
        // A node that is alone has none.
        let figures = services.replicas?.figures ?? ReplicaManager.Figures()
        report.add("mdc_replica_leaders", "gauge", "Partitions that this node leads.", figures.leaders)
        report.add("mdc_replica_followers", "gauge", "Partitions that this node copies.", figures.followers)
        report.add(
            "mdc_under_replicated_partitions",
            "gauge",
            "Partitions led here of which a replica is not in sync.",
            figures.underReplicated
        )
        report.add(
            "mdc_under_min_isr_partitions",
            "gauge",
            "Partitions led here with fewer replicas in sync than min.insync.replicas.",
            figures.underMinimum
        )
        report.add(
            "mdc_replication_held_back_total",
            "counter",
            "Times that the copy of a throttled partition waited for its rate.",
            ReplicationThrottle.Side.allCases.reduce(0) { $0 + (services.replicas?.throttle.heldBack($1) ?? 0) }
        )
        report.add("mdc_isr_shrinks_total", "counter", "Replicas that left an in-sync set.", figures.shrinks)
        report.add(
            "mdc_replica_comparisons_total",
            "counter",
            "Stretches of followed partitions that were compared with their leaders.",
            figures.comparisons
        )
        report.add(
            "mdc_replica_differences_total",
            "counter",
            "Stretches where a replica was other than its leader.",
            figures.differences
        )
        report.add("mdc_isr_expands_total", "counter", "Replicas that came into an in-sync set.", figures.expansions)
        report.add(
            "mdc_replica_max_lag_records",
            "gauge",
            "Records that the follower furthest behind lacks of a partition led here.",
            Int(figures.largestLag)
        )
    }

    // MARK: Groups

    private func addGroups(_ report: inout MetricsReport) {
        let groups = services.groups.groupCounts()
        report.add(
            "mdc_groups",
            "gauge",
            "Groups, by state.",
            series: groups.groupsByState.sorted { $0.key < $1.key }.map { ([("state", $0.key)], String($0.value)) }
        )
        report.add("mdc_group_members", "gauge", "Members of groups.", groups.members)
        struct Key: Hashable {
            var group: String
            var topic: String
        }
        var lags: [Key: Int64] = [:]
        var points: [(point: GroupCoordinatorService.OffsetPoint, lag: Int64)] = []
        let showsPartitions = services.configuration.showsPartitionMetrics
        for point in services.groups.committedOffsets() {
            guard case .found(let partition) = services.partitions.find(name: point.topic, partition: point.partition)
            else { continue }
            let lag = max(0, partition.highWatermark.rawValue - point.offset)
            lags[Key(group: point.group, topic: point.topic), default: 0] += lag
            if showsPartitions { points.append((point, lag)) }
        }
        report.begin("mdc_group_lag", "gauge", "Records between the committed offset and the end, by group and topic.")
        for (key, lag) in lags.sorted(by: { ($0.key.group, $0.key.topic) < ($1.key.group, $1.key.topic) }) {
            report.series("mdc_group_lag", [("group", key.group), ("topic", key.topic)], String(lag))
        }
        points.sort {
            ($0.point.group, $0.point.topic, $0.point.partition) < ($1.point.group, $1.point.topic, $1.point.partition)
        }
        report.begin("mdc_group_partition_lag", "gauge", "The same by partition.")
        for (point, lag) in points {
            report.series(
                "mdc_group_partition_lag",
                [("group", point.group), ("topic", point.topic), ("partition", String(point.partition))],
                String(lag)
            )
        }
    }
}
