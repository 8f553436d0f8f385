// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import MDCTesting
import NIOCore
import Testing

/// Damaged input is refused or read as something else; it never traps, and never costs memory beyond its size.
struct RobustnessTests {
    @Test("a message cut at any byte is refused")
    func truncation() throws {
        for vector in try MessageVectors.load(directory: MessageVectors.defaultDirectory) {
            // Long examples repeat themselves: cut those at a sample of places.
            let size = vector.bytes.readableBytes
            for length in stride(from: 0, to: size, by: max(1, size / 64)) {
                expectCutRefused(vector.type, vector, length: length)
            }
        }
    }

    private func expectCutRefused<Message: ProtocolMessage>(
        _ type: Message.Type,
        _ vector: MessageVector,
        length: Int
    ) {
        guard var cut = vector.bytes.getSlice(at: vector.bytes.readerIndex, length: length) else {
            Issue.record("no slice")
            return
        }
        #expect(throws: ProtocolError.self, "\(vector.name) cut at \(length)") {
            _ = try Message(reading: &cut, version: vector.version)
        }
    }

    @Test("what survives random damage is written and read back unchanged", arguments: [1, 2, 3] as [UInt64])
    func damage(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var survivors = 0
        for vector in try MessageVectors.load(directory: MessageVectors.defaultDirectory) {
            for _ in 0..<4 {
                var bytes = vector.bytes
                if bytes.readableBytes == 0 { continue }
                for _ in 0...random.count(2) {
                    let place = bytes.readerIndex + Int.random(in: 0..<bytes.readableBytes, using: &random)
                    bytes.setInteger(UInt8.random(in: 0...255, using: &random), at: place)
                }
                if try roundTrips(vector.type, bytes, version: vector.version) { survivors += 1 }
            }
        }
        #expect(survivors > 1000)
    }

    /// Whether the bytes are a message; records an issue where that message does not come back equal.
    private func roundTrips<Message: ProtocolMessage>(
        _ type: Message.Type,
        _ bytes: ByteBuffer,
        version: Int16
    ) throws -> Bool {
        var input = bytes
        guard let message = try? Message(reading: &input, version: version) else { return false }
        // A NaN equals nothing, not even itself.
        if message != message { return false }
        var written = try message.encoded(version: version)
        let again = try Message(reading: &written, version: version)
        #expect(again == message, "\(type) v\(version)")
        return true
    }

    @Test("random bytes never trap", arguments: [7, 8] as [UInt64])
    func noise(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for type in MessageTypes.all {
            for version in type.validVersions {
                for _ in 0..<8 { readNoise(type, random.bytes(upTo: 80), version: version) }
            }
        }
    }

    private func readNoise<Message: ProtocolMessage>(_ type: Message.Type, _ bytes: ByteBuffer, version: Int16) {
        var input = bytes
        do {
            _ = try Message(reading: &input, version: version)
        } catch {
            #expect(error.field.isEmpty == false)
        }
    }

    @Test("an array count that the message cannot hold is refused before anything is reserved")
    func hugeCounts() throws {
        for (count, code) in [
            (Int32(2), ProtocolError.Code.truncated), (1_000_000, .truncated), (1_000_001, .limitExceeded),
            (Int32.max, .limitExceeded), (-2, .malformed), (-1, .unexpectedNull),
        ] {
            var reader = MessageReader(ByteBuffer(integer: count))
            let error = #expect(throws: ProtocolError.self) {
                _ = try reader.array("test", of: Int32.self, flexible: false)
            }
            #expect(error?.code == code, "\(count)")
        }
        var bytes = ByteBuffer(integer: 2 as Int32)
        bytes.writeInteger(7 as Int32)
        bytes.writeInteger(8 as Int32)
        var reader = MessageReader(bytes)
        #expect(try reader.array("test", of: Int32.self, flexible: false) == [7, 8])
    }

    @Test("memory is reserved for few elements at first, however many are promised and possible")
    func reservation() throws {
        // 100,000 empty strings fit in 200 kB; the array may grow to that, but does not start there.
        var bytes = ByteBuffer(integer: 100_000 as Int32)
        bytes.writeRepeatingByte(0, count: 199_999)
        bytes.writeInteger(0xFF as UInt8)  // the last length is cut off
        var reader = MessageReader(bytes)
        let error = #expect(throws: ProtocolError.self) {
            _ = try reader.array("test", of: String.self, flexible: false)
        }
        #expect(error?.code == .truncated)
        #expect(ProtocolLimits.reservedElements <= 1_024)
    }

    @Test("too many tagged fields are refused")
    func hugeTagCounts() {
        var writer = MessageWriter()
        writer.unsignedVarint(10_001)
        writer.buffer.writeRepeatingByte(0, count: 40_000)
        var reader = MessageReader(writer.buffer)
        let error = #expect(throws: ProtocolError.self) { _ = try reader.unknownTags("test") }
        #expect(error?.code == .limitExceeded)
    }
}
