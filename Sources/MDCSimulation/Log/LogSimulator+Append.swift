// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOConcurrencyHelpers
import NIOCore

extension LogSimulator {
    /// A batch that is to be sent, and what the model makes of it.
    private struct Draft {
        var buffer: ByteBuffer
        var records: [ModelRecord]
        var count: Int { records.count }
    }

    private enum Kind { case plain, idempotent, transactional, marker, replica, again, gap }

    /// What `append` is expected to say.
    private enum Expectation {
        case appended
        /// A repetition: it may be answered as a duplicate with these offsets, or refused; never appended.
        case repetition(first: Int64, last: Int64, mustBeDuplicate: Bool)
        case refused
    }

    func append(to partition: TopicPartition) throws {
        guard let model = models[partition] else { return }
        let kind = pickKind(model)
        var drafts: [Draft] = []
        var expectation = Expectation.appended
        var marker: ControlRecord?
        switch kind {
        case .plain, .replica:
            for _ in 0..<random.pick([1, 1, 1, 2, 3]) { drafts.append(try draft(model) { _ in }) }
        case .idempotent, .transactional:
            let id = Int64(random.number(in: 1...3)) + (kind == .transactional ? 10 : 0)
            (drafts, expectation) = (try next(of: id, isTransactional: kind == .transactional, model), .appended)
        case .marker:
            (drafts, marker) = self.marker(model)
        case .again:
            guard let (again, expected) = repetition(model) else { return }
            (drafts, expectation) = ([again], expected)
        case .gap:
            let id = Int64(random.number(in: 1...3))
            guard let state = model.producers.states[id], state.lastSequence >= 0 else { return }
            drafts = [
                try draft(model) { settings in
                    settings.producerID = ProducerID(id)
                    settings.producerEpoch = state.epoch
                    settings.baseSequence = (state.lastSequence &+ 7) & Int32.max
                }
            ]
            expectation = .refused
        }
        try send(drafts, kind, expectation, marker, partition)
    }

    private func pickKind(_ model: ModelPartition) -> Kind {
        switch random.below(20) {
        case 0..<7: .plain
        case 7..<11: .idempotent
        case 11..<14: .transactional
        case 14..<16: model.producers.states.keys.contains { $0 > 10 } ? .marker : .transactional
        case 16: .replica
        case 17, 18: .again
        default: .gap
        }
    }

    // MARK: Batches

    private func draft(
        _ model: ModelPartition,
        _ configure: (inout RecordBatchBuilder.Settings) -> Void
    ) throws -> Draft {
        var settings = RecordBatchBuilder.Settings(codec: random.pick(profile.codecs))
        configure(&settings)
        var builder = RecordBatchBuilder(settings)
        var records: [ModelRecord] = []
        for index in 0..<random.pick([1, 1, 2, 3, 4]) {
            if index > 0, builder.estimatedSizeInBytes + profile.largestValue + 100 > model.settings.segmentBytes {
                break
            }
            let isKeyed = model.settings.isCompacted || random.once(in: 2)
            let key = isKeyed ? Array("key \(random.below(6))".utf8) : nil
            var value: [UInt8]?
            if !(model.settings.isCompacted && random.once(in: 5)) {
                let size = random.number(in: 0...max(profile.largestValue, 1))
                // Half of the values compress, half do not.
                let isRandom = random.once(in: 2)
                value =
                    Array("\(seed)/\(counts.operations)/\(index) ".utf8)
                    + (0..<size).map { isRandom ? UInt8(truncatingIfNeeded: random.next()) : UInt8($0 & 7) }
            }
            let timestamp = clock.time + Int64(random.number(in: -1500...1500))
            builder.append(
                key: key.map { ByteBuffer(bytes: $0) },
                value: value.map { ByteBuffer(bytes: $0) },
                timestamp: Timestamp(timestamp)
            )
            records.append(ModelRecord(offset: Int64(index), timestamp: timestamp, key: key, value: value))
        }
        return Draft(buffer: try builder.build(), records: records)
    }

    /// The next batches of a producer.
    private func next(of id: Int64, isTransactional: Bool, _ model: ModelPartition) throws -> [Draft] {
        let state = model.producers.states[id]
        var epoch = max(state?.epoch ?? 0, 0)
        var sequence: Int32
        if let state {
            sequence = state.lastSequence == Int32.max ? 0 : state.lastSequence + 1
            if !isTransactional, random.once(in: 12) {
                epoch += 1
                sequence = 0
            }
        } else {
            sequence = random.once(in: 4) ? Int32.max - Int32(random.below(4)) : 0
        }
        var drafts: [Draft] = []
        for _ in 0..<random.pick([1, 1, 1, 2]) {
            let made = try draft(model) { settings in
                settings.producerID = ProducerID(id)
                settings.producerEpoch = epoch
                settings.baseSequence = sequence
                settings.isTransactional = isTransactional
            }
            drafts.append(made)
            sequence = Int32(truncatingIfNeeded: (Int64(sequence) + Int64(made.count)) % (Int64(Int32.max) + 1))
        }
        return drafts
    }

    private func marker(_ model: ModelPartition) -> ([Draft], ControlRecord) {
        let open = model.producers.open.map(\.producer)
        let known = model.producers.states.keys.filter { $0 > 10 }.sorted()
        let id = open.isEmpty || random.once(in: 8) ? random.pick(known) : random.pick(open)
        let state = model.producers.states[id] ?? ModelProducer()
        if random.once(in: 10) { coordinatorEpoch += 1 }
        let marker = ControlRecord(
            kind: random.once(in: 2) ? .commit : .abort,
            coordinatorEpoch: max(coordinatorEpoch, state.coordinatorEpoch)
        )
        var buffer = ByteBuffer()
        let timestamp = clock.time
        marker.writeBatch(
            producerID: ProducerID(id),
            producerEpoch: state.epoch + (random.once(in: 6) ? 1 : 0),
            timestamp: Timestamp(timestamp),
            into: &buffer
        )
        let record = ModelRecord(
            offset: 0,
            timestamp: timestamp,
            key: Array(marker.key.readableBytesView),
            value: Array(marker.value.readableBytesView)
        )
        return ([Draft(buffer: buffer, records: [record])], marker)
    }

    /// A batch that was sent before.
    private func repetition(_ model: ModelPartition) -> (Draft, Expectation)? {
        let id = Int64(random.pick([1, 2, 3, 11, 12, 13]))
        let sent = model.batches.filter { $0.header.producerID.rawValue == id && $0.marker == nil }
        guard let state = model.producers.states[id], !sent.isEmpty else { return nil }
        let back = random.once(in: 2) ? 1 : random.number(in: 1...min(sent.count, 8))
        let batch = sent[sent.count - back]
        guard batch.header.producerEpoch == state.epoch else { return nil }
        // After an abort the producer may use its sequence numbers again.
        let wasAborted = model.batches.contains {
            $0.base > batch.base && $0.header.producerID.rawValue == id && $0.marker?.kind == .abort
        }
        let mustBeDuplicate = back == 1 && !wasAborted
        return (
            Draft(buffer: batch.sent, records: batch.records),
            .repetition(first: batch.base, last: batch.last, mustBeDuplicate: mustBeDuplicate)
        )
    }

    // MARK: Sending

    private func send(
        _ drafts: [Draft],
        _ kind: Kind,
        _ expectation: Expectation,
        _ marker: ControlRecord?,
        _ partition: TopicPartition
    ) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        if random.once(in: 20) { epoch += 1 }
        var buffer = ByteBuffer()
        var expected: [ModelBatch] = []
        var offset = model.end
        let isLogAppendTime = model.settings.timestampType == .logAppendTime && kind != .replica
        var size = 0
        for draft in drafts {
            // Together they must fit into a segment; what a replica copied may be cut short instead.
            size += draft.buffer.readableBytes
            if size > model.settings.segmentBytes, kind != .replica, !expected.isEmpty { break }
            if kind == .replica, random.once(in: 3) { offset += Int64(random.below(4)) }
            let batch = ModelBatch(
                sent: draft.buffer,
                at: offset,
                epoch: epoch,
                logAppendTime: isLogAppendTime ? clock.time : nil,
                now: clock.time,
                records: draft.records,
                marker: marker
            )
            // A follower gets the batches as its leader has them.
            if kind == .replica {
                buffer.writeBytes(batch.bytes)
            } else {
                buffer.writeImmutableBuffer(draft.buffer)
            }
            expected.append(batch)
            offset = batch.next
        }
        let origin: AppendOrigin = marker != nil ? .coordinator : kind == .replica ? .replica : .client
        note(
            "append \(kind) \(expected.map { "\($0.base)-\($0.last) (\($0.bytes.count) B)" }.joined(separator: " ")) to \(partition)"
        )
        let failures = disk.failureCount
        let wasRefusing = log.offlineReason != nil
        let result: AppendResult
        do throws(LogError) {
            result = try log.append(buffer, as: origin, leaderEpoch: LeaderEpoch(epoch), now: clock.now())
        } catch {
            let wasHurt = wasRefusing || disk.hasCrashed || disk.failureCount > failures
            return try refused(error, expected, expectation, log, wasHurt: wasHurt, wasRefusing: wasRefusing)
        }
        try accepted(result, expected, expectation, log)
    }

    private func refused(
        _ error: LogError,
        _ expected: [ModelBatch],
        _ expectation: Expectation,
        _ log: PartitionLog,
        wasHurt: Bool,
        wasRefusing: Bool
    ) throws {
        counts.refusals += 1
        note("  refused: \(error.code)")
        let partition = log.topicPartition
        guard let model = models[partition] else { return }
        if wasHurt {
            if log.offlineReason != nil { isRefusing = true }
            // Of a failed write that could not be undone remains may be found by the next start.
            if log.offlineReason?.code == .offline, !wasRefusing { mustReopen = true }
            if disk.hasCrashed || mustReopen {
                // What was on its way may be there after the crash.
                if case .appended = expectation { models[partition]?.append(expected) }
            } else {
                // Parts of it may be in the file until the next sync.
                if case .appended = expectation, !wasRefusing { models[partition]?.remains.append(expected) }
                if log.logEndOffset.rawValue != model.end {
                    throw Wrong("a failed append has moved the end from \(model.end) to \(log.logEndOffset)")
                }
            }
            return
        }
        switch expectation {
        case .appended: throw Wrong("an append was refused without a reason: \(error)")
        case .repetition(_, _, let mustBeDuplicate):
            if mustBeDuplicate { throw Wrong("the repetition of the last batch was refused: \(error)") }
            guard [.outOfOrderSequence, .duplicateSequence, .invalidTransactionState].contains(error.code) else {
                throw Wrong("a repetition was refused for another reason: \(error)")
            }
        case .refused:
            guard error.code == .outOfOrderSequence else {
                throw Wrong("a gap in the sequence was refused for another reason: \(error)")
            }
        }
    }

    private func accepted(
        _ result: AppendResult,
        _ expected: [ModelBatch],
        _ expectation: Expectation,
        _ log: PartitionLog
    ) throws {
        let partition = log.topicPartition
        switch expectation {
        case .refused: throw Wrong("a gap in the sequence was accepted")
        case .repetition(let first, let last, _):
            guard result.isDuplicate, result.firstOffset.rawValue == first, result.lastOffset.rawValue == last else {
                throw Wrong("a repetition of \(first)-\(last) was answered with \(result)")
            }
        case .appended:
            let isReplica = expected.count > 1 && log.logEndOffset.rawValue < expected[expected.count - 1].next
            let expected = isReplica ? expected.filter { $0.next <= log.logEndOffset.rawValue } : expected
            guard !result.isDuplicate, let first = expected.first, let last = expected.last,
                result.firstOffset.rawValue == first.base, result.lastOffset.rawValue == last.last,
                log.logEndOffset.rawValue == last.next
            else { throw Wrong("the append was answered with \(result), the log ends at \(log.logEndOffset)") }
            counts.appends += 1
            models[partition]?.append(expected)
        }
        guard case .fsync = log.settings.durability else { return }
        let acknowledged = acknowledged
        let end = result.lastOffset + Int64(1)
        log.whenDurable(upTo: end) { outcome in
            guard case .success = outcome else { return }
            acknowledged.withLockedValue { $0[partition] = max($0[partition] ?? 0, end.rawValue) }
        }
    }
}
