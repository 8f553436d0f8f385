// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCRaft

/// What the simulated nodes apply entries to: a chain of hashes over all entries, and the last value of each key.
///
/// Two machines that have applied the same entries in the same order are equal; others are not.
struct StateMachine: Hashable, Sendable {
    private(set) var applied: RaftIndex = 0
    private(set) var chain: UInt64 = 14_695_981_039_346_656_037
    private(set) var values: [UInt8: UInt32] = [:]

    mutating func apply(_ entry: RaftEntry) {
        applied = entry.index
        mix(UInt64(bitPattern: entry.index))
        mix(UInt64(UInt32(bitPattern: entry.epoch)))
        switch entry.payload {
        case .leaderChange: mix(1)
        case .membership(let membership):
            for replica in membership.voters + membership.observers { mix(replica.directory.low) }
        case .data(let bytes):
            for byte in bytes { mix(UInt64(byte)) }
            if bytes.count >= 5 {
                values[bytes[0]] = bytes[1...4].reduce(0) { $0 << 8 | UInt32($1) }
            }
        }
    }

    private mutating func mix(_ value: UInt64) { chain = (chain ^ value) &* 1_099_511_628_211 &+ chain >> 29 }

    // MARK: - Snapshots

    var bytes: [UInt8] {
        var out: [UInt8] = []
        func put(_ value: UInt64) { for shift in 0..<8 { out.append(UInt8(truncatingIfNeeded: value >> (8 * shift))) } }
        put(UInt64(applied))
        put(chain)
        for (key, value) in values.sorted(by: { $0.key < $1.key }) {
            out.append(key)
            put(UInt64(value))
        }
        return out
    }

    init() {}

    init(bytes: [UInt8]) {
        func get(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << (8 * $1) } }
        guard bytes.count >= 16 else { return }
        applied = RaftIndex(get(0))
        chain = get(8)
        var at = 16
        while at < bytes.count {
            values[bytes[at]] = UInt32(get(at + 1))
            at += 9
        }
    }
}
