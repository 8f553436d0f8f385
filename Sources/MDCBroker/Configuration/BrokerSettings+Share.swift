// SPDX-License-Identifier: Apache-2.0

/// The node's settings of share groups.
extension BrokerSettings {
    static let shareGroups: [BrokerSetting] = membership + records + storage

    private static let membership: [BrokerSetting] = [
        integer(
            "group.share.session.timeout.ms",
            .int,
            \.shareGroupSessionTimeout,
            1...Int32.max,
            "Session timeout of members of share groups."
        ),
        integer(
            "group.share.min.session.timeout.ms",
            .int,
            \.shareGroupMinSessionTimeout,
            1...Int32.max,
            "Least session timeout that a share group may set."
        ),
        integer(
            "group.share.max.session.timeout.ms",
            .int,
            \.shareGroupMaxSessionTimeout,
            1...Int32.max,
            "Greatest session timeout that a share group may set."
        ),
        integer(
            "group.share.heartbeat.interval.ms",
            .int,
            \.shareGroupHeartbeatInterval,
            1...Int32.max,
            "Heartbeat interval of members of share groups."
        ),
        integer(
            "group.share.min.heartbeat.interval.ms",
            .int,
            \.shareGroupMinHeartbeatInterval,
            1...Int32.max,
            "Least heartbeat interval that a share group may set."
        ),
        integer(
            "group.share.max.heartbeat.interval.ms",
            .int,
            \.shareGroupMaxHeartbeatInterval,
            1...Int32.max,
            "Greatest heartbeat interval that a share group may set."
        ),
        integer(
            "group.share.max.size",
            .int,
            \.shareGroupMaxSize,
            1...Int32.max,
            "The most members of a share group."
        ),
    ]

    private static let records: [BrokerSetting] = [
        integer(
            "group.share.record.lock.duration.ms",
            .int,
            \.shareRecordLockDuration,
            100...3_600_000,
            "How long a member has a record before others may get it."
        ),
        integer(
            "group.share.min.record.lock.duration.ms",
            .int,
            \.shareMinRecordLockDuration,
            100...3_600_000,
            "Least lock duration that a share group may set."
        ),
        integer(
            "group.share.max.record.lock.duration.ms",
            .int,
            \.shareMaxRecordLockDuration,
            100...3_600_000,
            "Greatest lock duration that a share group may set."
        ),
        integer(
            "group.share.delivery.count.limit",
            .int,
            \.shareDeliveryCountLimit,
            2...10,
            "How often a record is delivered before it is given up."
        ),
        integer(
            "group.share.partition.max.record.locks",
            .int,
            \.sharePartitionMaxRecordLocks,
            100...10_000,
            "Records of one partition that a group may have in flight before it reads no further."
        ),
        integer(
            "group.share.max.share.sessions",
            .int,
            \.shareMaxSessions,
            1...1_000_000,
            "The most share sessions on this node."
        ),
    ]

    private static let storage: [BrokerSetting] = [
        integer(
            "share.coordinator.state.topic.num.partitions",
            .int,
            \.shareStateTopicPartitions,
            1...10_000,
            "Partitions of __share_group_state, at its creation."
        ),
        integer(
            "share.coordinator.state.topic.segment.bytes",
            .int,
            \.shareStateTopicSegmentBytes,
            1 << 20...1 << 30,
            "Bytes of a segment of __share_group_state, at its creation."
        ),
        integer(
            "share.coordinator.snapshot.update.records.per.snapshot",
            .int,
            \.shareSnapshotUpdateRecords,
            0...500,
            "Updates of a share partition's state between two snapshots of it."
        ),
    ]
}
