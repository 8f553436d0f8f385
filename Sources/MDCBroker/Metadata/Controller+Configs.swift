// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import Synchronization

/// Settings that are changed while the node runs; asked for on the control thread.
extension Controller {
    /// Sets or (nil) removes settings of a resource.
    func configure(_ resource: ConfigResource, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        switch resource {
        case .topic(let name): try configure(name, changes, validateOnly: validateOnly)
        case .broker(let id): try configureBroker(id, changes, validateOnly: validateOnly)
        case .group(let name): try configure(group: name, changes, validateOnly: validateOnly)
        }
    }

    /// The settings of a resource that were set.
    func overrides(of resource: ConfigResource) throws(Refusal) -> [String: String] {
        let image = metadata.image
        switch resource {
        case .topic(let name):
            guard let topic = image.topic(name) else {
                throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
            }
            return topic.configs
        case .broker(let id): return image.brokerConfigs[id] ?? [:]
        case .group(let name): return image.groupConfigs[name] ?? [:]
        }
    }

    private func merged(_ old: [String: String], _ changes: [String: String?]) -> [String: String] {
        var result = old
        for (key, value) in changes { result[key] = value }
        return result
    }

    // MARK: Brokers

    private func configureBroker(_ id: Int32?, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        for key in changes.keys.sorted() {
            guard let setting = BrokerSettings.byName[key] else {
                let near =
                    Spelling.nearest(to: key, among: BrokerSettings.byName.keys).map { "; did you mean \($0)?" } ?? ""
                throw Refusal(code: .invalidConfig, message: "there is no setting \(key)\(near)")
            }
            guard setting.isDynamic else {
                throw Refusal(
                    code: .invalidRequest,
                    message: "\(key) cannot be changed while the node runs; set it in its file and start it anew"
                )
            }
        }
        let image = metadata.image
        let node = live.started.nodeID
        var shared = image.brokerConfigs[nil] ?? [:]
        var own = image.brokerConfigs[node] ?? [:]
        if id == nil { shared = merged(shared, changes) } else { own = merged(own, changes) }
        let (_, problems) = live.resolved(shared: shared, own: own)
        if let problem = problems.first { throw Refusal(code: .invalidConfig, message: problem) }
        if validateOnly { return }
        try perform(.configure(.broker(id), changes))
    }

    /// Puts what the metadata say of this node's settings into force, before its topics are served.
    func restoreConfiguration() {
        let image = metadata.image
        let (configuration, problems) = live.resolved(
            shared: image.brokerConfigs[nil] ?? [:],
            own: image.brokerConfigs[live.started.nodeID] ?? [:]
        )
        for problem in problems {
            logger.warning("a setting that was made while the node ran is left out", metadata: ["reason": "\(problem)"])
        }
        // The file may have changed so that the whole makes no sense any more: then the file counts.
        live.put(configuration.problem == nil ? configuration : live.started)
    }

    /// Gives every topic the defaults of now.
    func putIntoForce(_ configuration: BrokerConfiguration) {
        quotas.update(metadata.image.quotas, window: quotaWindow)
        for topic in metadata.image.topics.values { putIntoForce(topic, configuration) }
    }

    /// Gives a topic's partitions here the settings of now.
    func putIntoForce(_ topic: TopicImage, _ configuration: BrokerConfiguration) {
        // What others lead has settings here too: each replica lets go of what is old by itself.
        if let replicas = replicas.withLock({ $0 }) { return replicas.configure(topic) }
        let settings = TopicSettings.settings(topic.configs, defaults: configuration.topicDefaults)
        let minInSync = topic.minInSync(onNode: configuration.minInSyncReplicas)
        for index in topic.partitions.indices {
            guard case .found(let partition) = registry.find(name: topic.name, partition: Int32(index)) else {
                continue
            }
            partition.minInSync = minInSync
            do throws(LogError) {
                try partition.log.update(settings: settings)
            } catch {
                logger.warning(
                    "a partition keeps its settings",
                    metadata: ["partition": "\(partition.topicPartition)", "reason": "\(error.message)"]
                )
            }
        }
    }

    // MARK: Policies

    /// Why the node's policies refuse a topic; nil where they allow it.
    func policyProblem(_ name: String, partitions: Int) -> String? {
        live.current.policyProblem(name, partitions: partitions)
    }
}
