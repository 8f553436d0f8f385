// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
public import NIOCore
import NIOHTTP1
import NIOSSL

/// Where bearer tokens for FCM come from.
public protocol AccessTokenSource: Sendable {
    /// A token that should be valid now. - Throws: if none can be had; the message is then tried again later.
    func token() async throws -> String
    /// The service did not accept this token: do not give it out again if there is a way to get another.
    func invalidate(_ token: String) async
}

/// One token for all time: for simulators and tests.
public struct StaticAccessToken: AccessTokenSource {
    private let value: String

    public init(_ value: String) { self.value = value }

    public func token() -> String { value }
    public func invalidate(_ token: String) {}
}

/// Push notifications by Firebase Cloud Messaging, HTTP v1.
public final class FCMProvider: Provider {
    /// How the project is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        /// Scheme and host; no slash at the end.
        public var baseURL: String
        /// The project id: a part of the path.
        public var project: String
        /// Whether the apps confirm messages to our listener.
        public var appsReport: Bool
        /// Lanes whose messages wake a sleeping device.
        public var urgentLanes: Set<String>
        /// Sends under way at once, and connections.
        public var concurrency: Int
        /// The limit of a request once a connection is there; after it the message is in doubt.
        public var requestTimeout: Duration
        /// The limit of making a connection; after it the message is retriable.
        public var connectTimeout: Duration

        public init(
            name: String = "fcm",
            baseURL: String = "https://fcm.googleapis.com",
            project: String,
            appsReport: Bool = true,
            urgentLanes: Set<String> = ["critical", "high"],
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3)
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.baseURL = baseURL
            self.project = project
            self.appsReport = appsReport
            self.urgentLanes = urgentLanes
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
        }
    }

    private struct SendRequest: Encodable {
        struct Notification: Encodable {
            var title: String?
            var body: String
        }
        struct Android: Encodable {
            var priority: String
            var ttl: String?
        }
        struct Message: Encodable {
            var token: String
            var notification: Notification
            var data: [String: String]
            var android: Android
        }
        var message: Message
    }

    public var name: String { configuration.name }
    public var channel: Channel { .push }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.appsReport }

    private let configuration: Configuration
    private let tokens: any AccessTokenSource
    private let client: HTTPClient
    private let gate: ConcurrencyGate

    /// - Parameter group: runs the connections; not shut down by the provider.
    public convenience init(_ configuration: Configuration, tokens: any AccessTokenSource, group: any EventLoopGroup) {
        self.init(configuration, tokens: tokens, tls: nil, group: group)
    }

    /// - Parameters:
    ///   - trusting: Whose certificates are believed.
    ///   - group: Runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`) if the trusted certificates cannot be read.
    public convenience init(
        _ configuration: Configuration,
        tokens: any AccessTokenSource,
        trusting: ProviderTLS,
        group: any EventLoopGroup
    ) throws {
        self.init(configuration, tokens: tokens, tls: try trusting.makeConfiguration(), group: group)
    }

    private init(
        _ configuration: Configuration,
        tokens: any AccessTokenSource,
        tls: TLSConfiguration?,
        group: any EventLoopGroup
    ) {
        self.configuration = configuration
        self.tokens = tokens
        self.client = HTTPExchange.makeClient(
            group: group,
            connections: configuration.concurrency,
            connectTimeout: configuration.connectTimeout,
            tls: tls
        )
        self.gate = ConcurrencyGate(limit: configuration.concurrency)
    }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        await gate.pass {
            let token: String
            do {
                token = try await tokens.token()
            } catch {
                return .retriable(code: "token", reason: "no access token: \(error)", retryAfter: FCMMapping.longPause)
            }
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            switch await exchange.perform(request(message, attempt: attempt, token: token)) {
            case .answered(let answer):
                if answer.status == 401 { await tokens.invalidate(token) }
                return FCMMapping.outcome(answer)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    public func shutdown() async { try? await client.shutdown() }

    private func request(_ message: Message, attempt: Int, token: String) -> HTTPClientRequest {
        var data = message.content.data ?? [:]
        data["mdc_reference"] = message.reference(attempt: attempt)
        let ttl = message.expiresAt.map { expiry in
            "\(max(0, (expiry.rawValue - wallClockMilliseconds()) / 1000))s"
        }
        let isUrgent = configuration.urgentLanes.contains(message.lane)
        let send = SendRequest(
            message: .init(
                token: message.to,
                notification: .init(
                    title: message.content.title ?? message.content.subject,
                    body: message.content.text
                ),
                data: data,
                android: .init(priority: isUrgent ? "high" : "normal", ttl: ttl)
            )
        )
        var request = HTTPClientRequest(
            url: "\(configuration.baseURL)/v1/projects/\(configuration.project)/messages:send"
        )
        request.method = .POST
        request.headers.add(name: "authorization", value: "Bearer \(token)")
        request.headers.add(name: "content-type", value: "application/json")
        request.body = .bytes(ByteBuffer(string: encodeJSON(send)))
        return request
    }
}
