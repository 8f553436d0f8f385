// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import NIOConcurrencyHelpers
import Synchronization

/// Many changes at once.
extension Controller {
    /// Changes that are asked for at once; answers and the order of work stay bounded.
    private static let batchSize = 256

    /// Asks for changes that do not depend on one another, so that they share rounds of the quorum; on the control thread.
    /// The results are in the order of the changes; who is not refused is carried out here.
    func perform(all changes: [ControllerChange]) -> [Result<Int64, Refusal>] {
        var results: [Result<Int64, Refusal>] = []
        results.reserveCapacity(changes.count)
        for start in stride(from: 0, to: changes.count, by: Self.batchSize) {
            results += performBatch(Array(changes[start..<min(start + Self.batchSize, changes.count)]))
        }
        return results
    }

    private func performBatch(_ changes: [ControllerChange]) -> [Result<Int64, Refusal>] {
        let deadline = mdc_monotonic_ns() + Self.patience
        var results = [Result<Int64, Refusal>](repeating: .failure(Self.unanswered), count: changes.count)
        var open = Array(changes.indices)
        var last: Int64 = 0
        while true {
            let answers = ask(open.map { changes[$0] })
            var left: [Int] = []
            for (position, answer) in zip(open, answers) {
                switch answer {
                case .done(let index, let value):
                    last = max(last, index)
                    results[position] = .success(value)
                case .refused(let refusal):
                    results[position] = .failure(refusal)
                    if refusal.code == .notController || refusal.code == .requestTimedOut { left.append(position) }
                }
            }
            open = left
            guard !open.isEmpty, mdc_monotonic_ns() < deadline, !isStopped else { break }
            // Nobody sets it: a pause.
            if ConditionLock(value: 0).lock(whenValue: 1, timeoutSeconds: 0.02) { break }
        }
        waitUntilCarriedOut(last)
        return results
    }

    private static var unanswered: Refusal {
        Refusal(code: .requestTimedOut, message: "no quorum agreed in time; try again")
    }

    private func ask(_ changes: [ControllerChange]) -> [QuorumAnswer] {
        let done = ConditionLock<Int>(value: 0)
        let answers = Mutex<(all: [QuorumAnswer], missing: Int)>(
            (Array(repeating: .refused(Self.unanswered), count: changes.count), changes.count)
        )
        for (index, change) in changes.enumerated() {
            quorum.submit(change) { answer in
                let isLast = answers.withLock { answers -> Bool in
                    answers.all[index] = answer
                    answers.missing -= 1
                    return answers.missing == 0
                }
                if isLast {
                    done.lock()
                    done.unlock(withValue: 1)
                }
            }
        }
        if done.lock(whenValue: 1, timeoutSeconds: 10) { done.unlock() }
        return answers.withLock { $0.all }
    }
}

extension Result where Failure == Refusal {
    /// Why it is refused; nil where it is not.
    var refusal: Refusal? {
        if case .failure(let refusal) = self { return refusal }
        return nil
    }
}
