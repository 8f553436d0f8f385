// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What the three simulated providers share: ask the behaviour, keep the ledger, answer, report.
struct SimulatorEngine: Sendable {
    var behavior: SimulatorBehavior
    var ledger: SimulatorLedger
    var sender: CallbackSender

    /// Handles one request to send a message.
    ///
    /// - Parameters:
    ///   - callback: makes the report; nil if nobody wants one.
    ///   - answer: called once, from any thread, when the plan's `answerDelay` begins.
    func process(
        recipient: String,
        reference: String?,
        callback: (@Sendable (SimulatorPlan.Report) -> CallbackSender.Callback)?,
        answer: @escaping @Sendable (SimulatorPlan) -> Void
    ) {
        let attempt = ledger.noteRequest(recipient: recipient, reference: reference)
        let plan = behavior.plan(recipient: recipient, attempt: attempt)
        ledger.note(plan, reference: reference)
        guard let callback, let first = plan.receipts.first else { return answer(plan) }
        if plan.reportsBeforeAnswer {
            sender.send(callback(first.report)) { answer(plan) }
        } else {
            answer(plan)
            // Whoever gets no answer has accepted at once; a late answer delays what follows it.
            let base = plan.answer == .accept ? plan.answerDelay : .zero
            sender.send(callback(first.report), after: base + first.delay)
        }
        for receipt in plan.receipts.dropFirst() {
            sender.send(callback(receipt.report), after: plan.answerDelay + receipt.delay)
        }
    }
}
