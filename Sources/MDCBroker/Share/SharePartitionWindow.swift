// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a share group has read of one partition and is reading now: the state of every record from the *start* (the first
/// record that is not done) to the *end* (the last one that was ever handed out). A pure state machine; time and limits
/// come in as parameters.
///
/// Records are kept as runs of neighbours that are alike, so that memory grows with the number of different fates, not of
/// records. Runs follow one another without gaps.
struct SharePartitionWindow: Equatable, Sendable {
    /// Neighbouring records that are alike.
    struct Run: Equatable, Sendable {
        var first: Int64
        var last: Int64
        var state: ShareDeliveryState
        /// How often they were handed out; 0 where they are done and nobody asks any more.
        var deliveryCount: Int16
        /// Who has them now; empty where nobody.
        var member = ""
        /// Until when, on the monotonic clock.
        var lockDeadline = Int64.max

        var count: Int { Int(last - first + 1) }

        func isLike(_ other: Run) -> Bool {
            state == other.state && deliveryCount == other.deliveryCount && lockDeadline == other.lockDeadline
                && member == other.member
        }
    }

    /// Limits that a step respects.
    struct Limits: Equatable, Sendable {
        var lockDuration: Int64 = 30_000
        var deliveryCountLimit: Int16 = 5
        /// Records that may be out or waiting to be redelivered before no new ones are read.
        var maxRecordLocks = 2_000
        var renewEnabled = true

        /// A record that is never acknowledged does not let the window grow without bound.
        var maxSpan: Int64 { Int64(maxRecordLocks) * 100 }
    }

    /// The first record that is not done.
    private(set) var start: Int64
    private(set) var runs: [Run] = []
    /// No lock ends before this.
    private(set) var earliestDeadline = Int64.max

    /// A group that has read everything before `start`.
    init(start: Int64) { self.start = start }

    /// The window that was stored. Records that were out when it was stored are as they were before.
    init(start: Int64, batches: [ShareStateBatch]) {
        self.start = start
        for batch in batches.sorted(by: { $0.first < $1.first }) where batch.last >= end + 1 {
            let first = max(batch.first, end + 1)
            if first > end + 1 { append(Run(first: end + 1, last: first - 1, state: .available, deliveryCount: 0)) }
            let state = batch.state == .acquired ? .available : batch.state
            append(
                Run(
                    first: first,
                    last: batch.last,
                    state: state,
                    deliveryCount: state.isComplete ? 0 : batch.deliveryCount
                )
            )
        }
        dropDone()
    }

    // MARK: Looking

    /// The last record that was ever handed out; one before `start` where none is in flight.
    var end: Int64 { runs.last?.last ?? start - 1 }

    /// Where the next read of the log begins: what can be redelivered first, then what is new.
    var nextFetchOffset: Int64 { runs.first { $0.state == .available }?.first ?? end + 1 }

    /// Records that are out or wait to be redelivered.
    var inFlightCount: Int { runs.reduce(0) { $0 + ($1.state.isComplete ? 0 : $1.count) } }

    /// Records after the start that are done.
    var doneCount: Int { runs.reduce(0) { $0 + ($1.state.isComplete ? $1.count : 0) } }

    var hasAvailable: Bool { runs.contains { $0.state == .available } }

    /// Whether new records may be read.
    func mayExtend(_ limits: Limits) -> Bool {
        inFlightCount < limits.maxRecordLocks && end - start < limits.maxSpan
    }

    /// Whether a fetch has any prospect.
    func mayAcquire(_ limits: Limits) -> Bool { hasAvailable || mayExtend(limits) }

    /// What has to be stored to get this window back.
    var batches: [ShareStateBatch] {
        runs.map {
            ShareStateBatch(
                first: $0.first,
                last: $0.last,
                state: $0.state == .acquired ? .available : $0.state,
                // A delivery that has not ended yet does not count when it is cut off.
                deliveryCount: $0.state == .acquired ? $0.deliveryCount - 1 : $0.deliveryCount
            )
        }
    }

    /// Whether `member` has any record.
    func isHolding(_ member: String) -> Bool { runs.contains { $0.state == .acquired && $0.member == member } }

    // MARK: Changing runs

    private mutating func append(_ run: Run) {
        if let last = runs.last, last.last + 1 == run.first, last.isLike(run) {
            runs[runs.count - 1].last = run.last
        } else {
            runs.append(run)
        }
        if run.state == .acquired { earliestDeadline = min(earliestDeadline, run.lockDeadline) }
    }

    /// Gives every run within `first...last` a new form; runs at the edges are split. `change` returns nil to keep a part.
    mutating func rewrite(_ first: Int64, _ last: Int64, _ change: (Run) -> Run?) {
        guard first <= last else { return }
        let old = runs
        guard let from = old.firstIndex(where: { $0.last >= first }) else { return }
        runs = Array(old[..<from])
        for index in from..<old.count {
            let run = old[index]
            if run.first > last {
                // Nothing further changes; the first of the rest may join its neighbour.
                append(run)
                runs += old[(index + 1)...]
                return
            }
            var part = run
            if run.first < first {
                part.last = first - 1
                append(part)
                part = run
                part.first = first
            }
            part.last = min(run.last, last)
            append(change(part) ?? part)
            if run.last > last {
                part = run
                part.first = last + 1
                append(part)
            }
        }
    }

    /// Moves the start behind the records at the front that are done.
    mutating func dropDone() {
        let kept = runs.firstIndex { !$0.state.isComplete } ?? runs.count
        if kept == 0 { return }
        start = kept < runs.count ? runs[kept].first : runs[kept - 1].last + 1
        runs.removeFirst(kept)
        if runs.isEmpty { earliestDeadline = .max }
    }

    /// Forgets what lies before `offset`.
    mutating func dropBefore(_ offset: Int64) {
        guard offset > start else { return }
        let kept = runs.firstIndex { $0.last >= offset } ?? runs.count
        runs.removeFirst(kept)
        if !runs.isEmpty { runs[0].first = max(runs[0].first, offset) }
        start = offset
        if runs.isEmpty { earliestDeadline = .max }
    }

    /// Looks for the lock that ends first.
    mutating func findDeadline() {
        earliestDeadline = runs.reduce(Int64.max) { $1.state == .acquired ? min($0, $1.lockDeadline) : $0 }
    }

    // MARK: Acquiring

    /// A batch of the log that was read.
    struct LogBatch: Equatable, Sendable {
        var first: Int64
        var last: Int64
        /// False for markers and records of aborted transactions: they are done without ever being handed out.
        var isDeliverable = true
    }

    /// Neighbouring records that a member gets.
    struct Acquired: Equatable, Sendable {
        var first: Int64
        var last: Int64
        var deliveryCount: Int16
    }

    /// What a fetch wants.
    struct Wish: Equatable, Sendable {
        var member: String
        var maxRecords: Int
        /// Exactly no more than `maxRecords`; else whole batches, until there are enough.
        var isStrict = false
        var batchSize = Int.max
    }

    /// Hands out what is available in a part of the log that was read from `readStart` on. What the log no longer has is
    /// done.
    mutating func acquire(
        _ wish: Wish,
        readFrom readStart: Int64,
        _ batches: [LogBatch],
        _ limits: Limits,
        now: Int64
    ) -> [Acquired] {
        var acquired: [Acquired] = []
        var left = wish.maxRecords
        var position = readStart
        for batch in batches {
            guard left > 0 else { break }
            // Between what was read there is nothing (compaction took it).
            finish(position, batch.first - 1, limits)
            let first = max(batch.first, readStart)
            position = batch.last + 1
            guard batch.isDeliverable else {
                finish(first, batch.last, limits)
                continue
            }
            let before = acquired.count
            take(first, batch.last, wish, limits, now, &left, &acquired)
            split(&acquired, from: before, size: wish.batchSize)
        }
        dropDone()
        return acquired
    }

    /// Archives what is available of a range, and what of it lies behind the end.
    private mutating func finish(_ first: Int64, _ last: Int64, _ limits: Limits) {
        guard first <= last, last >= start else { return }
        if first <= end {
            rewrite(max(first, start), min(last, end)) { run in
                guard run.state == .available else { return nil }
                return Run(first: run.first, last: run.last, state: .archived, deliveryCount: 0)
            }
        }
        // New records are passed over only where nothing is left out before them.
        if last > end && first <= end + 1 {
            append(Run(first: end + 1, last: last, state: .archived, deliveryCount: 0))
        }
    }

    /// Hands out what is available of one batch, `first...last`.
    private mutating func take(
        _ first: Int64,
        _ last: Int64,
        _ wish: Wish,
        _ limits: Limits,
        _ now: Int64,
        _ left: inout Int,
        _ acquired: inout [Acquired]
    ) {
        let deadline = now + limits.lockDuration
        func note(_ first: Int64, _ last: Int64, _ count: Int16, _ left: inout Int) {
            left -= Int(last - first + 1)
            if let previous = acquired.last, previous.last + 1 == first, previous.deliveryCount == count {
                acquired[acquired.count - 1].last = last
            } else {
                acquired.append(Acquired(first: first, last: last, deliveryCount: count))
            }
        }
        // What is available inside the window. Collected first: a strict limit may end in the middle of a run.
        let known = runs.filter { $0.state == .available && $0.last >= first && $0.first <= last }
        for run in known {
            if wish.isStrict && left <= 0 { return }
            let from = max(run.first, first)
            var upTo = min(run.last, last)
            if wish.isStrict { upTo = min(upTo, from + Int64(left) - 1) }
            rewrite(from, upTo) { part in
                var part = part
                part.state = .acquired
                part.deliveryCount += 1
                part.member = wish.member
                part.lockDeadline = deadline
                return part
            }
            note(from, upTo, run.deliveryCount + 1, &left)
        }
        guard last > end, first <= end + 1, mayExtend(limits) else { return }
        if wish.isStrict && left <= 0 { return }
        let from = end + 1
        var upTo = last
        if wish.isStrict { upTo = min(upTo, from + Int64(left) - 1) }
        append(
            Run(
                first: from,
                last: upTo,
                state: .acquired,
                deliveryCount: 1,
                member: wish.member,
                lockDeadline: deadline
            )
        )
        note(from, upTo, 1, &left)
    }

    /// Begins a new piece where the pieces are of the wanted size: members acknowledge piece by piece.
    private func split(_ acquired: inout [Acquired], from: Int, size: Int) {
        // Pieces of different batches of the log were joined by `note` only where they touch; a piece that has reached
        // the wanted size is closed by cutting it there.
        guard size > 0, size < Int.max else { return }
        var index = max(0, from - 1)
        while index < acquired.count {
            let piece = acquired[index]
            if piece.last - piece.first + 1 > Int64(size) {
                acquired[index].last = piece.first + Int64(size) - 1
                acquired.insert(
                    Acquired(
                        first: piece.first + Int64(size),
                        last: piece.last,
                        deliveryCount: piece.deliveryCount
                    ),
                    at: index + 1
                )
            }
            index += 1
        }
    }
}
