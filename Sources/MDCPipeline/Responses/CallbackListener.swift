// SPDX-License-Identifier: Apache-2.0

import Foundation
import HTTPTypes
import Hummingbird
public import Logging
import MDCModel
import Metrics
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// Takes the providers' callbacks over HTTP, and answers 200 only once their receipts are durable (guarantee G8).
///
/// It keeps nothing: a request is parsed, handed to the ``ReceiptSink``, and answered by what the sink says. Requests beyond
/// `inFlightMax` are told to come again (503), so memory stays bounded when the log is slow. Many requests wait for the
/// log at once without holding a thread.
public final class CallbackListener: Service {
    /// A provider's path.
    public struct Route: Sendable, Hashable {
        /// The path segment, and the provider's name in receipts.
        public var provider: String
        /// The last path segment: whoever knows it may report.
        public var secret: String
        /// The shape of its callbacks.
        public var format: CallbackFormat
        /// How a callback proves who made it, beside the path's secret; nil: not at all.
        public var signature: CallbackSignature?

        /// - Precondition: provider and secret are not empty and have no slash.
        public init(
            provider: String,
            secret: String,
            format: CallbackFormat,
            signature: CallbackSignature? = nil
        ) {
            precondition(
                !provider.isEmpty && !secret.isEmpty && !provider.contains("/") && !secret.contains("/"),
                "a callback route needs a provider and a secret without slashes"
            )
            self.provider = provider
            self.secret = secret
            self.format = format
            self.signature = signature
        }
    }

    /// Where and how it listens.
    public struct Configuration: Sendable {
        /// Where it listens.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// The providers that may report.
        public var routes: [Route]
        /// The largest body, in bytes.
        public var bodyBytesMax: Int
        /// The most requests that wait for the log at once.
        public var inFlightMax: Int
        /// A connection without a request is closed after this time.
        public var idleTimeout: Duration

        public init(
            host: String = "127.0.0.1",
            port: Int = 0,
            routes: [Route],
            bodyBytesMax: Int = 64 << 10,
            inFlightMax: Int = 4_096,
            idleTimeout: Duration = .seconds(60)
        ) {
            self.host = host
            self.port = port
            self.routes = routes
            self.bodyBytesMax = bodyBytesMax
            self.inFlightMax = inFlightMax
            self.idleTimeout = idleTimeout
        }
    }

    /// Counts since the start.
    public struct Statistics: Sendable, Hashable {
        /// Requests by answer.
        public var byStatus: [Int: Int] = [:]
        /// Receipts that were made durable.
        public var receipts = 0
        /// Requests under way.
        public var inFlight = 0
    }

    private let configuration: Configuration
    private let desk: CallbackDesk
    private let group: any EventLoopGroup
    private let logger: Logger
    private let port = ListeningPort()

    /// - Parameter group: runs the connections; not shut down by the listener.
    public init(_ configuration: Configuration, sink: any ReceiptSink, group: any EventLoopGroup, logger: Logger) {
        self.configuration = configuration
        self.desk = CallbackDesk(configuration: configuration, sink: sink, logger: logger)
        self.group = group
        self.logger = logger
    }

    /// Counts since the start.
    public var statistics: Statistics { desk.statistics }

    /// The port, once it listens. - Throws: if it could not be bound.
    public func boundPort() async throws -> Int { try await port.value() }

    /// Serves until graceful shutdown; requests under way are answered first.
    public func run() async throws {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .notice)
        let port = port
        let application = Application(
            responder: desk,
            server: .http1(configuration: .init(idleTimeout: TimeAmount(configuration.idleTimeout))),
            configuration: .init(
                address: .hostname(configuration.host, port: configuration.port),
                serverName: nil,
                backlog: 1024
            ),
            onServerRunning: { channel in port.settle(.success(channel.localAddress?.port ?? 0)) },
            eventLoopGroupProvider: .shared(group),
            logger: quiet
        )
        // A cancelled server drops connections half open, which NIO takes for a programming error and traps. So cancellation
        // is turned into the graceful kind.
        let services = ServiceGroup(configuration: .init(services: [application], logger: quiet))
        let serving = Task { try await services.run() }
        let stop: @Sendable () -> Void = { Task { await services.triggerGracefulShutdown() } }
        do {
            try await withTaskCancellationHandler {
                try await withGracefulShutdownHandler {
                    try await serving.value
                } onGracefulShutdown: {
                    stop()
                }
            } onCancel: {
                stop()
            }
            port.settle(.failure(ListeningPort.Stopped()))
        } catch {
            port.settle(.failure(error))
            throw error
        }
    }
}

/// How a provider signs its callbacks.
public enum CallbackSignature: Sendable, Hashable {
    /// `X-Twilio-Signature`, by the account's token, over the address that the provider was told.
    ///
    /// - Parameter publicURL: Scheme and host (and path, if a proxy removes one) under which the provider sees the listener.
    case twilio(token: Secret, publicURL: String)

    func isValid(_ request: Request, body: ByteBuffer) -> Bool {
        switch self {
        case .twilio(let token, let publicURL):
            guard let name = HTTPField.Name("X-Twilio-Signature"), let signature = request.headers[name] else {
                return false
            }
            let isForm = request.headers[.contentType]?.lowercased().contains("form-urlencoded") ?? false
            return TwilioMapping.isSigned(
                signature,
                token: token,
                url: publicURL + request.uri.description,
                body: body,
                isForm: isForm
            )
        }
    }
}

/// The port of a server, for those who wait until it listens. The first outcome stays.
final class ListeningPort: Sendable {
    /// The server stopped before it listened.
    struct Stopped: Error {}

    private struct State {
        var outcome: Result<Int, any Error>?
        var waiting: [CheckedContinuation<Int, any Error>] = []
    }

    private let state = Mutex(State())

    func settle(_ outcome: Result<Int, any Error>) {
        let waiting = state.withLock { state in
            guard state.outcome == nil else { return [CheckedContinuation<Int, any Error>]() }
            state.outcome = outcome
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume(with: outcome) }
    }

    func value() async throws -> Int {
        try await withCheckedThrowingContinuation { continuation in
            let outcome = state.withLock { state in
                if state.outcome == nil { state.waiting.append(continuation) }
                return state.outcome
            }
            if let outcome { continuation.resume(with: outcome) }
        }
    }
}

/// Understands a request, has it made durable, answers.
private final class CallbackDesk: HTTPResponder {
    typealias Context = BasicRequestContext

    private struct Desk {
        var secret: [UInt8]
        var parser: CallbackParser
        var signature: CallbackSignature?
        var counters: [Int: Counter]
    }

    private static let statuses = [200, 400, 403, 405, 413, 503]
    /// Stands in for the secret of a provider that is not there, so that both cases take the same path.
    private static let noSecret = Array("no such provider".utf8)

    private let desks: [String: Desk]
    private let bodyBytesMax: Int
    private let inFlightMax: Int
    private let sink: any ReceiptSink
    private let logger: Logger
    private let state = Mutex(CallbackListener.Statistics())
    private let logsInFlight = Mutex(0)
    private static let logsInFlightMax = 8
    private let inFlightGauge = Gauge(label: "mdc_callbacks_in_flight")
    private let timer = Metrics.Timer(label: "mdc_callback_seconds")
    private let strangers = Counter(
        label: "mdc_callbacks_total",
        dimensions: [("provider", "unknown"), ("outcome", "404")]
    )

    init(configuration: CallbackListener.Configuration, sink: any ReceiptSink, logger: Logger) {
        desks = Dictionary(
            configuration.routes.map { route in
                let counters = Self.statuses.map { status in
                    let dimensions = [("provider", route.provider), ("outcome", String(status))]
                    return (status, Counter(label: "mdc_callbacks_total", dimensions: dimensions))
                }
                let desk = Desk(
                    secret: Array(route.secret.utf8),
                    parser: CallbackParser(format: route.format, provider: route.provider),
                    signature: route.signature,
                    counters: Dictionary(uniqueKeysWithValues: counters)
                )
                return (route.provider, desk)
            },
            uniquingKeysWith: { _, _ in preconditionFailure("two callback routes have the same provider") }
        )
        bodyBytesMax = configuration.bodyBytesMax
        inFlightMax = configuration.inFlightMax
        self.sink = sink
        self.logger = logger
    }

    var statistics: CallbackListener.Statistics { state.withLock { $0 } }

    func respond(to request: Request, context: BasicRequestContext) async throws -> Response {
        guard let desk = desk(for: request) else {
            strangers.increment()
            state.withLock { $0.byStatus[404, default: 0] += 1 }
            return Self.answer(.notFound, "not found")
        }
        let inFlight = state.withLock { state in
            state.inFlight += 1
            return state.inFlight
        }
        inFlightGauge.record(inFlight)
        let start = DispatchTime.now().uptimeNanoseconds
        let response: Response
        if inFlight > inFlightMax {
            response = Self.comeAgain("too many requests under way")
        } else {
            response = await serve(request, desk: desk)
        }
        timer.recordNanoseconds(Int64(DispatchTime.now().uptimeNanoseconds - start))
        desk.counters[response.status.code]?.increment()
        state.withLock { state in
            state.inFlight -= 1
            state.byStatus[response.status.code, default: 0] += 1
        }
        return response
    }

    private func serve(_ request: Request, desk: Desk) async -> Response {
        guard request.method == .get || request.method == .post else {
            return Self.answer(.methodNotAllowed, "use GET or POST")
        }
        if desk.parser.format == .deliveryLog { return await serveLog(request, desk) }
        do {
            let body = try await self.body(of: request)
            if let signature = desk.signature, !signature.isValid(request, body: body) {
                return Self.answer(.forbidden, "the signature is missing or wrong")
            }
            let now = Timestamp(wallClockMilliseconds())
            let receipts = try desk.parser.receipts(
                query: request.uri.query,
                contentType: request.headers[.contentType],
                body: body,
                now: now
            )
            return await store(receipts)
        } catch let problem as CallbackProblem {
            logger.debug("callback not understood", metadata: ["reason": "\(problem.reason)"])
            return Self.answer(.badRequest, problem.reason)
        } catch is NIOTooManyBytesError {
            return Self.answer(.contentTooLarge, "at most \(bodyBytesMax) bytes")
        } catch {
            // The body did not arrive whole; whoever still listens may send it again.
            return Self.comeAgain("the request ended early")
        }
    }

    /// Delivery logs come in large pieces, so few are read at once.
    private func serveLog(_ request: Request, _ desk: Desk) async -> Response {
        let isMine = logsInFlight.withLock { count in
            guard count < Self.logsInFlightMax else { return false }
            count += 1
            return true
        }
        guard isMine else { return Self.comeAgain("too many delivery logs under way") }
        defer { logsInFlight.withLock { $0 -= 1 } }
        let batch: DeliveryLog.Batch
        do {
            var body = try await request.body.collect(upTo: DeliveryLog.bodyBytesMax)
            if request.headers[.contentEncoding]?.lowercased() == "gzip" {
                var plain = ByteBuffer()
                do {
                    try body.withUnsafeReadableBytes {
                        try CompressionCodec.gzip.decompress($0, into: &plain, limit: DeliveryLog.unpackedMax)
                    }
                } catch {
                    throw CallbackProblem(reason: "the body cannot be unpacked: \(error)")
                }
                body = plain
            }
            batch = try DeliveryLog.batch(body, provider: desk.parser.provider)
        } catch let problem as CallbackProblem {
            logger.debug("delivery log not understood", metadata: ["reason": "\(problem.reason)"])
            return Self.answer(.badRequest, problem.reason)
        } catch is NIOTooManyBytesError {
            return Self.answer(.contentTooLarge, "at most \(DeliveryLog.bodyBytesMax) bytes")
        } catch {
            return Self.comeAgain("the request ended early")
        }
        if batch.foreign > 0 {
            logger.warning(
                "log events that tell of no delivery were passed over",
                metadata: ["provider": "\(desk.parser.provider)", "events": "\(batch.foreign)"]
            )
        }
        var response = await store(batch.receipts)
        // A Firehose takes nothing but its own id for an answer.
        if response.status == .ok, let id = batch.requestID {
            let text = encodeJSON(FirehoseAnswer(requestId: id, timestamp: wallClockMilliseconds()))
            response.headers[.contentType] = "application/json"
            response.body = .init(byteBuffer: ByteBuffer(string: text))
        }
        return response
    }

    private struct FirehoseAnswer: Encodable {
        var requestId: String
        var timestamp: Int64
    }

    private func body(of request: Request) async throws -> ByteBuffer {
        guard request.method == .post else { return ByteBuffer() }
        if let length = request.headers[.contentLength].flatMap(Int.init), length > bodyBytesMax {
            throw NIOTooManyBytesError(maxBytes: bodyBytesMax)
        }
        return try await request.body.collect(upTo: bodyBytesMax)
    }

    private func store(_ receipts: [ProviderReceipt]) async -> Response {
        guard !receipts.isEmpty else { return Self.answer(.ok, "ok") }
        do {
            try await sink.append(receipts)
        } catch {
            logger.warning("receipts are not durable", metadata: ["error": "\(error)"])
            return Self.comeAgain("not stored")
        }
        state.withLock { $0.receipts += receipts.count }
        return Self.answer(.ok, "ok")
    }

    /// The desk whose provider and secret the path names; the secret is compared in constant time.
    private func desk(for request: Request) -> Desk? {
        let parts = request.uri.path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard parts.count == 4, parts[0].isEmpty, parts[1].elementsEqual("callbacks".utf8) else { return nil }
        let desk = desks[String(decoding: parts[2], as: UTF8.self)]
        let isSecret = Self.isEqual(parts[3], desk?.secret ?? Self.noSecret)
        return isSecret ? desk : nil
    }

    /// Takes as long for a wrong first byte as for a wrong last one.
    static func isEqual(_ given: some Collection<UInt8>, _ secret: [UInt8]) -> Bool {
        var difference: UInt8 = given.count == secret.count ? 0 : 1
        var index = 0
        for byte in given {
            difference |= byte ^ secret[index % secret.count]
            index += 1
        }
        return difference == 0
    }

    private static func comeAgain(_ reason: String) -> Response {
        var response = answer(.serviceUnavailable, reason)
        response.headers[.retryAfter] = "1"
        return response
    }

    private static func answer(_ status: HTTPResponse.Status, _ text: String) -> Response {
        Response(
            status: status,
            headers: [.contentType: "text/plain; charset=utf-8"],
            body: .init(byteBuffer: ByteBuffer(string: text + "\n"))
        )
    }
}
