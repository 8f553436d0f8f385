// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

extension LogManager {
    /// One pass over the sealed segments: those without a footer are verified and get one, the others are compared with
    /// theirs; one that was found damaged and is sound again goes back into service. Reads at most `scrubBytesPerSecond` on the engine's thread, without a limit in manual mode. Returns the
    /// number of segments looked at.
    @discardableResult
    public func runScrub() -> Int {
        var looked = 0
        let budget = ScrubBudget(
            bytesPerSecond: environment.configuration.backgroundMode == .manual
                ? 0 : environment.configuration.scrubBytesPerSecond,
            clock: environment.clock,
            background: background
        )
        for log in allPartitions {
            for segment in log.published.withLock({ $0.segments }).dropLast() {
                if background.isStopping { return looked }
                scrub(segment, of: log, budget)
                looked += 1
            }
        }
        return looked
    }

    private func scrub(_ segment: Segment, of log: PartitionLog, _ budget: ScrubBudget) {
        do throws(LogError) {
            let pace: (Int) -> Bool = { budget.spend($0) }
            if segment.state.withLock({ $0.isQuarantined }) {
                if try segment.isSoundAgain(pace: pace) { try log.withdraw(damageOf: segment) }
            } else if segment.needsFooter() {
                if let problem = try segment.writeFooter(pace: pace) {
                    log.report(damageOf: segment, at: nil, reason: problem)
                }
            } else if let position = try segment.scrub(pace: pace) {
                // What differs may also have been replaced by compaction in the meantime.
                guard log.published.withLock({ $0.segments }).contains(where: { $0 === segment }) else { return }
                log.report(
                    damageOf: segment,
                    at: position,
                    reason: "the block at byte \(position) differs from the segment's footer"
                )
            }
        } catch {
            guard log.published.withLock({ $0.segments }).contains(where: { $0 === segment }) else { return }
            self.log.warning("scrubbing a segment failed", metadata: ["error": "\(error)"])
        }
    }
}

/// Keeps scrubbing below a rate.
final class ScrubBudget: Sendable {
    private let bytesPerSecond: Int
    private let clock: any LogClock
    private let background: Background
    private let state: Mutex<(start: UInt64, spent: Int)>

    init(bytesPerSecond: Int, clock: any LogClock, background: Background) {
        self.bytesPerSecond = bytesPerSecond
        self.clock = clock
        self.background = background
        state = Mutex((clock.monotonic(), 0))
    }

    /// Takes note of bytes read and waits until they are within the rate; false where it is time to stop.
    func spend(_ bytes: Int) -> Bool {
        guard bytesPerSecond > 0 else { return true }
        let ahead = state.withLock { state -> Int64 in
            state.spent += bytes
            let due = Double(state.spent) / Double(bytesPerSecond) * 1000
            return Int64(due) - Int64((clock.monotonic() - state.start) / 1_000_000)
        }
        if ahead < 20 { return !background.isStopping }
        return background.state.wait(atMost: ahead) { $0.isStopping ? true : nil } == nil
    }
}

extension PartitionLog {
    /// Takes note of rot in a sealed segment: reads of it fail from now on, everything else goes on.
    func report(damageOf segment: Segment, at position: Int?, reason: String) {
        var first = segment.baseOffset
        if let position, let offset = try? segment.offset(atOrBefore: position) { first = offset }
        let report = DamageReport(
            topicPartition: topicPartition,
            path: segment.path(FileName.log),
            position: position ?? 0,
            firstOffset: first,
            nextOffset: segment.nextOffset,
            reason: reason
        )
        let isNew = published.withLock { state -> Bool in
            guard !state.damage.contains(where: { $0.path == report.path }) else { return false }
            state.damage.append(report)
            return true
        }
        segment.state.withLock { $0.isQuarantined = true }
        guard isNew else { return }
        do throws(FileSystemError) {
            // Under the lock, so that the note cannot be left of a segment that is removed meanwhile.
            try appender.withLock { _ throws(FileSystemError) in
                guard published.withLock({ $0.segments }).contains(where: { $0 === segment }) else { return }
                try fileSystem.replaceFile(
                    segment.path(FileName.damage),
                    in: path,
                    with: DamageNote.encode(report, segment)
                )
            }
        } catch {
            // Known until the next start; then found again by scrubbing.
            directory.writeFailed(error)
        }
    }

    /// Takes a segment back into service that was found damaged and is sound now, restored from elsewhere.
    func withdraw(damageOf segment: Segment) throws(LogError) {
        do throws(FileSystemError) {
            try fileSystem.unlinkIfPresent(segment.path(FileName.damage))
            try fileSystem.syncDirectory(path)
        } catch {
            throw LogError(error, while: "taking a segment back into service")
        }
        let name = segment.path(FileName.log)
        published.withLock { $0.damage.removeAll { $0.path == name } }
        segment.state.withLock { $0.isQuarantined = false }
    }
}

extension Segment {
    /// Offset of the batch that spans `position`.
    func offset(atOrBefore position: Int) throws(LogError) -> Offset {
        var walker = HeaderWalker(file: try file(), from: 0, to: size)
        var offset = baseOffset
        do throws(LogError) {
            while let (at, header) = try walker.next(), at <= position { offset = header.baseOffset }
        } catch {
            // The walk ends where the damage begins.
            return offset
        }
        return offset
    }
}
