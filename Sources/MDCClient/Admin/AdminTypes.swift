// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// A topic to create.
public struct NewTopic: Sendable, Hashable {
    /// The name.
    public var name: String
    /// Number of partitions; nil for the broker's default.
    public var partitions: Int32?
    /// Replicas of each partition; nil for the broker's default.
    public var replicationFactor: Int16?
    /// Settings by Kafka's names, such as `retention.ms`.
    public var configuration: [String: String]

    /// Makes a description.
    public init(
        _ name: String,
        partitions: Int32? = nil,
        replicationFactor: Int16? = nil,
        configuration: [String: String] = [:]
    ) {
        self.name = name
        self.partitions = partitions
        self.replicationFactor = replicationFactor
        self.configuration = configuration
    }
}

/// A broker of the cluster.
public struct BrokerDescription: Sendable, Hashable {
    /// Its id.
    public let id: BrokerID
    /// Where clients reach it.
    public let host: String
    /// Where clients reach it.
    public let port: Int
    /// Its rack, where it has one.
    public let rack: String?
}

/// The cluster.
public struct ClusterDescription: Sendable, Hashable {
    /// Its id; nil where the broker does not tell.
    public let clusterID: String?
    /// The controller; nil where there is none now.
    public let controllerID: BrokerID?
    /// The brokers, by id.
    public let brokers: [BrokerDescription]
}

/// A topic.
public struct TopicDescription: Sendable, Hashable {
    /// One partition.
    public struct Partition: Sendable, Hashable {
        /// Its number.
        public let id: PartitionID
        /// Its leader; nil where there is none now.
        public let leader: BrokerID?
        /// The leader's epoch; -1 where the broker does not tell.
        public let leaderEpoch: LeaderEpoch
        /// The brokers that have a copy.
        public let replicas: [BrokerID]
        /// Those whose copy is up to date.
        public let inSyncReplicas: [BrokerID]
    }

    /// The name.
    public let name: String
    /// The id; all zeros where the broker does not tell.
    public let id: TopicID
    /// Whether it belongs to the broker itself, such as `__consumer_offsets`.
    public let isInternal: Bool
    /// The partitions, by number.
    public let partitions: [Partition]
}

/// What a configuration belongs to.
public struct ConfigResource: Sendable, Hashable {
    /// The kind of resource.
    public enum Kind: Int8, Sendable {
        /// A topic.
        case topic = 2
        /// A broker, by its id; the empty name stands for all brokers.
        case broker = 4
        /// The loggers of a broker.
        case brokerLogger = 8
        /// A group.
        case group = 32
    }

    /// The kind.
    public var kind: Kind
    /// The name.
    public var name: String

    /// Names a resource.
    public init(_ kind: Kind, _ name: String) {
        self.kind = kind
        self.name = name
    }

    /// A topic.
    public static func topic(_ name: String) -> ConfigResource { ConfigResource(.topic, name) }
}

/// One setting of a resource.
public struct ConfigEntry: Sendable, Hashable {
    /// Its name.
    public let name: String
    /// Its value; nil where it has none or is secret.
    public let value: String?
    /// Whether it was set for this resource, and is not a default.
    public let isOverridden: Bool
    /// Whether it cannot be changed.
    public let isReadOnly: Bool
    /// Whether its value is kept secret.
    public let isSensitive: Bool
}

/// A change of one setting.
public enum ConfigChange: Sendable, Hashable {
    /// Sets a value.
    case set(String)
    /// Goes back to the default.
    case delete
    /// Adds to a list.
    case append(String)
    /// Takes from a list.
    case subtract(String)
}

/// A group in a listing.
public struct GroupListing: Sendable, Hashable {
    /// Its id.
    public let id: String
    /// `consumer` for groups of consumers.
    public let protocolType: String
    /// Its state, such as `Stable` or `Empty`; empty where the broker does not tell.
    public let state: String
    /// Its protocol: `classic`, `consumer` (KIP-848) or `share`; empty where the broker does not tell.
    public let type: String
}

/// A group.
public struct GroupDescription: Sendable, Hashable {
    /// One member.
    public struct Member: Sendable, Hashable {
        /// Its id.
        public let id: String
        /// Its fixed name, where it has one.
        public let instanceID: String?
        /// The client id of its connection.
        public let clientID: String
        /// Where it connects from.
        public let clientHost: String
        /// Its partitions.
        public let assignment: [TopicPartition]
        /// Its epoch; nil in a classic group.
        public let epoch: Int32?
        /// The partitions it is to have when the group has settled; nil in a classic group.
        public let target: [TopicPartition]?
    }

    /// Its id.
    public let id: String
    /// Its protocol: `classic` or `consumer` (KIP-848).
    public let type: String
    /// Its epoch; nil in a classic group.
    public let epoch: Int32?
    /// Its state: `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`; in a group of the new protocol
    /// also `Assigning` and `Reconciling`.
    public let state: String
    /// `consumer` for groups of consumers.
    public let protocolType: String
    /// The assignor in use.
    public let assignor: String
    /// The members.
    public let members: [Member]
}

/// A range of versions of one request.
public struct APIVersionRange: Sendable, Hashable {
    /// The number of the request.
    public let apiKey: Int16
    /// The range that the broker serves.
    public let versions: ClosedRange<Int16>
}
