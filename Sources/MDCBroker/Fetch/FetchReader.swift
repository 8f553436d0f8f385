// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOCore

/// What a fetch asks for, apart from its partitions.
struct FetchParameters: Sendable {
    var maxBytes: Int
    var minBytes: Int
    var readCommitted: Bool
    /// Records of an answer up to this sum are copied at once; the others go from the file to the socket.
    var copyMaxBytes: Int
    /// The follower that asks; nil for a consumer.
    var replica: FetchingReplica?
    /// Holds back what is sent to followers that are not in sync.
    var throttle: ReplicationThrottle?
    /// Whether followers may answer too: consumers that name their rack know what that means (KIP-392).
    var mayReadFollowers = false
    /// Where else the consumer had better read a partition that is led here, from an offset; nil where it named no rack.
    var preferredReplica: (@Sendable (Partition, Int64) -> Int32?)?

    /// End of what may be read: for a follower all that is written, for a consumer what is committed.
    func readableEnd(_ partition: Partition) -> Offset {
        replica == nil ? partition.readableEnd(readCommitted: readCommitted) : partition.log.logEndOffset
    }
}

/// A follower that fetches, with the epoch of its broker's run; -1 where it does not say.
struct FetchingReplica: Equatable, Sendable {
    var node: Int32
    var brokerEpoch: Int64
}

/// What was found in one partition.
struct FetchFinding: Sendable {
    enum Records: Sendable {
        case none
        case copied(ByteBuffer)
        case files(LogRead)

        var length: Int {
            switch self {
            case .none: 0
            case .copied(let buffer): buffer.readableBytes
            case .files(let read): read.sizeInBytes
            }
        }
    }

    var target: FetchTarget
    var partition: Partition?
    var data: FetchResponse.PartitionData
    var records = Records.none
    /// End of what could be read when we looked.
    var readableEnd: Offset = -1

    /// Whether a follower asked.
    var isForFollower = false
    var isError: Bool { data.errorCode != 0 }
    var isForced: Bool {
        data.divergingEpoch.epoch != -1 || data.divergingEpoch.endOffset != -1 || data.preferredReadReplica != -1
    }
    var answer: FetchAnswer {
        FetchAnswer(
            hasRecords: records.length > 0,
            isError: isError,
            highWatermark: data.highWatermark,
            logStart: data.logStartOffset,
            isForced: isForced
        )
    }
}

/// Reads the partitions of a fetch once.
struct FetchReader: Sendable {
    let registry: PartitionRegistry
    let parameters: FetchParameters

    /// What was found in all partitions.
    struct Outcome: Sendable {
        var findings: [FetchFinding]
        var bytes = 0
        /// Whether the answer cannot wait: an error, or a diverging epoch.
        var isUrgent = false

        /// Puts errors in the place of what was found.
        mutating func refuse(_ refused: [FetchKey: ErrorCode]) {
            for index in findings.indices {
                guard let code = refused[findings[index].target.key] else { continue }
                findings[index].records = .none
                findings[index].data = FetchResponse.PartitionData(
                    partitionIndex: findings[index].target.index,
                    errorCode: code.rawValue,
                    highWatermark: -1,
                    lastStableOffset: -1,
                    logStartOffset: -1
                )
            }
            isUrgent = true
        }
    }

    /// Reads each partition once.
    ///
    /// - Parameters:
    ///   - worker: Of the loop that this runs on; tells how much may be copied.
    ///   - copies: False for a look that may find too little.
    func read(_ targets: [FetchTarget], on worker: LoopWorker, copies: Bool = true) -> Outcome {
        read(targets, copyMaxBytes: copies ? worker.copyAllowance(parameters.copyMaxBytes) : 0)
    }

    /// Reads each partition once, and copies up to so many bytes of records.
    func read(_ targets: [FetchTarget], copyMaxBytes: Int) -> Outcome {
        var outcome = Outcome(findings: [])
        outcome.findings.reserveCapacity(targets.count)
        var copied = 0
        for target in targets {
            let finding = read(
                target,
                bytesLeft: parameters.maxBytes - outcome.bytes,
                copyLeft: copyMaxBytes - copied,
                isFirst: outcome.bytes == 0
            )
            outcome.bytes += finding.records.length
            if case .copied(let buffer) = finding.records { copied += buffer.readableBytes }
            if finding.isError || finding.isForced { outcome.isUrgent = true }
            outcome.findings.append(finding)
        }
        return outcome
    }

    /// Notes how far a follower is in all the partitions that it asks for; returns those whose answer must be an error.
    func noteProgress(_ targets: [FetchTarget]) -> [FetchKey: ErrorCode] {
        guard let replica = parameters.replica else { return [:] }
        var refused: [FetchKey: ErrorCode] = [:]
        for target in targets {
            guard case (let partition?, _) = find(target), target.currentLeaderEpoch == partition.leaderEpoch.rawValue
            else { continue }
            let log = partition.log
            let offset = Offset(target.fetchOffset)
            if target.lastFetchedEpoch >= 0, isDiverging(target, log) != nil { continue }
            guard offset >= log.logStartOffset, offset <= log.logEndOffset else { continue }
            do throws(LeaderReplica.Refusal) {
                try partition.fetched(
                    by: replica.node,
                    brokerEpoch: replica.brokerEpoch,
                    from: offset,
                    logStart: Offset(target.logStartOffset)
                )
            } catch {
                refused[target.key] = error == .staleBrokerEpoch ? .staleBrokerEpoch : .notLeaderOrFollower
            }
        }
        return refused
    }

    private func find(_ target: FetchTarget) -> (Partition?, ErrorCode) {
        if let known = target.partition, !known.isDeleted { return (known, .none) }
        let byID = target.topic.isByID
        let lookup =
            byID
            ? registry.find(id: target.topic.id, partition: target.index)
            : registry.find(name: target.topic.name, partition: target.index)
        switch lookup {
        case .found(let partition): return (partition, .none)
        case .noSuchTopic: return (nil, byID ? .unknownTopicId : .unknownTopicOrPartition)
        case .noSuchPartition: return (nil, .unknownTopicOrPartition)
        case .notLeader:
            let follower =
                parameters.mayReadFollowers
                ? registry.followed(name: byID ? nil : target.topic.name, id: target.topic.id, target.index) : nil
            return (follower, .notLeaderOrFollower)
        case .offline: return (nil, .kafkaStorageError)
        }
    }

    private func read(_ target: FetchTarget, bytesLeft: Int, copyLeft: Int, isFirst: Bool) -> FetchFinding {
        let (found, problem) = find(target)
        guard let partition = found else { return failed(target, nil, problem) }
        if target.currentLeaderEpoch >= 0 && target.currentLeaderEpoch != partition.leaderEpoch.rawValue {
            let isOld = target.currentLeaderEpoch < partition.leaderEpoch.rawValue
            return failed(target, partition, isOld ? .fencedLeaderEpoch : .unknownLeaderEpoch)
        }
        let log = partition.log
        let (highWatermark, lastStable, logStart, end) = log.fetchMarks
        let offset = Offset(target.fetchOffset)
        var finding = FetchFinding(
            target: target,
            partition: partition,
            data: FetchResponse.PartitionData(
                partitionIndex: target.index,
                highWatermark: highWatermark.rawValue,
                lastStableOffset: lastStable.rawValue,
                logStartOffset: logStart.rawValue
            ),
            readableEnd: parameters.replica != nil
                ? log.logEndOffset : parameters.readCommitted ? lastStable : highWatermark
        )
        finding.isForFollower = parameters.replica != nil
        if target.lastFetchedEpoch >= 0, diverges(target, log, &finding) { return finding }
        if offset < logStart || offset > end {
            // What a follower has not, its leader may have.
            if partition.isFollowed { return failed(target, partition, .notLeaderOrFollower) }
            var finding = failed(target, partition, .offsetOutOfRange)
            // A follower begins anew where the log begins.
            if parameters.replica != nil { finding.data.logStartOffset = logStart.rawValue }
            return finding
        }
        if let preferred = parameters.preferredReplica?(partition, target.fetchOffset) {
            finding.data.preferredReadReplica = preferred
            return finding
        }
        if parameters.readCommitted { finding.data.abortedTransactions = [] }
        guard offset < finding.readableEnd, isFirst || bytesLeft > 0 else { return finding }
        let throttle = throttle(of: partition)
        // It is answered with no records, when its wait is over.
        if let throttle, throttle.delay(.leader) > 0 { return finding }
        do throws(LogError) {
            try readRecords(&finding, log, from: offset, bytesLeft: bytesLeft, copyLeft: copyLeft, isFirst: isFirst)
        } catch {
            return failed(target, partition, error.kafkaError)
        }
        throttle?.record(.leader, bytes: finding.records.length)
        return finding
    }

    /// What holds back the follower that asks for this partition, if anything does.
    private func throttle(of partition: Partition) -> ReplicationThrottle? {
        guard let throttle = parameters.throttle, let replica = parameters.replica,
            throttle.names(partition.topicID, partition.topicPartition.partition.rawValue, .leader),
            partition.replication?.isInSync(replica.node) == false
        else { return nil }
        return throttle
    }

    private func readRecords(
        _ finding: inout FetchFinding,
        _ log: PartitionLog,
        from offset: Offset,
        bytesLeft: Int,
        copyLeft: Int,
        isFirst: Bool
    ) throws(LogError) {
        let found = try log.read(
            from: offset,
            maxBytes: max(0, min(Int(finding.target.maxBytes), bytesLeft)),
            minOneBatch: isFirst,
            upTo: finding.readableEnd
        )
        let size = found.sizeInBytes
        guard size > 0, let first = found.firstOffset else { return }
        if parameters.readCommitted {
            finding.data.abortedTransactions = log.abortedTransactions(in: first..<found.nextOffset)
                .sorted { $0.firstOffset < $1.firstOffset }
                .map { .init(producerId: $0.producerID.rawValue, firstOffset: $0.firstOffset.rawValue) }
        }
        let mustCopy = found.slices.contains { $0.descriptor < 0 }
        if mustCopy || (size <= copyLeft && found.isResident) {
            var buffer = ByteBuffer()
            try found.copy(into: &buffer)
            finding.records = .copied(buffer)
        } else {
            finding.records = .files(found)
        }
    }

    /// Whether the client's log and ours part before its offset (KIP-595's truncation detection, used by consumers since KIP-320).
    private func diverges(_ target: FetchTarget, _ log: PartitionLog, _ finding: inout FetchFinding) -> Bool {
        guard let (epoch, end) = isDiverging(target, log) else { return false }
        finding.data.divergingEpoch = .init(epoch: epoch.rawValue, endOffset: end.rawValue)
        return true
    }

    private func isDiverging(_ target: FetchTarget, _ log: PartitionLog) -> (LeaderEpoch, Offset)? {
        let (epoch, end) = log.endOffset(for: LeaderEpoch(target.lastFetchedEpoch))
        // A consumer may know of an epoch that got no record here.
        guard epoch != .unknown else { return nil }
        guard end.rawValue < target.fetchOffset || epoch.rawValue < target.lastFetchedEpoch else { return nil }
        return (epoch, end)
    }

    private func failed(_ target: FetchTarget, _ partition: Partition?, _ code: ErrorCode) -> FetchFinding {
        FetchFinding(
            target: target,
            partition: partition,
            data: FetchResponse.PartitionData(
                partitionIndex: target.index,
                errorCode: code.rawValue,
                highWatermark: -1,
                lastStableOffset: -1,
                logStartOffset: -1
            )
        )
    }
}
