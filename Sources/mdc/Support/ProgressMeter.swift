// SPDX-License-Identifier: Apache-2.0

import Foundation
import Synchronization

/// A progress bar on standard error: redrawn in place on a terminal, else a line now and then.
final class ProgressMeter: Sendable {
    private struct State {
        var shown: ContinuousClock.Instant?
        var text = ""
        var isOver = false
    }

    private let started = ContinuousClock.now
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let state = Mutex(State())

    /// Shows how far the work is, unless that was shown a moment ago.
    ///
    /// - Parameters:
    ///   - total: nil while it is not known.
    ///   - isLast: shows it for certain and ends the line.
    func show(done: Int, of total: Int?, _ what: String, isLast: Bool) {
        let now = ContinuousClock.now
        state.withLock { state in
            let pause = isTerminal ? Duration.milliseconds(100) : .seconds(1)
            guard !state.isOver, isLast || now - (state.shown ?? started) >= pause else { return }
            state.shown = now
            state.isOver = isLast
            let seconds = (now - started).components
            let time = "\(seconds.seconds).\(seconds.attoseconds / 100_000_000_000_000_000) s"
            let text = Self.bar(done, total) + " \(done)" + (total.map { " of \($0)" } ?? "") + " \(what), \(time)"
            write(text, over: state.text, isLast: isLast)
            state.text = text
        }
    }

    private func write(_ text: String, over old: String, isLast: Bool) {
        guard isTerminal else { return StandardOutput.note(text) }
        let rest = String(repeating: " ", count: max(0, old.count - text.count))
        FileHandle.standardError.write(Data(("\r" + text + rest + (isLast ? "\n" : "")).utf8))
    }

    private static func bar(_ done: Int, _ total: Int?) -> String {
        guard let total, total > 0 else { return "" }
        let full = min(20, done * 20 / total)
        return "[" + String(repeating: "#", count: full) + String(repeating: ".", count: 20 - full) + "]"
    }
}
