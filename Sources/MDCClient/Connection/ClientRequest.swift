// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import NIOCore

/// A request on its way, whatever its type.
protocol ClientRequest: AnyObject {
    var apiKey: APIKey { get }
    /// The versions that this client can use for it.
    var versions: ClosedRange<Int16> { get }
    var expectsAnswer: Bool { get }
    /// How long the answer may take.
    var timeout: TimeAmount { get }
    /// Writes header and body, without the length prefix.
    func write(to buffer: inout ByteBuffer, version: Int16, correlationID: Int32, clientID: String) throws
    /// The answer's body, after its header.
    func succeed(body: ByteBuffer, version: Int16)
    func fail(_ error: ClientError)
}

/// A request of one type. `make` builds it for the version that was negotiated.
final class TypedRequest<Request: RequestMessage>: ClientRequest {
    let promise: EventLoopPromise<Request.Response>
    let versions: ClosedRange<Int16>
    let timeout: TimeAmount
    /// What stands for the answer of a request that gets none (`acks=0`).
    private let unanswered: Request.Response?
    private let make: (Int16) -> Request

    init(
        promise: EventLoopPromise<Request.Response>,
        versions: ClosedRange<Int16>,
        timeout: TimeAmount,
        unanswered: Request.Response?,
        make: @escaping (Int16) -> Request
    ) {
        self.promise = promise
        self.versions = versions
        self.timeout = timeout
        self.unanswered = unanswered
        self.make = make
    }

    var expectsAnswer: Bool { unanswered == nil }

    var apiKey: APIKey { Request.apiKey }

    func write(to buffer: inout ByteBuffer, version: Int16, correlationID: Int32, clientID: String) throws {
        try RequestWriter.write(
            make(version),
            version: version,
            correlationID: correlationID,
            clientID: clientID,
            to: &buffer
        )
        if let unanswered { promise.succeed(unanswered) }
    }

    func succeed(body: ByteBuffer, version: Int16) {
        do {
            var reader = MessageReader(body)
            promise.succeed(try Request.Response(from: &reader, version: version))
        } catch {
            promise.fail(
                ClientError(
                    .protocolViolation,
                    "the answer to API \(apiKey.rawValue) version \(version) does not parse",
                    cause: error
                )
            )
        }
    }

    func fail(_ error: ClientError) {
        promise.fail(error)
    }
}

/// Puts header and body of a request into a buffer.
enum RequestWriter {
    static func write<Request: RequestMessage>(
        _ request: Request,
        version: Int16,
        correlationID: Int32,
        clientID: String,
        to buffer: inout ByteBuffer
    ) throws {
        let apiKey = Request.apiKey
        var writer = MessageWriter(buffer)
        buffer = ByteBuffer()
        try RequestHeader(
            apiKey: apiKey,
            apiVersion: version,
            correlationId: correlationID,
            clientId: clientID
        ).write(to: &writer, version: HeaderVersions.request(apiKey, version: version))
        try request.write(to: &writer, version: version)
        buffer = writer.buffer
    }
}
