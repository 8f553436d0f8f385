// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Rebuilding a shard from its records.
extension GroupCoordinatorShard {
    /// Applies one record of the log, in order. Throws where it cannot be read; the caller decides whether to go on.
    /// `producer`: whose transaction it is part of.
    mutating func replay(
        _ record: CoordinatorRecord,
        producer: Int64? = nil,
        now: CoordinatorTime
    ) throws(ProtocolError) {
        switch try GroupRecord(record) {
        case .offset(let key, let value):
            let change = OffsetChange(
                group: key.group,
                topic: key.topic,
                partition: key.partition,
                value: value.map(CommittedOffset.init)
            )
            if let producer { offsets.hold(change, of: producer) } else { offsets.apply(change) }
        case .classicGroup(let groupID, let value):
            classicGroups[groupID] = value.map { ClassicGroup(id: groupID, $0, now: now) }
            reschedule(groupID)
        case .consumerGroup(let groupID, let value): replayGroup(groupID, value, now)
        case .consumerMember(let key, let value): replayMember(key, value, now)
        case .targetMetadata(let groupID, let value): replayTargetEpoch(groupID, value, now)
        case .targetMember(let key, let value): replayTarget(key, value, now)
        case .currentMember(let key, let value): replayCurrent(key, value, now)
        case .shareGroup(let groupID, let value): replayShareGroup(groupID, value)
        case .shareMember(let key, let value): replayShareMember(key, value)
        case .shareTargetMetadata(let groupID, let value): replayShareTargetEpoch(groupID, value)
        case .shareTargetMember(let key, let value): replayShareTarget(key, value)
        case .shareCurrentMember(let key, let value): replayShareCurrent(key, value)
        case .shareState(let groupID, let value): replayShareState(groupID, value)
        case .other: break
        }
    }

    /// Applies the end of a transaction that is on the log.
    mutating func replayEnd(ofTransactionOf producer: Int64, isCommit: Bool) {
        offsets.endTransaction(of: producer, isCommit: isCommit)
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
        for groupID in shareGroups.keys {
            shareGroups[groupID]?.renewAllSessions(now, timeout: settings.shareSessionTimeout)
            reschedule(groupID)
        }
        nextExpiryCheck = now.monotonic + settings.offsetsRetentionCheckInterval
    }
}
