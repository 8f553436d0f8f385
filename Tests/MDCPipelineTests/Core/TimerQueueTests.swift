// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCPipeline

@Suite("timer queue")
struct TimerQueueTests {
    @Test("fires in order of time, equal times in order of setting")
    func order() {
        var queue = TimerQueue<String, Int>()
        queue.set("b", due: 20, payload: 2)
        queue.set("a", due: 10, payload: 1)
        queue.set("c", due: 20, payload: 3)
        #expect(queue.nextDue == 10)
        #expect(queue.popDue(now: 9) == nil)
        #expect(queue.popDue(now: 25)?.payload == 1)
        #expect(queue.popDue(now: 25)?.payload == 2)
        #expect(queue.popDue(now: 25)?.payload == 3)
        #expect(queue.popDue(now: 25) == nil && queue.nextDue == nil)
    }

    @Test("set anew and cancelled timers do not fire at their old time")
    func replace() {
        var queue = TimerQueue<String, Int>()
        queue.set("a", due: 10, payload: 1)
        queue.set("a", due: 30, payload: 2)
        queue.set("b", due: 15, payload: 3)
        #expect(queue.cancel("b") == 3 && queue.cancel("b") == nil)
        #expect(queue.popDue(now: 20) == nil)
        #expect(queue.popDue(now: 30)?.payload == 2)
        #expect(queue.count == 0)
    }

    @Test("agrees with a sorted list", arguments: 0..<20)
    func model(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        var queue = TimerQueue<Int, Int>()
        var model: [Int: Int64] = [:]
        var now: Int64 = 0
        for step in 0..<2_000 {
            let id = Int.random(in: 0..<200, using: &generator)
            switch Int.random(in: 0..<10, using: &generator) {
            case 0..<6:
                let due = now + Int64.random(in: 0..<500, using: &generator)
                queue.set(id, due: due, payload: step)
                model[id] = due
            case 6..<8:
                #expect((queue.cancel(id) != nil) == (model.removeValue(forKey: id) != nil))
            default:
                now += Int64.random(in: 0..<50, using: &generator)
                var fired: Set<Int> = []
                var last = Int64.min
                while let due = queue.popDue(now: now) {
                    #expect(due.due >= last && model[due.id] == due.due)
                    last = due.due
                    fired.insert(due.id)
                }
                #expect(fired == Set(model.filter { $0.value <= now }.keys))
                for id in fired { model[id] = nil }
            }
            #expect(queue.count == model.count)
            #expect(queue.nextDue == model.values.min())
        }
    }
}
