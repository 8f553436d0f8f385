// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

struct FrameDecoderTests {
    private func frame(_ body: [UInt8]) -> ByteBuffer {
        var buffer = ByteBuffer(integer: Int32(body.count))
        buffer.writeBytes(body)
        return buffer
    }

    @Test("frames arrive byte by byte")
    func byteByByte() throws {
        var decoder = FrameDecoder(maximumFrameSize: 100)
        var seen: [[UInt8]] = []
        for body in [[1, 2, 3], [], [4]] as [[UInt8]] {
            for byte in frame(body).readableBytesView {
                decoder.append(ByteBuffer(bytes: [byte]))
                while let next = try decoder.next() { seen.append(Array(next.readableBytesView)) }
            }
        }
        #expect(seen == [[1, 2, 3], [], [4]])
        #expect(decoder.bufferedBytes == 0)
    }

    @Test("many frames arrive at once, the last in part")
    func manyAtOnce() throws {
        var input = ByteBuffer()
        for number in 0..<50 { input.writeImmutableBuffer(frame(Array(repeating: UInt8(number), count: number))) }
        input.writeBytes([0, 0, 0, 2, 7])
        var decoder = FrameDecoder()
        decoder.append(input)
        for number in 0..<50 {
            #expect(try decoder.next() == ByteBuffer(repeating: UInt8(number), count: number))
        }
        #expect(try decoder.next() == nil)
        #expect(decoder.bufferedBytes == 5)
        decoder.append(ByteBuffer(bytes: [8]))
        #expect(try decoder.next() == ByteBuffer(bytes: [7, 8]))
    }

    @Test("frames cut at random places", arguments: [1, 2, 3, 4] as [UInt64])
    func random(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bodies = (0..<40).map { _ in random.bytes() }
        var stream = ByteBuffer()
        for body in bodies {
            stream.writeInteger(Int32(body.readableBytes))
            stream.writeImmutableBuffer(body)
        }
        var decoder = FrameDecoder()
        var seen: [ByteBuffer] = []
        while stream.readableBytes > 0 {
            let length = min(stream.readableBytes, Int.random(in: 1...700, using: &random))
            decoder.append(stream.readSlice(length: length) ?? ByteBuffer())
            while let next = try decoder.next() { seen.append(next) }
        }
        #expect(seen == bodies)
    }

    @Test("frames are read into the buffer that was lent", arguments: [5, 6, 7, 8] as [UInt64])
    func lending(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bodies = (0..<40).map { index in
            index % 10 == 0
                ? ByteBuffer(repeating: UInt8(index), count: Int.random(in: 0...3_000_000, using: &random))
                : random.bytes()
        }
        var stream = ByteBuffer()
        for body in bodies {
            stream.writeInteger(Int32(body.readableBytes))
            stream.writeImmutableBuffer(body)
        }
        var decoder = FrameDecoder()
        var seen: [ByteBuffer] = []
        while stream.readableBytes > 0 {
            // As a socket: as much as fits in the buffer, or less.
            var buffer = decoder.lend() ?? ByteBufferAllocator().buffer(capacity: 4096)
            #expect(decoder.lentBytes == buffer.readableBytes)
            #expect(buffer.writableBytes > 0)
            let room = min(stream.readableBytes, buffer.writableBytes)
            let length = Bool.random(using: &random) ? room : Int.random(in: 1...room, using: &random)
            buffer.writeImmutableBuffer(stream.readSlice(length: length) ?? ByteBuffer())
            decoder.append(buffer)
            while let next = try decoder.next() { seen.append(next) }
        }
        #expect(seen == bodies)
        #expect(decoder.bufferedBytes == 0 && decoder.lentBytes == 0)
    }

    @Test("what was read of a large frame is not moved any more")
    func lentInPlace() throws {
        var decoder = FrameDecoder()
        decoder.append(ByteBuffer(integer: 1_000_000 as Int32))
        #expect(try decoder.next() == nil)
        var addresses: Set<UInt> = []
        for _ in 0..<10 {
            guard var buffer = decoder.lend() else {
                Issue.record("a frame has begun, and nothing was lent")
                return
            }
            addresses.insert(buffer.withVeryUnsafeBytes { UInt(bitPattern: $0.baseAddress) })
            buffer.writeRepeatingByte(1, count: 100_000)
            decoder.append(buffer)
        }
        #expect(try decoder.next()?.readableBytes == 1_000_000)
        #expect(addresses.count == 1)
    }

    @Test("a buffer that was lent and did not come back ends the stream; a promise lends little")
    func lost() throws {
        var decoder = FrameDecoder()
        let beforeAny = decoder.lend()
        #expect(beforeAny == nil)
        decoder.append(ByteBuffer(integer: 90_000_000 as Int32))
        #expect(try decoder.next() == nil)
        let lent = decoder.lend()
        #expect(try #require(lent).capacity <= 2 << 20)
        let afterLoss = decoder.lend()
        #expect(afterLoss == nil)
        decoder.append(frame([1]))
        let error = #expect(throws: ProtocolError.self) { _ = try decoder.next() }
        #expect(error?.code == .malformed)
        let atTheEnd = decoder.lend()
        #expect(atTheEnd == nil)
    }

    @Test("a whole frame is a slice of the input")
    func noCopy() throws {
        let input = frame([1, 2, 3, 4])
        var decoder = FrameDecoder()
        decoder.append(input)
        let body = try #require(try decoder.next())
        let whole = input.withVeryUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
        let slice = body.withUnsafeReadableBytes { UInt(bitPattern: $0.baseAddress) }
        #expect(slice == whole + 4)
    }

    @Test("negative and oversize lengths are refused for good")
    func badLengths() throws {
        for (length, code) in [(Int32(-1), ProtocolError.Code.malformed), (101, .limitExceeded)] {
            var decoder = FrameDecoder(maximumFrameSize: 100)
            decoder.append(ByteBuffer(integer: length))
            for _ in 0..<2 {
                let error = #expect(throws: ProtocolError.self) { _ = try decoder.next() }
                #expect(error?.code == code)
                decoder.append(frame([1]))
            }
            #expect(decoder.bufferedBytes == 0)
        }
        var decoder = FrameDecoder(maximumFrameSize: 100)
        decoder.append(frame(Array(repeating: 1, count: 100)))
        #expect(try decoder.next()?.readableBytes == 100)
    }

    @Test("a large length alone reserves nothing")
    func promise() throws {
        var decoder = FrameDecoder()
        decoder.append(ByteBuffer(integer: 90_000_000 as Int32))
        #expect(try decoder.next() == nil)
        decoder.append(ByteBuffer(bytes: [1]))
        #expect(try decoder.next() == nil)
        #expect(decoder.bufferedBytes == 5)
    }
}

struct HeaderTests {
    @Test("the version of the request header follows the encoding of the message")
    func requestVersions() {
        #expect(HeaderVersions.request(.controlledShutdown, version: 0) == 0)
        #expect(HeaderVersions.request(.controlledShutdown, version: 1) == 1)
        #expect(HeaderVersions.request(.produce, version: 8) == 1)
        #expect(HeaderVersions.request(.produce, version: 9) == 2)
        #expect(HeaderVersions.request(.saslHandshake, version: 1) == 1)
        #expect(HeaderVersions.request(.apiVersions, version: 3) == 2)
        #expect(HeaderVersions.request(.apiVersions, version: 99) == 2)
        #expect(HeaderVersions.request(APIKey(rawValue: 9999), version: 0) == 1)
    }

    @Test("the response header of ApiVersions is always version 0")
    func responseVersions() {
        for version in Int16(0)...5 { #expect(HeaderVersions.response(.apiVersions, version: version) == 0) }
        #expect(HeaderVersions.response(.produce, version: 8) == 0)
        #expect(HeaderVersions.response(.produce, version: 9) == 1)
        #expect(HeaderVersions.response(.offsetDelete, version: 0) == 0)
    }

    @Test("a request frame is read back: header, then body")
    func requestFrame() throws {
        for version in FindCoordinatorRequest.validVersions {
            let request = FindCoordinatorRequest(
                key: version <= 3 ? "g" : "",
                coordinatorKeys: version >= 4 ? ["g"] : []
            )
            var frame = try Frame.request(request, version: version, correlationId: 42, clientId: "me")
            #expect(frame.readInteger(as: Int32.self).map(Int.init) == frame.readableBytes)
            let header = try RequestHeader(readingHeadOf: &frame)
            #expect(header.apiKey == .findCoordinator)
            #expect(header.apiVersion == version)
            #expect(header.correlationId == 42)
            #expect(header.clientId == "me")
            #expect(try FindCoordinatorRequest(reading: &frame, version: version) == request)
        }
    }

    @Test("a response frame is read back: header, then body")
    func responseFrame() throws {
        for version in ApiVersionsResponse.validVersions {
            let response = APIVersions.answer(version: version, implemented: [.produce, .apiVersions])
            var frame = try Frame.response(response, version: version, correlationId: 7)
            #expect(frame.readInteger(as: Int32.self).map(Int.init) == frame.readableBytes)
            let header = try ResponseHeader(readingHeadOf: &frame, apiKey: .apiVersions, apiVersion: version)
            #expect(header.correlationId == 7)
            #expect(header.unknownTaggedFields == [])
            #expect(try ApiVersionsResponse(reading: &frame, version: version) == response)
        }
    }

    @Test("a header that is cut is refused, and the frame stays where it was")
    func cutHeader() throws {
        var whole = try Frame.request(HeartbeatRequest(groupId: "g"), version: 4, correlationId: 1, clientId: "client")
        _ = whole.readInteger(as: Int32.self)
        for length in 0..<16 {
            var cut = try #require(whole.getSlice(at: whole.readerIndex, length: length))
            #expect(throws: ProtocolError.self) { _ = try RequestHeader(readingHeadOf: &cut) }
            #expect(cut.readableBytes == length)
        }
    }
}
