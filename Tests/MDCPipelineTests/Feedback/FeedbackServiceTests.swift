// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
import MDCClient
import MDCModel
import NIOCore
import NIOHTTP1
import Synchronization
import Testing

@testable import MDCPipeline

/// A client's server on a real socket: keeps what was posted to it, and answers as it is told.
private final class Receiver: Sendable {
    struct Post: Sendable {
        var id: String
        var seconds: String
        var signatures: [String]
        var body: String
    }

    private struct State: Sendable {
        var posts: [Post] = []
        var answers: [HTTPResponseStatus] = []
    }

    private let state = Mutex(State())
    private let server = Mutex<SimulatorHTTPServer?>(nil)

    var posts: [Post] { state.withLock { $0.posts } }
    var url: String { "http://127.0.0.1:\(server.withLock { $0?.port } ?? 0)/hook" }

    /// The next posts are answered so; those after them are taken.
    func answer(_ answers: [HTTPResponseStatus]) { state.withLock { $0.answers = answers } }

    func start(_ group: any EventLoopGroup) async throws {
        let started = try await SimulatorHTTPServer.start(host: "127.0.0.1", port: 0, group: group) { [self] in
            take($0, $1)
        }
        server.withLock { $0 = started }
    }

    func stop() async { await server.withLock { $0 }?.shutdown() }

    private func take(_ request: SimulatorRequest, _ responder: SimulatorResponder) {
        let post = Post(
            id: request.headers.first(name: "webhook-id") ?? "",
            seconds: request.headers.first(name: "webhook-timestamp") ?? "",
            signatures: (request.headers.first(name: "webhook-signature") ?? "").split(separator: " ").map(String.init),
            body: String(buffer: request.body)
        )
        let status = state.withLock { state in
            state.posts.append(post)
            return state.answers.isEmpty ? .ok : state.answers.removeFirst()
        }
        responder.respond(SimulatorResponse(status: status, body: ""))
    }
}

extension Receiver.Post {
    /// Checked with the cryptography library alone, as a client would.
    func isSigned(_ key: String) throws -> Bool {
        let bytes = try #require(Data(base64Encoded: String(key.dropFirst("whsec_".count))))
        return signatures.contains { signature in
            guard signature.hasPrefix("v1,"), let code = Data(base64Encoded: String(signature.dropFirst(3))) else {
                return false
            }
            return HMAC<Crypto.SHA256>.isValidAuthenticationCode(
                code,
                authenticating: Data("\(id).\(seconds).\(body)".utf8),
                using: SymmetricKey(data: bytes)
            )
        }
    }
}

@Suite("feedback to clients", .serialized)
struct FeedbackServiceTests {
    struct Crash: Error {}

    private static let policy = WebhookPolicy(
        backoffMilliseconds: Array(repeating: 200, count: 50),
        failuresBeforeRest: 1_000
    )

    private struct Setup: Sendable {
        let bench: Bench
        let center: MessageCenter
        let receiver: Receiver
        var registry: ClientRegistry { ClientRegistry(bench.client, eventLoopGroup: bench.group, logger: bench.logger) }

        func eventually(_ what: String, _ condition: () async throws -> Bool) async throws {
            let deadline = ContinuousClock.now + .seconds(90)
            while try await !condition() {
                try #require(ContinuousClock.now < deadline, "it did not come about that \(what)")
                try await Task.sleep(for: .milliseconds(50))
            }
        }

        func submit(_ tenant: String) async throws -> String {
            try await center.messages.submit(
                MessageDraft(tenant: tenant, channel: .sms, to: "+919876543210", content: MessageContent(text: "hello"))
            ).messageID
        }

        /// Runs a feedback service while the body is at work.
        func serving(
            _ policy: WebhookPolicy = FeedbackServiceTests.policy,
            beforeCommit: (@Sendable () throws -> Void)? = nil,
            _ body: (Task<Void, any Error>) async throws -> Void
        ) async throws {
            let service = try FeedbackService(
                center: center,
                client: bench.client,
                policy: policy,
                group: bench.group,
                logger: bench.logger,
                beforeCommit: beforeCommit
            )
            let run = Task { try await service.run() }
            let result: Result<Void, any Error>
            do {
                result = .success(try await body(run))
            } catch {
                result = .failure(error)
            }
            service.stop()
            _ = try? await run.value
            try result.get()
        }
    }

    private func with(_ body: @escaping @Sendable (Setup) async throws -> Void) async throws {
        try await Bench.with { bench, _ in
            try await bench.running(behavior: SimulatorBehavior(seed: 7, shares: .none)) { center, _ in
                let receiver = Receiver()
                try await receiver.start(bench.group)
                do {
                    try await body(Setup(bench: bench, center: center, receiver: receiver))
                } catch {
                    await receiver.stop()
                    throw error
                }
                await receiver.stop()
            }
        }
    }

    @Test(
        "a tenant is told of its own messages, signed; what fails is posted again under the same id",
        .timeLimit(.minutes(5))
    )
    func told() async throws {
        try await with { setup in
            var webhook = try Webhook(
                tenant: "shop",
                url: setup.receiver.url,
                events: ["message.delivered"],
                now: SystemTime.now()
            )
            webhook.rotate(now: SystemTime.now(), overlapMilliseconds: 3_600_000)
            let keys = webhook.keys.map(\.value)
            try await setup.registry.put(webhook, action: "webhook create")
            setup.receiver.answer([.internalServerError, .found, .serviceUnavailable])
            try await setup.serving { _ in
                let mine = [try await setup.submit("shop"), try await setup.submit("shop")]
                _ = try await setup.submit("bank")
                func told() -> Set<String> {
                    Set(setup.receiver.posts.compactMap { post in mine.first { post.body.contains("\"\($0)\"") } })
                }
                try await setup.eventually("both are told, three times in vain") {
                    told() == Set(mine) && setup.receiver.posts.count >= 5
                }
                let posts = setup.receiver.posts
                for post in posts {
                    for key in keys { #expect(try post.isSigned(key)) }
                    #expect(post.body.contains(#""type":"message.delivered""#) && !post.body.contains("bank"))
                }
                // The same report has the same id and the same bytes, and only that.
                #expect(Set(posts.map(\.id)).count == 2 && Set(posts.map(\.body)).count == 2)
            }
            let records = try await setup.bench.readAll(Topics.feedback)
            let deliveries = try records.map { try FeedbackDelivery(json: try #require($0.value)) }
            #expect(Set(deliveries.map(\.report.data.tenant)) == ["shop"])
            #expect(deliveries.contains { $0.attempt > 1 })
        }
    }

    @Test("a crash between post and commit posts again, with the same webhook-id", .timeLimit(.minutes(5)))
    func crash() async throws {
        try await with { setup in
            let webhook = try Webhook(
                tenant: "shop",
                url: setup.receiver.url,
                events: Webhook.finalTypes,
                now: SystemTime.now()
            )
            try await setup.registry.put(webhook, action: "webhook create")
            try await setup.serving(beforeCommit: { throw Crash() }) { run in
                _ = try await setup.submit("shop")
                await #expect(throws: Crash.self) { try await run.value }
            }
            #expect(setup.receiver.posts.count == 1)
            try await setup.serving { _ in
                try await setup.eventually("the report comes again") { setup.receiver.posts.count >= 2 }
            }
            let posts = setup.receiver.posts
            #expect(Set(posts.map(\.id)).count == 1 && Set(posts.map(\.body)).count == 1)
        }
    }

    @Test("who is gone is posted to no more, until it is enabled again", .timeLimit(.minutes(5)))
    func gone() async throws {
        try await with { setup in
            let webhook = try Webhook(
                tenant: "shop",
                url: setup.receiver.url,
                events: Webhook.finalTypes,
                now: SystemTime.now()
            )
            try await setup.registry.put(webhook, action: "webhook create")
            #expect(try await setup.registry.test(webhook) == nil)
            setup.receiver.answer([.internalServerError, .gone])
            #expect(try await setup.registry.test(webhook) == "it answered 500")
            try await setup.serving { _ in
                _ = try await setup.submit("shop")
                try await setup.eventually("the webhook is disabled") {
                    try await setup.registry.webhooks().first?.health.disabledAt != nil
                }
                try await setup.eventually("the report is given up") {
                    try await setup.bench.readAll(Topics.deadLetter).contains {
                        $0.header("reason")?.contains("410") == true
                    }
                }
                try await setup.registry.clearHealth(of: webhook, action: "webhook enable")
                let before = setup.receiver.posts.count
                // The service hears of it a moment later; messages that end before that are not reported.
                try await setup.eventually("it is posted to again") {
                    _ = try await setup.submit("shop")
                    try await Task.sleep(for: .milliseconds(500))
                    return setup.receiver.posts.count > before
                }
            }
        }
    }
}
