// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Rebuilding a shard from its records.
extension GroupCoordinatorShard {
    /// Applies one record of the log, in order. Throws where it cannot be read; the caller decides whether to go on.
    mutating func replay(_ record: CoordinatorRecord, now: CoordinatorTime) throws(ProtocolError) {
        switch try GroupRecord(record) {
        case .offset(let key, let value):
            offsets.apply(
                OffsetChange(
                    group: key.group,
                    topic: key.topic,
                    partition: key.partition,
                    value: value.map(CommittedOffset.init)
                )
            )
        case .classicGroup(let groupID, let value):
            classicGroups[groupID] = value.map { ClassicGroup(id: groupID, $0, now: now) }
            reschedule(groupID)
        case .consumerGroup(let groupID, let value): replayGroup(groupID, value, now)
        case .consumerMember(let key, let value): replayMember(key, value, now)
        case .targetMetadata(let groupID, let value): replayTargetEpoch(groupID, value, now)
        case .targetMember(let key, let value): replayTarget(key, value, now)
        case .currentMember(let key, let value): replayCurrent(key, value, now)
        case .other: break
        }
    }

    /// Ends the loading: sessions start now. A member that died with the broker is found out by its session timeout.
    mutating func activate(now: CoordinatorTime) {
        for groupID in classicGroups.keys {
            for memberID in classicGroups[groupID]?.members.keys.sorted() ?? [] {
                classicGroups[groupID]?.renewSession(memberID, now)
            }
            reschedule(groupID)
        }
        for groupID in consumerGroups.keys {
            consumerGroups[groupID]?.renewAllSessions(now, settings)
            reschedule(groupID)
        }
        nextExpiryCheck = now.monotonic + settings.offsetsRetentionCheckInterval
    }
}
