// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// One request in service. It is finished exactly once, from any thread.
final class RequestContext: Sendable {
    let apiKey: APIKey
    let version: Int16
    let correlationID: Int32
    let clientID: String?
    let connection: Connection
    /// Monotonic nanoseconds when the request was taken.
    let receivedAt: UInt64
    private let slot: UInt64
    private let isFinished = Atomic<Bool>(false)
    private let throttled = Atomic<Int32>(0)
    /// The bytes after the header. Given up when the handler has read them, so that a waiting request holds no memory.
    private let bodyStorage: Mutex<ByteBuffer>

    init(header: RequestHeader, body: ByteBuffer, connection: Connection, slot: UInt64, receivedAt: UInt64) {
        apiKey = header.apiKey
        version = header.apiVersion
        correlationID = header.correlationId
        clientID = header.clientId
        self.connection = connection
        self.slot = slot
        self.receivedAt = receivedAt
        bodyStorage = Mutex(body)
    }

    /// The client's address as Kafka writes it.
    var clientHost: String { connection.clientHost }
    var eventLoop: any EventLoop { connection.worker.eventLoop }

    /// The bytes after the header; empty the second time.
    func takeBody() -> ByteBuffer {
        bodyStorage.withLock { body in
            let taken = body
            body = ByteBuffer()
            return taken
        }
    }

    /// Reads the body as a request of its version. Throws what the decoder throws. Bytes after the end are let pass, as
    /// Kafka does: librdkafka sends some after a Metadata request that names no topic.
    func decode<Request: RequestMessage>(_: Request.Type) throws(ProtocolError) -> Request {
        var reader = MessageReader(takeBody())
        return try Request(from: &reader, version: version)
    }

    // MARK: Throttling

    /// Milliseconds that the answer tells the client to wait.
    var throttleMilliseconds: Int32 { throttled.load(ordering: .relaxed) }

    /// The client exceeded a quota: the answer says so, and nothing is taken from the connection for that long (KIP-219).
    func throttle(_ milliseconds: Int32) {
        guard milliseconds > 0, throttled.max(milliseconds, ordering: .relaxed).newValue == milliseconds else { return }
        connection.onLoop { $0.mute(milliseconds: milliseconds) }
    }

    // MARK: Finishing

    /// Answers with a message in the request's version.
    func respond(_ message: some ResponseMessage) {
        respond(message, version: version)
    }

    /// Answers with a message in another version: ApiVersions does.
    func respond(_ message: some ResponseMessage, version: Int16) {
        if throttleMilliseconds > 0, var throttled = message as? any ThrottledResponse {
            throttled.throttleTimeMs = max(throttled.throttleTimeMs, throttleMilliseconds)
            return send(throttled, version: version)
        }
        send(message, version: version)
    }

    private func send(_ message: some ResponseMessage, version: Int16) {
        do throws(ProtocolError) {
            respond(frame: try Frame.response(message, version: version, correlationId: correlationID))
        } catch {
            closeConnection("the answer to \(apiKey) version \(version) cannot be encoded: \(error)")
        }
    }

    /// Answers with a whole frame.
    func respond(frame: ByteBuffer) { finish(.frame(frame), bytes: frame.readableBytes) }

    /// Answers with a whole frame in pieces.
    func respond(pieces: [ResponsePiece]) {
        var copied = 0
        for case .bytes(let buffer) in pieces { copied += buffer.readableBytes }
        finish(
            .pieces(pieces, HeldCopies(copied, on: connection.worker)),
            bytes: pieces.reduce(0) { $0 + $1.length }
        )
    }

    /// Ends a request that is not answered (`acks=0`).
    func finishWithoutResponse() { finish(nil, bytes: 0) }

    /// Ends the request by closing its connection.
    func closeConnection(_ reason: String) {
        guard !isFinished.exchange(true, ordering: .acquiringAndReleasing) else { return }
        connection.close(reason)
    }

    private func finish(_ response: Response?, bytes: Int) {
        guard !isFinished.exchange(true, ordering: .acquiringAndReleasing) else {
            preconditionFailure("\(apiKey) was answered twice")
        }
        let (slot, key, receivedAt) = (slot, apiKey, receivedAt)
        connection.onLoop { handler in
            handler.finish(slot, response, bytes: bytes, key: key, receivedAt: receivedAt)
        }
    }

    /// What is sent.
    enum Response: Sendable {
        case frame(ByteBuffer)
        case pieces([ResponsePiece], HeldCopies)
    }
}
