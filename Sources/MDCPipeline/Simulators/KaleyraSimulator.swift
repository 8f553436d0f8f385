// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
import MDCModel
public import NIOCore
import NIOHTTP1
import Synchronization

/// An SMS gateway in Kaleyra's shape on a real socket: takes messages, fails, delays, and calls back.
public final class KaleyraSimulator: Sendable {
    /// How the gateway behaves.
    public struct Configuration: Sendable {
        /// Where it listens; port 0 picks a free one.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// The account id in the path.
        public var accountID: String
        /// The key that requests must carry.
        public var apiKey: String
        /// What happens to messages.
        public var behavior: SimulatorBehavior

        public init(
            host: String = "127.0.0.1",
            port: Int = 0,
            accountID: String = "SIM",
            apiKey: String = "simulator",
            behavior: SimulatorBehavior = SimulatorBehavior()
        ) {
            self.host = host
            self.port = port
            self.accountID = accountID
            self.apiKey = apiKey
            self.behavior = behavior
        }
    }

    /// What it took.
    public let ledger: SimulatorLedger
    /// Where it listens.
    public let port: Int
    /// What a provider is configured with.
    public var baseURL: String { "http://\(configuration.host):\(port)" }

    /// What it tells of messages when it is asked.
    let reports: SimulatorReports

    private let configuration: Configuration
    private let server: SimulatorHTTPServer

    private init(
        configuration: Configuration,
        ledger: SimulatorLedger,
        reports: SimulatorReports,
        server: SimulatorHTTPServer
    ) {
        self.reports = reports
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
    ) async throws -> KaleyraSimulator {
        let ledger = SimulatorLedger()
        let engine = SimulatorEngine(behavior: configuration.behavior, ledger: ledger, sender: sender)
        let reports = SimulatorReports()
        let desk = KaleyraSimulatorDesk(configuration: configuration, engine: engine, reports: reports)
        let server = try await SimulatorHTTPServer.start(
            host: configuration.host,
            port: configuration.port,
            group: group
        ) { desk.handle($0, $1) }
        logger.info("kaleyra simulator listens", metadata: ["port": "\(server.port)"])
        return KaleyraSimulator(configuration: configuration, ledger: ledger, reports: reports, server: server)
    }

    /// Stops listening and closes all connections.
    public func shutdown() async { await server.shutdown() }
}

/// Understands requests and phrases answers.
private struct KaleyraSimulatorDesk: Sendable {
    let configuration: KaleyraSimulator.Configuration
    let engine: SimulatorEngine
    let reports: SimulatorReports

    struct CallbackRequest: Decodable {
        var url: String
        var method: String?
    }

    struct SendRequest: Decodable {
        var to: String
        var sender: String
        var body: String
        var type: String?
        var ref: String?
        var callback: CallbackRequest?
    }

    struct SendAnswer: Encodable {
        struct Recipient: Encodable {
            var message_id: String?
            var recipient: String
            var status: String?
        }
        struct Problem: Encodable {
            var code: String?
            var message: String?
        }
        var id: String
        var data: [Recipient]
        var error: Problem = Problem()
    }

    struct ErrorAnswer: Encodable {
        var code: String
        var message: String
    }

    func handle(_ request: SimulatorRequest, _ responder: SimulatorResponder) {
        let questions = SimulatorReportDesk(
            accountID: configuration.accountID,
            apiKey: configuration.apiKey,
            reports: reports
        )
        if let answer = questions.answer(request) { return responder.respond(answer) }
        guard request.path == "/v1/\(configuration.accountID)/messages", request.method == .POST else {
            return refuse(.notFound, "RBC-404", "no such resource", responder)
        }
        guard request.headers.first(name: "api-key") == configuration.apiKey else {
            return refuse(.unauthorized, "RBC-401", "wrong api-key", responder)
        }
        guard let send = decode(request), !send.body.isEmpty else {
            return refuse(.badRequest, "RBC-400", "to, sender and body are needed", responder)
        }
        let reference = send.ref
        let messageID = Self.messageID()
        let callback = send.callback.map { callback -> (@Sendable (SimulatorPlan.Report) -> CallbackSender.Callback) in
            let url = callback.url
            let isGet = callback.method?.uppercased() == "GET"
            let recipient = send.to
            return {
                Self.receipt($0, url: url, isGet: isGet, messageID: messageID, reference: reference, to: recipient)
            }
        }
        let retryAfter = configuration.behavior.delays.retryAfter
        engine.process(recipient: send.to, reference: reference, callback: callback) { plan in
            reports.note(plan, id: messageID + ":1", reference: reference, recipient: send.to)
            Self.answer(plan, messageID: messageID, recipient: send.to, retryAfter: retryAfter, responder)
        }
    }

    private func decode(_ request: SimulatorRequest) -> SendRequest? {
        if request.headers.first(name: "content-type")?.hasPrefix("application/json") == true {
            return try? JSONDecoder().decode(SendRequest.self, from: Data(request.body.readableBytesView))
        }
        let fields = FormFields(decoding: String(buffer: request.body))
        guard let to = fields["to"], let sender = fields["sender"], let body = fields["body"] else { return nil }
        let callback = fields["callback"].flatMap {
            try? JSONDecoder().decode(CallbackRequest.self, from: Data($0.utf8))
        }
        return SendRequest(
            to: to,
            sender: sender,
            body: body,
            type: fields["type"],
            ref: fields["ref"],
            callback: callback
        )
    }

    private func refuse(
        _ status: HTTPResponseStatus,
        _ code: String,
        _ message: String,
        _ responder: SimulatorResponder
    ) {
        engine.ledger.noteMalformed()
        responder.respond(
            SimulatorResponse(
                status: status,
                headers: ["content-type": "application/json"],
                body: encodeJSON(ErrorAnswer(code: code, message: message))
            )
        )
    }

    private static func answer(
        _ plan: SimulatorPlan,
        messageID: String,
        recipient: String,
        retryAfter: Duration?,
        _ responder: SimulatorResponder
    ) {
        var response = SimulatorResponse(status: .accepted, headers: ["content-type": "application/json"], body: "")
        switch plan.answer {
        case .hang: return responder.hang(for: plan.answerDelay)
        case .accept:
            response.body = encodeJSON(
                SendAnswer(id: messageID, data: [.init(message_id: messageID + ":1", recipient: recipient)])
            )
        case .reject:
            // As the real one: success by HTTP, refused in the body.
            response.body = encodeJSON(
                SendAnswer(id: messageID, data: [.init(recipient: recipient, status: "INV-NUMBER")])
            )
        case .busy:
            response.status = .tooManyRequests
            if let retryAfter {
                response.headers.add(name: "retry-after", value: String(retryAfter.components.seconds))
            }
            response.body = encodeJSON(ErrorAnswer(code: "THROTTLED", message: "too many requests"))
        }
        responder.respond(response, after: plan.answerDelay)
    }

    private static func receipt(
        _ report: SimulatorPlan.Report,
        url: String,
        isGet: Bool,
        messageID: String,
        reference: String?,
        to: String
    ) -> CallbackSender.Callback {
        var fields = FormFields([("id", messageID + ":1"), ("mobile", to)])
        if let reference { fields.append("ref", reference) }
        switch report {
        case .delivered: fields.append("status", "Delivered")
        case .failed:
            fields.append("status", "Failed")
            fields.append("code", "INVALID-SUB")
            fields.append("reason", "the subscriber does not exist")
        case .undelivered:
            fields.append("status", "Undelivered")
            fields.append("code", "MOB-OFF")
            fields.append("reason", "the handset is switched off")
        }
        fields.append("timestamp", String(wallClockMilliseconds()))
        guard isGet else {
            return CallbackSender.Callback(
                url: url,
                method: .POST,
                contentType: "application/x-www-form-urlencoded",
                body: fields.encoded
            )
        }
        let query = (url.contains("?") ? "&" : "?") + fields.encoded
        return CallbackSender.Callback(url: url + query, method: .GET, contentType: "", body: "")
    }

    private static func messageID() -> String { UUID().uuidString.lowercased() }
}
