// SPDX-License-Identifier: Apache-2.0

/// One entrance for bytes that nobody vouches for.
struct FuzzTarget: Sendable, CustomStringConvertible {
    /// What the command line and the corpus folders call it.
    let name: String
    /// Runs one input. Returning is success; anything that is wrong ends the process.
    let run: @Sendable ([UInt8]) -> Void
    /// Inputs to begin with, made from the golden vectors and from folders that are built for it.
    let seeds: @Sendable () throws -> [FuzzSeed]

    var description: String { name }

    static let all: [FuzzTarget] = [.batch, .message, .index, .state, .recovery, .request]
}

/// An input with a name.
struct FuzzSeed {
    var name: String
    var bytes: [UInt8]
}

/// Ends the process where something that must hold does not, in release builds too, saying what.
func require(_ condition: Bool, _ message: @autoclosure () -> String, file: StaticString = #file, line: UInt = #line) {
    if !condition { fatalError(message(), file: file, line: line) }
}

/// Takes an input apart from the front.
struct ByteSource {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isEmpty: Bool { position >= bytes.count }

    /// The next byte; 0 after the end.
    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func integer<T: FixedWidthInteger>(_: T.Type = T.self) -> T {
        var value: T = 0
        for _ in 0..<(T.bitWidth / 8) { value = (value << 8) | T(truncatingIfNeeded: byte()) }
        return value
    }

    /// Up to `count` bytes.
    mutating func take(_ count: Int) -> [UInt8] {
        let end = min(bytes.count, position + count)
        defer { position = end }
        return Array(bytes[position..<end])
    }

    mutating func rest() -> [UInt8] { take(bytes.count - position) }
}

/// Random changes to inputs, the same for the same seed: what libFuzzer does, without its knowledge of the code.
struct FuzzMutator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Numbers at which counts, lengths and offsets change their meaning.
    private static let edges: [UInt64] = [
        0, 1, 2, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF,
        0x8000_0000_0000_0000, .max, .max - 1,
    ]

    /// `input` with one to four changes.
    mutating func mutate(_ input: [UInt8], with other: [UInt8]) -> [UInt8] {
        var bytes = input
        for _ in 0..<Int.random(in: 1...4, using: &self) {
            guard !bytes.isEmpty else { return other }
            let place = Int.random(in: 0..<bytes.count, using: &self)
            switch Int.random(in: 0..<7, using: &self) {
            case 0: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &self)
            case 1: bytes[place] = UInt8.random(in: 0...255, using: &self)
            case 2: bytes.removeSubrange(place..<min(bytes.count, place + Int.random(in: 1...8, using: &self)))
            case 3: bytes.insert(UInt8.random(in: 0...255, using: &self), at: place)
            case 4:
                let edge = Self.edges.randomElement(using: &self)!
                let width = [1, 2, 4, 8].randomElement(using: &self)!
                for index in 0..<width where place + index < bytes.count {
                    bytes[place + index] = UInt8(truncatingIfNeeded: edge >> UInt64((width - 1 - index) * 8))
                }
            case 5: bytes.removeLast(Int.random(in: 0...bytes.count, using: &self))
            default:
                guard !other.isEmpty else { continue }
                let from = Int.random(in: 0..<other.count, using: &self)
                let end = min(other.count, from + Int.random(in: 1...64, using: &self))
                bytes.insert(contentsOf: other[from..<end], at: place)
            }
        }
        return bytes
    }
}
