// SPDX-License-Identifier: Apache-2.0

import Metrics

/// What provider ids mean, for response workers to tell each other. It holds nothing that cannot be told again: it may be
/// emptied, fall behind or be away, and is never waited for by the work itself.
protocol SharedIndex: Sendable {
    /// Notes what ids mean.
    func write(_ entries: [(key: ProviderKey, reference: MessageReference)]) async throws
    /// What these ids mean, as far as it is known.
    func find(_ keys: [ProviderKey]) async throws -> [ProviderKey: MessageReference]
    /// Leaves the mark of a worker that has told all it knows.
    func mark(_ worker: String) async throws
    /// Whether the mark is still there: if not, the index was emptied.
    func hasMark(_ worker: String) async throws -> Bool
    func close() async
}

/// A provider's id of a message.
struct ProviderKey: Hashable, Sendable {
    var provider: String
    var id: String
}

/// Keeps a shared index and one worker's ``MessageLedger`` in touch, beside the worker's rounds. Pure state between calls.
struct SharedIndexState: Sendable {
    /// What the worker learned and has not told yet.
    var learned: [(key: ProviderKey, reference: MessageReference)] = []
    /// Answers that the worker has not looked at yet.
    var answers: [ProviderKey: MessageReference] = [:]
    /// Whether the index could be asked lately; nil: not tried yet.
    var isUp: Bool?
    /// Whether all that the worker knows is to be told.
    var mustTellAll = true

    /// Beyond this much to tell, everything is told anew: that is what an index that was away needs anyway.
    static let learnedMax = 50_000

    mutating func learn(_ entries: [(key: ProviderKey, reference: MessageReference)]) {
        guard !mustTellAll else { return }
        learned += entries
        if learned.count > Self.learnedMax {
            learned.removeAll()
            mustTellAll = true
        }
    }
}

/// The figures of a shared index.
struct SharedIndexMetrics: Sendable {
    private let upMeter = Gauge(label: "mdc_response_index_up")
    private let toldMeter = Counter(label: "mdc_response_index_told_total")
    private let askedMeter = Counter(label: "mdc_response_index_asked_total")
    private let foundMeter = Counter(label: "mdc_response_index_found_total")
    private let rebuiltMeter = Counter(label: "mdc_response_index_rebuilt_total")
    private let forwardedMeter = Counter(label: "mdc_receipts_forwarded_total")

    func isUp(_ value: Bool) { upMeter.record(value ? 1 : 0) }
    func told(_ count: Int) { toldMeter.increment(by: Int64(count)) }
    func asked(_ count: Int, found hits: Int) {
        askedMeter.increment(by: Int64(count))
        foundMeter.increment(by: Int64(hits))
    }
    func rebuild() { rebuiltMeter.increment() }
    func forward() { forwardedMeter.increment() }
}

extension SharedIndexSettings {
    /// - Throws: ``PipelineError`` (`configuration`) if this build has no Redis.
    func makeIndex() throws(PipelineError) -> any SharedIndex {
        #if Redis
            return RedisIndex(self)
        #else
            throw PipelineError(
                .configuration,
                "this build has no Redis: build it with `swift build --traits Redis`, or remove [cache]"
            )
        #endif
    }
}
