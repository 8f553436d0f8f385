// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
import HTTPTypes
import Hummingbird
import Logging
import MDCModel
import Metrics
import NIOCore
import Synchronization

/// Understands a request of the HTTP interface, knows who asks, and answers.
final class APIDesk: HTTPResponder {
    typealias Context = BasicRequestContext

    /// An answer that is not a problem, and what the audit log says of it.
    struct Answer: Sendable {
        var response: Response
        var messages: Int?
    }

    let keys: TopicTable<APIKey>
    let messages: MessageClient
    let store: MessageStore
    let streams: EventStreams
    let templates: TemplateBook
    let configuration: APIServer.Configuration
    private let audit: AuditLog
    private let logger: Logger
    private let inFlight = Mutex(0)
    private let buckets = Mutex<[String: (rate: Double, bucket: TokenBucket)]>([:])
    private let strangers: Mutex<TokenBucket>
    private let timer = Metrics.Timer(label: "mdc_api_seconds")

    init(
        configuration: APIServer.Configuration,
        keys: TopicTable<APIKey>,
        messages: MessageClient,
        store: MessageStore,
        streams: EventStreams,
        templates: TemplateBook,
        audit: AuditLog,
        logger: Logger
    ) {
        self.configuration = configuration
        self.keys = keys
        self.messages = messages
        self.store = store
        self.streams = streams
        self.templates = templates
        self.audit = audit
        self.logger = logger
        strangers = Mutex(
            TokenBucket(perSecond: 50, burst: 100, nowNanoseconds: SystemTime.monotonicNanoseconds())
        )
    }

    func respond(to request: Request, context: BasicRequestContext) async throws -> Response {
        let start = SystemTime.monotonicNanoseconds()
        var key: APIKey?
        var answer: Answer
        do {
            guard let route = APIRoute(path: request.uri.path) else { throw APIProblem.notFound }
            guard route.methods.contains(request.method) else {
                let offered = route.methods.map(\.rawValue).joined(separator: ", ")
                throw APIProblem(405, "Method not allowed", "use \(offered)")
            }
            if let scope = route.scope(request.method) {
                let caller = try authenticate(request)
                key = caller
                try admit(caller, scope)
                answer = try await limited { try await self.serve(route, request, caller) }
            } else {
                return Self.json(OpenAPIDocument.text)
            }
        } catch let problem as APIProblem {
            answer = Answer(response: problem.response)
        } catch let error as PipelineError {
            if error.code == .store || error.code == .log {
                logger.warning("a request failed", metadata: ["error": "\(error)"])
            }
            answer = Answer(response: APIProblem(error).response)
        } catch {
            logger.debug("a request ended early", metadata: ["error": "\(error)"])
            answer = Answer(response: APIProblem(400, "Not understood", "the request ended early").response)
        }
        let status = answer.response.status.code
        timer.recordNanoseconds(SystemTime.monotonicNanoseconds() - start)
        Counter(label: "mdc_api_requests_total", dimensions: [("status", String(status))]).increment()
        await audit.append(
            AuditEntry(
                at: SystemTime.now(),
                key: key?.id,
                tenant: key?.tenant,
                action: "\(request.method.rawValue) \(request.uri.path.prefix(200))",
                status: status,
                messages: answer.messages
            )
        )
        return answer.response
    }

    private func limited(_ body: () async throws -> Answer) async throws -> Answer {
        let count = inFlight.withLock { count in
            count += 1
            return count
        }
        defer { inFlight.withLock { $0 -= 1 } }
        guard count <= configuration.inFlightMax else {
            throw APIProblem(503, "Not possible now", "too many requests are at work; try again", retryAfter: 1)
        }
        return try await body()
    }

    // MARK: - Who asks

    private func authenticate(_ request: Request) throws(APIProblem) -> APIKey {
        if let header = request.headers[.authorization] {
            let parts = header.split(separator: " ", maxSplits: 1)
            if parts.count == 2, parts[0].lowercased() == "bearer",
                let (id, secret) = APIKey.parts(of: parts[1].trimmed), let key = keys[id],
                key.accepts(secret), key.revokedAt == nil
            {
                return key
            }
        }
        let wait = strangers.withLock { $0.take(nowNanoseconds: SystemTime.monotonicNanoseconds()) }
        guard wait == 0 else { throw Self.tooMany(wait) }
        throw APIProblem(
            401,
            "Not authenticated",
            "send a valid API key as 'Authorization: Bearer mdc_…'; `mdc apikey create` makes one"
        )
    }

    private func admit(_ key: APIKey, _ scope: APIScope) throws(APIProblem) {
        let now = SystemTime.monotonicNanoseconds()
        let wait = buckets.withLock { buckets in
            var entry = buckets[key.id]
            if entry?.rate != key.ratePerSecond {
                let rate = key.ratePerSecond
                entry = (rate, TokenBucket(perSecond: rate, burst: rate, nowNanoseconds: now))
            }
            let wait = entry?.bucket.take(nowNanoseconds: now) ?? 0
            buckets[key.id] = entry
            return wait
        }
        guard wait == 0 else { throw Self.tooMany(wait) }
        guard key.scopes.contains(scope) else {
            throw APIProblem(
                403,
                "Not allowed",
                "this API key lacks the scope \(scope.rawValue); `mdc apikey create --scope \(scope.rawValue)` makes one"
            )
        }
    }

    private static func tooMany(_ nanoseconds: Int64) -> APIProblem {
        let seconds = Int((nanoseconds + 999_999_999) / 1_000_000_000)
        return APIProblem(429, "Too many requests", "try again in \(seconds) s", retryAfter: max(1, seconds))
    }

    // MARK: - Answers

    private func serve(_ route: APIRoute, _ request: Request, _ key: APIKey) async throws -> Answer {
        switch route {
        case .messages where request.method == .post: return try await submit(request, key)
        case .messages: return Answer(response: try await list(request, key))
        case .message(let id): return Answer(response: try await one(id, request, key))
        case .timeline(let id): return Answer(response: try await timeline(id, request, key))
        case .report(let kind): return Answer(response: try await report(kind, request, key))
        case .events: return try await streams.response(to: request, for: key)
        case .templates: return Answer(response: try await listTemplates(request, key))
        case .template(let name):
            switch request.method {
            case .put: return Answer(response: try await putTemplate(name, request, key))
            case .delete: return Answer(response: try await deleteTemplate(name, request, key))
            default: return Answer(response: try await template(name, request, key))
            }
        case .description: return Answer(response: Self.json(OpenAPIDocument.text))
        }
    }

    static func json(_ text: String, status: HTTPResponse.Status = .ok) -> Response {
        Response(
            status: status,
            headers: [.contentType: "application/json"],
            body: .init(byteBuffer: ByteBuffer(string: text))
        )
    }

    /// An answer with its ETag, or 304 if the client has it already.
    static func tagged(_ text: String, type: String = "application/json", for request: Request) -> Response {
        let digest = hexadecimal(Crypto.SHA256.hash(data: Data(text.utf8)).prefix(16))
        let tag = "\"\(digest)\""
        let known = request.headers[.ifNoneMatch]?.split(separator: ",").map { part -> String in
            let part = part.trimmed
            return part.hasPrefix("W/") ? String(part.dropFirst(2)) : part
        }
        var headers: HTTPFields = [.eTag: tag, .cacheControl: "private, no-cache", .vary: "Accept, Authorization"]
        if let known, known.contains(tag) || known.contains("*") {
            return Response(status: .notModified, headers: headers)
        }
        headers[.contentType] = type
        return Response(status: .ok, headers: headers, body: .init(byteBuffer: ByteBuffer(string: text)))
    }
}
