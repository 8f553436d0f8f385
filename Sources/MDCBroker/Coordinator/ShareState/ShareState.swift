// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// Names what a share group has read of one partition.
struct SharePartitionKey: Hashable, Sendable, CustomStringConvertible {
    var groupID: String
    var topicID: TopicID
    var partition: Int32

    init(_ groupID: String, _ topicID: TopicID, _ partition: Int32) {
        self.groupID = groupID
        self.topicID = topicID
        self.partition = partition
    }

    /// As FindCoordinator names it.
    var description: String { "\(groupID):\(topicID):\(partition)" }

    /// Reads the form of FindCoordinator.
    init?(_ text: String) {
        // A group's id may have colons.
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count >= 3, let partition = Int32(parts[parts.count - 1]), partition >= 0,
            let topicID = TopicID(String(parts[parts.count - 2]))
        else { return nil }
        let groupID = parts[..<(parts.count - 2)].joined(separator: ":")
        guard !groupID.isEmpty else { return nil }
        self.init(groupID, topicID, partition)
    }
}

/// What was asked for, or the error that a client is told.
enum ShareOutcome<Value: Sendable>: Sendable {
    case success(Value)
    case failure(ErrorCode)
}

/// What became of a record, as far as it is stored. A record that a member has now is stored as it was before.
enum ShareDeliveryState: Int8, Sendable {
    case available = 0
    case acquired = 1
    case acknowledged = 2
    case archived = 4

    /// Whether it will never be delivered again.
    var isComplete: Bool { self == .acknowledged || self == .archived }
}

/// Neighbouring records in the same state.
struct ShareStateBatch: Equatable, Sendable {
    var first: Int64
    var last: Int64
    var state: ShareDeliveryState
    var deliveryCount: Int16
}

/// What a share group has read of one partition, as it is stored.
struct ShareState: Equatable, Sendable {
    /// Counts the snapshots.
    var snapshotEpoch: Int32 = 0
    /// Grows with each initialization: who writes with an older one is told.
    var stateEpoch: Int32 = 0
    var leaderEpoch: Int32 = -1
    /// The first record that is not done; −1 before it is known.
    var startOffset: Int64 = -1
    /// How many records after `startOffset` are done; −1 where nobody said.
    var deliveryCompleteCount: Int32 = -1
    var createTimestamp: Int64 = 0
    var writeTimestamp: Int64 = 0
    /// From `startOffset` on, ascending, without overlaps. What they leave out is available and was never delivered.
    var batches: [ShareStateBatch] = []

    /// What answers a question for a state that nobody made.
    static let absent = ShareState()

    /// Puts later batches over those that are there.
    mutating func merge(_ updates: [ShareStateBatch], startOffset start: Int64) {
        if start >= 0 { startOffset = start }
        if !updates.isEmpty { batches = Self.overlay(batches, updates) }
        guard startOffset >= 0 else { return }
        batches = batches.compactMap { batch in
            guard batch.last >= startOffset else { return nil }
            var batch = batch
            batch.first = max(batch.first, startOffset)
            return batch
        }
    }

    /// `updates` over `base`; both may be in any order, later updates win.
    static func overlay(_ base: [ShareStateBatch], _ updates: [ShareStateBatch]) -> [ShareStateBatch] {
        var result = base
        for update in updates where update.first <= update.last {
            // The common case: behind everything there is.
            if let last = result.last, update.first > last.last {
                append(update, &result)
                continue
            }
            var next: [ShareStateBatch] = []
            next.reserveCapacity(result.count + 2)
            var isPlaced = false
            for batch in result {
                if batch.last < update.first {
                    append(batch, &next)
                    continue
                }
                if batch.first < update.first {
                    var head = batch
                    head.last = update.first - 1
                    append(head, &next)
                }
                if !isPlaced {
                    append(update, &next)
                    isPlaced = true
                }
                if batch.last > update.last {
                    var tail = batch
                    tail.first = max(batch.first, update.last + 1)
                    append(tail, &next)
                }
            }
            if !isPlaced { append(update, &next) }
            result = next
        }
        return result
    }

    /// Appends a batch, joining it with its neighbour where they are alike.
    private static func append(_ batch: ShareStateBatch, _ list: inout [ShareStateBatch]) {
        if let last = list.last, last.last + 1 == batch.first, last.state == batch.state,
            last.deliveryCount == batch.deliveryCount
        {
            list[list.count - 1].last = batch.last
        } else {
            list.append(batch)
        }
    }
}

// MARK: Records

/// A record of `__share_group_state`, read.
enum ShareStateRecord: Equatable, Sendable {
    case snapshot(SharePartitionKey, ShareSnapshotValue?)
    case update(SharePartitionKey, ShareUpdateValue?)
    /// A kind that is newer than we are.
    case other(kind: Int16)

    /// Reads a record. Throws where the bytes do not fit the layout that they claim.
    init(_ record: CoordinatorRecord) throws(ProtocolError) {
        var key = record.key
        let kind = try Self.version(&key, "key")
        var value = record.value
        var version: Int16 = 0
        if var bytes = value {
            version = try Self.version(&bytes, "value")
            value = bytes
        }
        switch kind {
        case 0:
            let read = try ShareSnapshotKey(reading: &key, version: 0)
            self = .snapshot(
                SharePartitionKey(read.groupId, read.topicId, read.partition),
                try Self.read(&value, version)
            )
        case 1:
            let read = try ShareUpdateKey(reading: &key, version: 1)
            self = .update(
                SharePartitionKey(read.groupId, read.topicId, read.partition),
                try Self.read(&value, version)
            )
        default: self = .other(kind: kind)
        }
    }

    private static func version(_ buffer: inout ByteBuffer, _ what: String) throws(ProtocolError) -> Int16 {
        guard let version = buffer.readInteger(as: Int16.self) else {
            throw ProtocolError(
                .truncated,
                field: "__share_group_state \(what)",
                detail: "shorter than the two bytes of its version"
            )
        }
        return version
    }

    private static func read<Value: ProtocolMessage>(
        _ buffer: inout ByteBuffer?,
        _ version: Int16
    ) throws(ProtocolError) -> Value? {
        guard var bytes = buffer else { return nil }
        return try Value(reading: &bytes, version: version)
    }
}

extension CoordinatorRecord {
    /// The whole state of a share partition, or its removal.
    static func shareSnapshot(_ key: SharePartitionKey, _ state: ShareState?) -> CoordinatorRecord {
        CoordinatorRecord(
            0,
            ShareSnapshotKey(groupId: key.groupID, topicId: key.topicID, partition: key.partition),
            0,
            state.map { state in
                ShareSnapshotValue(
                    snapshotEpoch: state.snapshotEpoch,
                    stateEpoch: state.stateEpoch,
                    leaderEpoch: state.leaderEpoch,
                    startOffset: state.startOffset,
                    deliveryCompleteCount: state.deliveryCompleteCount,
                    createTimestamp: state.createTimestamp,
                    writeTimestamp: state.writeTimestamp,
                    stateBatches: state.batches.map {
                        .init(
                            firstOffset: $0.first,
                            lastOffset: $0.last,
                            deliveryState: $0.state.rawValue,
                            deliveryCount: $0.deliveryCount
                        )
                    }
                )
            }
        )
    }

    /// What changed in the state of a share partition since its snapshot, or the removal of such a change.
    static func shareUpdate(_ key: SharePartitionKey, _ value: ShareUpdateValue?) -> CoordinatorRecord {
        CoordinatorRecord(
            1,
            ShareUpdateKey(groupId: key.groupID, topicId: key.topicID, partition: key.partition),
            0,
            value
        )
    }
}
