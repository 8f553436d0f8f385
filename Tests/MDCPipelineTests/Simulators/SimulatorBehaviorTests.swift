// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCPipeline

@Suite struct SimulatorBehaviorTests {
    @Test func sameSeedSameFate() {
        let one = SimulatorBehavior(seed: 7, shares: .usual)
        let two = SimulatorBehavior(seed: 7, shares: .usual)
        for index in 0..<500 {
            let recipient = "user\(index)@example.com"
            #expect(one.plan(recipient: recipient, attempt: 1) == two.plan(recipient: recipient, attempt: 1))
        }
    }

    @Test func anotherAttemptIsAnotherDraw() {
        let behavior = SimulatorBehavior(seed: 7, shares: SimulatorShares([.busy: 0.5]))
        let cured = (0..<400).filter { index in
            let recipient = "user\(index)@example.com"
            return behavior.plan(recipient: recipient, attempt: 1).fate == .busy
                && behavior.plan(recipient: recipient, attempt: 2).fate == .deliver
        }
        #expect((60...140).contains(cured.count))
    }

    @Test(arguments: [UInt64(1), 2, 99]) func sharesAreMet(seed: UInt64) {
        let behavior = SimulatorBehavior(seed: seed, shares: SimulatorShares([.reject: 0.1, .bounce: 0.2]))
        var counts: [SimulatedFate: Int] = [:]
        for index in 0..<10_000 { counts[behavior.plan(recipient: "+1\(index)", attempt: 1).fate, default: 0] += 1 }
        #expect((850...1150).contains(counts[.reject] ?? 0))
        #expect((1800...2200).contains(counts[.bounce] ?? 0))
        #expect(counts.keys.allSatisfy { [.reject, .bounce, .deliver].contains($0) })
    }

    @Test(arguments: SimulatedFate.allCases.filter { $0 != .deliver })
    func markersOfEveryChannel(fate: SimulatedFate) throws {
        let code = try #require(fate.phoneCode)
        #expect(SimulatorBehavior.marker(in: "+3363998990\(code)".replacingLastFour(code)) == fate)
        #expect(SimulatorBehavior.marker(in: "asha.sim-\(fate.rawValue)@example.com") == fate)
        #expect(SimulatorBehavior.marker(in: "dGVzdA:APA91b_sim-\(fate.rawValue)_x") == fate)
        let behavior = SimulatorBehavior()
        #expect(behavior.plan(recipient: "sim-\(fate.rawValue)@example.com", attempt: 1).fate == fate)
        let late = behavior.plan(recipient: "sim-\(fate.rawValue)@example.com", attempt: 3).fate
        let isCured: Set<SimulatedFate> = [.busy, .timeout, .timeoutAccepted, .off]
        #expect(late == (isCured.contains(fate) ? .deliver : fate))
    }

    @Test func ordinaryRecipientsAskForNothing() {
        for recipient in ["+447700900123", "+12025550199", "+33639980001", "simon@example.com", "a@b", ""] {
            #expect(SimulatorBehavior.marker(in: recipient) == nil)
        }
        let deaf = SimulatorBehavior(obeysMarkers: false)
        #expect(deaf.plan(recipient: "sim-reject@example.com", attempt: 1).fate == .deliver)
    }

    @Test func plansSayWhatFatesMean() {
        let behavior = SimulatorBehavior()
        func plan(_ fate: SimulatedFate) -> SimulatorPlan {
            behavior.plan(recipient: "sim-\(fate.rawValue)@example.com", attempt: 1)
        }
        #expect(plan(.deliver).receipts.map(\.report) == [.delivered])
        #expect(plan(.reject).answer == .reject)
        #expect(plan(.reject).receipts.isEmpty)
        #expect(plan(.busy).answer == .busy)
        #expect(plan(.slow).answerDelay == behavior.delays.slowAnswer)
        #expect(plan(.timeout).answer == .hang(accepted: false))
        #expect(!plan(.timeout).takesMessage)
        #expect(plan(.timeoutAccepted).takesMessage)
        #expect(plan(.timeoutAccepted).receipts.map(\.report) == [.delivered])
        #expect(plan(.lostReceipt).answer == .accept)
        #expect(plan(.lostReceipt).receipts.isEmpty)
        #expect(plan(.lateReceipt).receipts.first?.delay == behavior.delays.lateReceipt)
        #expect(plan(.duplicateReceipt).receipts.map(\.report) == [.delivered, .delivered])
        #expect(plan(.earlyReceipt).reportsBeforeAnswer)
        #expect(plan(.bounce).receipts.map(\.report) == [.failed])
        #expect(plan(.off).receipts.map(\.report) == [.undelivered])
    }
}

extension String {
    /// A number that ends in `99NN`.
    fileprivate func replacingLastFour(_ code: Int) -> String {
        "+336399899" + (code < 10 ? "0" : "") + String(code)
    }
}
