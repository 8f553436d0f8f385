// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// The node's settings in force: those it was started with, under those that were set while it ran. What is set for all nodes
/// is outweighed by what is set for this one.
final class LiveConfiguration: Sendable {
    /// What file and options said.
    let started: BrokerConfiguration
    private let state: Mutex<BrokerConfiguration>
    private let observers = Mutex<[@Sendable (BrokerConfiguration) -> Void]>([])
    // Read by every fetch.
    private let fetchMax: Atomic<Int>
    private let copyMax: Atomic<Int>

    init(_ started: BrokerConfiguration) {
        self.started = started
        state = Mutex(started)
        fetchMax = Atomic(started.fetchMaxBytes)
        copyMax = Atomic(started.fetchCopyMaxBytes)
    }

    /// The settings now. A copy: for the hot path there are single ones.
    var current: BrokerConfiguration { state.withLock { $0 } }
    var fetchMaxBytes: Int { fetchMax.load(ordering: .relaxed) }
    var fetchCopyMaxBytes: Int { copyMax.load(ordering: .relaxed) }

    /// Calls `observer` with the settings now and after each change, on the thread that makes it.
    func observe(_ observer: @escaping @Sendable (BrokerConfiguration) -> Void) {
        observers.withLock { $0.append(observer) }
        observer(current)
    }

    /// Puts settings into force.
    func put(_ configuration: BrokerConfiguration) {
        state.withLock { $0 = configuration }
        fetchMax.store(configuration.fetchMaxBytes, ordering: .relaxed)
        copyMax.store(configuration.fetchCopyMaxBytes, ordering: .relaxed)
        for observer in observers.withLock({ $0 }) { observer(configuration) }
    }

    /// The settings that result from overrides, and what is wrong with overrides that cannot be used (they are left out).
    func resolved(shared: [String: String], own: [String: String]) -> (BrokerConfiguration, problems: [String]) {
        var result = started
        var problems: [String] = []
        for overrides in [shared, own] {
            for (name, value) in overrides.sorted(by: { $0.key < $1.key }) {
                guard let setting = BrokerSettings.byName[name], setting.isDynamic else {
                    problems.append("\(name) cannot be set while the node runs")
                    continue
                }
                if let problem = setting.apply(&result, value) { problems.append("\(name)=\(value): \(problem)") }
            }
        }
        if let problem = result.problem { problems.append(problem) }
        return (result, problems)
    }
}

extension BrokerSetting {
    /// Settings that take effect at once when they are changed while the node runs.
    private static let dynamicNames: Set<String> = [
        "auto.create.topics.enable", "connections.max.idle.ms", "default.replication.factor", "delete.topic.enable",
        "fetch.copy.max.bytes", "fetch.max.bytes", "follower.replication.throttled.rate",
        "group.consumer.heartbeat.interval.ms", "group.consumer.max.size",
        "group.consumer.session.timeout.ms", "group.initial.rebalance.delay.ms", "group.max.session.timeout.ms",
        "group.max.size", "group.min.session.timeout.ms", "leader.replication.throttled.rate", "max.connections",
        "max.connections.per.ip",
        "metrics.partitions.enable", "min.insync.replicas", "num.partitions", "offset.metadata.max.bytes",
        "offsets.retention.check.interval.ms", "offsets.retention.minutes", "quota.window.size.seconds",
        "shutdown.timeout.ms", "topic.policy.max.partitions", "topic.policy.name.pattern",
    ]

    /// Whether the setting can be changed while the node runs.
    public var isDynamic: Bool { Self.dynamicNames.contains(name) || BrokerSettings.topicDefaults.contains(name) }
}
