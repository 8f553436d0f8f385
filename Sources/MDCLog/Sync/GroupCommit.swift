// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import Synchronization

/// Brings appends to disk: one round at a time for the node, which covers everything enqueued until it begins; the
/// next begins when it ends. There is no timer: under load rounds grow, when idle a sync starts at once.
final class GroupCommit: Sendable {
    /// In a structure: a lock of a bare closure wraps it once more at each look, so that each call would cost more than the one
    /// before (Swift 6.3, `Mutex` and any other generic container).
    private struct Handlers: Sendable {
        var advance: @Sendable ([PartitionLog]) -> Void = { _ in }
        var round: (@Sendable (UInt64) -> Void)?
    }

    private struct Queue: Sendable {
        var dirty: [PartitionLog] = []
        var isStopping = false
        var isStopped = false
    }

    /// The files of a round, shared out among the threads.
    private struct Work: Sendable {
        var steps: [SyncStep] = []
        var next = 0
        var unfinished = 0
        var failure: LogError?
        var isStopping = false
    }

    private let queue = Monitor(Queue())
    private let work = Monitor(Work())
    private let helpers: Int
    private let isManual: Bool
    private let onFailure: @Sendable (LogError) -> Void
    private let handlers = Mutex(Handlers())
    private let rounds = Atomic<Int>(0)
    private let pace: WritePace

    init(parallelism: Int, isManual: Bool, pace: WritePace, onFailure: @escaping @Sendable (LogError) -> Void) {
        helpers = isManual ? 0 : min(max(parallelism, 1), 16) - 1
        self.isManual = isManual
        self.pace = pace
        self.onFailure = onFailure
    }

    /// Rounds so far.
    var roundCount: Int { rounds.load(ordering: .relaxed) }

    func setAdvanceHandler(_ handler: @escaping @Sendable ([PartitionLog]) -> Void) {
        handlers.withLock { $0.advance = handler }
    }

    /// Called after each round with the nanoseconds that its syncs took.
    func setRoundHandler(_ handler: @escaping @Sendable (UInt64) -> Void) {
        handlers.withLock { $0.round = handler }
    }

    /// Adds a partition to the next round. The partition makes sure that it is not in the queue already.
    func enqueue(_ log: PartitionLog) {
        let wasEmpty = queue.withLock { queue in
            queue.dirty.append(log)
            return queue.dirty.count == 1
        }
        if wasEmpty && !isManual { queue.wakeOne() }
    }

    func start() {
        guard !isManual else { return }
        startThread("mdc-sync") { [self] in
            while true {
                let goesOn = queue.wait { queue -> Bool? in
                    if !queue.dirty.isEmpty { return true }
                    return queue.isStopping ? false : nil
                }
                if !goesOn { break }
                runRound()
            }
            queue.withLock { $0.isStopped = true }
            queue.wakeAll()
        }
        for number in 0..<helpers { startThread("mdc-sync-\(number + 1)") { [self] in help() } }
    }

    /// Runs what is enqueued to its end and stops the threads.
    func stop() {
        if isManual {
            while runRound() {}
            return
        }
        queue.withLock { $0.isStopping = true }
        queue.wakeAll()
        _ = queue.wait { $0.isStopped ? true : nil }
        work.withLock { $0.isStopping = true }
        work.wakeAll()
    }

    /// A sync outside of a round has failed: what was written before is lost or not, and a later sync would not tell.
    func syncFailed(_ error: LogError) { onFailure(error) }

    /// One round on the caller's thread; tells whether there was anything to do.
    @discardableResult
    func runRound() -> Bool {
        let logs = queue.withLock { queue in
            let logs = queue.dirty
            queue.dirty = []
            return logs
        }
        if logs.isEmpty { return false }
        var begun: [(log: PartitionLog, sync: PartitionSync)] = []
        var steps: [SyncStep] = []
        begun.reserveCapacity(logs.count)
        for log in logs {
            let sync = log.beginSync()
            steps.append(contentsOf: sync.steps)
            begun.append((log, sync))
        }
        let handlers = handlers.withLock { $0 }
        let start = handlers.round == nil ? 0 : mdc_monotonic_ns()
        pace.roundBegins()
        let failure = run(steps)
        pace.roundEnded()
        if let failure {
            // What a failed sync has left on the disk is unknown, and a second sync would not tell.
            onFailure(failure)
            for (log, _) in begun { log.failSync(failure) }
            return true
        }
        handlers.round?(mdc_monotonic_ns() - start)
        rounds.add(1, ordering: .relaxed)
        var advanced: [PartitionLog] = []
        var finished: [(waiter: DurabilityWaiter, result: Result<Void, LogError>)] = []
        for (log, sync) in begun where log.finishSync(sync, &finished) { advanced.append(log) }
        if !advanced.isEmpty { handlers.advance(advanced) }
        for (waiter, result) in finished { waiter.done(result) }
        return true
    }

    private func run(_ steps: [SyncStep]) -> LogError? {
        if steps.count <= 1 || helpers == 0 {
            for step in steps {
                if let failure = step.run() { return failure }
            }
            return nil
        }
        work.withLock { work in
            work.steps = steps
            work.next = 0
            work.unfinished = steps.count
            work.failure = nil
        }
        work.wakeAll()
        while let step = takeStep() { finish(step.run()) }
        return work.wait { work -> LogError?? in
            guard work.unfinished == 0 else { return nil }
            work.steps = []
            return .some(work.failure)
        }
    }

    private func help() {
        while true {
            let step = work.wait { work -> SyncStep?? in
                if work.next < work.steps.count {
                    work.next += 1
                    return work.steps[work.next - 1]
                }
                return work.isStopping ? .some(nil) : nil
            }
            guard let step else { return }
            finish(step.run())
        }
    }

    private func takeStep() -> SyncStep? {
        work.withLock { work in
            guard work.next < work.steps.count else { return nil }
            work.next += 1
            return work.steps[work.next - 1]
        }
    }

    private func finish(_ failure: LogError?) {
        let isLast = work.withLock { work in
            work.unfinished -= 1
            if work.failure == nil { work.failure = failure }
            return work.unfinished == 0
        }
        if isLast { work.wakeAll() }
    }
}

/// Whoever waits for an offset to be durable.
struct DurabilityWaiter: Sendable {
    var offset: Offset
    var done: @Sendable (Result<Void, LogError>) -> Void
}

/// What one partition needs in a round.
struct PartitionSync: Sendable {
    var steps: [SyncStep]
    var segments: [(segment: Segment, size: Int, trims: Int)]
    /// The log end when the round began: durable once all steps are done.
    var end: Offset
    /// Counts truncations; a round that began before one proves nothing after it.
    var generation: Int
}

/// One blocking call of a round.
struct SyncStep: Sendable {
    enum Kind: Sendable {
        case file(any StorageFile)
        case replaceFile(path: String, bytes: [UInt8])
        case directory
    }
    var kind: Kind
    var directory: String
    var fileSystem: any FileSystem
    var log: PartitionLog

    func run() -> LogError? {
        do throws(FileSystemError) {
            switch kind {
            case .file(let file): try file.sync()
            case .replaceFile(let path, let bytes):
                do throws(FileSystemError) {
                    try fileSystem.replaceFile(path, in: directory, with: bytes)
                } catch  where error.isRefusedWrite {
                    // Gives up the ballast: most often there is room then.
                    log.directory.writeFailed(error)
                    do throws(FileSystemError) {
                        try fileSystem.replaceFile(path, in: directory, with: bytes)
                    } catch  where error.isRefusedWrite {
                        log.epochsCameLate()
                    }
                }
            case .directory: try fileSystem.syncDirectory(directory)
            }
            return nil
        } catch {
            // Deleted since the round began: its folder has another name, and nobody asks for its records.
            if error.kind == .notFound && log.isGone { return nil }
            return LogError(
                error,
                while:
                    "bringing \(directory) to disk failed; what was not acknowledged yet may be lost. Check the disk, then start again"
            )
        }
    }
}

extension FileSystemError {
    /// The disk had no room for what was to be written, and all that was written before is as it was: unlike a sync that
    /// fails for want of room, it may be tried again.
    fileprivate var isRefusedWrite: Bool { kind == .noSpace && !call.contains("sync") }
}
