// SPDX-License-Identifier: Apache-2.0

/// The attempts that a dispatcher started lately, so that a second record of the same attempt is dropped.
///
/// Bounded: the oldest are forgotten. Pure.
struct AttemptWindow: Sendable {
    private struct Key: Hashable, Sendable {
        var messageID: String
        var attempt: Int
    }

    private var keys: Set<Key> = []
    private var order: [Key] = []
    private var oldest = 0
    /// Attempts that it remembers.
    let capacity: Int

    init(capacity: Int = 200_000) {
        precondition(capacity > 0, "a window needs room")
        self.capacity = capacity
    }

    /// Forgets an attempt that was not made after all.
    mutating func remove(_ messageID: String, attempt: Int) {
        keys.remove(Key(messageID: messageID, attempt: attempt))
    }

    /// Whether the attempt was started.
    func contains(_ messageID: String, attempt: Int) -> Bool {
        keys.contains(Key(messageID: messageID, attempt: attempt))
    }

    /// Notes an attempt; false if it was there.
    @discardableResult
    mutating func insert(_ messageID: String, attempt: Int) -> Bool {
        let key = Key(messageID: messageID, attempt: attempt)
        guard keys.insert(key).inserted else { return false }
        if order.count < capacity {
            order.append(key)
        } else {
            keys.remove(order[oldest])
            order[oldest] = key
            oldest = (oldest + 1) % capacity
        }
        return true
    }
}
