// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import Testing

@testable import MDCLog

@Suite struct MaintenanceTests {
    private func due(every interval: Int64, upTo seconds: Int64) -> [Int64] {
        var state = Background.State()
        return (0...seconds).filter { second in
            state.isRetentionDue(Timestamp(1_700_000_000_000 + second * 1000), every: interval)
        }
    }

    @Test func retentionWaitsAfterTheStart() {
        #expect(due(every: 300_000, upTo: 700) == [8, 308, 608])
        #expect(due(every: 30_000, upTo: 100) == [8, 38, 68, 98])
        #expect(due(every: 1_000, upTo: 4) == [1, 2, 3, 4])
    }

    /// What falls due at any moment is acted on within ten seconds: looks are that close together, from the start on.
    @Test func retentionActsWithinTenSeconds() {
        let configuration = LogConfiguration(directories: [])
        let ticks = stride(from: Int64(0), through: 120_000, by: Int(configuration.maintenanceIntervalMilliseconds))
        var state = Background.State()
        let looks = ticks.filter {
            state.isRetentionDue(Timestamp(1_700_000_000_000 + $0), every: configuration.retentionCheckMilliseconds)
        }
        #expect(looks.count >= 12)
        for (earlier, later) in zip([0] + looks, looks) { #expect(later - earlier < 10_000) }
    }

    @Test func aClockSetBackStartsTheWaitAnew() {
        var state = Background.State()
        let answers = [100_000, 50_000, 57_999, 58_000].map { (now: Int64) -> Bool in
            state.isRetentionDue(Timestamp(now), every: 30_000)
        }
        #expect(answers == [false, false, false, true])
    }
}

@Suite struct WritePaceTests {
    private typealias Rounds = WritePace.Rounds
    private let second: UInt64 = 1_000_000_000
    private let millisecond: UInt64 = 1_000_000

    @Test func nobodyIsWaitedForWhereNobodyAppends() {
        var rounds = Rounds()
        func hasTurn(_ now: UInt64) -> Bool { rounds.turn(after: 1, took: 1, at: now) != nil }
        #expect(!hasTurn(0))
        rounds.begin(at: 0)
        #expect(hasTurn(0))
        rounds.end(at: 5 * second)
        #expect(hasTurn(6 * second - 1) && !hasTurn(6 * second))
        // A clock that another thread has read later.
        #expect(hasTurn(4 * second))
    }

    /// The flush of a round that runs already may have come before the step.
    @Test func aStepWaitsForARoundThatBeginsAfterIt() throws {
        var rounds = Rounds()
        rounds.begin(at: 0)
        // The first turn waits for one round more, to see how long one takes without a step.
        let turns = (rounds.turn(after: 1, took: 1, at: 0), rounds.turn(after: 1, took: 1, at: 0))
        let (first, second) = (try #require(turns.0), try #require(turns.1))
        func isOver(_ turn: Rounds.Turn, after waited: UInt64 = 0) -> Bool { rounds.isOver(turn, after: waited) }
        rounds.end(at: 1)
        #expect(!isOver(second))
        rounds.begin(at: 2)
        #expect(!isOver(second, after: Rounds.pause))
        rounds.end(at: 3)
        #expect(isOver(second) && !isOver(first))
        rounds.begin(at: 4)
        rounds.end(at: 5)
        #expect(isOver(first))
    }

    @Test func aStepWaitsLongForSlowRoundsAndNotLongForNone() throws {
        var rounds = Rounds()
        rounds.begin(at: 0)
        let begun = rounds.turn(after: 1, took: 1, at: 0)
        let turn = try #require(begun)
        func isOver(_ turn: Rounds.Turn, after waited: UInt64) -> Bool { rounds.isOver(turn, after: waited) }
        #expect(!isOver(turn, after: Rounds.pause))
        #expect(isOver(turn, after: Rounds.limit))
        rounds.end(at: 1)
        #expect(isOver(turn, after: Rounds.pause))
    }

    /// Steps of a round each, on a disk that takes three milliseconds a mebibyte.
    private func step(roundsOf length: UInt64) throws -> Int {
        var rounds = Rounds()
        var now: UInt64 = second
        func round() {
            rounds.begin(at: now)
            now += length
            rounds.end(at: now)
            now += millisecond
        }
        round()
        for _ in 0..<100 {
            let bytes = rounds.step
            let took = (3 * millisecond * UInt64(bytes)) >> 20
            now += took
            let begun = rounds.turn(after: bytes, took: took, at: now)
            let turn = try #require(begun)
            while !rounds.isOver(turn, after: 0) { round() }
        }
        return rounds.step
    }

    /// Half of a round is what a step may take of the disk.
    @Test func slowerRoundsBearLongerSteps() throws {
        #expect(try step(roundsOf: millisecond / 10) == Rounds.steps.lowerBound)
        let middle = try step(roundsOf: 3 * millisecond)
        #expect(abs(middle - (512 << 10)) <= 8192, "\(middle)")
        #expect(try step(roundsOf: 50 * millisecond) == Rounds.steps.upperBound)
    }

    @Test func aWaitEndsWhateverTheRoundsDo() throws {
        let pace = WritePace(clock: ManualClock(), isEnabled: true)
        var written = 0
        func write() throws { try pace.write(4096) { () throws(FileSystemError) in written += 1 } }
        try write()
        pace.roundBegins()
        try write()
        pace.roundEnded()
        try write()
        #expect(written == 3)
    }
}

@Suite struct LockTests {
    /// A child process that is started while a folder is closed holds a copy of the descriptor for a moment.
    @Test func aCopyOfTheDescriptorDoesNotKeepTheLock() throws {
        let folder = TemporaryFolder()
        let disk = POSIXFileSystem()
        var first: (any StorageFile)? = try disk.lock(folder.path + "/.lock")
        let copy = mdc_duplicate(try #require(first).descriptor)
        #expect(copy >= 0)
        defer { _ = mdc_close(copy) }
        #expect(throws: FileSystemError.self) { _ = try disk.lock(folder.path + "/.lock") }
        first = nil
        _ = try disk.lock(folder.path + "/.lock")
    }
}
