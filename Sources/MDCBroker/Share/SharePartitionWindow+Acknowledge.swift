// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a member says of records that it has.
enum ShareAcknowledgeType: Int8, Sendable {
    /// There is no record at this offset.
    case gap = 0
    case accept = 1
    /// Someone else may try.
    case release = 2
    /// Nobody shall get it again.
    case reject = 3
    /// It takes longer (KIP-1222).
    case renew = 4
}

/// One entry of an acknowledgement: the records from `first` to `last`, with one type for all or one for each.
struct ShareAcknowledgement: Equatable, Sendable {
    var first: Int64
    var last: Int64
    var types: [Int8]

    /// What is wrong with a list of entries, as such; nil where nothing is.
    static func problem(_ list: [ShareAcknowledgement], isRenewAllowed: Bool) -> String? {
        var previous = Int64(-1)
        for entry in list {
            if entry.first < 0 || entry.last < entry.first {
                return "the batch \(entry.first)–\(entry.last) is no range"
            }
            if entry.first <= previous { return "batches must be in order, without overlaps" }
            previous = entry.last
            if entry.types.isEmpty { return "the batch \(entry.first)–\(entry.last) has no types" }
            // Neither can overflow: both are at least 0.
            if entry.types.count > 1 && Int64(entry.types.count) - 1 != entry.last - entry.first {
                return
                    "the batch \(entry.first)–\(entry.last) has \(entry.types.count) types; give one, or one a record"
            }
            for type in entry.types {
                guard let known = ShareAcknowledgeType(rawValue: type), known != .renew || isRenewAllowed else {
                    return "acknowledgement type \(type) is not known here"
                }
            }
        }
        return nil
    }
}

extension SharePartitionWindow {
    /// What a step changed that has to be stored.
    struct Change: Equatable, Sendable {
        /// In order, within the window as it is now.
        var batches: [ShareStateBatch] = []
        var movedStart = false
        /// Whether records can be handed out that could not be before.
        var freed = false

        var isEmpty: Bool { batches.isEmpty && !movedStart }
    }

    // MARK: Acknowledging

    /// Takes a member's word; all of it, or none where it speaks of records that it does not have
    /// (`INVALID_RECORD_STATE`). What lies before the start is done already and passed over.
    mutating func acknowledge(
        _ entries: [ShareAcknowledgement],
        by member: String,
        _ limits: Limits,
        now: Int64
    ) -> ShareOutcome<Change> {
        for entry in entries where !isHeld(entry.first, entry.last, by: member) { return .failure(.invalidRecordState) }
        let before = self
        var change = Change()
        for entry in entries {
            var offset = entry.first
            var index = 0
            while index < entry.types.count {
                // Equal neighbours go together.
                let type = entry.types[index]
                var next = index + 1
                while next < entry.types.count && entry.types[next] == type { next += 1 }
                let last = entry.types.count == 1 ? entry.last : entry.first + Int64(next) - 1
                guard let known = ShareAcknowledgeType(rawValue: type) else {
                    self = before
                    return .failure(.invalidRequest)
                }
                settle(max(offset, start), last, known, limits, now, &change)
                offset = last + 1
                index = next
            }
        }
        close(&change)
        return .success(change)
    }

    /// Whether `member` has everything of a range that is not done long since.
    private func isHeld(_ first: Int64, _ last: Int64, by member: String) -> Bool {
        if last < start { return true }
        if last > end { return false }
        return runs.allSatisfy {
            $0.last < first || $0.first > last
                || $0.state == .acquired
                    && ($0.member == member || PlantedCoordinatorBug.othersAcknowledge.isPlanted)
        }
    }

    private mutating func settle(
        _ first: Int64,
        _ last: Int64,
        _ type: ShareAcknowledgeType,
        _ limits: Limits,
        _ now: Int64,
        _ change: inout Change
    ) {
        guard first <= last else { return }
        if type == .renew {
            rewrite(first, last) { run in
                var run = run
                run.lockDeadline = now + limits.lockDuration
                return run
            }
            return
        }
        rewrite(first, last) { run in
            let next = Self.settled(run, type, limits)
            Self.note(next, run.deliveryCount, &change)
            return next
        }
    }

    private static func settled(_ run: Run, _ type: ShareAcknowledgeType, _ limits: Limits) -> Run {
        var next = Run(first: run.first, last: run.last, state: .archived, deliveryCount: 0)
        switch type {
        case .accept: next.state = .acknowledged
        case .release
        where run.deliveryCount < limits.deliveryCountLimit || PlantedCoordinatorBug.deliveryLimitIsIgnored.isPlanted:
            next.state = .available
            next.deliveryCount = run.deliveryCount
        case .release, .gap, .reject, .renew: break
        }
        return next
    }

    /// What is stored tells the true count, also of what is done.
    private static func note(_ run: Run, _ deliveryCount: Int16, _ change: inout Change) {
        if run.state == .available { change.freed = true }
        change.batches.append(
            ShareStateBatch(
                first: run.first,
                last: run.last,
                state: run.state,
                deliveryCount: PlantedCoordinatorBug.countIsNotStored.isPlanted
                    ? 0 : run.state == .available ? run.deliveryCount : deliveryCount
            )
        )
    }

    /// Ends a step: what is done at the front leaves the window.
    private mutating func close(_ change: inout Change) {
        let before = start
        dropDone()
        change.movedStart = change.movedStart || start != before
        if change.movedStart {
            change.batches = change.batches.compactMap { batch in
                guard batch.last >= start else { return nil }
                var batch = batch
                batch.first = max(batch.first, start)
                return batch
            }
            // Room for new records is as good as released ones.
            change.freed = true
        }
        if !change.batches.isEmpty { change.freed = true }
    }

    // MARK: Time and leaving

    /// Takes back the records whose time is up.
    mutating func expireLocks(_ limits: Limits, now: Int64) -> Change {
        var change = Change()
        guard earliestDeadline <= now else { return change }
        rewrite(start, end) { run in
            guard run.state == .acquired, run.lockDeadline <= now, !PlantedCoordinatorBug.locksNeverEnd.isPlanted else {
                return nil
            }
            let next = Self.settled(run, .release, limits)
            Self.note(next, run.deliveryCount, &change)
            return next
        }
        findDeadline()
        close(&change)
        return change
    }

    /// Takes back everything that `member` has. A member that says goodbye gives back what it has not looked at, so that
    /// delivery does not count (`wasDelivered` false); of one that vanished nobody knows.
    mutating func release(by member: String, wasDelivered: Bool, _ limits: Limits) -> Change {
        var change = Change()
        rewrite(start, end) { run in
            guard run.state == .acquired, run.member == member else { return nil }
            var next = Run(
                first: run.first,
                last: run.last,
                state: .available,
                deliveryCount: max(run.deliveryCount - 1, 0)
            )
            if wasDelivered { next = Self.settled(run, .release, limits) }
            Self.note(next, run.deliveryCount, &change)
            return next
        }
        findDeadline()
        close(&change)
        return change
    }

    /// The log no longer has what lies before `offset` (retention, DeleteRecords): it is done.
    mutating func moveStart(to offset: Int64) -> Change {
        guard offset > start else { return Change() }
        dropBefore(offset)
        var change = Change()
        close(&change)
        change.movedStart = true
        change.freed = true
        return change
    }
}
