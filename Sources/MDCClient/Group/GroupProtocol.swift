// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What a member says of itself when it joins: the metadata of one assignor in JoinGroup.
struct MemberSubscription: Sendable, Equatable {
    var topics: [String]
    /// What it holds now; told by cooperative members only.
    var owned: [TopicPartition] = []
    /// The generation in which it got them; -1 where it does not tell.
    var generation: Int32 = -1
}

/// The bytes inside JoinGroup and SyncGroup, as Kafka's consumers write them: a version, then the message.
enum GroupProtocol {
    /// Written in version 2, which carries owned partitions and their generation (KIP-429, KIP-792).
    static func encode(_ subscription: MemberSubscription, assignor: ConsumerConfiguration.Assignor) -> ByteBuffer {
        // Java's cooperative assignor also keeps the generation in its user data, for members of older versions.
        var userData: ByteBuffer?
        if assignor == .cooperativeSticky {
            userData = ByteBuffer()
            userData!.writeInteger(subscription.generation)
        }
        let message = ConsumerProtocolSubscription(
            topics: subscription.topics.sorted(),
            userData: userData,
            ownedPartitions: assignor == .cooperativeSticky
                ? byTopic(subscription.owned).map { .init(topic: $0.0, partitions: $0.1) } : [],
            generationId: assignor == .cooperativeSticky ? subscription.generation : -1
        )
        return versioned(message, 2)
    }

    /// Reads a subscription of any version and client.
    static func decodeSubscription(_ bytes: ByteBuffer) throws -> MemberSubscription {
        let message: ConsumerProtocolSubscription = try unversioned(bytes)
        var generation = message.generationId
        if generation < 0, let userData = message.userData, userData.readableBytes == 4 {
            generation = userData.getInteger(at: userData.readerIndex) ?? -1
        }
        return MemberSubscription(
            topics: message.topics,
            owned: message.ownedPartitions.flatMap { topic in
                topic.partitions.map { TopicPartition(topic: topic.topic, partition: PartitionID($0)) }
            },
            generation: generation
        )
    }

    static func encode(assignment: [TopicPartition]) -> ByteBuffer {
        versioned(
            ConsumerProtocolAssignment(
                assignedPartitions: byTopic(assignment).map { .init(topic: $0.0, partitions: $0.1) }
            ),
            1
        )
    }

    /// Reads an assignment; no bytes are an empty one.
    static func decodeAssignment(_ bytes: ByteBuffer) throws -> [TopicPartition] {
        if bytes.readableBytes == 0 { return [] }
        let message: ConsumerProtocolAssignment = try unversioned(bytes)
        return message.assignedPartitions.flatMap { topic in
            topic.partitions.map { TopicPartition(topic: topic.topic, partition: PartitionID($0)) }
        }
    }

    private static func byTopic(_ partitions: [TopicPartition]) -> [(String, [Int32])] {
        Dictionary(grouping: partitions) { $0.topic }.sorted { $0.key < $1.key }.map {
            ($0.key, $0.value.map(\.partition.rawValue).sorted())
        }
    }

    private static func versioned(_ message: some ProtocolMessage, _ version: Int16) -> ByteBuffer {
        var writer = MessageWriter()
        writer.integer(version)
        do {
            try message.write(to: &writer, version: version)
        } catch {
            preconditionFailure("a subscription or assignment that cannot be written: \(error)")
        }
        return writer.buffer
    }

    /// A newer version than ours is read as our newest: versions only add at the end.
    private static func unversioned<Message: ProtocolMessage>(_ bytes: ByteBuffer) throws -> Message {
        var bytes = bytes
        guard let version = bytes.readInteger(as: Int16.self), version >= 0 else {
            throw ClientError(.protocolViolation, "a group member's metadata has no version")
        }
        var reader = MessageReader(bytes)
        return try Message(from: &reader, version: min(version, Message.validVersions.upperBound))
    }
}
