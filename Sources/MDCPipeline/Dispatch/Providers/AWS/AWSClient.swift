// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1

/// How a service of AWS is reached.
public struct AWSEndpoint: Sendable, Hashable {
    /// Such as `eu-central-1`.
    public var region: String
    public var credentials: AWSCredentials
    /// Scheme, host and port; nil: the region's.
    public var url: String?
    public var tls: ProviderTLS?

    /// Makes a value from its parts.
    public init(region: String, credentials: AWSCredentials, url: String? = nil, tls: ProviderTLS? = nil) {
        self.region = region
        self.credentials = credentials
        self.url = url
        self.tls = tls
    }
}

/// Signed requests to one service.
struct AWSClient: Sendable {
    let signature: AWSSignature
    let baseURL: String
    let host: String
    let client: HTTPClient

    /// - Parameters:
    ///   - service: As it stands in signatures: `ses`, `sns`, `sqs`.
    ///   - hostPrefix: As it stands in host names: `email`, `sns`, `sqs`.
    init(
        _ endpoint: AWSEndpoint,
        service: String,
        hostPrefix: String,
        connections: Int,
        connectTimeout: Duration,
        group: any EventLoopGroup
    ) throws {
        signature = AWSSignature(credentials: endpoint.credentials, region: endpoint.region, service: service)
        let suffix = endpoint.region.hasPrefix("cn-") ? "amazonaws.com.cn" : "amazonaws.com"
        baseURL = endpoint.url ?? "https://\(hostPrefix).\(endpoint.region).\(suffix)"
        guard let range = baseURL.range(of: "://") else {
            throw PipelineError(.configuration, "'\(baseURL)' is no address; write scheme, host and port")
        }
        host = String(baseURL[range.upperBound...].prefix { $0 != "/" })
        client = HTTPExchange.makeClient(
            group: group,
            connections: connections,
            connectTimeout: connectTimeout,
            tls: try endpoint.tls?.makeConfiguration()
        )
    }

    func post(
        _ path: String,
        headers: [(name: String, value: String)],
        body: String,
        timeout: Duration
    ) async -> HTTPExchange.Result {
        var request = HTTPClientRequest(url: baseURL + path)
        request.method = .POST
        let added = signature.headers(
            method: "POST",
            host: host,
            path: path,
            headers: headers,
            body: body.utf8,
            date: wallClockMilliseconds() / 1_000
        )
        for header in headers + added { request.headers.add(name: header.name, value: header.value) }
        request.body = .bytes(ByteBuffer(string: body))
        return await HTTPExchange(client: client, timeout: timeout).perform(request)
    }
}

/// What errors of AWS mean to us. `docs/providers.md` has the table.
enum AWSMapping {
    static let throttling: Set<String> = [
        "TooManyRequestsException", "Throttling", "ThrottlingException", "ThrottledException", "Throttled",
        "RequestThrottled", "RequestLimitExceeded",
    ]
    static let operatorCodes: Set<String> = [
        "AccountSuspendedException", "SendingPausedException", "MailFromDomainNotVerifiedException",
        "ConfigurationSetDoesNotExist", "NotFoundException", "AuthorizationError", "AccessDenied",
        "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch",
        "IncompleteSignature", "MissingAuthenticationToken", "OptInRequired", "ExpiredToken", "ExpiredTokenException",
        "InvalidSignatureException", "RequestExpired", "PlatformApplicationDisabled", "KMSAccessDenied",
    ]
    static let retriable: Set<String> = [
        "InternalFailure", "InternalError", "InternalServiceErrorException", "ServiceUnavailable",
    ]

    /// What a refusal means. - Parameter code: The error's name, without what stands before `#`.
    static func refusal(code: String, reason: String, answer: HTTPExchange.Answer) -> SendOutcome {
        // The daily quota comes back by the day, the rate by the second (SES has neither header nor code for it).
        if reason.contains("Daily message quota exceeded") {
            return .retriable(code: "QUOTA_EXCEEDED", reason: reason, retryAfter: answer.retryAfter ?? .seconds(600))
        }
        if throttling.contains(code) || reason.contains("Maximum sending rate exceeded") || answer.status == 429 {
            return .retriable(
                code: throttling.contains(code) ? code : "Throttling",
                reason: reason,
                retryAfter: answer.retryAfter ?? .seconds(1)
            )
        }
        if operatorCodes.contains(code) || answer.status == 401 || answer.status == 403 {
            return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter ?? .seconds(60))
        }
        if answer.status == 504 { return .inDoubt(reason: "504: \(reason)") }
        if retriable.contains(code) || answer.status >= 500 {
            return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter)
        }
        return .rejected(code: code, reason: reason)
    }

    /// The text between two marks of an XML answer, with its entities decoded.
    static func element(_ name: String, in body: ByteBuffer) -> String? {
        let text = String(buffer: body)
        guard let open = text.range(of: "<\(name)>"),
            let close = text.range(of: "</\(name)>", range: open.upperBound..<text.endIndex)
        else { return nil }
        return text[open.upperBound..<close.lowerBound]
            .replacingOccurrences(of: "&lt;", with: "<").replacingOccurrences(of: "&gt;", with: ">")
            .replacingOccurrences(of: "&quot;", with: "\"").replacingOccurrences(of: "&apos;", with: "'")
            .replacingOccurrences(of: "&amp;", with: "&").trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Error name and words of a JSON answer.
    static func jsonProblem(_ answer: HTTPExchange.Answer) -> (code: String, reason: String) {
        let object = (try? JSONSerialization.jsonObject(with: Data(answer.body.readableBytesView))) as? [String: Any]
        let named =
            answer.headers.first(name: "x-amzn-errortype") ?? object?["__type"] as? String ?? object?["code"] as? String
            ?? String(answer.status)
        let bare = named.split(separator: "#").last.map(String.init) ?? named
        let code = bare.split(separator: ":").first.map(String.init) ?? bare
        let words = object?["message"] as? String ?? object?["Message"] as? String ?? excerpt(answer.body)
        return (code, words)
    }
}
