// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
import MDCModel
public import NIOCore
import NIOHTTP1

/// A push service in the shape of FCM's HTTP v1 on a real socket, together with the apps that confirm what they got.
public final class FCMSimulator: Sendable {
    /// How the service behaves.
    public struct Configuration: Sendable {
        /// Where it listens.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// The project in the path.
        public var project: String
        /// The bearer token that requests must carry.
        public var accessToken: String
        /// Where the apps report to; nil: they do not.
        public var callbackURL: String?
        /// What happens to messages.
        public var behavior: SimulatorBehavior

        public init(
            host: String = "127.0.0.1",
            port: Int = 0,
            project: String = "sim",
            accessToken: String = "simulator",
            callbackURL: String? = nil,
            behavior: SimulatorBehavior = SimulatorBehavior()
        ) {
            self.host = host
            self.port = port
            self.project = project
            self.accessToken = accessToken
            self.callbackURL = callbackURL
            self.behavior = behavior
        }
    }

    /// What it took.
    public let ledger: SimulatorLedger
    /// Where it listens.
    public let port: Int
    /// What a provider is configured with.
    public var baseURL: String { "http://\(configuration.host):\(port)" }

    private let configuration: Configuration
    private let server: SimulatorHTTPServer

    private init(configuration: Configuration, ledger: SimulatorLedger, server: SimulatorHTTPServer) {
        self.configuration = configuration
        self.ledger = ledger
        self.server = server
        self.port = server.port
    }

    /// Binds and serves. - Throws: if the address cannot be bound.
    public static func start(
        _ configuration: Configuration,
        group: any EventLoopGroup,
        sender: CallbackSender,
        logger: Logger
    ) async throws -> FCMSimulator {
        let ledger = SimulatorLedger()
        let engine = SimulatorEngine(behavior: configuration.behavior, ledger: ledger, sender: sender)
        let desk = FCMSimulatorDesk(configuration: configuration, engine: engine)
        let server = try await SimulatorHTTPServer.start(
            host: configuration.host,
            port: configuration.port,
            group: group
        ) { desk.handle($0, $1) }
        logger.info("fcm simulator listens", metadata: ["port": "\(server.port)"])
        return FCMSimulator(configuration: configuration, ledger: ledger, server: server)
    }

    /// Stops listening and closes all connections.
    public func shutdown() async { await server.shutdown() }
}

/// Understands requests and phrases answers.
private struct FCMSimulatorDesk: Sendable {
    let configuration: FCMSimulator.Configuration
    let engine: SimulatorEngine

    struct SendRequest: Decodable {
        struct Message: Decodable {
            var token: String
            var data: [String: String]?
        }
        var message: Message
    }

    struct ErrorAnswer: Encodable {
        struct Detail: Encodable {
            var type = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
            var errorCode: String
            enum CodingKeys: String, CodingKey {
                case type = "@type"
                case errorCode
            }
        }
        struct Problem: Encodable {
            var code: UInt
            var status: String
            var message: String
            var details: [Detail]
        }
        var error: Problem
    }

    struct Receipt: Encodable {
        var event: String
        var name: String
        var reference: String?
        var code: String?
        var reason: String?
        var at: Int64
    }

    func handle(_ request: SimulatorRequest, _ responder: SimulatorResponder) {
        guard request.path == "/v1/projects/\(configuration.project)/messages:send", request.method == .POST else {
            return refuse(.notFound, "NOT_FOUND", "UNSPECIFIED_ERROR", "no such resource", responder)
        }
        guard request.headers.first(name: "authorization") == "Bearer \(configuration.accessToken)" else {
            return refuse(.unauthorized, "UNAUTHENTICATED", nil, "the access token is not valid", responder)
        }
        let body = Data(request.body.readableBytesView)
        guard let send = try? JSONDecoder().decode(SendRequest.self, from: body), !send.message.token.isEmpty else {
            return refuse(.badRequest, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "message.token is needed", responder)
        }
        let reference = send.message.data?["mdc_reference"]
        let name = "projects/\(configuration.project)/messages/\(UUID().uuidString.lowercased())"
        let callback = configuration.callbackURL.map {
            url -> (@Sendable (SimulatorPlan.Report) -> CallbackSender.Callback) in
            { report in
                CallbackSender.Callback(
                    url: url,
                    method: .POST,
                    contentType: "application/json",
                    body: encodeJSON(Self.receipt(report, name: name, reference: reference))
                )
            }
        }
        let retryAfter = configuration.behavior.delays.retryAfter
        engine.process(recipient: send.message.token, reference: reference, callback: callback) { plan in
            Self.answer(plan, name: name, retryAfter: retryAfter, responder)
        }
    }

    private func refuse(
        _ status: HTTPResponseStatus,
        _ name: String,
        _ errorCode: String?,
        _ message: String,
        _ responder: SimulatorResponder
    ) {
        engine.ledger.noteMalformed()
        responder.respond(Self.problem(status, name, errorCode, message))
    }

    private static func answer(
        _ plan: SimulatorPlan,
        name: String,
        retryAfter: Duration?,
        _ responder: SimulatorResponder
    ) {
        switch plan.answer {
        case .hang: responder.hang(for: plan.answerDelay)
        case .accept:
            let response = SimulatorResponse(
                status: .ok,
                headers: ["content-type": "application/json"],
                body: encodeJSON(["name": name])
            )
            responder.respond(response, after: plan.answerDelay)
        case .reject:
            let response = problem(.notFound, "NOT_FOUND", "UNREGISTERED", "the token is not registered any more")
            responder.respond(response, after: plan.answerDelay)
        case .busy:
            var response = problem(.serviceUnavailable, "UNAVAILABLE", "UNAVAILABLE", "overloaded, try again")
            if let retryAfter {
                response.headers.add(name: "retry-after", value: String(retryAfter.components.seconds))
            }
            responder.respond(response, after: plan.answerDelay)
        }
    }

    private static func problem(
        _ status: HTTPResponseStatus,
        _ name: String,
        _ errorCode: String?,
        _ message: String
    ) -> SimulatorResponse {
        let details = errorCode.map { [ErrorAnswer.Detail(errorCode: $0)] } ?? []
        let answer = ErrorAnswer(error: .init(code: status.code, status: name, message: message, details: details))
        return SimulatorResponse(
            status: status,
            headers: ["content-type": "application/json"],
            body: encodeJSON(answer)
        )
    }

    private static func receipt(_ report: SimulatorPlan.Report, name: String, reference: String?) -> Receipt {
        var receipt = Receipt(event: "delivered", name: name, reference: reference, at: wallClockMilliseconds())
        switch report {
        case .delivered: break
        case .failed:
            (receipt.event, receipt.code, receipt.reason) = ("failed", "UNREGISTERED", "the app was removed")
        case .undelivered:
            (receipt.event, receipt.code, receipt.reason) = ("failed", "UNAVAILABLE", "the device is out of reach")
        }
        return receipt
    }
}
