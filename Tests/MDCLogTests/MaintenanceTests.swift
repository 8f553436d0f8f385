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
        #expect(due(every: 300_000, upTo: 700) == [30, 330, 630])
        #expect(due(every: 30_000, upTo: 100) == [30, 60, 90])
        #expect(due(every: 1_000, upTo: 4) == [1, 2, 3, 4])
    }

    @Test func aClockSetBackStartsTheWaitAnew() {
        var state = Background.State()
        let answers = [100_000, 50_000, 79_999, 80_000].map { (now: Int64) -> Bool in
            state.isRetentionDue(Timestamp(now), every: 30_000)
        }
        #expect(answers == [false, false, false, true])
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
