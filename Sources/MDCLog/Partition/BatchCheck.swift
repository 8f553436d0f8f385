// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Judges batches as hostile input before they are appended: by the format's rules (`RecordBatchValidator`) and by the
/// topic's settings. What a replica copies was judged by its leader; only its framing and checksum are verified.
struct BatchCheck {
    var settings: LogSettings
    let origin: AppendOrigin
    let now: Timestamp

    /// Validates all batches in `bytes`; returns how many there are, and the maximum timestamps of those that came
    /// without.
    func validate(_ bytes: UnsafeRawBufferPointer) throws(LogError) -> (count: Int, maxTimestamps: [Int: Timestamp]) {
        guard bytes.count > 0 else { throw LogError(.invalidRecord, "the append holds no record batch") }
        let rules = rules
        var position = 0
        var count = 0
        var maxTimestamps: [Int: Timestamp] = [:]
        while position < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[position...])
            var header: RecordBatchHeader
            do throws(RecordBatchError) {
                header = try RecordBatchValidator.validate(rest, rules: rules)
                if origin == .client && header.maxTimestamp < header.baseTimestamp {
                    header.maxTimestamp = try RecordBatchValidator.maxTimestamp(of: rest)
                    maxTimestamps[count] = header.maxTimestamp
                }
            } catch {
                throw LogError(error)
            }
            if header.sizeInBytes > settings.segmentBytes {
                throw LogError(
                    .messageTooLarge,
                    "a batch of \(header.sizeInBytes) bytes exceeds segment.bytes, \(settings.segmentBytes)"
                )
            }
            if header.attributes.isControl && origin != .replica {
                let batch = UnsafeRawBufferPointer(rebasing: rest[..<header.sizeInBytes])
                guard TransactionMarker(controlBatch: batch) != nil else {
                    throw LogError(.invalidRecord, "a control batch holds no transaction marker")
                }
            }
            if origin == .client { try checkBaseOffset(header) }
            if origin == .client { try checkTimestamps(header) }
            position += header.sizeInBytes
            count += 1
        }
        // An append goes into one segment, so that it is there as a whole or not at all.
        if origin != .replica, bytes.count > settings.segmentBytes {
            throw LogError(
                .messageTooLarge,
                "\(count) batches of together \(bytes.count) bytes exceed segment.bytes, \(settings.segmentBytes); send them one by one"
            )
        }
        return (count, maxTimestamps)
    }

    /// Offsets are the broker's to give. Kafka refuses the same (`UnifiedLog`), so that a producer that counts on its own
    /// offsets learns of it.
    private func checkBaseOffset(_ header: RecordBatchHeader) throws(LogError) {
        guard header.baseOffset == 0 else {
            throw LogError(
                .invalidRecord,
                "a producer's batch begins at offset 0, this one at \(header.baseOffset); the broker gives the offsets"
            )
        }
    }

    private var rules: RecordBatchValidator.Rules {
        var rules: RecordBatchValidator.Rules
        switch origin {
        case .client: rules = .client
        case .coordinator: rules = .coordinator
        case .replica: rules = .log
        }
        if origin == .client {
            rules.maximumSizeInBytes = settings.maxMessageBytes
            rules.checksRecords = settings.validatesRecords
            rules.allowsMissingMaxTimestamp = true
            rules.requiresKeys = settings.isCompacted
        }
        return rules
    }

    private func checkTimestamps(_ header: RecordBatchHeader) throws(LogError) {
        guard settings.timestampType == .createTime, header.maxTimestamp >= 0 else { return }
        let (ahead, overflow) = header.maxTimestamp.rawValue.subtractingReportingOverflow(now.rawValue)
        if overflow || ahead > settings.timestampAfterMaxMilliseconds {
            throw LogError(
                .invalidTimestamp,
                "timestamp \(header.maxTimestamp) is \(ahead) ms ahead of the broker, more than message.timestamp.after.max.ms, \(settings.timestampAfterMaxMilliseconds)"
            )
        }
        let age = now.rawValue.subtractingReportingOverflow(header.baseTimestamp.rawValue).partialValue
        if header.baseTimestamp >= 0, age > settings.timestampBeforeMaxMilliseconds {
            throw LogError(
                .invalidTimestamp,
                "timestamp \(header.baseTimestamp) is \(age) ms old, more than message.timestamp.before.max.ms, \(settings.timestampBeforeMaxMilliseconds)"
            )
        }
    }
}

extension LogError {
    /// A batch that is refused for its bytes.
    init(_ error: RecordBatchError) {
        let code: Code
        switch error.code {
        case .truncated, .checksumMismatch, .corruptCompression, .unsupportedMagic: code = .corruptBatch
        case .unsupportedCompression: code = .unsupportedCompression
        case .invalidTimestamp: code = .invalidTimestamp
        case .tooLarge, .decompressedTooLarge: code = .messageTooLarge
        default: code = .invalidRecord
        }
        self.init(code, error.message)
    }
}
