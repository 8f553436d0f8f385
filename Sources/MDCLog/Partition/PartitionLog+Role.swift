// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

/// Whose appends a replicated log takes: so that what was on its way when the leader changed does not land behind it.
enum ReplicaRole: Sendable, Hashable {
    /// Clients' and coordinators', stamped with this epoch.
    case leader(LeaderEpoch)
    /// What is copied from the leader of this epoch.
    case follower(LeaderEpoch)

    /// Throws `.notLeader` where an append does not fit the role.
    func check(_ origin: AppendOrigin, _ epoch: LeaderEpoch, _ partition: TopicPartition) throws(LogError) {
        switch self {
        case .leader(let own) where origin != .replica && epoch == own: return
        case .follower(let own) where origin == .replica && epoch == own: return
        default:
            throw LogError(.notLeader, "\(partition) has another leader, or a later epoch, than the append is for")
        }
    }
}

extension PartitionLog {
    /// From now on this node leads, in `epoch`: only appends of that epoch are taken. Records where the epoch begins, as
    /// ``beginEpoch(_:)`` does.
    public func lead(in epoch: LeaderEpoch) {
        appender.withLock { $0.role = .leader(epoch) }
        beginEpoch(epoch)
    }

    /// From now on this node copies the leader of `epoch`: only appends as `.replica` with that epoch are taken. Epochs
    /// in which this node led and wrote nothing are forgotten: the leader's next records may be of an earlier one.
    public func follow(in epoch: LeaderEpoch) {
        appender.withLock { appender in
            appender.role = .follower(epoch)
            let isQueued = published.withLock { state -> Bool in
                guard state.epochs.truncate(to: state.end) else { return true }
                state.epochsChanged = true
                return state.queue()
            }
            if !isQueued { environment.groupCommit.enqueue(self) }
        }
    }

    /// The durable end stands in for the high watermark again: where nobody else holds a replica.
    public func commitWhatIsDurable() {
        published.withLock { $0.highWatermark = nil }
    }

    /// The epoch of the last record; `.unknown` where there is none.
    public var lastRecordEpoch: LeaderEpoch {
        published.withLock { $0.end > $0.logStart ? $0.epochs.epoch(at: $0.end - 1) : .unknown }
    }
}
