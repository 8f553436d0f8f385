// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// A replica that copies its leader: from where to fetch, what to do with an answer, how to come back to the leader's
/// history when the two parted. Pure: the log's offsets come in, what is to be done with the log comes back.
///
/// The histories are compared by leader epoch alone (KIP-101, KIP-279, KIP-320): each fetch names the epoch of the last
/// record here, and a leader that does not have that epoch up to there answers with the largest one that both may have,
/// and where it ended. The high watermark plays no part in it.
struct FollowerReplica: Sendable {
    /// The log of this replica as it is now.
    struct Log {
        var start: Offset
        /// What is written, and what of it is on disk.
        var end: Offset
        var durableEnd: Offset
        /// Epoch of the last record; `.unknown` where there is none.
        var lastEpoch: LeaderEpoch
        /// The largest epoch up to the one given that is known, and where it ended. See `PartitionLog.endOffset(for:)`.
        var endOfEpoch: (LeaderEpoch) -> (LeaderEpoch, Offset)
    }

    /// What a fetch asks for.
    struct Position: Equatable, Sendable {
        var offset: Offset
        /// Epoch of the last record before it.
        var lastEpoch: LeaderEpoch
        var leaderEpoch: Int32
        var logStart: Offset
    }

    /// What the leader answered, without the records.
    struct Answer: Equatable, Sendable {
        var error = ErrorCode.none
        /// Where the histories part: the largest epoch that both may have, and its end at the leader.
        var divergence: (epoch: LeaderEpoch, end: Offset)?
        var highWatermark: Offset = -1
        var logStart: Offset = -1
        var hasRecords = false

        static func == (a: Answer, b: Answer) -> Bool {
            a.error == b.error && a.divergence?.epoch == b.divergence?.epoch && a.divergence?.end == b.divergence?.end
                && a.highWatermark == b.highWatermark && a.logStart == b.logStart && a.hasRecords == b.hasRecords
        }
    }

    /// What is to be done with the log.
    enum Action: Equatable, Sendable {
        /// Append the answer's records; when they are durable, call ``caughtUp(_:)``.
        case append
        /// Cut the log; durable before the next fetch.
        case truncate(to: Offset)
        /// Empty the log and begin at an offset: the leader no longer has what would follow.
        case reset(to: Offset)
        /// Try again after a pause; the error tells why.
        case retry(ErrorCode)
        /// The log holds more than the leader knows of, which no rule explains. Nothing is thrown away.
        case refuse
        /// Nothing new.
        case none
    }

    let leader: Int32
    let leaderEpoch: Int32
    /// What the leader last said.
    private(set) var leaderHighWatermark: Offset = -1
    private(set) var leaderLogStart: Offset = -1
    /// Errors in a row.
    private(set) var failures = 0
    var bugs = PlantedReplicationBugs.planted

    init(leader: Int32, leaderEpoch: Int32) {
        self.leader = leader
        self.leaderEpoch = leaderEpoch
    }

    /// What to ask the leader for.
    func position(_ log: Log) -> Position {
        Position(
            offset: bugs.contains(.fetchesFromWrittenEnd) ? log.end : log.durableEnd,
            lastEpoch: bugs.contains(.ignoresDivergence) ? .unknown : log.lastEpoch,
            leaderEpoch: leaderEpoch,
            logStart: log.start
        )
    }

    /// Takes the leader's answer to a fetch from `asked`.
    mutating func answered(_ answer: Answer, to asked: Position, _ log: Log) -> Action {
        // What was asked before the log changed or for another leader says nothing now.
        guard asked.leaderEpoch == leaderEpoch, asked.offset == position(log).offset else { return .none }
        switch answer.error {
        case .none: break
        case .offsetOutOfRange: return outOfRange(answer, log)
        default:
            failures += 1
            return .retry(answer.error)
        }
        failures = 0
        if let divergence = answer.divergence { return diverged(divergence, log) }
        leaderHighWatermark = max(leaderHighWatermark, answer.highWatermark)
        leaderLogStart = max(leaderLogStart, answer.logStart)
        return answer.hasRecords ? .append : .none
    }

    /// The end of what both may have; the next fetch tells whether that is so.
    private func diverged(_ divergence: (epoch: LeaderEpoch, end: Offset), _ log: Log) -> Action {
        let (ownEpoch, ownEnd) = log.endOfEpoch(divergence.epoch)
        let target: Offset
        if bugs.contains(.cutsAtLeadersOffset) || ownEpoch == .unknown {
            target = min(divergence.end, log.end)
        } else if ownEpoch != divergence.epoch {
            // The leader has records of an epoch that is not here: back to the one before, and ask again.
            target = min(ownEnd, log.end)
        } else {
            target = min(ownEnd, min(divergence.end, log.end))
        }
        return target < log.start ? .reset(to: log.start) : .truncate(to: target)
    }

    private mutating func outOfRange(_ answer: Answer, _ log: Log) -> Action {
        // The leader's records begin after ours end, or there is nothing here that could be lost.
        if answer.logStart > log.end || (answer.logStart >= 0 && log.end == log.start && answer.logStart != log.start) {
            failures = 0
            return .reset(to: answer.logStart)
        }
        failures += 1
        return .refuse
    }

    /// How far the high watermark of this replica may go: nothing counts that is not on its own disk.
    func highWatermark(_ log: Log) -> Offset? {
        leaderHighWatermark < 0 ? nil : min(leaderHighWatermark, log.durableEnd)
    }

    /// The offset at which the log may begin, where the leader has let go of more than this replica.
    func newLogStart(_ log: Log) -> Offset? {
        guard let mark = highWatermark(log) else { return nil }
        let start = min(leaderLogStart, mark)
        return start > log.start ? start : nil
    }

    /// The pause before the next try, in milliseconds; `random` is between 0 and 1.
    func pauseMilliseconds(random: Double) -> Int64 {
        let base = min(50 << Int64(min(max(failures - 1, 0), 5)), 1000)
        return Int64(Double(base) * (0.5 + random))
    }
}
