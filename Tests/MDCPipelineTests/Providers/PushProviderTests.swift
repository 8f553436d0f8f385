// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// FCM and APNs over HTTP/2 and TLS against a stub; tokens checked by PyJWT.
@Suite(.serialized) struct PushProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func push(_ to: String, _ index: Int = 1) -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .push,
            lane: "critical",
            to: to,
            sender: "",
            content: MessageContent(text: "hello", title: "Hi", data: ["k": "v"]),
            expiresAt: 4_000_000_000_000,
            createdAt: 1_790_000_000_000
        )
    }

    private func checked(_ algorithm: String, key: String, token: String) async throws -> String {
        try await RealServers.run(
            RealServers.program(RealServers.python.path),
            [RealServers.script("token_check.py"), algorithm, key, token]
        )
    }

    @Test func fcmWithAServiceAccount() async throws {
        let folder = try RealServers.folder("fcm")
        defer { try? FileManager.default.removeItem(at: folder) }
        let (certificate, key) = try await RealServers.certificate(in: folder)
        let log = Mutex<(assertions: [String], bearers: [String])>(([], []))
        let stub = try await HTTP2Stub.start(certificate: certificate, key: key) { request in
            if request.path == "/token" {
                let fields = FormFields(decoding: request.body)
                let count = log.withLock { log in
                    log.assertions.append(fields["assertion"] ?? "")
                    return log.assertions.count
                }
                return .init(status: 200, body: #"{"access_token":"t\#(count)","expires_in":3599}"#)
            }
            let bearer = request.headers.first(name: "authorization") ?? ""
            log.withLock { $0.bearers.append(bearer) }
            // The first token is revoked as soon as it was used.
            if bearer == "Bearer t1" {
                return .init(status: 401, body: #"{"error":{"code":401,"status":"UNAUTHENTICATED","message":"no"}}"#)
            }
            if request.body.contains("dead") {
                let body =
                    #"{"error":{"code":404,"status":"NOT_FOUND","message":"gone","details":[{"errorCode":"UNREGISTERED"}]}}"#
                return .init(status: 404, body: body)
            }
            if request.body.contains("quota") {
                let body =
                    #"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}"#
                return .init(status: 429, headers: [("retry-after", "7")], body: body)
            }
            if request.body.contains("lost") { return .init(status: 200, isLost: true) }
            return .init(status: 200, body: #"{"name":"projects/p/messages/1"}"#)
        }
        let account = try JSONEncoder().encode([
            "client_email": "mdc@p.iam.gserviceaccount.com", "private_key_id": "kid1",
            "private_key": String(contentsOfFile: key, encoding: .utf8), "project_id": "p",
            "token_uri": "https://localhost:\(stub.port)/token",
        ])
        let trust = ProviderTLS(trustedCertificates: certificate)
        let tokens = try ServiceAccountToken(
            json: Secret(String(decoding: account, as: UTF8.self)),
            tls: trust,
            group: group
        )
        let provider = try FCMProvider(
            .init(
                baseURL: "https://localhost:\(stub.port)",
                project: "p",
                requestTimeout: .seconds(30),
                connectTimeout: .seconds(30)
            ),
            tokens: tokens,
            trusting: trust,
            group: group
        )
        guard case .retriable("UNAUTHENTICATED", _, _) = await provider.send(push("ok"), attempt: 1) else {
            return #expect(Bool(false), "a revoked token")
        }
        #expect(await provider.send(push("ok"), attempt: 1) == .accepted(providerMessageID: "projects/p/messages/1"))
        guard case .rejected("UNREGISTERED", _) = await provider.send(push("dead"), attempt: 1) else {
            return #expect(Bool(false), "a dead token")
        }
        let throttled = await provider.send(push("quota"), attempt: 1)
        #expect(throttled.isThrottled, "\(throttled)")
        guard case .inDoubt = await provider.send(push("lost"), attempt: 1) else {
            return #expect(Bool(false), "a lost answer")
        }
        let count = 300
        let began = ContinuousClock.now
        let accepted = await withTaskGroup(of: Bool.self) { tasks in
            for index in 0..<count {
                let message = push("ok", index)
                tasks.addTask {
                    if case .accepted = await provider.send(message, attempt: 1) { true } else { false }
                }
            }
            return await tasks.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(accepted == count)
        print("FCM: \(count) requests over HTTP/2 and TLS to a stub in \(ContinuousClock.now - began)")
        await provider.shutdown()
        await tokens.shutdown()
        await stub.stop()
        let assertions = log.withLock { $0.assertions }
        #expect(assertions.count == 2)
        let claims = try await checked("RS256", key: key, token: assertions[0])
        #expect(claims.contains("mdc@p.iam.gserviceaccount.com") && claims.contains("kid1"))
        #expect(claims.contains("firebase.messaging"))
    }

    @Test func apns() async throws {
        let folder = try RealServers.folder("apns")
        defer { try? FileManager.default.removeItem(at: folder) }
        let (certificate, key) = try await RealServers.certificate(in: folder)
        let p8 = folder.path + "/key.p8"
        try await RealServers.run(
            RealServers.program("/usr/bin/openssl"),
            ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", p8]
        )
        let seen = Mutex<HTTP2Stub.Seen?>(nil)
        let stub = try await HTTP2Stub.start(certificate: certificate, key: key) { request in
            seen.withLock { $0 = request }
            let id = request.headers.first(name: "apns-id") ?? ""
            switch request.path {
            case "/3/device/dead":
                return .init(status: 410, headers: [("apns-id", id)], body: #"{"reason":"Unregistered","timestamp":1}"#)
            case "/3/device/bad0": return .init(status: 400, body: #"{"reason":"BadDeviceToken"}"#)
            case "/3/device/4290": return .init(status: 429, body: #"{"reason":"TooManyRequests"}"#)
            case "/3/device/5030": return .init(status: 503, body: #"{"reason":"ServiceUnavailable"}"#)
            case "/3/device/4030": return .init(status: 403, body: #"{"reason":"InvalidProviderToken"}"#)
            case "/3/device/1057": return .init(status: 200, isLost: true)
            default: return .init(status: 200, headers: [("apns-id", id)])
            }
        }
        let provider = try APNsProvider(
            .init(
                baseURL: "https://localhost:\(stub.port)",
                teamID: "TEAM123456",
                keyID: "KEY1234567",
                key: Secret(String(contentsOfFile: p8, encoding: .utf8)),
                topic: "com.example.app",
                requestTimeout: .seconds(30),
                connectTimeout: .seconds(30),
                tls: ProviderTLS(trustedCertificates: certificate)
            ),
            group: group
        )
        let id = APNsProvider.apnsID(push("abcd").reference(attempt: 1))
        #expect(await provider.send(push("abcd"), attempt: 1) == .accepted(providerMessageID: id))
        let request = try #require(seen.withLock { $0 })
        #expect(request.headers.first(name: "apns-topic") == "com.example.app")
        #expect(request.headers.first(name: "apns-priority") == "10")
        #expect(request.headers.first(name: "apns-expiration") == "4000000000")
        let token = String((request.headers.first(name: "authorization") ?? "").dropFirst("bearer ".count))
        let claims = try await checked("ES256", key: p8, token: token)
        #expect(claims.contains("TEAM123456") && claims.contains("KEY1234567"))
        for (device, expected) in [
            ("dead", "rejected"), ("bad0", "rejected"), ("4290", "retriable"), ("5030", "retriable"),
            ("4030", "retriable"), ("1057", "inDoubt"), ("not hex", "rejected"),
        ] {
            let outcome = await provider.send(push(device), attempt: 1)
            #expect("\(outcome)".hasPrefix(expected), "\(device): \(outcome)")
            #expect(outcome.isThrottled == (device == "4290"))
        }
        // All of them end, and all with an answer.
        let count = 300
        let began = ContinuousClock.now
        let outcomes = await withTaskGroup(of: SendOutcome.self) { tasks in
            for index in 0..<count {
                let message = push("abcd", index)
                tasks.addTask { await provider.send(message, attempt: 1) }
            }
            return await tasks.reduce(into: []) { $0.append($1) }
        }
        let others = outcomes.filter { if case .accepted = $0 { false } else { true } }
        #expect(others.isEmpty, "\(others.count) of \(count), such as \(others.first.map { "\($0)" } ?? "")")
        print(
            "APNs: \(count) requests over HTTP/2 and TLS to a stub in \(ContinuousClock.now - began), connections: \(stub.connections)"
        )
        await provider.shutdown()
        await stub.stop()
    }

    @Test func providerTokensAreRenewedNotTooOften() throws {
        let clock = Mutex<Int64>(0)
        let token = APNsToken(now: { clock.withLock { $0 } }, make: { "t\($0)" })
        #expect(try token.current() == "t0")
        clock.withLock { $0 = 60 }
        token.invalidate("t0")
        // Apple refuses a new one within twenty minutes, whatever it thinks of the old one.
        #expect(try token.current() == "t0")
        clock.withLock { $0 = 1_200 }
        #expect(try token.current() == "t1200")
        clock.withLock { $0 = 1_200 + 2_999 }
        #expect(try token.current() == "t1200")
        clock.withLock { $0 = 1_200 + 3_000 }
        #expect(try token.current() == "t4200")
    }
}
