// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// Keeps the number of open segment files, and the memory of their indexes, below a bound: idle ones are closed and
/// opened again at the next use. A file with unsynced writes is never closed.
final class OpenFiles: Sendable {
    private struct State {
        var segments: [Segment] = []
        var hand = 0
        var indexBytes = 0
    }
    private let state = Mutex(State())
    let limit: Int
    let indexByteLimit: Int

    init(limit: Int, indexByteLimit: Int = 64 << 20) {
        self.limit = max(limit, 8)
        self.indexByteLimit = indexByteLimit
    }

    /// Number of segments with an open file, as far as is known.
    var count: Int { state.withLock { $0.segments.count } }

    /// Enters a segment that has just opened its file, and closes others if there are too many.
    func opened(_ segment: Segment) {
        state.withLock { state in
            state.segments.append(segment)
            closeExcess(&state, sparing: segment)
        }
    }

    /// Closes files until there are no more than the limit, as far as they may be closed: some could not when the last one
    /// was opened.
    func closeExcess() { state.withLock { closeExcess(&$0, sparing: nil) } }

    private func closeExcess(_ state: inout State, sparing segment: Segment?) {
        // One turn of a clock hand: a segment used since the last turn is spared once.
        var spared = 0
        while state.segments.count > limit, spared <= 2 * state.segments.count {
            if state.hand >= state.segments.count { state.hand = 0 }
            let candidate = state.segments[state.hand]
            if candidate !== segment, candidate.closeIfIdle() {
                state.segments.swapAt(state.hand, state.segments.count - 1)
                state.segments.removeLast()
            } else {
                state.hand += 1
                spared += 1
            }
        }
    }

    /// Drops the indexes of sealed segments that have not been used since the last call.
    func trimIndexes() {
        let segments = state.withLock { $0.segments }
        var bytes = 0
        for segment in segments {
            bytes += segment.indexMemory
            if bytes > indexByteLimit { segment.dropIndexesIfIdle() }
        }
    }

    /// Forgets the segments in a data folder that is given up.
    func forget(under folder: String) {
        state.withLock { state in
            state.segments.removeAll { $0.path("").hasPrefix(folder + "/") }
            state.hand = 0
        }
    }

    /// Forgets a segment that is gone.
    func closed(_ segment: Segment) {
        state.withLock { state in
            if let index = state.segments.firstIndex(where: { $0 === segment }) {
                state.segments.swapAt(index, state.segments.count - 1)
                state.segments.removeLast()
            }
        }
    }
}
