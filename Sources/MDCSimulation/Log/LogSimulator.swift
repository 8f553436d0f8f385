// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOConcurrencyHelpers
import NIOCore

/// The state of a running simulation; its operations are in the extensions.
final class LogSimulator {
    static let folder = "/data"
    /// The data folders.
    var folders: [String] { (0..<setup.folders).map { $0 == 0 ? Self.folder : "\(Self.folder)\($0 + 1)" } }

    let seed: UInt64
    let bug: PlantedBug?
    let setup: SimulationSetup
    /// For what the setup adds: the sequences without it stay as they are.
    var moreRandom: SimulationRandom
    var random: SimulationRandom
    let disk: SimulatedDisk
    let fileSystem: any FileSystem
    let clock = SimulatedClock()
    var manager: LogManager?
    var models: [TopicPartition: ModelPartition] = [:]
    /// In the order in which they were made.
    var order: [TopicPartition] = []
    var counts = SimulationCounts()
    private(set) var lastTrace: [String] = []
    private let onTrace: ((String) -> Void)?

    /// What the records of this sequence look like.
    let profile: Profile
    /// Set by a failed sync: the process is to die.
    let died = NIOLockedValueBox(false)
    /// Ends that were acknowledged.
    let acknowledged = NIOLockedValueBox<[TopicPartition: Int64]>([:])
    /// Whether an operation failed so that only a reopening settles what it has done.
    var mustReopen = false
    /// Whether a fault has taken the folder out of service.
    var isRefusing = false
    var epoch: Int32 = 0
    var coordinatorEpoch: Int32 = 0
    var created = 0

    struct Profile {
        var partitions: Int
        var settings: LogSettings
        var largestValue: Int
        var codecs: [CompressionCodec]
        var crashes: Bool
        var faults: Bool
        var flips: Bool
    }

    init(
        seed: UInt64,
        bug: PlantedBug?,
        setup: SimulationSetup = SimulationSetup(),
        sweep: LogSweep.Operation? = nil,
        onTrace: ((String) -> Void)?
    ) {
        self.seed = seed
        self.bug = bug
        self.setup = setup
        moreRandom = SimulationRandom(seed: seed ^ 0x5eed)
        self.onTrace = onTrace
        random = SimulationRandom(seed: seed)
        let disk = SimulatedDisk(seed: random.next())
        if let onTrace { disk.setCallHandler { onTrace("        \($0)") } }
        self.disk = disk
        fileSystem = bug.map { BuggyFileSystem(disk, $0) } ?? disk
        var profile = Self.makeProfile(&random)
        sweep?.prepare(&profile)
        self.profile = profile
    }

    private static func makeProfile(_ random: inout SimulationRandom) -> Profile {
        var settings = LogSettings()
        settings.segmentBytes = random.pick([700, 1500, 4000, 4000, 20_000])
        settings.indexIntervalBytes = random.pick([0, 100, 1000])
        settings.segmentMilliseconds = random.pick([2_000, 20_000, 1_000_000])
        settings.retentionMilliseconds = random.pick([-1, -1, 10_000, 60_000])
        settings.retentionBytes = random.pick([-1, -1, 3_000, 10_000])
        settings.cleanupPolicy = random.pick([.delete, .delete, .delete, .compact, .compact, [.compact, .delete]])
        settings.minCleanableDirtyRatio = random.pick([0, 0.3])
        settings.deleteRetentionMilliseconds = random.pick([0, 5_000, 1_000_000])
        settings.fileDeleteDelayMilliseconds = random.pick([0, 3_000])
        settings.timestampType = random.once(in: 6) ? .logAppendTime : .createTime
        settings.durability = random.pick([.fsync, .fsync, .fsync, .fsync, .interval(milliseconds: 500), .os])
        settings.validatesRecords = random.once(in: 3)
        settings.preallocates = random.once(in: 2)
        return Profile(
            partitions: random.pick([1, 1, 1, 2, 3]),
            settings: settings,
            largestValue: random.pick([20, 100, min(settings.segmentBytes / 3, 1200)]),
            codecs: random.once(in: 2) ? [.none] : CompressionCodec.allCases,
            crashes: !random.once(in: 8),
            faults: random.once(in: 3),
            flips: random.once(in: 3)
        )
    }

    // MARK: Running

    func run(_ operations: Int) throws {
        try open()
        for _ in 0..<profile.partitions { try create() }
        while counts.operations < operations {
            counts.operations += 1
            arm()
            advanceHighWatermark()
            try perform()
            try afterwards()
        }
        disk.setFault(nil)
        disk.crashAfter(changes: nil)
        if mustReopen || isRefusing { try restart(.kill) }
        try verifyAll()
        try restart(random.pick([.close, .kill, .crash]))
        if profile.flips { try flip() }
    }

    func note(_ text: @autoclosure () -> String) {
        let line = "\(counts.operations) \(text())"
        onTrace?(line)
        lastTrace.append(line)
        if lastTrace.count > 40 { lastTrace.removeFirst() }
    }

    /// The power may fail soon, or calls.
    private func arm() {
        if profile.crashes, random.once(in: 16) {
            let changes = random.below(random.pick([3, 12, 40]))
            note("! the power will fail after \(changes) changes")
            disk.crashAfter(changes: changes)
        }
        if profile.faults, random.once(in: 14) {
            let kind: FileSystemError.Kind? = random.pick([.noSpace, .noSpace, .inputOutput, .readOnly, nil, nil])
            let calls: Set<SimulatedDisk.Call>
            switch kind {
            case nil: calls = [.write]
            case .noSpace: calls = [.write, .allocate, .open, .makeDirectory]
            case .readOnly: calls = Set(SimulatedDisk.Call.allCases.filter { $0.isChange && $0 != .sync })
            default:
                calls = random.once(in: 2) ? [.sync, .syncDirectory] : Set(SimulatedDisk.Call.allCases)
            }
            let fault = SimulatedDisk.Fault(
                kind: kind,
                after: random.below(random.pick([2, 8, 30])),
                count: random.pick([1, 1, 3]),
                calls: calls
            )
            note("! fault \(kind.map { "\($0)" } ?? "short writes") after \(fault.after) calls, \(fault.count) times")
            disk.setFault(fault)
        }
    }

    func afterwards() throws {
        takeNote()
        if disk.hasCrashed {
            try restart(.crash)
        } else if died.withLockedValue({ $0 }) {
            note("a sync failed: the process ends, and the machine with it")
            try restart(.crash)
        } else if mustReopen {
            try restart(random.once(in: 2) ? .kill : .crash)
        } else if isRefusing {
            try recoverFromFault()
        }
    }

    /// What the log promises now, it must keep.
    func takeNote() {
        for (partition, end) in acknowledged.withLockedValue({ $0 }) {
            if let model = models[partition] { models[partition]?.durable = max(model.durable, min(end, model.end)) }
        }
        acknowledged.withLockedValue { $0 = [:] }
        guard let manager else { return }
        for partition in order {
            guard let log = manager.partition(partition) else { continue }
            let synced = log.syncedEndOffset.rawValue
            let start = log.logStartOffset.rawValue
            guard let model = models[partition] else { continue }
            models[partition]?.durable = max(model.durable, min(synced, model.end))
            models[partition]?.start = max(model.start, start)
            // What was written where the remains were is on disk.
            models[partition]?.remains.removeAll { $0.first.map { $0.base < synced } ?? true }
        }
    }

    // MARK: Opening and ending

    enum Ending { case close, kill, crash }

    func open() throws {
        var configuration = LogConfiguration(directories: folders)
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        configuration.ballastBytes = random.once(in: 3) ? 4096 : 0
        configuration.checkpointIntervalMilliseconds = 1_000_000
        configuration.checkpointBytes = .max
        configuration.maxOpenFiles = 8
        configuration.compactionMemoryBytes = random.pick([1 << 10, 1 << 16])
        configuration.defaultSettings = profile.settings
        if let bug { configuration.plantedBugs = bug.inEngine }
        let died = died
        manager = try LogManager.open(
            configuration: configuration,
            fileSystem: fileSystem,
            clock: clock,
            logger: Logger(label: "simulation", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { _ in died.withLockedValue { $0 = true } }
        )
        guard setup.isReplicated else { return }
        // As a broker does: what is durable need not have been committed.
        for log in manager?.allPartitions ?? [] { log.updateHighWatermark(log.logStartOffset) }
    }

    /// A leader tells that more is committed, in a node with replicas.
    func advanceHighWatermark() {
        guard setup.isReplicated, !order.isEmpty, moreRandom.once(in: 3) else { return }
        guard let log = manager?.partition(moreRandom.pick(order)) else { return }
        let (now, end) = (log.highWatermark.rawValue, log.syncedEndOffset.rawValue)
        // What is committed ends with a batch.
        let ends = (models[log.topicPartition]?.batches ?? []).map(\.next).filter { $0 > now && $0 <= end }
        guard !ends.isEmpty else { return }
        let next = moreRandom.pick(ends)
        note("high watermark of \(log.topicPartition) is \(next)")
        log.updateHighWatermark(Offset(next))
    }

    /// Ends the process in some way, starts it again, and compares what it finds with the model.
    func restart(_ ending: Ending) throws {
        var ending = ending
        disk.setFault(nil)
        if ending == .close, !disk.hasCrashed {
            note("close")
            counts.closes += 1
            do {
                try manager?.close()
            } catch {
                if !disk.hasCrashed { throw Wrong("closing failed without a reason: \(error)") }
            }
            takeNote()
            if disk.hasCrashed || random.once(in: 3) { ending = .crash }
        }
        manager = nil
        if ending == .crash || disk.hasCrashed {
            note("power failure")
            counts.crashes += 1
            disk.crash()
        } else {
            if ending == .kill {
                note("kill")
                counts.kills += 1
            }
            disk.kill()
        }
        disk.restart()
        died.withLockedValue { $0 = false }
        mustReopen = false
        isRefusing = false
        try start()
        try settleAll()
        try verifyAll()
    }

    /// Opens the folder, perhaps with the power failing or calls failing meanwhile.
    private func start() throws {
        var attempts = 0
        while true {
            let isHurt = attempts < 3 && random.once(in: 5)
            if isHurt, profile.crashes { disk.crashAfter(changes: random.below(25)) }
            if isHurt, profile.faults, random.once(in: 2) {
                let kind: FileSystemError.Kind = random.pick([.noSpace, .inputOutput, .readOnly])
                let calls = Set(SimulatedDisk.Call.allCases.filter { kind == .inputOutput || $0.isChange })
                disk.setFault(.init(kind: kind, after: random.below(40), count: 1, calls: calls))
            }
            attempts += 1
            let failures = disk.failureCount
            do {
                try open()
            } catch {
                guard disk.hasCrashed || disk.failureCount > failures else {
                    throw Wrong("the folder cannot be opened: \(error)")
                }
            }
            let isFine = !disk.hasCrashed && disk.failureCount == failures
            if isFine {
                disk.setFault(nil)
                disk.crashAfter(changes: nil)
                return
            }
            note(disk.hasCrashed ? "power failure while starting" : "fault while starting")
            manager = nil
            if disk.hasCrashed { disk.crash() } else { disk.kill() }
            disk.restart()
        }
    }

    private func settleAll() throws {
        guard let manager else { return }
        for partition in order {
            guard var model = models[partition] else { continue }
            guard let log = manager.partition(partition) else {
                guard model.creationIsInDoubt || model.deletionIsInDoubt else {
                    throw Wrong("\(partition) is gone")
                }
                forget(partition)
                continue
            }
            let report = manager.recoveryReports.first { $0.topicPartition == partition }
            note(
                "  \(partition): \(log.logStartOffset)..\(log.logEndOffset) of \(model.start)..\(model.end), durable \(model.durable)"
                    + (report.map(describe) ?? ", clean")
            )
            if let damage = log.damage.first { throw Wrong("damage is reported where there is none: \(damage)") }
            if let reason = log.offlineReason { throw Wrong("\(partition) is offline: \(reason)") }
            if model.creationIsInDoubt {
                // Nobody was told that it is there.
                try manager.deletePartition(partition)
                forget(partition)
                continue
            }
            if log.topicID != model.topicID {
                throw Wrong("\(partition) has lost its topic id")
            }
            model.deletionIsInDoubt = false
            model.settleRemains(end: log.logEndOffset.rawValue) { try? batch(log, at: $0) }
            if let problem = model.settle(start: log.logStartOffset.rawValue, end: log.logEndOffset.rawValue) {
                throw Wrong("\(partition): \(problem)")
            }
            if model.producersAreInDoubt {
                model.producersBefore = ModelProducers(known(log))
                model.producers = model.producersBefore
                model.producersAreInDoubt = false
            }
            models[partition] = model
            do {
                try log.update(settings: model.settings)
            } catch { throw Wrong("settings: \(error)") }
        }
        for log in manager.allPartitions where models[log.topicPartition] == nil {
            throw Wrong("\(log.topicPartition) has come back")
        }
    }

    private func describe(_ report: RecoveryReport) -> String {
        let rebuilt = report.rebuiltFiles.map { $0.split(separator: "/").last.map(String.init) ?? $0 }
        return ", cut \(report.cutBytes), scanned \(report.scannedBytes)"
            + (rebuilt.isEmpty ? "" : ", rebuilt \(rebuilt.joined(separator: " "))")
    }

    func forget(_ partition: TopicPartition) {
        models[partition] = nil
        order.removeAll { $0 == partition }
    }

    /// After a full disk: appends are accepted again by themselves; after a broken one: by the next start.
    private func recoverFromFault() throws {
        isRefusing = false
        guard let manager, let partition = order.first, let log = manager.partition(partition) else { return }
        guard log.offlineReason?.code == .noSpace else { return try restart(random.pick([.close, .kill, .crash])) }
        disk.setFault(nil)
        clock.advance(by: 1)
        manager.runMaintenance()
        takeNote()
        if disk.hasCrashed { return try restart(.crash) }
        if let reason = log.offlineReason { throw Wrong("there is room again, but appends are refused: \(reason)") }
    }
}
