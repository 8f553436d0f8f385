// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import MDCTesting
import NIOCore

extension FuzzTarget {
    /// Messages of every API and version, framing, and the views of the hot path.
    static let message = FuzzTarget(name: "message", run: MessageTarget.run, seeds: MessageTarget.seeds)
}

/// Input: four bytes that name a message, one for its version, then its body.
private enum MessageTarget {
    private static let types = MessageTypes.all
    private static let byName: [UInt32: Int] = Dictionary(
        types.enumerated().map { (identifier("\($1)"), $0) },
        uniquingKeysWith: { first, _ in first }
    )

    /// A number for a name that stays the same when messages are added.
    private static func identifier(_ name: String) -> UInt32 {
        name.utf8.reduce(0x811C_9DC5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
    }

    static func run(_ bytes: [UInt8]) {
        var source = ByteSource(bytes)
        let identifier = source.integer(UInt32.self)
        let version = Int16(source.byte())
        let body = source.rest()
        let type = types[byName[identifier] ?? Int(identifier) % types.count]
        let range = type.validVersions
        let known = range.contains(version) ? version : range.lowerBound + version % Int16(range.count)
        roundTrip(type, ByteBuffer(bytes: body), version: known)
        frames(body)
    }

    /// What can be decoded is encoded to bytes that decode to the same; those again to the same bytes.
    private static func roundTrip<Message: ProtocolMessage>(
        _ type: Message.Type,
        _ body: ByteBuffer,
        version: Int16
    ) {
        var input = body
        let message = try? Message(reading: &input, version: version)
        compareViews(message, body, version)
        // A NaN equals nothing, not even itself.
        guard let message, message == message else { return }
        do {
            var written = try message.encoded(version: version)
            let bytes = written
            let again = try Message(reading: &written, version: version)
            require(
                again == message || hasUnorderedTags(message),
                "\(type) v\(version) comes back as another message"
            )
            require(try again.encoded(version: version) == bytes, "\(type) v\(version) is encoded in two ways")
            _ = try? message.encoded(version: type.validVersions.upperBound)
            _ = try? message.encoded(version: type.validVersions.lowerBound)
        } catch {
            fatalError("\(type) v\(version) was decoded and cannot be encoded: \(error)")
        }
    }

    /// Whether unknown tagged fields stand in another order than that of their tags, in which they are written (KIP-482).
    private static func hasUnorderedTags(_ value: Any) -> Bool {
        if let fields = value as? [UnknownTaggedField] {
            return zip(fields, fields.dropFirst()).contains { $0.tag > $1.tag }
        }
        return Mirror(reflecting: value).children.contains { hasUnorderedTags($0.value) }
    }

    /// The views of the hot path see what the decoder sees; they do not look at names' UTF-8.
    private static func compareViews(_ message: (any ProtocolMessage)?, _ body: ByteBuffer, _ version: Int16) {
        if let request = message as? ProduceRequest {
            guard let view = try? ProduceRequestView(body, version: version) else {
                fatalError("the view refuses a produce request that the decoder takes")
            }
            let expected = request.topicData.flatMap { topic in
                topic.partitionData.map {
                    "\(topic.name) \(topic.topicId) \($0.index) \(String(describing: $0.records))"
                }
            }
            let seen = view.partitions.map { partition in
                "\(String(buffer: partition.topic.name.bytes)) \(partition.topic.id) \(partition.index) "
                    + String(describing: partition.records)
            }
            require(seen == expected, "the view of a produce request sees other partitions")
            require(view.acks == request.acks && view.timeoutMs == request.timeoutMs, "the view sees other fields")
            require(view.partitionCount == seen.count, "the view counts wrong")
        } else if let request = message as? FetchRequest {
            guard let view = try? FetchRequestView(body, version: version) else {
                fatalError("the view refuses a fetch request that the decoder takes")
            }
            let expected = request.topics.flatMap { topic in
                topic.partitions.map { "\(topic.topic) \(topic.topicId) \($0.partition) \($0.fetchOffset)" }
            }
            let seen = view.partitions.map { partition in
                "\(String(buffer: partition.topic.name.bytes)) \(partition.topic.id) \(partition.index) "
                    + "\(partition.fetchOffset)"
            }
            require(seen == expected, "the view of a fetch request sees other partitions")
            require(view.maxWaitMs == request.maxWaitMs && view.sessionID == request.sessionId, "other fields")
            _ = view.forgottenPartitions.reduce(0) { count, _ in count + 1 }
        } else {
            if let view = try? ProduceRequestView(body, version: version) { for _ in view.partitions {} }
            if let view = try? FetchRequestView(body, version: version) { for _ in view.partitions {} }
        }
    }

    /// The same frames come out however the bytes arrive.
    private static func frames(_ bytes: [UInt8]) {
        func cut(_ pieces: [ArraySlice<UInt8>]) -> (frames: [ByteBuffer], failed: Bool) {
            var decoder = FrameDecoder(maximumFrameSize: 4096)
            var frames: [ByteBuffer] = []
            for piece in pieces {
                decoder.append(ByteBuffer(bytes: piece))
                do {
                    while let frame = try decoder.next() { frames.append(frame) }
                } catch {
                    return (frames, true)
                }
            }
            return (frames, false)
        }
        let whole = cut([bytes[...]])
        let split = cut(stride(from: 0, to: bytes.count, by: 3).map { bytes[$0..<min($0 + 3, bytes.count)] })
        require(whole.frames == split.frames && whole.failed == split.failed, "frames depend on how bytes arrive")
        for var frame in whole.frames { _ = try? RequestHeader(readingHeadOf: &frame) }
    }

    static func seeds() throws -> [FuzzSeed] {
        var seeds: [FuzzSeed] = []
        for vector in try MessageVectors.load(directory: MessageVectors.defaultDirectory) {
            // Long examples only repeat themselves.
            guard vector.bytes.readableBytes < 1024 else { continue }
            let number = identifier("\(vector.type)")
            var bytes = (0..<4).map { UInt8(truncatingIfNeeded: number >> UInt32((3 - $0) * 8)) }
            bytes.append(UInt8(vector.version))
            bytes += vector.bytes.readableBytesView
            let name = vector.name.split(separator: " ").joined(separator: "-")
            seeds.append(FuzzSeed(name: name, bytes: bytes))
        }
        return seeds
    }
}
