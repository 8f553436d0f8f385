// SPDX-License-Identifier: Apache-2.0

import Metrics

/// The producer's metrics; handles are made once.
struct ProducerMetrics: Sendable {
    private let requests: Counter
    private let records: Counter
    private let bytes: Counter
    private let failures: Counter
    private let repetitions: Counter

    init(clientID: String) {
        let dimensions = [("client_id", clientID)]
        requests = Counter(label: "mdc_client_produce_requests_total", dimensions: dimensions)
        records = Counter(label: "mdc_client_produced_records_total", dimensions: dimensions)
        bytes = Counter(label: "mdc_client_produced_bytes_total", dimensions: dimensions)
        failures = Counter(label: "mdc_client_failed_records_total", dimensions: dimensions)
        repetitions = Counter(label: "mdc_client_repeated_batches_total", dimensions: dimensions)
    }

    func sent(requests count: Int) { requests.increment(by: count) }
    func acknowledged(records count: Int, bytes size: Int) {
        records.increment(by: count)
        bytes.increment(by: size)
    }
    func failed(records count: Int) { failures.increment(by: count) }
    func repeated() { repetitions.increment() }
}

/// The consumer's metrics; handles are made once.
struct ConsumerMetrics: Sendable {
    private let fetches: Counter
    private let fetchedBytes: Counter
    private let records: Counter
    private let rebalances: Counter
    private let commits: Counter

    init(clientID: String, groupID: String?) {
        let dimensions = [("client_id", clientID), ("group", groupID ?? "")]
        fetches = Counter(label: "mdc_client_fetch_requests_total", dimensions: dimensions)
        fetchedBytes = Counter(label: "mdc_client_fetched_bytes_total", dimensions: dimensions)
        records = Counter(label: "mdc_client_consumed_records_total", dimensions: dimensions)
        rebalances = Counter(label: "mdc_client_rebalances_total", dimensions: dimensions)
        commits = Counter(label: "mdc_client_commits_total", dimensions: dimensions)
    }

    func fetched(bytes count: Int) {
        fetches.increment()
        fetchedBytes.increment(by: count)
    }
    func consumed(records count: Int) { records.increment(by: count) }
    func rebalanced() { rebalances.increment() }
    func committed() { commits.increment() }
}
