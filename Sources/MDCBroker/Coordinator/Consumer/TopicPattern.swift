// SPDX-License-Identifier: Apache-2.0

/// A regular expression over topic names that takes time linear in the name, whatever the pattern: it is run as a
/// nondeterministic automaton (Thompson 1968) over bytes, without going back.
///
/// Knows what RE2 and Java have in common and names need: literals, `.`, classes with ranges and negation, `\d \w \s`
/// and their negations, escaped signs, groups, alternation, `* + ?` (lazy or not), `{n}`, `{n,}`, `{n,m}`, and `^` and `$`
/// at either end, which say nothing new: a name matches as a whole.
struct TopicPattern: Equatable, Sendable {
    private enum Step: Equatable, Sendable {
        /// One byte out of a set.
        case byte(ByteSet)
        case split(Int, Int)
        case jump(Int)
        case match
    }

    private indirect enum Node {
        case empty
        case byte(ByteSet)
        case sequence([Node])
        case choice([Node])
        case repeated(Node, min: Int, max: Int?)
    }

    /// The program may not grow past this: `((a{99}){99}){99}` is short to write.
    private static let maximumSteps = 4_096

    private var steps: [Step] = []

    /// Nil where the pattern is malformed or too big.
    init?(_ text: String) {
        guard text.utf8.count <= 1_024 else { return nil }
        var parser = Parser(text: Array(text.utf8))
        guard let node = parser.choice(depth: 0), parser.isAtEnd, emit(node) else { return nil }
        steps.append(.match)
    }

    /// Whether the whole of `name` matches.
    func matches(_ name: String) -> Bool {
        var current: [Int] = []
        var seen = [Int](repeating: -1, count: steps.count)
        follow(0, into: &current, &seen, mark: 0)
        var mark = 1
        for byte in name.utf8 {
            if current.isEmpty { return false }
            var next: [Int] = []
            for index in current {
                if case .byte(let set) = steps[index], set.contains(byte) {
                    follow(index + 1, into: &next, &seen, mark: mark)
                }
            }
            current = next
            mark += 1
        }
        return current.contains { steps[$0] == .match }
    }

    /// Adds every step that is reached from `start` without reading.
    private func follow(_ start: Int, into list: inout [Int], _ seen: inout [Int], mark: Int) {
        var open = [start]
        while let index = open.popLast() {
            if seen[index] == mark { continue }
            seen[index] = mark
            switch steps[index] {
            case .split(let first, let second): open += [second, first]
            case .jump(let target): open.append(target)
            case .byte, .match: list.append(index)
            }
        }
    }

    // MARK: Program

    private mutating func emit(_ node: Node) -> Bool {
        guard steps.count < Self.maximumSteps else { return false }
        switch node {
        case .empty: return true
        case .byte(let set):
            steps.append(.byte(set))
            return true
        case .sequence(let nodes):
            for node in nodes where !emit(node) { return false }
            return true
        case .choice(let nodes): return emitChoice(nodes)
        case .repeated(let node, let minimum, let maximum): return emitRepetition(node, minimum, maximum)
        }
    }

    private mutating func emitChoice(_ nodes: [Node]) -> Bool {
        var ends: [Int] = []
        for (index, node) in nodes.enumerated() {
            let isLast = index == nodes.count - 1
            let split = steps.count
            if !isLast { steps.append(.split(split + 1, 0)) }
            guard emit(node) else { return false }
            guard !isLast else { break }
            ends.append(steps.count)
            steps.append(.jump(0))
            steps[split] = .split(split + 1, steps.count)
        }
        for end in ends { steps[end] = .jump(steps.count) }
        return true
    }

    private mutating func emitRepetition(_ node: Node, _ minimum: Int, _ maximum: Int?) -> Bool {
        for _ in 0..<minimum where !emit(node) { return false }
        guard let maximum else {
            let split = steps.count
            steps.append(.split(split + 1, 0))
            guard emit(node) else { return false }
            steps.append(.jump(split))
            steps[split] = .split(split + 1, steps.count)
            return true
        }
        var splits: [Int] = []
        for _ in 0..<max(maximum - minimum, 0) {
            splits.append(steps.count)
            steps.append(.split(steps.count + 1, 0))
            guard emit(node) else { return false }
        }
        for split in splits { steps[split] = .split(split + 1, steps.count) }
        return true
    }

    // MARK: Parser

    private struct Parser {
        let text: [UInt8]
        var position = 0

        init(text: [UInt8]) { self.text = text }

        var isAtEnd: Bool { position == text.count }
        private var next: UInt8? { isAtEnd ? nil : text[position] }

        private mutating func take(_ character: Character) -> Bool {
            guard next == character.asciiValue else { return false }
            position += 1
            return true
        }

        mutating func choice(depth: Int) -> Node? {
            guard depth < 100 else { return nil }
            var branches: [Node] = []
            repeat {
                guard let branch = sequence(depth: depth) else { return nil }
                branches.append(branch)
            } while take("|")
            return branches.count == 1 ? branches[0] : .choice(branches)
        }

        private mutating func sequence(depth: Int) -> Node? {
            var nodes: [Node] = []
            while let character = next, character != UInt8(ascii: "|"), character != UInt8(ascii: ")") {
                // A name is matched as a whole; anchors where they can only agree with that are let pass.
                if take("^") {
                    if nodes.isEmpty { continue } else { return nil }
                }
                if take("$") {
                    guard isAtEnd || next == UInt8(ascii: "|") || next == UInt8(ascii: ")") else { return nil }
                    continue
                }
                guard let atom = atom(depth: depth), let node = repetition(of: atom) else { return nil }
                nodes.append(node)
            }
            return nodes.isEmpty ? .empty : .sequence(nodes)
        }

        private mutating func repetition(of atom: Node) -> Node? {
            var node = atom
            var count = 0
            while true {
                if take("*") {
                    node = .repeated(node, min: 0, max: nil)
                } else if take("+") {
                    node = .repeated(node, min: 1, max: nil)
                } else if take("?") {
                    node = .repeated(node, min: 0, max: 1)
                } else if next == UInt8(ascii: "{") {
                    guard let bounds = bounds() else { return nil }
                    node = .repeated(node, min: bounds.min, max: bounds.max)
                } else {
                    return node
                }
                // Lazy or greedy: the same names match.
                _ = take("?")
                count += 1
                if count > 1 { return nil }
            }
        }

        private mutating func bounds() -> (min: Int, max: Int?)? {
            guard take("{"), let minimum = number() else { return nil }
            if take("}") { return (minimum, minimum) }
            guard take(",") else { return nil }
            if take("}") { return (minimum, nil) }
            guard let maximum = number(), take("}"), maximum >= minimum else { return nil }
            return (minimum, maximum)
        }

        private mutating func number() -> Int? {
            var value: Int?
            while let digit = next, (0x30...0x39).contains(digit) {
                value = (value ?? 0) * 10 + Int(digit - 0x30)
                position += 1
                if value ?? 0 > 1_000 { return nil }
            }
            return value
        }

        private mutating func atom(depth: Int) -> Node? {
            if take("(") {
                if take("?") {
                    guard take(":") else { return nil }
                }
                guard let inner = choice(depth: depth + 1), take(")") else { return nil }
                return inner
            }
            if take("[") { return set().map { .byte($0) } }
            if take(".") { return .byte(ByteSet.all) }
            if take("\\") { return escape().map { .byte($0) } }
            guard let character = next, !"*+?{}])".utf8.contains(character) else { return nil }
            position += 1
            return .byte(ByteSet(character))
        }

        private mutating func escape() -> ByteSet? {
            guard let character = next else { return nil }
            position += 1
            switch character {
            case UInt8(ascii: "d"): return .digits
            case UInt8(ascii: "D"): return ByteSet.digits.inverted
            case UInt8(ascii: "w"): return .word
            case UInt8(ascii: "W"): return ByteSet.word.inverted
            case UInt8(ascii: "s"): return .space
            case UInt8(ascii: "S"): return ByteSet.space.inverted
            default:
                // Other letters and digits mean things that are not known here.
                return ByteSet.word.contains(character) && character != UInt8(ascii: "_") ? nil : ByteSet(character)
            }
        }

        private mutating func set() -> ByteSet? {
            let isNegated = take("^")
            var set = ByteSet()
            var isFirst = true
            while isFirst || next != UInt8(ascii: "]") {
                guard let low = member() else { return nil }
                isFirst = false
                if next == UInt8(ascii: "-"), position + 1 < text.count, text[position + 1] != UInt8(ascii: "]") {
                    position += 1
                    guard let first = low.single, let high = member()?.single, first <= high else { return nil }
                    for byte in first...high { set.insert(byte) }
                } else {
                    set.formUnion(low)
                }
            }
            guard take("]") else { return nil }
            return isNegated ? set.inverted : set
        }

        private mutating func member() -> ByteSet? {
            if take("\\") { return escape() }
            guard let character = next else { return nil }
            position += 1
            return ByteSet(character)
        }
    }
}

/// A set of bytes.
struct ByteSet: Equatable, Sendable {
    private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    init() {}
    init(_ byte: UInt8) { insert(byte) }

    static func == (lhs: ByteSet, rhs: ByteSet) -> Bool { lhs.words == rhs.words }

    static let all = ByteSet().inverted
    static let digits = ByteSet("0123456789")
    static let word = ByteSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    static let space = ByteSet(" \t\n\r\u{0C}\u{0B}")

    private init(_ text: String) { for byte in text.utf8 { insert(byte) } }

    func contains(_ byte: UInt8) -> Bool { word(byte) & (1 << UInt64(byte & 63)) != 0 }

    mutating func insert(_ byte: UInt8) {
        let bit: UInt64 = 1 << UInt64(byte & 63)
        switch byte >> 6 {
        case 0: words.0 |= bit
        case 1: words.1 |= bit
        case 2: words.2 |= bit
        default: words.3 |= bit
        }
    }

    mutating func formUnion(_ other: ByteSet) {
        words.0 |= other.words.0
        words.1 |= other.words.1
        words.2 |= other.words.2
        words.3 |= other.words.3
    }

    var inverted: ByteSet {
        var result = ByteSet()
        result.words = (~words.0, ~words.1, ~words.2, ~words.3)
        return result
    }

    /// The byte, where there is one only.
    var single: UInt8? {
        var found: UInt8?
        for byte in UInt8.min...UInt8.max where contains(byte) {
            if found != nil { return nil }
            found = byte
        }
        return found
    }

    private func word(_ byte: UInt8) -> UInt64 {
        switch byte >> 6 {
        case 0: words.0
        case 1: words.1
        case 2: words.2
        default: words.3
        }
    }
}
