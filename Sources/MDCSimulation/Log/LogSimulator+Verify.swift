// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore

extension LogSimulator {
    // MARK: Reading

    /// Batches as a consumer gets them in one read.
    private func fetch(
        _ log: PartitionLog,
        from offset: Int64,
        maxBytes: Int,
        minOneBatch: Bool = true,
        upTo limit: Int64
    ) throws(LogError) -> (bytes: ByteBuffer, next: Int64) {
        let read = try log.read(
            from: Offset(offset),
            maxBytes: maxBytes,
            minOneBatch: minOneBatch,
            upTo: Offset(limit)
        )
        var buffer = ByteBuffer()
        try read.copy(into: &buffer)
        return (buffer, read.nextOffset.rawValue)
    }

    func batches(_ buffer: ByteBuffer) throws -> [RecordBatchSlice] {
        var iterator = RecordBatchIterator(buffer)
        var found: [RecordBatchSlice] = []
        while let batch = try iterator.next() { found.append(batch) }
        if iterator.truncatedBytes > 0 { throw Wrong("a read ended within a batch") }
        return found
    }

    /// The bytes of the batch at an offset; nil where there is none.
    func batch(_ log: PartitionLog, at offset: Int64) throws -> [UInt8]? {
        let found = try batches(try fetch(log, from: offset, maxBytes: 1, upTo: log.logEndOffset.rawValue).bytes)
        return found.first.map { Array($0.bytes.readableBytesView) }
    }

    /// A read at a random offset with random bounds.
    func read(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        let offset = model.start + Int64(random.below(Int(model.end - model.start) + 1))
        let maxBytes = random.pick([0, 1, 100, 700, 5000, 1 << 20])
        let minOneBatch = random.once(in: 2)
        let limit = random.pick([model.end, log.lastStableOffset.rawValue, log.highWatermark.rawValue])
        note("read \(partition) from \(offset), \(maxBytes) bytes\(minOneBatch ? " or one batch" : ""), up to \(limit)")
        counts.reads += 1
        let failures = disk.failureCount
        let found: [RecordBatchSlice]
        do throws(LogError) {
            let read = try fetch(log, from: offset, maxBytes: maxBytes, minOneBatch: minOneBatch, upTo: limit)
            do { found = try batches(read.bytes) } catch { throw LogError(.corruptBatch, "\(error)") }
        } catch {
            if disk.hasCrashed || disk.failureCount > failures { return }
            throw Wrong("the read failed: \(error)")
        }
        let size = found.reduce(0) { $0 + $1.bytes.readableBytes }
        if size > maxBytes, found.count > 1 || !minOneBatch { throw Wrong("\(size) bytes were read") }
        if model.compactedTo > model.start { return }
        // The high watermark of a log that was opened is its start, which may lie within a batch.
        let expected = model.batches.filter { $0.last >= offset && $0.base < limit && offset < limit }
        guard zip(found, expected).allSatisfy({ Array($0.bytes.readableBytesView) == $1.bytes }),
            found.count <= expected.count
        else { throw Wrong("the read returned \(describe(found)) instead of \(describe(expected))") }
        if found.isEmpty, let first = expected.first, minOneBatch || first.bytes.count <= maxBytes {
            throw Wrong("the read returned nothing instead of \(describe(expected))")
        }
    }

    private func describe(_ batches: [RecordBatchSlice]) -> String {
        "[" + batches.prefix(12).map { "\($0.header.baseOffset)-\($0.header.lastOffset)" }.joined(separator: " ") + "]"
    }
    private func describe(_ batches: [ModelBatch]) -> String {
        "[" + batches.prefix(12).map { "\($0.base)-\($0.last)" }.joined(separator: " ") + "]"
    }

    /// Everything from the log's start to its end, in pieces.
    func readAll(_ log: PartitionLog) throws -> [RecordBatchSlice] {
        var offset = log.logStartOffset.rawValue
        let end = log.logEndOffset.rawValue
        let maxBytes = random.pick([1, 900, 1 << 20])
        var found: [RecordBatchSlice] = []
        while offset < end {
            let (buffer, next): (ByteBuffer, Int64)
            do throws(LogError) {
                (buffer, next) = try fetch(log, from: offset, maxBytes: maxBytes, upTo: end)
            } catch {
                throw Wrong("reading from \(offset) failed: \(error)")
            }
            if buffer.readableBytes == 0 { break }
            if next <= offset { throw Wrong("a read from \(offset) says to go on at \(next)") }
            do {
                found.append(contentsOf: try batches(buffer))
            } catch {
                throw Wrong("what was read from \(offset) to \(next) is no row of batches: \(error)")
            }
            offset = next
        }
        return found
    }

    // MARK: Everything

    func verifyAll() throws {
        guard let manager else { return }
        for partition in order {
            guard let log = manager.partition(partition), let model = models[partition] else { continue }
            do {
                try verify(log, model)
            } catch {
                throw Wrong("\(partition): \(error)")
            }
        }
    }

    func verify(_ log: PartitionLog, _ model: ModelPartition) throws {
        guard log.logEndOffset.rawValue == max(model.end, model.start) else {
            throw Wrong("the log ends at \(log.logEndOffset) instead of \(model.end)")
        }
        guard log.logStartOffset.rawValue == model.start else {
            throw Wrong("the log starts at \(log.logStartOffset) instead of \(model.start)")
        }
        let found = try readAll(log)
        let expected = model.batches.filter { $0.last >= model.start }
        let contents: [ModelRecord]
        if model.compactedTo > model.start {
            contents = try verifyCompacted(found, expected, model)
        } else {
            guard found.count == expected.count,
                zip(found, expected).allSatisfy({ Array($0.bytes.readableBytesView) == $1.bytes })
            else { throw Wrong("the log holds \(describe(found)) instead of \(describe(expected))") }
            contents = expected.flatMap(\.records)
        }
        counts.recordsVerified += contents.count
        try verifyProducers(log, model)
        try verifyTransactions(log, model, found)
        // Of batches that compaction has taken out, a lost file of epochs cannot be made anew.
        let bases = Set(found.map(\.header.baseOffset.rawValue))
        try verifyEpochs(log, model, expected.filter { bases.contains($0.base) })
        for _ in 0..<3 { try verifyLookup(log, contents.filter { $0.offset >= model.start }) }
    }

    private func records(_ batch: RecordBatchSlice) throws -> [ModelRecord] {
        try batch.reader().records().map { record in
            ModelRecord(
                offset: record.offset.rawValue,
                timestamp: record.timestamp.rawValue,
                key: record.key.map { Array($0.readableBytesView) },
                value: record.value.map { Array($0.readableBytesView) }
            )
        }
    }

    /// Compares a compacted log: what is there must have been appended, what is missing must have an excuse.
    private func verifyCompacted(
        _ found: [RecordBatchSlice],
        _ expected: [ModelBatch],
        _ model: ModelPartition
    ) throws -> [ModelRecord] {
        var contents: [ModelRecord] = []
        var rest = expected[...]
        for batch in found {
            let base = batch.header.baseOffset.rawValue
            while let missing = rest.first, missing.base < base {
                try excuse(missing, [], model)
                rest.removeFirst()
            }
            guard let original = rest.popFirst(), original.base == base,
                original.last == batch.header.lastOffset.rawValue
            else { throw Wrong("there is a batch at \(base) that was never appended") }
            let kept = try records(batch)
            contents.append(contentsOf: kept)
            if Array(batch.bytes.readableBytesView) == original.bytes { continue }
            guard original.base < model.compactedTo else { throw Wrong("the batch at \(base) has changed") }
            let header = batch.header
            guard header.producerID == original.header.producerID,
                header.producerEpoch == original.header.producerEpoch,
                header.baseSequence == original.header.baseSequence,
                header.partitionLeaderEpoch == original.header.partitionLeaderEpoch,
                header.attributes.isControl == original.header.attributes.isControl,
                header.attributes.isTransactional == original.header.attributes.isTransactional
            else { throw Wrong("the header of the batch at \(base) has changed: \(header)") }
            for record in kept where !original.records.contains(record) {
                throw Wrong("the record at \(record.offset) has changed")
            }
            try excuse(original, kept, model)
        }
        for missing in rest { try excuse(missing, [], model) }
        return contents
    }

    private func excuse(_ batch: ModelBatch, _ kept: [ModelRecord], _ model: ModelPartition) throws {
        if batch.marker != nil {
            guard batch.base < model.compactedTo else { throw Wrong("the marker at \(batch.base) is missing") }
            return
        }
        for record in batch.records where record.offset >= model.start && !kept.contains(record) {
            guard model.excuse(record, of: batch, now: clock.time) != nil else {
                let same = (model.batches + model.ghosts).filter { $0.records.contains { $0.key == record.key } }
                throw Wrong(
                    "the record at \(record.offset) is missing after compaction up to \(model.compactedTo); its key is in \(describe(same)), aborted are \(model.producers.aborted)"
                )
            }
        }
    }

    func known(_ log: PartitionLog) -> [Int64: ModelProducer] {
        var found: [Int64: ModelProducer] = [:]
        for producer in log.activeProducers {
            found[producer.producerID.rawValue] = ModelProducer(
                epoch: producer.producerEpoch,
                lastSequence: producer.lastSequence,
                lastTimestamp: producer.lastTimestamp.rawValue,
                coordinatorEpoch: producer.coordinatorEpoch,
                transactionStart: producer.currentTransactionFirstOffset?.rawValue
            )
        }
        return found
    }

    private func verifyProducers(_ log: PartitionLog, _ model: ModelPartition) throws {
        let found = known(log)
        for (id, state) in model.producers.states {
            if found[id] == state { continue }
            // Timestamps of batches that were compacted, and markers that are gone, cannot be had again.
            if model.compactedTo > 0, let known = found[id], known.epoch == state.epoch,
                known.lastSequence == state.lastSequence, known.transactionStart == state.transactionStart
            {
                continue
            }
            throw Wrong("producer \(id) is \(found[id].map { "\($0)" } ?? "unknown") instead of \(state)")
        }
        for id in found.keys where model.producers.states[id] == nil { throw Wrong("producer \(id) never wrote") }
    }

    private func verifyTransactions(
        _ log: PartitionLog,
        _ model: ModelPartition,
        _ found: [RecordBatchSlice]
    ) throws {
        let committed = log.highWatermark.rawValue
        let stable = model.lastStable(committed)
        // A transaction whose marker is beyond the high watermark may count as decided: after a start nobody knows of it, and
        // the decision stands.
        let most = setup.isReplicated ? max(stable, min(committed, model.lastStable(model.end))) : stable
        guard (stable...most).contains(log.lastStableOffset.rawValue) else {
            throw Wrong("the last stable offset is \(log.lastStableOffset) instead of \(stable)")
        }
        let aborted = log.abortedTransactions(in: Offset(model.start)..<Offset(max(model.end, model.start) + 1)).map {
            ModelAborted(
                producer: $0.producerID.rawValue,
                first: $0.firstOffset.rawValue,
                last: $0.lastOffset.rawValue,
                stable: $0.lastStableOffset.rawValue
            )
        }
        let expected = model.producers.aborted.filter { $0.last >= model.start }
        if model.compactedTo <= model.start, aborted != expected {
            throw Wrong("the aborted transactions are \(aborted) instead of \(expected)")
        }
        // What a consumer that reads committed records only takes for aborted.
        for batch in found where batch.header.attributes.isTransactional && !batch.header.attributes.isControl {
            let id = batch.header.producerID.rawValue
            let base = batch.header.baseOffset.rawValue
            guard batch.header.lastOffset.rawValue >= model.start, batch.header.recordCount > 0 else { continue }
            let isAborted = aborted.contains { $0.producer == id && $0.first <= base && base < $0.last }
            if isAborted != model.producers.isAborted(id, base) {
                throw Wrong("the batch at \(base) counts as \(isAborted ? "aborted" : "committed")")
            }
        }
    }

    private func verifyEpochs(_ log: PartitionLog, _ model: ModelPartition, _ expected: [ModelBatch]) throws {
        var previous: Int32 = -1
        var previousEnd: Int64 = 0
        for batch in expected {
            let epoch = batch.header.partitionLeaderEpoch.rawValue
            let offset = max(batch.base, model.start)
            guard log.epoch(at: Offset(offset)).rawValue == epoch else {
                throw Wrong("the epoch at \(offset) is \(log.epoch(at: Offset(offset))) instead of \(epoch)")
            }
            if previous >= 0, epoch > previous {
                let end = log.endOffset(for: LeaderEpoch(previous)).1.rawValue
                // Where a follower left a gap, the epoch may have begun before it.
                guard end <= batch.base, end >= previousEnd else {
                    throw Wrong("epoch \(previous) ends at \(end) instead of \(batch.base)")
                }
            }
            previous = epoch
            previousEnd = batch.next
        }
    }

    // MARK: Look-ups

    func look(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        if model.compactedTo > model.start { return }
        note("look up a time in \(partition)")
        counts.lookups += 1
        let failures = disk.failureCount
        do {
            try verifyLookup(log, model.batches.flatMap(\.records).filter { $0.offset >= model.start })
        } catch {
            if disk.hasCrashed || disk.failureCount > failures { return }
            throw error
        }
    }

    private func verifyLookup(_ log: PartitionLog, _ contents: [ModelRecord]) throws {
        let times = contents.map(\.timestamp)
        let time = (times.isEmpty ? clock.time : random.pick(times)) + Int64(random.pick([-1, 0, 1, 500]))
        let first = contents.first { $0.timestamp >= time }
        let found = try log.offset(for: .timestamp(Timestamp(time)))
        guard found?.offset.rawValue == first?.offset, found?.timestamp.rawValue == first?.timestamp else {
            throw Wrong("the first record from \(time) on is \(describe(found)) instead of \(describe(first))")
        }
        let newest = times.max().flatMap { newest in contents.first { $0.timestamp == newest } }
        let last = try log.offset(for: .maxTimestamp)
        guard last?.offset.rawValue == newest?.offset else {
            throw Wrong("the newest record is \(describe(last)) instead of \(describe(newest))")
        }
    }

    private func describe(_ found: OffsetAndTimestamp?) -> String {
        found.map { "\($0.offset) (\($0.timestamp))" } ?? "none"
    }
    private func describe(_ record: ModelRecord?) -> String {
        record.map { "\($0.offset) (\($0.timestamp))" } ?? "none"
    }
}
