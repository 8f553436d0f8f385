// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore

extension LogSimulator {
    /// The last step of a sequence: a bit flips at rest. Then the log must be exactly what it was, or what is wrong is
    /// reported: at the start, by a read, by the batch's checksum, or by the offline check.
    func flip() throws {
        if random.once(in: 2) {
            try? manager?.close()
        }
        manager = nil
        disk.kill()
        // Kafka's text checkpoints and the partition's metadata carry no checksum: nothing can tell a wrong digit.
        guard
            let place = disk.flipBit({ path in
                [".log", ".index", ".snapshot", ".footer", "/mdc-checkpoint"].contains { path.hasSuffix($0) }
            })
        else { return }
        counts.flips += 1
        note("! flipped \(place)")
        // A recovery reads what is durable only where what vouches for it is damaged too.
        if random.once(in: 2) {
            for suffix in [".index", ".log"] {
                if let place = disk.flipBit({ $0.hasSuffix(suffix) }) { note("! flipped \(place)") }
            }
        }
        let isSound = try folders.allSatisfy { try LogChecker(directory: $0, fileSystem: disk).run().isSound }
        do {
            try open()
        } catch {
            throw Wrong("the folder cannot be opened after a flipped bit: \(error)")
        }
        guard let manager else { return }
        for partition in order {
            guard let log = manager.partition(partition), let model = models[partition] else {
                throw Wrong("\(partition) is gone")
            }
            try verifyFlipped(log, model, isKnown: !isSound || !log.damage.isEmpty)
        }
    }

    /// Reads what can be read: what is served and valid must be right; what is missing must be known to be.
    private func verifyFlipped(_ log: PartitionLog, _ model: ModelPartition, isKnown: Bool) throws {
        if model.compactedTo > model.start { return }
        if log.logEndOffset.rawValue < model.durable, log.damage.isEmpty {
            throw Wrong("durable records from \(log.logEndOffset) to \(model.durable) were cut without a word")
        }
        let expected = model.batches.filter { $0.last >= model.start }
        var isWhole = true
        for batch in expected {
            guard batch.last >= log.logStartOffset.rawValue, batch.base < log.logEndOffset.rawValue else {
                isWhole = false
                continue
            }
            do {
                let read = try log.read(
                    from: Offset(max(batch.base, model.start)),
                    maxBytes: 1,
                    minOneBatch: true,
                    upTo: log.logEndOffset
                )
                var buffer = ByteBuffer()
                try read.copy(into: &buffer)
                let bytes = Array(buffer.readableBytesView)
                if bytes == batch.bytes { continue }
                isWhole = false
                if bytes.isEmpty { continue }
                let valid: RecordBatchHeader? = try? bytes.withUnsafeBytes {
                    try RecordBatchValidator.validate($0, rules: .log)
                }
                // Offset and epoch lie outside of the checksum: only the check sees those.
                if valid != nil, !isKnown { throw Wrong("a wrong batch is served for \(batch.base)") }
            } catch is LogError {
                isWhole = false
            }
        }
        if !isWhole && !isKnown { throw Wrong("records are missing or wrong, and nothing says so") }
    }
}
