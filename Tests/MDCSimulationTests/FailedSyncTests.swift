// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCSimulation
import NIOCore
import Testing

/// A sync that fails leaves pages that are read as they should be and written no more: what a start takes over has to be
/// written again.
@Suite struct FailedSyncTests {
    private static let partition = TopicPartition(topic: "t", partition: 0)

    private func open(_ disk: SimulatedDisk) throws -> LogManager {
        var configuration = LogConfiguration(directories: ["/data"])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        configuration.ballastBytes = 0
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: SystemLogClock(),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { _ in }
        )
    }

    private func append(_ value: String, to log: PartitionLog) throws {
        var builder = RecordBatchBuilder(RecordBatchBuilder.Settings())
        builder.append(key: nil, value: ByteBuffer(string: value), timestamp: 1_700_000_000_000)
        _ = try log.append(try builder.build(), as: .client, leaderEpoch: 0, now: 1_700_000_000_000)
    }

    @Test(arguments: 0..<20) func whatAFailedStartHasReadIsWrittenAgain(seed: UInt64) throws {
        let disk = SimulatedDisk(seed: seed)
        try disk.makeDirectory("/data")
        try disk.syncDirectory("/")
        var manager = try open(disk)
        let log = try manager.createPartition(Self.partition, topicID: .zero, settings: LogSettings())
        for index in 0..<20 { try append(String(repeating: "\(index) ", count: 100), to: log) }
        // The process dies before a sync; what it wrote is with the system.
        disk.kill()
        disk.setFault(.init(kind: .inputOutput, after: 0, count: 1, calls: [.sync]))
        #expect(throws: LogError.self) { try open(disk) }
        #expect(disk.failureCount == 1)
        disk.kill()
        disk.setFault(nil)
        manager = try open(disk)
        let end = try #require(manager.partition(Self.partition)).syncedEndOffset
        #expect(end == 20)
        disk.crash()
        disk.restart()
        manager = try open(disk)
        let found = try #require(manager.partition(Self.partition))
        #expect(found.damage.isEmpty)
        #expect(found.logEndOffset == end)
    }
}
