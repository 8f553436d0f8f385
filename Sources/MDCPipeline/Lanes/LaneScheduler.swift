// SPDX-License-Identifier: Apache-2.0

/// Gives a limited number of worker slots to lanes: deficit round robin, with a floor for each lane that is never lent.
///
/// Pure. A lane of weight `w` is served `w` times per round as long as it has something waiting; a lane with nothing
/// waiting takes no turn, so its share goes to the others. Of the slots, `floor` of each lane stay free for it while it
/// uses fewer: a message of an idle lane starts at once even if all other slots are stuck in slow sends.
///
/// Bound: a waiting message at the head of its lane starts at the latest after one round, that is after the sum of the other
/// lanes' weights in starts.
public struct LaneScheduler: Sendable {
    private struct LaneState: Sendable {
        var weight: Int
        var floor: Int
        var waiting = 0
        var running = 0
        var deficit = 0
    }

    private var lanes: [LaneState]
    private var turn = 0
    private var running = 0
    /// The number of sends that may be under way at once.
    public let slots: Int

    /// - Parameters:
    ///   - weights: One positive weight per lane.
    ///   - slots: The number of worker slots, at least 1.
    public init(weights: [Int], slots: Int) {
        precondition(!weights.isEmpty && weights.allSatisfy { $0 > 0 }, "a scheduler needs lanes of positive weight")
        precondition(slots > 0, "a scheduler needs at least one slot")
        self.slots = slots
        let total = weights.reduce(0, +)
        // A quarter of a lane's share is its floor; with fewer slots than lanes there is nothing to reserve.
        lanes = weights.map { weight in
            LaneState(weight: weight, floor: slots < weights.count * 2 ? 0 : max(1, slots * weight / total / 4))
        }
    }

    /// Notes messages that wait in a lane.
    public mutating func enqueued(_ lane: Int, count: Int = 1) {
        lanes[lane].waiting += count
    }

    /// Takes back messages that no longer wait (their partition went to another worker).
    public mutating func withdrawn(_ lane: Int, count: Int) {
        lanes[lane].waiting -= count
        precondition(lanes[lane].waiting >= 0, "more messages withdrawn than waited")
    }

    /// The lane whose next message starts now; nil if nothing may start.
    public mutating func next() -> Int? {
        guard running < slots else { return nil }
        // Two rounds: the first may only hand out deficits.
        for _ in 0..<lanes.count * 2 {
            let lane = turn
            guard lanes[lane].waiting > 0 else {
                lanes[lane].deficit = 0
                advance()
                continue
            }
            guard mayStart(lane) else {
                advance()
                continue
            }
            if lanes[lane].deficit == 0 { lanes[lane].deficit = lanes[lane].weight }
            lanes[lane].deficit -= 1
            lanes[lane].waiting -= 1
            lanes[lane].running += 1
            running += 1
            if lanes[lane].deficit == 0 || lanes[lane].waiting == 0 {
                lanes[lane].deficit = 0
                advance()
            }
            return lane
        }
        return nil
    }

    /// Gives the slot of a message back.
    public mutating func finished(_ lane: Int) {
        precondition(lanes[lane].running > 0, "a lane gave back a slot that it did not have")
        lanes[lane].running -= 1
        running -= 1
    }

    /// Sends under way in a lane.
    public func running(_ lane: Int) -> Int { lanes[lane].running }

    /// Messages waiting in a lane.
    public func waiting(_ lane: Int) -> Int { lanes[lane].waiting }

    /// The slots of a lane that are never lent.
    public func floor(_ lane: Int) -> Int { lanes[lane].floor }

    private mutating func advance() {
        turn = turn + 1 == lanes.count ? 0 : turn + 1
    }

    /// A lane below its floor may take any free slot; above it, only one that no other lane has reserved.
    private func mayStart(_ lane: Int) -> Bool {
        let free = slots - running
        if lanes[lane].running < lanes[lane].floor { return free > 0 }
        var reserved = 0
        for other in lanes.indices where other != lane {
            reserved += max(0, lanes[other].floor - lanes[other].running)
        }
        return free > reserved
    }
}
