// SPDX-License-Identifier: Apache-2.0

/// Guesses what a misspelt name was meant to be.
enum Spelling {
    /// The candidate with the fewest changed, added, dropped or swapped characters; nil where none is near.
    static func nearest(to name: String, among candidates: some Sequence<String>) -> String? {
        let limit = max(2, name.utf8.count / 4)
        var best: (name: String, distance: Int)?
        for candidate in candidates.sorted() {
            let distance = Self.distance(Array(name.utf8), Array(candidate.utf8))
            if distance <= limit && distance < best?.distance ?? .max { best = (candidate, distance) }
        }
        return best?.name
    }

    private static func distance(_ first: [UInt8], _ second: [UInt8]) -> Int {
        var beforePrevious: [Int] = []
        var previous = Array(0...second.count)
        for row in 0..<first.count {
            var current = [row + 1]
            for column in 0..<second.count {
                var cost = min(previous[column + 1] + 1, current[column] + 1)
                cost = min(cost, previous[column] + (first[row] == second[column] ? 0 : 1))
                if row > 0, column > 0, first[row] == second[column - 1], first[row - 1] == second[column] {
                    cost = min(cost, beforePrevious[column - 1] + 1)
                }
                current.append(cost)
            }
            beforePrevious = previous
            previous = current
        }
        return previous[second.count]
    }
}
