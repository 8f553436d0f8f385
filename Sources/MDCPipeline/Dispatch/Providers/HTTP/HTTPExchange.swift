// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// One request to a provider's HTTP interface, with what went wrong sorted by whether the request can have arrived.
struct HTTPExchange: Sendable {
    /// A whole answer.
    struct Answer: Sendable {
        var status: UInt
        var retryAfter: Duration?
        var headers = HTTPHeaders()
        var body: ByteBuffer
    }

    /// What came of the request.
    enum Result: Sendable {
        /// The provider answered.
        case answered(Answer)
        /// It cannot have arrived: no connection was made.
        case notSent(String)
        /// It may have arrived: the connection broke or the time was over.
        case unanswered(String)
    }

    /// The most that is read of an answer.
    static let answerBytesMax = 64 << 10

    let client: HTTPClient
    let timeout: Duration

    func perform(_ request: HTTPClientRequest) async -> Result {
        do {
            let response = try await client.execute(request, timeout: TimeAmount(timeout))
            let body = try await response.body.collect(upTo: Self.answerBytesMax)
            let retryAfter = response.headers.first(name: "retry-after").flatMap {
                Self.retryAfter($0, now: Date())
            }
            return .answered(
                Answer(status: response.status.code, retryAfter: retryAfter, headers: response.headers, body: body)
            )
        } catch {
            return Self.cannotHaveArrived(error) ? .notSent("\(error)") : .unanswered("\(error)")
        }
    }

    /// Whether an error proves that no connection carried the request. In doubt it says no.
    static func cannotHaveArrived(_ error: any Error) -> Bool {
        switch error {
        case is NIOConnectionError: return true
        case ChannelError.connectTimeout: return true
        case let error as IOError:
            return [ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL].contains(error.errnoCode)
        case let error as HTTPClientError:
            return [
                .connectTimeout, .tlsHandshakeTimeout, .getConnectionFromPoolTimeout, .alreadyShutdown, .invalidURL,
                .emptyHost, .emptyScheme, .socksHandshakeTimeout, .httpProxyHandshakeTimeout,
            ].contains(error)
        default: return false
        }
    }

    /// The pause that a `Retry-After` header asks for: seconds or an HTTP date, at least 0, at most an hour.
    static func retryAfter(_ value: String, now: Date) -> Duration? {
        let text = value.trimmingCharacters(in: .whitespaces)
        if let seconds = Int64(text) { return .seconds(min(max(seconds, 0), 3_600)) }
        guard let date = httpDate(text) else { return nil }
        return .seconds(Int64(min(max(date.timeIntervalSince(now).rounded(.up), 0), 3_600)))
    }

    private static func httpDate(_ text: String) -> Date? {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss zzz"
        return formatter.date(from: text)
    }

    /// A client for providers: bounded connections per host, one connection attempt per request, no redirects.
    static func makeClient(
        group: any EventLoopGroup,
        connections: Int,
        connectTimeout: Duration,
        tls: TLSConfiguration? = nil
    ) -> HTTPClient {
        var configuration = HTTPClient.Configuration(redirectConfiguration: .disallow)
        if let tls { configuration.tlsConfiguration = tls }
        configuration.timeout.connect = TimeAmount(connectTimeout)
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = connections
        configuration.connectionPool.idleTimeout = .seconds(30)
        configuration.connectionPool.retryConnectionEstablishment = false
        return HTTPClient(eventLoopGroupProvider: .shared(group), configuration: configuration)
    }
}

/// Shortens a provider's words for timelines and logs.
func excerpt(_ body: ByteBuffer, bytesMax: Int = 200) -> String {
    String(decoding: body.readableBytesView.prefix(bytesMax), as: UTF8.self)
}
