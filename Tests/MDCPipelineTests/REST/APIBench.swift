// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import Logging
import MDCClient
import MDCJSON
import MDCModel
import NIOCore
import NIOHTTP1
import Synchronization
import Testing

@testable import MDCPipeline

/// A centre with its HTTP interface, asked over real sockets.
struct APIBench: Sendable {
    let bench: Bench
    let center: MessageCenter
    let client: HTTPClient
    let base: String
    /// What the server logged.
    let log: LogCapture

    /// An answer as tests look at it.
    struct Answer {
        var status: Int
        var headers: HTTPHeaders
        var text: String
        var json: JSONValue { JSONValue(json: text) ?? .null }
        subscript(name: String) -> JSONValue? {
            guard case .object(let members) = json else { return nil }
            return members[name]
        }
    }

    static func with(
        _ configuration: APIServer.Configuration = APIServer.Configuration(),
        _ body: @escaping @Sendable (APIBench) async throws -> Void
    ) async throws {
        try await Bench.with { bench, _ in
            try await bench.running(behavior: SimulatorBehavior(seed: 7, shares: .none)) { center, _ in
                let log = LogCapture()
                var settings = ProducerConfiguration(client: bench.client)
                settings.linger = .zero
                let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
                let server = try APIServer(
                    configuration,
                    center: center,
                    client: bench.client,
                    producer: producer,
                    group: bench.group,
                    logger: log.logger
                )
                let run = Task { try await server.run() }
                let client = HTTPClient(eventLoopGroupProvider: .shared(bench.group))
                let port = try await server.boundPort()
                let api = APIBench(
                    bench: bench,
                    center: center,
                    client: client,
                    base: "http://127.0.0.1:\(port)",
                    log: log
                )
                let result: Result<Void, any Error>
                do {
                    result = .success(try await body(api))
                } catch {
                    result = .failure(error)
                }
                try await client.shutdown()
                run.cancel()
                _ = try? await run.value
                try await producer.close()
                try result.get()
            }
        }
    }

    var registry: ClientRegistry { ClientRegistry(bench.client, eventLoopGroup: bench.group, logger: bench.logger) }

    /// Makes a key and waits until the server knows it.
    func key(tenant: String?, scopes: Set<APIScope> = Set(APIScope.allCases), rate: Double = 10_000) async throws
        -> (key: APIKey, token: String)
    {
        let made = APIKey.make(name: "test", tenant: tenant, scopes: scopes, ratePerSecond: rate, now: SystemTime.now())
        try await registry.put(made.key, action: "apikey create")
        try await eventually("the key is known") { try await get("/v1/messages/none", made.token).status != 401 }
        return made
    }

    func eventually(_ what: String, _ condition: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try await !condition() {
            try #require(ContinuousClock.now < deadline, "it did not come about that \(what)")
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    func get(_ path: String, _ token: String?, _ headers: [(String, String)] = []) async throws -> Answer {
        try await send(.GET, path, token, headers, nil)
    }

    func post(_ body: String, _ token: String?, _ headers: [(String, String)] = []) async throws -> Answer {
        try await send(.POST, "/v1/messages", token, headers + [("content-type", "application/json")], body)
    }

    func send(_ method: HTTPMethod, _ path: String, _ token: String?, _ headers: [(String, String)], _ body: String?)
        async throws -> Answer
    {
        var request = HTTPClientRequest(url: base + path)
        request.method = method
        if let token { request.headers.add(name: "authorization", value: "Bearer \(token)") }
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        if let body { request.body = .bytes(ByteBuffer(string: body)) }
        let response = try await client.execute(request, timeout: .seconds(60))
        let bytes = try await response.body.collect(upTo: 32 << 20)
        return Answer(status: Int(response.status.code), headers: response.headers, text: String(buffer: bytes))
    }

    static func escape(_ text: String) -> String {
        text.addingPercentEncoding(withAllowedCharacters: .alphanumerics) ?? text
    }
}

/// Keeps what is logged, at every level.
final class LogCapture: Sendable {
    private let lines = Mutex<[String]>([])

    var text: String { lines.withLock { $0.joined(separator: "\n") } }

    var logger: Logger {
        var logger = Logger(label: "capture") { _ in Handler(capture: self) }
        logger.logLevel = .trace
        return logger
    }

    private struct Handler: LogHandler {
        let capture: LogCapture
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace

        init(capture: LogCapture) { self.capture = capture }

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            capture.lines.withLock { $0.append("\(event.message) \(event.metadata ?? [:]) \(metadata)") }
        }
    }
}
