// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
public import NIOCore
import NIOHTTP1

/// Bearer tokens for a service account (RFC 7523): signs an assertion with the account's key and exchanges it.
///
/// A token is renewed five minutes before its end; many senders that need one at once wait for one exchange.
public actor ServiceAccountToken: AccessTokenSource {
    private struct File: Decodable {
        var client_email: String
        var private_key: String
        var private_key_id: String?
        var token_uri: String?
        var project_id: String?
    }

    private struct Claims: Encodable {
        var iss: String
        var scope: String
        var aud: String
        var iat: Int64
        var exp: Int64
    }

    private struct Grant: Decodable {
        var access_token: String
        var expires_in: Int64
    }

    /// The account's project, from its file.
    public nonisolated let projectID: String?

    private let email: String
    private let tokenURL: String
    private let scope: String
    private let signer: JSONWebToken
    private let client: HTTPClient
    private let now: @Sendable () -> Int64
    private var current: (token: String, renewAt: Int64)?
    private var renewing: Task<(token: String, renewAt: Int64), any Error>?

    /// - Parameters:
    ///   - json: The account's key file, as Google hands it out.
    ///   - scope: What the tokens are for.
    ///   - group: Runs the connections; not shut down by this.
    /// - Throws: ``PipelineError`` (`configuration`) if the file or its key cannot be read.
    public init(
        json: Secret,
        scope: String = "https://www.googleapis.com/auth/firebase.messaging",
        tls: ProviderTLS? = nil,
        group: any EventLoopGroup
    ) throws {
        try self.init(json: json, scope: scope, tls: tls, group: group) { wallClockMilliseconds() / 1_000 }
    }

    init(
        json: Secret,
        scope: String,
        tls: ProviderTLS?,
        group: any EventLoopGroup,
        now: @escaping @Sendable () -> Int64
    ) throws {
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: Data(json.value.utf8))
        } catch {
            throw PipelineError(
                .configuration,
                "the service account's file is not JSON with client_email and private_key; download it again"
            )
        }
        email = file.client_email
        projectID = file.project_id
        tokenURL = file.token_uri ?? "https://oauth2.googleapis.com/token"
        self.scope = scope
        self.now = now
        signer = JSONWebToken(key: try .rsa(pem: Secret(file.private_key)), keyID: file.private_key_id)
        client = HTTPExchange.makeClient(
            group: group,
            connections: 1,
            connectTimeout: .seconds(5),
            tls: try tls?.makeConfiguration()
        )
    }

    public func token() async throws -> String {
        if let current, now() < current.renewAt { return current.token }
        if let renewing { return try await renewing.value.token }
        let task = Task { try await self.exchange() }
        renewing = task
        defer { renewing = nil }
        let fresh = try await task.value
        current = fresh
        return fresh.token
    }

    public func invalidate(_ token: String) {
        if current?.token == token { current = nil }
    }

    /// Closes connections.
    public func shutdown() async { try? await client.shutdown() }

    private func exchange() async throws -> (token: String, renewAt: Int64) {
        let began = now()
        let assertion = try signer.signed(
            Claims(iss: email, scope: scope, aud: tokenURL, iat: began, exp: began + 3_600)
        )
        var request = HTTPClientRequest(url: tokenURL)
        request.method = .POST
        request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
        let form = FormFields([
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion),
        ])
        request.body = .bytes(ByteBuffer(string: form.encoded))
        switch await HTTPExchange(client: client, timeout: .seconds(10)).perform(request) {
        case .answered(let answer):
            guard answer.status == 200,
                let grant = try? JSONDecoder().decode(Grant.self, from: Data(answer.body.readableBytesView)),
                !grant.access_token.isEmpty
            else {
                // An error of this exchange names the account's fault and carries no secret.
                let words = answer.status == 200 ? "an unreadable answer" : excerpt(answer.body)
                throw PipelineError(.configuration, "\(tokenURL) answered \(answer.status): \(words)")
            }
            return (grant.access_token, began + max(30, grant.expires_in - 300))
        case .notSent(let reason), .unanswered(let reason):
            throw PipelineError(.closed, "\(tokenURL): \(reason)")
        }
    }
}
