// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// How patient posts to webhooks are.
public struct WebhookPolicy: Sendable, Hashable {
    /// How long an answer is waited for.
    public var timeout: Duration
    /// The pauses before the second, third … post of a report, in milliseconds. After the last one it is given up.
    public var backoffMilliseconds: [Int64]
    /// After so many failures in a row a webhook is left alone for the time of the next pause.
    public var failuresBeforeRest: Int
    /// A webhook that has failed for this long is disabled, in milliseconds.
    public var disableAfterMilliseconds: Int64
    /// Posts at once, of each process.
    public var concurrency: Int

    /// Makes a value from its parts.
    public init(
        timeout: Duration = .seconds(10),
        backoffMilliseconds: [Int64] = [
            5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000,
        ],
        failuresBeforeRest: Int = 5,
        disableAfterMilliseconds: Int64 = 5 * 86_400_000,
        concurrency: Int = 32
    ) {
        self.timeout = timeout
        self.backoffMilliseconds = backoffMilliseconds
        self.failuresBeforeRest = failuresBeforeRest
        self.disableAfterMilliseconds = disableAfterMilliseconds
        self.concurrency = concurrency
    }
}

/// Decides what becomes of posts and of the webhooks that they go to. Pure: time and chance come in as parameters.
struct WebhookMonitor: Sendable {
    /// What a post came to.
    enum Outcome: Sendable, Equatable {
        case delivered
        case failed(reason: String, retryAfterMilliseconds: Int64?)
        /// The receiver wants no more (410).
        case gone
    }

    /// What becomes of the report.
    enum Decision: Sendable, Equatable {
        case done
        case again(FeedbackDelivery, due: Timestamp)
        case giveUp(reason: String)
    }

    private struct Run: Sendable {
        var failures = 0
        var restUntil: Timestamp = 0
    }

    private let policy: WebhookPolicy
    private var runs: [String: Run] = [:]

    init(_ policy: WebhookPolicy) { self.policy = policy }

    /// Until when a webhook is left alone; nil: it is not.
    func rest(_ webhookID: String, now: Timestamp) -> Timestamp? {
        guard let until = runs[webhookID]?.restUntil, until > now else { return nil }
        return until
    }

    /// Takes note of what a post came to.
    ///
    /// - Returns: What becomes of the report, and the webhook's health if it changed.
    mutating func note(
        _ outcome: Outcome,
        _ delivery: FeedbackDelivery,
        _ health: WebhookHealth,
        now: Timestamp,
        using generator: inout some RandomNumberGenerator
    ) -> (decision: Decision, health: WebhookHealth?) {
        switch outcome {
        case .delivered:
            runs[delivery.webhookID] = nil
            return (.done, health == WebhookHealth() ? nil : WebhookHealth())
        case .gone:
            let reason = "it answered 410: it wants no more"
            return (.giveUp(reason: reason), WebhookHealth(failingSince: now, disabledAt: now, reason: reason))
        case .failed(let reason, let retryAfter):
            var changed: WebhookHealth?
            let since = health.failingSince ?? now
            if now - since >= policy.disableAfterMilliseconds {
                changed = WebhookHealth(failingSince: since, disabledAt: now, reason: reason)
            } else if health.failingSince == nil {
                changed = WebhookHealth(failingSince: now, disabledAt: nil, reason: reason)
            }
            let pause = noteFailure(delivery, retryAfter, now: now, using: &generator)
            guard let pause else {
                return (.giveUp(reason: "gave up after \(delivery.attempt) posts: \(reason)"), changed)
            }
            var next = delivery
            next.attempt += 1
            return (.again(next, due: now + pause), changed)
        }
    }

    /// The pause before the next post; nil: there is none.
    private mutating func noteFailure(
        _ delivery: FeedbackDelivery,
        _ retryAfter: Int64?,
        now: Timestamp,
        using generator: inout some RandomNumberGenerator
    ) -> Int64? {
        var run = runs[delivery.webhookID] ?? Run()
        run.failures += 1
        let pauses = policy.backoffMilliseconds
        if run.failures >= policy.failuresBeforeRest, !pauses.isEmpty {
            let step = min(run.failures - policy.failuresBeforeRest, pauses.count - 1)
            run.restUntil = now + min(pauses[step], 300_000)
        }
        if let retryAfter { run.restUntil = max(run.restUntil, now + retryAfter) }
        runs[delivery.webhookID] = run
        guard delivery.attempt <= pauses.count else { return nil }
        // A tenth more at most, so that what failed together does not come back together.
        let pause = pauses[delivery.attempt - 1]
        return max(pause, retryAfter ?? 0) + Int64.random(in: 0...max(1, pause / 10), using: &generator)
    }
}
