// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

struct PrimitiveTests {
    @Test(
        "unsigned varints",
        arguments: [
            (0, [0]), (127, [0x7F]), (128, [0x80, 1]), (300, [0xAC, 2]), (UInt32.max, [0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
        ] as [(UInt32, [UInt8])]
    )
    func varint(value: UInt32, bytes: [UInt8]) throws {
        var writer = MessageWriter()
        writer.unsignedVarint(value)
        #expect(Array(writer.buffer.readableBytesView) == bytes)
        var reader = MessageReader(ByteBuffer(bytes: bytes))
        #expect(try reader.unsignedVarint("test") == value)
        try reader.finish("test")
    }

    @Test("a varint of more than 32 bits is refused")
    func longVarint() {
        for bytes in [[0xFF, 0xFF, 0xFF, 0xFF, 0x1F], [0x80, 0x80, 0x80, 0x80, 0x80, 0x00]] as [[UInt8]] {
            var reader = MessageReader(ByteBuffer(bytes: bytes))
            let error = #expect(throws: ProtocolError.self) { _ = try reader.unsignedVarint("test") }
            #expect(error?.code == .malformed)
        }
    }

    @Test("strings in both encodings", arguments: ["", "a", "payments-é", String(repeating: "y", count: 32_767)])
    func strings(text: String) throws {
        for flexible in [false, true] {
            var writer = MessageWriter()
            try writer.string("test", text, flexible: flexible)
            try writer.nullableString("test", nil, flexible: flexible)
            var reader = MessageReader(writer.buffer)
            #expect(try reader.string("test", flexible: flexible) == text)
            #expect(try reader.nullableString("test", flexible: flexible) == nil)
            try reader.finish("test")
        }
    }

    @Test("a string that does not fit its length field is refused")
    func tooLong() throws {
        let text = String(repeating: "z", count: 32_768)
        var writer = MessageWriter()
        let error = #expect(throws: ProtocolError.self) { try writer.string("test", text, flexible: false) }
        #expect(error?.code == .tooLong)
        try writer.string("test", text, flexible: true)
        #expect(writer.buffer.readableBytes == 3 + 32_768)
    }

    @Test("text that is not UTF-8 is refused, with its field and place")
    func invalidText() {
        var reader = MessageReader(ByteBuffer(bytes: [0, 2, 0xC3, 0x28]))
        let error = #expect(throws: ProtocolError.self) { _ = try reader.string("Message.field", flexible: false) }
        #expect(error?.code == .invalidText)
        #expect(error?.field == "Message.field")
        #expect(error?.message == "Message.field, byte 2: is not valid UTF-8")
    }

    @Test("bytes are slices of the input")
    func slices() throws {
        var writer = MessageWriter()
        try writer.bytes("test", ByteBuffer(bytes: [1, 2, 3]), flexible: true)
        var reader = MessageReader(writer.buffer)
        let slice = try reader.bytes("test", flexible: true)
        #expect(slice == ByteBuffer(bytes: [1, 2, 3]))
        let shared = writer.buffer.withVeryUnsafeBytes { whole in
            slice.withVeryUnsafeBytes {
                $0.baseAddress.map { whole.baseAddress! <= $0 && $0 < whole.baseAddress! + whole.count }
            }
        }
        #expect(shared == true)
    }

    @Test("a tagged field longer than 127 bytes keeps its length and its neighbours")
    func longTag() throws {
        let endpoint = FetchResponse.NodeEndpoint(nodeId: 1, host: String(repeating: "h", count: 500), port: 9092)
        let message = FetchResponse(
            nodeEndpoints: [endpoint, endpoint],
            unknownTaggedFields: [
                UnknownTaggedField(tag: 9, bytes: ByteBuffer(bytes: [9])),
                UnknownTaggedField(tag: 7, bytes: ByteBuffer(repeating: 7, count: 300)),
            ]
        )
        var bytes = try message.encoded(version: 17)
        let read = try FetchResponse(reading: &bytes, version: 17)
        #expect(read.nodeEndpoints == message.nodeEndpoints)
        #expect(read.unknownTaggedFields.map(\.tag) == [7, 9])
        #expect(read.unknownTaggedFields.map(\.bytes.readableBytes) == [300, 1])
    }

    @Test("a field that the version lacks is refused unless it may be left out")
    func unsupportedField() throws {
        let commit = OffsetCommitRequest(groupId: "g", groupInstanceId: "i")
        let error = #expect(throws: ProtocolError.self) { _ = try commit.encoded(version: 6) }
        #expect(error?.code == .unsupportedField)
        #expect(error?.kafkaError == .unsupportedVersion)
        _ = try commit.encoded(version: 7)
        // ignorable
        _ = try FetchRequest(rackId: "r").encoded(version: 4)
        // null where the version has no null
        let null = #expect(throws: ProtocolError.self) { _ = try MetadataRequest(topics: nil).encoded(version: 0) }
        #expect(null?.code == .unexpectedNull)
    }

    @Test("bytes after the message are refused")
    func trailing() throws {
        var bytes = try HeartbeatRequest(groupId: "g").encoded(version: 0)
        bytes.writeInteger(1 as UInt8)
        let error = #expect(throws: ProtocolError.self) { _ = try HeartbeatRequest(reading: &bytes, version: 0) }
        #expect(error?.code == .trailingBytes)
    }

    @Test("a tagged field whose length and value disagree is refused")
    func tagLength() throws {
        // Fetch v12 response: tag 0 of the partition promises two bytes, but its structure needs more.
        var writer = MessageWriter()
        writer.integer(0 as Int32)
        writer.integer(0 as Int16)
        writer.integer(0 as Int32)
        writer.unsignedVarint(1)  // no topics
        writer.unsignedVarint(1)  // one tag
        writer.unsignedVarint(0)  // the node endpoints
        writer.unsignedVarint(2)
        writer.unsignedVarint(1)  // none, and a byte too many
        writer.unsignedVarint(0)
        var bytes = writer.buffer
        let error = #expect(throws: ProtocolError.self) { _ = try FetchResponse(reading: &bytes, version: 16) }
        #expect(error?.code == .malformed)
    }
}
