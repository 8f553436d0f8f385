// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Keeps what a background job writes from standing in the way of those who wait for their appends.
///
/// A sync round ends with a flush of the disk's cache, and a flush takes with it whatever anybody has written since the
/// last one. So a job hands the disk a small step at a time, and then waits until a round that began after the step has
/// ended: each round pays for one step, slow rounds make a slow job, and where nobody appends the job is not held up.
/// A step is as long as the disk takes half as long for it as a round takes that has none to pay for.
final class WritePace: Sendable {
    /// What is known of the sync rounds and the disk, and what follows. Times are in nanoseconds.
    struct Rounds: Sendable {
        /// Bounds of a step, in bytes.
        static let steps = 256 << 10...1 << 20
        /// Longest wait for a round to begin: between appends that come one by one, at least 64 MiB/s are let through.
        static let pause: UInt64 = 4_000_000
        /// Longest wait for rounds to end: the job goes on at 16 MiB/s, however slow they are.
        static let limit: UInt64 = 16_000_000
        /// Appends are going on while the last round is no older than this.
        static let recent: UInt64 = 1_000_000_000
        /// One turn in so many is followed by a round without a step, to see how long those take.
        static let sampling = 8

        private var begun = 0
        private var ended = 0
        private var lastBegin: UInt64 = 0
        /// When the last one ended; nil before the first.
        private var lastEnd: UInt64?
        private var turns = 0
        /// How long a round takes without a step, and the disk for a mebibyte; averages that follow slowly.
        private var plainRound: Double?
        private var mebibyte: Double?
        fileprivate var hasWaiter = false

        /// What one turn waits for.
        struct Turn: Sendable {
            /// The round whose end ends the turn.
            fileprivate var round: Int
            fileprivate var isSample: Bool
        }

        mutating func begin(at now: UInt64) {
            begun += 1
            lastBegin = now
        }

        mutating func end(at now: UInt64) {
            ended = begun
            lastEnd = now
        }

        /// Bytes of the next step.
        var step: Int {
            guard let plainRound, let mebibyte, mebibyte > 0 else { return Self.steps.lowerBound }
            let share = min(plainRound / 2 / mebibyte, 1)
            return max(Int(share * Double(1 << 20)) & ~4095, Self.steps.lowerBound)
        }

        /// What to wait for after a step that took so long: the next round to begin, for the flush of one that runs may be
        /// over. Nil where nobody appends.
        mutating func turn(after bytes: Int, took: UInt64, at now: UInt64) -> Turn? {
            let own = Double(took) * Double(1 << 20) / Double(max(bytes, 1))
            mebibyte = mebibyte.map { $0 + (own - $0) / 8 } ?? own
            let isRecent = lastEnd.map { now - min($0, now) < Self.recent } ?? false
            guard isRecent || begun > ended else { return nil }
            defer { turns += 1 }
            let isSample = turns % Self.sampling == 0
            return Turn(round: begun + (isSample ? 2 : 1), isSample: isSample)
        }

        /// Whether a turn is over after so long.
        mutating func isOver(_ turn: Turn, after waited: UInt64) -> Bool {
            if ended >= turn.round {
                if turn.isSample, ended == turn.round, let lastEnd {
                    let own = Double(lastEnd - min(lastBegin, lastEnd))
                    plainRound = plainRound.map { $0 + (own - $0) / 4 } ?? own
                }
                return true
            }
            return waited >= Self.limit || waited >= Self.pause && begun == ended
        }
    }

    private let rounds = Monitor(Rounds())
    private let clock: any LogClock
    private let isEnabled: Bool

    /// `isEnabled`: false where everything runs on one thread, so that nothing would end the wait.
    init(clock: any LogClock, isEnabled: Bool) {
        self.clock = clock
        self.isEnabled = isEnabled
    }

    /// A sync round begins to bring files to disk.
    func roundBegins() {
        guard isEnabled else { return }
        let now = clock.monotonic()
        rounds.withLock { $0.begin(at: now) }
    }

    /// A sync round has brought its files to disk.
    func roundEnded() {
        guard isEnabled else { return }
        let now = clock.monotonic()
        let hasWaiter = rounds.withLock { rounds in
            rounds.end(at: now)
            return rounds.hasWaiter
        }
        if hasWaiter { rounds.wakeAll() }
    }

    /// Bytes of the next step.
    var step: Int { rounds.withLock { $0.step } }

    /// Hands the disk a step of `bytes` by `write`, and waits until the appends have had their turn.
    func write(_ bytes: Int, _ write: () throws(FileSystemError) -> Void) throws(FileSystemError) {
        let start = clock.monotonic()
        try write()
        guard isEnabled else { return }
        let now = clock.monotonic()
        let turn = rounds.withLock { rounds in
            let turn = rounds.turn(after: bytes, took: now - min(start, now), at: now)
            rounds.hasWaiter = turn != nil
            return turn
        }
        guard let turn else { return }
        // Two waits: for the pause and, where a round is running then, for the rest.
        for (until, next) in [(UInt64(0), Rounds.pause), (Rounds.pause, Rounds.limit)] {
            let milliseconds = Int64((next - until) / 1_000_000)
            if rounds.wait(atMost: milliseconds, { $0.isOver(turn, after: until) ? true : nil }) != nil { break }
        }
        rounds.withLock { $0.hasWaiter = false }
    }
}
