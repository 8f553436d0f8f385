// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel

/// Topics; all on the control thread.
extension Controller {
    /// Why a name cannot be a topic's; nil where it can.
    static func nameProblem(_ name: String) -> String? {
        if name.isEmpty { return "the topic's name is empty" }
        if name == "." || name == ".." { return "the topic's name cannot be \(name)" }
        if name.utf8.count > 249 {
            return "the topic's name has \(name.utf8.count) characters; at most 249 are possible"
        }
        let isLegal = name.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45
                || byte == 46 || byte == 95
        }
        return isLegal ? nil : "the topic's name \(name) is illegal: use a-z, A-Z, 0-9, . _ and - only"
    }

    /// Makes a topic; on the control thread.
    func create(_ new: NewTopic, validateOnly: Bool, isInternal: Bool = false) -> Result<TopicImage, Refusal> {
        var random = SystemRandomNumberGenerator()
        let id = TopicID.random(using: &random)
        let change = ControllerChange.createTopic(new, id: id, isInternal: isInternal)
        do throws(Refusal) {
            if validateOnly {
                guard let topic = try preview(change).topic(id) else { throw Self.gone(new.name) }
                return .success(topic)
            }
            try perform(change)
            if let failure = takeFailure(of: id), metadata.image.brokers.count <= 1 {
                try perform(.deleteTopic(id: id))
                throw Refusal(code: failure.kafkaError, message: failure.message)
            }
            guard let topic = metadata.image.topic(id) else { throw Self.gone(new.name) }
            logger.info(
                "topic created",
                metadata: ["topic": "\(topic.name)", "id": "\(topic.id)", "partitions": "\(topic.partitions.count)"]
            )
            return .success(topic)
        } catch {
            return .failure(error)
        }
    }

    private static func gone(_ name: String) -> Refusal {
        Refusal(code: .unknownTopicOrPartition, message: "the topic \(name) was deleted at once")
    }

    /// Deletes a topic; on the control thread.
    func delete(_ topic: TopicImage) throws(Refusal) {
        guard configuration.deleteTopicsEnabled else {
            throw Refusal(code: .topicDeletionDisabled, message: "delete.topic.enable is false")
        }
        if topic.isInternal {
            throw Refusal(code: .invalidTopicException, message: "\(topic.name) is kept for the broker")
        }
        try perform(.deleteTopic(id: topic.id))
        logger.info("topic deleted", metadata: ["topic": "\(topic.name)", "id": "\(topic.id)"])
    }

    /// Raises the number of a topic's partitions; on the control thread.
    func grow(_ name: String, to count: Int32, assignments: [[Int32]]?, validateOnly: Bool) throws(Refusal) {
        let change = ControllerChange.addPartitions(topic: name, count: count, assignments: assignments)
        // What is wrong with the count comes first.
        _ = try preview(change)
        if let topic = metadata.image.topic(name), topic.isInternal {
            throw Refusal(code: .invalidTopicException, message: "\(name) is kept for the broker")
        }
        if let problem = policyProblem(name, partitions: Int(count)) {
            throw Refusal(code: .policyViolation, message: problem)
        }
        if validateOnly { return }
        try perform(change)
        if let topic = metadata.image.topic(name), let failure = takeFailure(of: topic.id),
            metadata.image.brokers.count <= 1
        {
            throw Refusal(code: failure.kafkaError, message: failure.message)
        }
    }

    /// Sets or (nil) removes overrides of a topic's settings; on the control thread.
    func configure(_ name: String, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        guard let topic = metadata.image.topic(name) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
        }
        var configs = topic.configs
        for (key, value) in changes { configs[key] = value }
        for key in changes.keys where TopicSettings.byName[key] == nil {
            let near = Spelling.nearest(to: key, among: TopicSettings.byName.keys).map { "; did you mean \($0)?" } ?? ""
            throw Refusal(code: .invalidConfig, message: "there is no topic setting \(key)\(near)")
        }
        if let problem = TopicSettings.problem(configs, defaults: configuration.topicDefaults) {
            throw Refusal(code: .invalidConfig, message: problem)
        }
        if validateOnly { return }
        try perform(.configure(.topic(name), changes))
    }

    /// Changes the settings of a group, which need not exist.
    func configure(group: String, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        if group.isEmpty { throw Refusal(code: .invalidRequest, message: "name the group") }
        for (key, value) in changes {
            guard let setting = GroupConfigSettings.byName[key] else {
                let near = Spelling.nearest(to: key, among: GroupConfigSettings.byName.keys)
                let hint = near.map { "; did you mean \($0)?" } ?? ""
                throw Refusal(code: .invalidConfig, message: "there is no group setting \(key)\(hint)")
            }
            if let value, let problem = setting.problem(configuration, value) {
                throw Refusal(code: .invalidConfig, message: "\(key)=\(value): \(problem)")
            }
        }
        if validateOnly { return }
        try perform(.configure(.group(group), changes))
    }

}
