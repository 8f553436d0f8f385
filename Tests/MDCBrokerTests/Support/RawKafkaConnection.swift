// SPDX-License-Identifier: Apache-2.0

import Glibc
import MDCProtocol
import NIOCore

/// A client that sends what it is told, right or wrong, over a blocking socket with a time limit.
final class RawKafkaConnection {
    struct Failure: Error, CustomStringConvertible { var description: String }

    private let descriptor: Int32
    private var nextCorrelation: Int32 = 1
    private var received: [UInt8] = []

    init(port: Int, timeoutSeconds: Int = 20) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: "socket: \(errno)") }
        var limit = timeval(tv_sec: timeoutSeconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let reason = errno
            close(descriptor)
            throw Failure(description: "connect: \(reason)")
        }
    }

    deinit { close(descriptor) }

    /// Sends bytes as they are.
    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(description: "send: \(errno)") }
            sent += count
        }
    }

    /// Sends a request; returns its correlation id.
    @discardableResult
    func send(_ request: some RequestMessage, version: Int16) throws -> Int32 {
        let correlation = nextCorrelation
        nextCorrelation += 1
        let frame = try Frame.request(request, version: version, correlationId: correlation, clientId: "raw")
        try send(Array(frame.readableBytesView))
        return correlation
    }

    /// The next frame without its length; nil where the peer has closed.
    func receiveFrame() throws -> ByteBuffer? {
        guard let head = try take(4) else { return nil }
        let length = head.reduce(0) { $0 << 8 | Int($1) }
        guard let body = try take(length) else { return nil }
        return ByteBuffer(bytes: body)
    }

    private func take(_ count: Int) throws -> [UInt8]? {
        var chunk = [UInt8](repeating: 0, count: 65536)
        while received.count < count {
            let got = recv(descriptor, &chunk, chunk.count, 0)
            if got == 0 || (got < 0 && errno == ECONNRESET) { return nil }
            guard got > 0 else { throw Failure(description: "no answer in time (\(errno))") }
            received += chunk[..<got]
        }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    /// Receives the answer to a request.
    func receive<Response: ResponseMessage>(_: Response.Type, version: Int16, correlation: Int32) throws -> Response {
        guard var frame = try receiveFrame() else { throw Failure(description: "the broker closed the connection") }
        let header = try ResponseHeader(readingHeadOf: &frame, apiKey: Response.apiKey, apiVersion: version)
        guard header.correlationId == correlation else {
            throw Failure(description: "answer \(header.correlationId) came instead of \(correlation)")
        }
        return try Response(reading: &frame, version: version)
    }

    /// Sends a request and receives its answer.
    func call<Request: RequestMessage>(_ request: Request, version: Int16) throws -> Request.Response {
        try receive(Request.Response.self, version: version, correlation: try send(request, version: version))
    }

    /// Whether the peer closes without sending anything more.
    func isClosedByPeer() throws -> Bool { try receiveFrame() == nil }
}
