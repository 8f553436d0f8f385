// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Crypto
import Foundation
import MDCModel
public import NIOCore
import NIOHTTP1
import Synchronization

/// Push notifications by Apple's service over HTTP/2, authenticated by a token (ES256).
public final class APNsProvider: Provider {
    /// How the service is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        /// Scheme and host; `https://api.sandbox.push.apple.com` for development.
        public var baseURL: String
        /// `iss` of the token.
        public var teamID: String
        /// `kid` of the token.
        public var keyID: String
        /// Apple's `.p8` file.
        public var key: Secret
        /// The app's bundle id.
        public var topic: String
        /// `apns-push-type`.
        public var pushType: String
        /// Lanes whose messages wake a sleeping device.
        public var urgentLanes: Set<String>
        /// Whether the apps confirm messages to our listener.
        public var appsReport: Bool
        /// Sends under way at once; the connections carry many each.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration
        public var tls: ProviderTLS?

        public init(
            name: String = "apns",
            baseURL: String = "https://api.push.apple.com",
            teamID: String,
            keyID: String,
            key: Secret,
            topic: String,
            pushType: String = "alert",
            urgentLanes: Set<String> = ["critical", "high"],
            appsReport: Bool = false,
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(5),
            tls: ProviderTLS? = nil
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.baseURL = baseURL
            self.teamID = teamID
            self.keyID = keyID
            self.key = key
            self.topic = topic
            self.pushType = pushType
            self.urgentLanes = urgentLanes
            self.appsReport = appsReport
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
            self.tls = tls
        }
    }

    private struct Claims: Encodable {
        var iss: String
        var iat: Int64
    }

    private struct Payload: Encodable {
        struct Alert: Encodable {
            var title: String?
            var body: String
        }
        struct Aps: Encodable { var alert: Alert }
        var aps: Aps
        var mdc_reference: String
        var data: [String: String]?
    }

    public var name: String { configuration.name }
    public var channel: Channel { .push }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.appsReport }

    /// The largest payload that is taken.
    static let payloadBytesMax = 4_096

    private let configuration: Configuration
    private let client: HTTPClient
    private let gate: ConcurrencyGate
    private let token: APNsToken

    /// - Parameter group: runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`) if key or certificates cannot be read.
    public convenience init(_ configuration: Configuration, group: any EventLoopGroup) throws {
        try self.init(configuration, group: group) { wallClockMilliseconds() / 1_000 }
    }

    init(_ configuration: Configuration, group: any EventLoopGroup, now: @escaping @Sendable () -> Int64) throws {
        self.configuration = configuration
        let signer = JSONWebToken(key: try .p256(pem: configuration.key), keyID: configuration.keyID)
        let team = configuration.teamID
        token = APNsToken(now: now) { time in try signer.signed(Claims(iss: team, iat: time)) }
        gate = ConcurrencyGate(limit: configuration.concurrency)
        client = HTTPExchange.makeClient(
            group: group,
            connections: 8,
            connectTimeout: configuration.connectTimeout,
            tls: try configuration.tls?.makeConfiguration()
        )
    }

    public func shutdown() async { try? await client.shutdown() }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        guard !message.to.isEmpty, message.to.utf8.allSatisfy({ $0.isHexDigit }), message.to.utf8.count <= 400 else {
            return .rejected(code: "BadDeviceToken", reason: "the token is not hexadecimal")
        }
        let reference = message.reference(attempt: attempt)
        let payload = encodeJSON(
            Payload(
                aps: .init(
                    alert: .init(title: message.content.title ?? message.content.subject, body: message.content.text)
                ),
                mdc_reference: reference,
                data: message.content.data
            )
        )
        guard payload.utf8.count <= Self.payloadBytesMax else {
            let reason = "the payload has \(payload.utf8.count) bytes; \(Self.payloadBytesMax) are possible"
            return .rejected(code: "PayloadTooLarge", reason: reason)
        }
        return await gate.pass {
            let bearer: String
            do {
                bearer = try token.current()
            } catch {
                return .retriable(code: "token", reason: "signing failed: \(error)", retryAfter: APNsMapping.longPause)
            }
            let request = request(message, reference: reference, bearer: bearer, payload: payload)
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            switch await exchange.perform(request) {
            case .answered(let answer):
                let outcome = APNsMapping.outcome(answer)
                if case .retriable("ExpiredProviderToken", _, _) = outcome { token.invalidate(bearer) }
                return outcome
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    private func request(_ message: Message, reference: String, bearer: String, payload: String) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: "\(configuration.baseURL)/3/device/\(message.to)")
        request.method = .POST
        request.headers.add(name: "authorization", value: "bearer \(bearer)")
        request.headers.add(name: "apns-topic", value: configuration.topic)
        request.headers.add(name: "apns-push-type", value: configuration.pushType)
        request.headers.add(name: "apns-id", value: Self.apnsID(reference))
        request.headers.add(
            name: "apns-priority",
            value: configuration.urgentLanes.contains(message.lane) ? "10" : "5"
        )
        if let expiresAt = message.expiresAt {
            request.headers.add(name: "apns-expiration", value: String(max(1, expiresAt.rawValue / 1_000)))
        }
        request.headers.add(name: "content-type", value: "application/json")
        request.body = .bytes(ByteBuffer(string: payload))
        return request
    }

    /// The same for the same attempt: a UUID of version 8 made of the reference.
    static func apnsID(_ reference: String) -> String {
        var bytes = Array(Crypto.SHA256.hash(data: Array(reference.utf8)).prefix(16))
        bytes[6] = bytes[6] & 0x0F | 0x80
        bytes[8] = bytes[8] & 0x3F | 0x80
        let hex = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
        return [hex[0..<4], hex[4..<6], hex[6..<8], hex[8..<10], hex[10..<16]].map { $0.joined() }
            .joined(separator: "-")
    }
}

/// The provider token: Apple wants one that is younger than an hour, and no new one within twenty minutes.
final class APNsToken: Sendable {
    static let renewAfter: Int64 = 50 * 60
    static let renewAtMostEvery: Int64 = 20 * 60

    private let now: @Sendable () -> Int64
    private let make: @Sendable (Int64) throws -> String
    private let state = Mutex<(token: String, madeAt: Int64, isRefused: Bool)?>(nil)

    init(now: @escaping @Sendable () -> Int64, make: @escaping @Sendable (Int64) throws -> String) {
        self.now = now
        self.make = make
    }

    func current() throws -> String {
        try state.withLock { state in
            let now = now()
            if let known = state {
                let age = now - known.madeAt
                let mustRenew = age >= Self.renewAfter || (known.isRefused && age >= Self.renewAtMostEvery)
                if !mustRenew { return known.token }
            }
            let token = try make(now)
            state = (token, now, false)
            return token
        }
    }

    func invalidate(_ token: String) {
        state.withLock { if $0?.token == token { $0?.isRefused = true } }
    }
}

/// What Apple's answers mean to us. `docs/providers.md` has the table.
enum APNsMapping {
    static let longPause: Duration = .seconds(60)

    /// Reasons that someone on our side must cure.
    static let operatorReasons: Set<String> = [
        "BadCertificate", "BadCertificateEnvironment", "ExpiredProviderToken", "Forbidden", "InvalidProviderToken",
        "MissingProviderToken", "UnrelatedKeyIdInToken", "BadEnvironmentKeyIdInToken", "TopicDisallowed",
    ]

    private struct Problem: Decodable { var reason: String? }

    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        if answer.status == 200 {
            guard let id = answer.headers.first(name: "apns-id"), !id.isEmpty else {
                return .inDoubt(reason: "an answer without apns-id")
            }
            return .accepted(providerMessageID: id)
        }
        let body = Data(answer.body.readableBytesView)
        let code = (try? JSONDecoder().decode(Problem.self, from: body))?.reason ?? String(answer.status)
        let reason = "\(answer.status) \(code)"
        if operatorReasons.contains(code) || answer.status == 403 {
            return .retriable(code: code, reason: reason, retryAfter: longPause)
        }
        switch answer.status {
        case 429: return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter ?? .seconds(10))
        case 504: return .inDoubt(reason: reason)
        case 500...599: return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter)
        default: return .rejected(code: code, reason: reason)
        }
    }
}

extension UInt8 {
    fileprivate var isHexDigit: Bool {
        (0x30...0x39).contains(self) || (0x41...0x46).contains(self) || (0x61...0x66).contains(self)
    }
}
