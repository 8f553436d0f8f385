// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel
    import MDCRaft
    import NIOCore

    @testable import MDCBroker

    /// What must hold, whatever happens. Everything that nodes have told anybody is noted here, and compared with what they do
    /// and have later.
    struct ClusterChecker {
        /// A record as it was acknowledged.
        struct Acknowledged {
            var value: String
            var leaderEpoch: Int32
        }

        private struct Place: Hashable {
            var offset: Int64
            var epoch: Int32
        }

        private struct Written {
            var checksum: UInt32
            var node: Int32
        }

        private struct Run: Equatable {
            var node: Int32
            var run: UInt64
        }

        private final class History {
            /// Every batch that was ever seen on a replica, by first offset and leader epoch.
            var written: [Place: Written] = [:]
            var acknowledged: [Int64: Acknowledged] = [:]
            /// What a consumer got.
            var read: [Int64: String] = [:]
            var leaders: [Int32: Run] = [:]
            /// The newest epoch in which a node began to lead.
            var newestEpoch: Int32 = -1
            /// Where each value was acknowledged.
            var places: [String: Int64] = [:]
            /// Where the log may begin, by what clients have asked for, and must, by what was answered.
            var mayStart: Int64 = 0
            var mustStart: Int64 = 0
            /// The furthest ends that clients were told.
            var end: Int64 = 0
            var stable: Int64 = 0
        }

        private struct Key: Hashable {
            var topic: TopicID
            var partition: Int32
        }

        private var histories: [Key: History] = [:]
        /// The topic that each value was sent to: one that has its name is another one.
        private var topics: [String: TopicID] = [:]
        /// What the quorum has committed, by index.
        private var committed: [RaftIndex: (epoch: RaftEpoch, payload: RaftEntry.Payload)] = [:]
        private var committedEnd: RaftIndex = 0
        private var metadataLeaders: [RaftEpoch: Int32] = [:]
        /// How far each run of a node has been compared.
        private var compared: [Int32: (run: UInt64, index: RaftIndex)] = [:]
        private var epochs: [Int32: [Key: (leader: Int32, partition: Int32)]] = [:]
        private var lastRun: [Int32: UInt64] = [:]
        var ledger = ClusterLedger()
        private(set) var acknowledgedCount = 0
        private(set) var readCount = 0
        var metadataCount: Int { Int(committedEnd) }

        private mutating func history(_ key: Key) -> History {
            if let known = histories[key] { return known }
            let new = History()
            histories[key] = new
            return new
        }

        // MARK: Metadata

        /// Each node's committed metadata log is a prefix of one log; epochs of partitions never go back.
        mutating func checkMetadata(_ node: ClusterNode) throws(Wrong) {
            guard let services = node.services else { return }
            let status = services.quorum.node.status
            if status.softState.role == .leader {
                if let other = metadataLeaders[status.softState.epoch], other != node.id {
                    throw Wrong("nodes \(other) and \(node.id) both lead the quorum in epoch \(status.softState.epoch)")
                }
                metadataLeaders[status.softState.epoch] = node.id
            }
            let log = services.quorumLog
            let known = compared[node.id].flatMap { $0.run == node.run ? $0.index : nil } ?? 0
            let first = max(known + 1, log.firstIndex)
            // What is committed and not applied need not be on its disk yet.
            let end = min(status.applied, log.lastIndex)
            if first <= end {
                for entry in log.entries(in: first..<end + 1, maxBytes: .max) {
                    if let before = committed[entry.index] {
                        guard before.epoch == entry.epoch, before.payload == entry.payload else {
                            throw Wrong(
                                "node \(node.id) has committed another entry \(entry.index) of the metadata, of epoch "
                                    + "\(entry.epoch), before it was one of epoch \(before.epoch)"
                            )
                        }
                    } else {
                        committed[entry.index] = (entry.epoch, entry.payload)
                        committedEnd = max(committedEnd, entry.index)
                    }
                }
            }
            compared[node.id] = (node.run, max(known, end))
            try checkEpochs(node, services.store.image)
        }

        private mutating func checkEpochs(_ node: ClusterNode, _ image: MetadataImage) throws(Wrong) {
            // A restart begins with a snapshot, from where the log is applied anew.
            if lastRun[node.id] != node.run { epochs[node.id] = [:] }
            lastRun[node.id] = node.run
            for topic in image.topics.values {
                for (index, partition) in topic.partitions.enumerated() {
                    let key = Key(topic: topic.id, partition: Int32(index))
                    let now = (leader: partition.leaderEpoch, partition: partition.partitionEpoch)
                    if let before = epochs[node.id]?[key],
                        now.leader < before.leader || now.partition < before.partition
                    {
                        throw Wrong(
                            "the epochs of \(topic.name)-\(index) go back on node \(node.id), from \(before.leader) and "
                                + "\(before.partition) to \(now.leader) and \(now.partition)"
                        )
                    }
                    epochs[node.id, default: [:]][key] = now
                    guard partition.leader < 0 || partition.replicas.contains(partition.leader) else {
                        throw Wrong("\(topic.name)-\(index) is led by node \(partition.leader), which has no replica")
                    }
                }
            }
        }

        // MARK: Records

        /// A producer sends values.
        mutating func sent(_ values: [String], to topic: TopicID) throws(Wrong) {
            for value in values {
                if let other = topics[value], other != topic { throw Wrong("'\(value)' is sent to two topics") }
                topics[value] = topic
            }
        }

        private func checkTopic(_ value: String, _ topic: TopicID, _ what: @autoclosure () -> String) throws(Wrong) {
            guard let sent = topics[value], sent != topic else { return }
            throw Wrong("\(what()) has '\(value)', which was written to a topic of its name that was deleted")
        }

        /// A client asks for the records before `offset` to be deleted.
        mutating func deletes(_ topic: TopicID, _ partition: Int32, before offset: Int64) {
            let key = Key(topic: topic, partition: partition)
            history(key).mayStart = max(mayStart(topic, partition), offset)
        }

        /// It was told that they are.
        mutating func deleted(_ topic: TopicID, _ partition: Int32, before offset: Int64) {
            let key = Key(topic: topic, partition: partition)
            history(key).mustStart = max(history(key).mustStart, offset)
        }

        /// Up to where a partition may begin.
        func mayStart(_ topic: TopicID, _ partition: Int32) -> Int64 {
            histories[Key(topic: topic, partition: partition)]?.mayStart ?? 0
        }

        /// A client is told where a partition begins and ends.
        mutating func told(_ ends: ClusterEnds, _ topic: TopicID, _ partition: Int32, by node: ClusterNode)
            throws(Wrong)
        {
            let history = history(Key(topic: topic, partition: partition))
            // A leader of the past may tell of the past.
            guard ends.leaderEpoch >= history.newestEpoch else { return }
            let who = "node \(node.id), which leads partition \(partition) in epoch \(ends.leaderEpoch),"
            guard ends.start >= history.mustStart else {
                throw Wrong("\(who) begins at \(ends.start); records before \(history.mustStart) were deleted")
            }
            guard ends.start <= history.mayStart else {
                throw Wrong("\(who) begins at \(ends.start); only records before \(history.mayStart) may be deleted")
            }
            if let end = ends.end, let stable = ends.stable {
                guard end >= history.end else {
                    throw Wrong("\(who) tells the end \(end), it was \(history.end) before")
                }
                guard stable >= history.stable else {
                    throw Wrong("\(who) tells the stable end \(stable), it was \(history.stable) before")
                }
                (history.end, history.stable) = (end, stable)
            }
        }

        /// A node acknowledges a batch.
        mutating func acknowledged(
            _ node: ClusterNode,
            _ topic: TopicID,
            _ partition: Int32,
            offset: Int64,
            values: [String],
            leaderEpoch: Int32
        ) throws(Wrong) {
            let history = history(Key(topic: topic, partition: partition))
            let run = Run(node: node.id, run: node.run)
            if let other = history.leaders[leaderEpoch], other != run {
                throw Wrong(
                    "node \(other.node) (run \(other.run)) and node \(run.node) (run \(run.run)) both acknowledge in epoch "
                        + "\(leaderEpoch) of partition \(partition)"
                )
            }
            history.leaders[leaderEpoch] = run
            for (index, value) in values.enumerated() {
                let place = offset + Int64(index)
                if let before = history.acknowledged[place], before.value != value {
                    throw Wrong(
                        "'\(before.value)' and '\(value)' were both acknowledged at offset \(place) of partition \(partition)"
                    )
                }
                if let other = history.places[value], other != place {
                    throw Wrong(
                        "'\(value)' was acknowledged at offsets \(other) and \(place) of partition \(partition)"
                    )
                }
                history.places[value] = place
                if history.acknowledged[place] == nil { acknowledgedCount += 1 }
                history.acknowledged[place] = Acknowledged(value: value, leaderEpoch: leaderEpoch)
            }
        }

        /// A consumer has read a record.
        mutating func read(_ topic: TopicID, _ partition: Int32, offset: Int64, value: String) throws(Wrong) {
            let key = Key(topic: topic, partition: partition)
            readCount += 1
            try checkTopic(value, topic, "a consumer of partition \(partition)")
            if let before = histories[key]?.read[offset] {
                guard before == value else {
                    throw Wrong(
                        "a consumer reads '\(value)' at offset \(offset) of partition \(partition), before it was '\(before)'"
                    )
                }
                return
            }
            history(key).read[offset] = value
        }

        /// Looks at what a replica has from `offset` on: no two batches were ever at one offset in one epoch.
        mutating func checkLog(_ node: ClusterNode, _ log: PartitionLog, _ partition: Int32) throws(Wrong) {
            let key = Key(topic: log.topicID, partition: partition)
            for batch in try Self.batches(log, from: max(log.logStartOffset, log.highWatermark)) {
                let place = Place(
                    offset: batch.header.baseOffset.rawValue,
                    epoch: batch.header.partitionLeaderEpoch.rawValue
                )
                if let before = histories[key]?.written[place] {
                    guard before.checksum == batch.header.crc else {
                        throw Wrong(
                            "at offset \(place.offset) of partition \(partition), in epoch \(place.epoch), nodes "
                                + "\(before.node) and \(node.id) have different batches"
                        )
                    }
                } else {
                    history(key).written[place] = Written(
                        checksum: batch.header.crc,
                        node: node.id
                    )
                }
            }
        }

        /// A node begins to lead: whatever was acknowledged it must have.
        mutating func checkLeader(_ node: ClusterNode, _ log: PartitionLog, _ partition: Int32, _ epoch: Int32)
            throws(Wrong)
        {
            let key = Key(topic: log.topicID, partition: partition)
            let newest = histories[key]?.newestEpoch ?? -1
            history(key).newestEpoch = max(newest, epoch)
            // An old leadership, heard of late, makes no leader of anything.
            guard epoch >= newest else { return }
            try checkHas(node, log, partition, "which leads in epoch \(epoch),")
        }

        func checkHas(_ node: ClusterNode, _ log: PartitionLog, _ partition: Int32, _ what: String) throws(Wrong) {
            guard let history = histories[Key(topic: log.topicID, partition: partition)], !history.acknowledged.isEmpty
            else { return }
            let values = try Self.values(log)
            let start = log.logStartOffset.rawValue
            guard start <= history.mayStart else {
                throw Wrong(
                    "node \(node.id), \(what) begins at \(start) of partition \(partition), without being asked to"
                )
            }
            for (offset, record) in history.acknowledged.sorted(by: { $0.key < $1.key })
            where offset >= start {
                guard values[offset]?.value == record.value else {
                    throw Wrong(
                        "node \(node.id), \(what) has \(values[offset].map { "'\($0.value)'" } ?? "nothing") at offset \(offset) "
                            + "of partition \(partition), where '\(record.value)' was acknowledged in epoch "
                            + "\(record.leaderEpoch)"
                    )
                }
            }
        }

        /// At the end: replicas are equal, everything acknowledged is there once, and producers' records are in their order.
        func checkReplicas(_ replicas: [(ClusterNode, PartitionLog)], _ partition: Int32) throws(Wrong) {
            guard let (first, log) = replicas.first else { return }
            let start = replicas.map { $0.1.logStartOffset }.max() ?? log.logStartOffset
            let expected = try Self.batches(log, from: start)
            for (node, other) in replicas.dropFirst() {
                let found = try Self.batches(other, from: start)
                guard found.map(\.bytes) == expected.map(\.bytes) else {
                    throw Wrong(
                        "after healing nodes \(first.id) and \(node.id) differ in partition \(partition): "
                            + "\(expected.count) and \(found.count) batches"
                    )
                }
            }
            try checkHas(first, log, partition, "after healing,")
            var seen: [String: Int64] = [:]
            var last: [Substring: Int] = [:]
            for (offset, record) in try Self.values(log).sorted(by: { $0.key < $1.key }) {
                try checkTopic(record.value, log.topicID, "partition \(partition)")
                if let before = seen[record.value] {
                    throw Wrong("'\(record.value)' is in partition \(partition) at offsets \(before) and \(offset)")
                }
                seen[record.value] = offset
                let parts = record.value.split(separator: "-")
                guard parts.count == 2, let number = Int(parts[1]) else { continue }
                if let before = last[parts[0]], before > number {
                    throw Wrong(
                        "'\(record.value)' comes after number \(before) of its producer in partition \(partition)"
                    )
                }
                last[parts[0]] = number
            }
            let history = histories[Key(topic: log.topicID, partition: partition)] ?? History()
            let values = try Self.values(log)
            for (offset, value) in history.read
            where offset >= log.logStartOffset.rawValue && values[offset]?.value != value {
                throw Wrong(
                    "a consumer has read '\(value)' at offset \(offset) of partition \(partition), which is not there"
                )
            }
        }

        // MARK: Reading

        static func batches(_ log: PartitionLog, from start: Offset) throws(Wrong) -> [RecordBatchSlice] {
            var batches: [RecordBatchSlice] = []
            var offset = start
            do {
                while offset < log.logEndOffset {
                    let read = try log.read(from: offset, maxBytes: 1 << 20, minOneBatch: true, upTo: log.logEndOffset)
                    guard !read.slices.isEmpty else { break }
                    var bytes = ByteBuffer()
                    try read.copy(into: &bytes)
                    var iterator = RecordBatchIterator(bytes)
                    while let batch = try iterator.next() { batches.append(batch) }
                    offset = read.nextOffset
                }
            } catch {
                throw Wrong("\(log.topicPartition) cannot be read from offset \(offset): \(error)")
            }
            return batches
        }

        static func values(_ log: PartitionLog) throws(Wrong) -> [Int64: (value: String, epoch: Int32)] {
            var values: [Int64: (value: String, epoch: Int32)] = [:]
            for batch in try batches(log, from: log.logStartOffset) where !batch.header.attributes.isControl {
                for (offset, value) in try records(batch) {
                    values[offset] = (value, batch.header.partitionLeaderEpoch.rawValue)
                }
            }
            return values
        }

        static func records(_ batch: RecordBatchSlice) throws(Wrong) -> [(Int64, String)] {
            do {
                return try batch.reader().records().map {
                    ($0.offset.rawValue, $0.value.map { String(buffer: $0) } ?? "")
                }
            } catch {
                throw Wrong("a batch at offset \(batch.header.baseOffset) cannot be read: \(error)")
            }
        }
    }
#endif
