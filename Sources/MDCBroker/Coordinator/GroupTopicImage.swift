// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The topics there are, as far as coordinators care: names, ids, partition counts.
struct GroupTopicImage: Equatable, Sendable {
    /// One topic.
    struct Topic: Equatable, Sendable {
        var name: String
        var id: TopicID
        var partitionCount: Int32
    }

    /// Grows with each change of any topic.
    var version: UInt64 = 0
    private(set) var byName: [String: Topic] = [:]
    private(set) var byID: [TopicID: Topic] = [:]
    /// Settings of groups that were set, by group and name.
    private(set) var groupConfigs: [String: [String: String]] = [:]

    init(version: UInt64 = 0, _ topics: [Topic] = [], groupConfigs: [String: [String: String]] = [:]) {
        self.version = version
        self.groupConfigs = groupConfigs
        for topic in topics {
            byName[topic.name] = topic
            byID[topic.id] = topic
        }
    }

    static func == (lhs: GroupTopicImage, rhs: GroupTopicImage) -> Bool { lhs.byName == rhs.byName }
}
