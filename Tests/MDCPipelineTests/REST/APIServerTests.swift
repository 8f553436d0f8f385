// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCClient
import MDCJSON
import MDCModel
import NIOCore
import NIOHTTP1
import Testing

@testable import MDCPipeline

@Suite("HTTP interface", .serialized)
struct APIServerTests {
    private static let sms = #"{"channel":"sms","to":"+919876543210","content":{"text":"hello"}}"#

    @Test("messages are accepted once, found, and followed to their end", .timeLimit(.minutes(4)))
    func messages() async throws {
        try await APIBench.with { api in
            let (_, token) = try await api.key(tenant: "shop")
            let key = [("idempotency-key", "order-1")]
            let first = try await api.post(Self.sms, token, key)
            #expect(first.status == 202 && first["duplicate"] == .bool(false), "\(first)")
            guard case .text(let id)? = first["id"] else { throw Unexpected(first) }
            #expect(first.headers.first(name: "location") == "/v1/messages/\(id)")
            let again = try await api.post(Self.sms, token, key)
            #expect(again.status == 200 && again["id"] == .text(id) && again["duplicate"] == .bool(true))
            let other = try await api.post(Self.sms.replacing("hello", with: "good-bye"), token, key)
            #expect(other.status == 422 && other.text.contains("idempotencyKey"), "\(other)")

            try await api.eventually("the message is at its end") {
                try await api.get("/v1/messages/\(id)", token)["finalAt"] != nil
            }
            let one = try await api.get("/v1/messages/\(id)?keys=id,status,tenant", token)
            #expect(one.json == .object(["id": .text(id), "status": .text("delivered"), "tenant": .text("shop")]))
            let tag = try #require(one.headers.first(name: "etag"))
            let known = try await api.get("/v1/messages/\(id)?keys=id,status,tenant", token, [("if-none-match", tag)])
            #expect(known.status == 304 && known.text.isEmpty)
            let timeline = try await api.get("/v1/messages/\(id)/timeline", token)
            #expect(timeline.text.contains("\"submitted\"") && timeline.text.contains("\"delivered\""))

            let filter = APIBench.escape(#"{"idempotencyKey":"order-1"}"#)
            let list = try await api.get("/v1/messages?count=true&pagesize=5&filter=\(filter)", token)
            #expect(list["count"] == .integer(1), "\(list)")
            #expect(try await api.get("/v1/messages?filter=%7B%22a%22%3A1%7D", token).status == 400)
            #expect(try await api.get("/v1/messages?colour=red", token).status == 400)
            #expect(try await api.get("/v1/messages?pagesize=1001", token).status == 400)

            let csv = try await api.get("/v1/reports/delivery?group=lane", token, [("accept", "text/csv")])
            #expect(csv.text.hasPrefix("lane,messages,open,delivered"), "\(csv)")
            #expect(csv.headers.first(name: "content-type")?.hasPrefix("text/csv") == true)
            #expect(try await api.get("/v1/reports/latency", token)["report"] == .text("latency"))
        }
    }

    struct Unexpected: Error {
        let answer: APIBench.Answer
        init(_ answer: APIBench.Answer) { self.answer = answer }
    }

    @Test("a bulk has a result for each message; what is wrong names the field", .timeLimit(.minutes(4)))
    func bulk() async throws {
        try await APIBench.with(APIServer.Configuration(bodyBytesMax: 64 << 10)) { api in
            let (_, token) = try await api.key(tenant: "shop")
            let bad = #"{"channel":"sms","to":"12","content":{"text":"hello"}}"#
            let misspelt = #"{"channel":"sms","to":"+919876543210","content":{"text":"x"},"sendat":1}"#
            let foreign = #"{"channel":"sms","tenant":"bank","to":"+919876543210","content":{"text":"x"}}"#
            for body in ["[\(Self.sms),\(bad),\(misspelt),\(foreign)]", #"{"messages":["# + "\(Self.sms),\(bad)]}"] {
                let answer = try await api.post(body, token)
                #expect(answer.status == 207 && answer["accepted"] == .integer(1), "\(answer)")
                guard case .array(let results)? = answer["results"], case .object(let second) = results[1],
                    case .object(let problem)? = second["problem"], case .array(let errors)? = problem["errors"],
                    case .object(let error)? = errors.first
                else { throw Unexpected(answer) }
                #expect(error["field"] == .text("to") && second["status"] == .integer(422))
            }
            let single = try await api.post(misspelt, token)
            #expect(single.status == 422 && single.text.contains("sendat: is not known"), "\(single)")
            #expect(single.headers.first(name: "content-type") == "application/problem+json")
            let many = "[" + Array(repeating: "{}", count: 1_001).joined(separator: ",") + "]"
            #expect(try await api.post(many, token).status == 413)
            #expect(try await api.post(String(repeating: " ", count: 65 << 10), token).status == 413)
            for body in ["", "[]", "{", "7", "[1,", String(repeating: "[", count: 500)] {
                #expect(try await api.post(body, token).status == 400, "\(body)")
            }
            let form = try await api.send(.POST, "/v1/messages", token, [("content-type", "text/plain")], Self.sms)
            #expect(form.status == 415)
        }
    }

    @Test("keys open what they are for and nothing else; no secret is ever written down", .timeLimit(.minutes(4)))
    func keys() async throws {
        try await APIBench.with { api in
            let shop = try await api.key(tenant: "shop")
            let bank = try await api.key(tenant: "bank", scopes: [.read])
            let all = try await api.key(tenant: nil)
            let receipt = try await api.post(Self.sms, shop.token)
            guard case .text(let id)? = receipt["id"] else { throw Unexpected(receipt) }
            let path = "/v1/messages/\(id)"
            try await api.eventually("the message is stored") { try await api.get(path, shop.token).status == 200 }
            #expect(try await api.get(path, all.token).status == 200)
            #expect(try await api.get(path, bank.token).status == 404)
            #expect(try await api.get(path + "/timeline", bank.token).status == 404)
            let foreign = APIBench.escape(#"{"$or":[{"tenant":"shop"},{"id":{"$exists":true}}]}"#)
            #expect(try await api.get("/v1/messages?filter=\(foreign)", bank.token)["messages"] == .array([]))
            #expect(try await api.post(Self.sms, bank.token).status == 403)
            #expect(try await api.get("/v1/events", bank.token).status == 403)

            let wrong = String(shop.token.dropLast()) + (shop.token.last == "0" ? "1" : "0")
            for token in [wrong, "mdc_x_y", "", String(repeating: "a", count: 5_000)] {
                let answer = try await api.get(path, token)
                #expect(answer.status == 401 && answer.headers.contains(name: "www-authenticate"))
            }
            #expect(try await api.get(path, nil).status == 401)
            #expect(try await api.get("/openapi.json", nil).status == 200)
            #expect(try await api.send(.DELETE, path, shop.token, [], nil).status == 405)

            let slow = try await api.key(tenant: "shop", rate: 1)
            var answers: [APIBench.Answer] = []
            for _ in 0..<20 { answers.append(try await api.get(path, slow.token)) }
            let refused = try #require(answers.first { $0.status == 429 })
            #expect(Int(refused.headers.first(name: "retry-after") ?? "") ?? 0 >= 1)

            var revoked = shop.key
            revoked.revokedAt = SystemTime.now()
            try await api.registry.put(revoked, action: "apikey revoke")
            try await api.eventually("the revoked key is refused") { try await api.get(path, shop.token).status == 401 }

            try await api.eventually("the audit log has the submission") {
                try await api.bench.readAll(Topics.audit).contains { record in
                    record.value.map { String(buffer: $0).contains("POST") && String(buffer: $0).contains(shop.key.id) }
                        ?? false
                }
            }
            var written = api.log.text
            for topic in [Topics.audit, Topics.apiKeys, Topics.events] {
                for record in try await api.bench.readAll(topic) {
                    written += record.value.map { String(buffer: $0) } ?? ""
                }
            }
            for made in [shop, bank, all, slow] {
                let secret = try #require(APIKey.parts(of: made.token)?.secret)
                #expect(!written.contains(secret))
            }
            #expect(written.contains("apikey revoke \(shop.key.id)"))
        }
    }

    @Test("the event stream goes on where a client left it, and shows a tenant its own", .timeLimit(.minutes(4)))
    func events() async throws {
        try await APIBench.with { api in
            let shop = try await api.key(tenant: "shop")
            let bank = try await api.key(tenant: "bank")
            for token in [shop.token, bank.token, shop.token] {
                #expect(try await api.post(Self.sms, token).status == 202)
            }
            let all = try await api.events(shop.token, "from=earliest&kind=submitted,final,receipt", until: 4)
            #expect(Set(all.map(\.event.messageID)).count == 2)
            let whose = try await api.center.store?.tenants(of: all.map { ($0.event.messageID, .sms) })
            #expect(Set(try #require(whose).values) == ["shop"])
            // Back at the first event: the others come again, and nothing else.
            let rest = try await api.events(
                shop.token,
                "kind=submitted,final,receipt",
                until: 3,
                after: all[0].id
            )
            func names(_ events: some Sequence<(id: String, event: TimelineEvent)>) -> Set<String> {
                Set(events.map { "\($0.event.messageID) \($0.event.kind)" })
            }
            #expect(names(rest) == names(all.dropFirst()) && names(rest).count == 3)
            #expect(try await api.get("/v1/events", shop.token, [("last-event-id", "1.2")]).status == 400)
        }
    }
}

extension APIBench {
    /// Reads a stream until so many events have come.
    fileprivate func events(_ token: String, _ query: String, until count: Int, after id: String? = nil) async throws
        -> [(id: String, event: TimelineEvent)]
    {
        var request = HTTPClientRequest(url: base + "/v1/events?" + query)
        request.headers.add(name: "authorization", value: "Bearer \(token)")
        if let id { request.headers.add(name: "last-event-id", value: id) }
        let response = try await client.execute(request, timeout: .seconds(120))
        #expect(response.status == .ok && response.headers.first(name: "content-type") == "text/event-stream")
        var text = ""
        var events: [(String, TimelineEvent)] = []
        for try await part in response.body {
            text += String(buffer: part)
            while let end = text.range(of: "\n\n") {
                let lines = text[..<end.lowerBound].split(separator: "\n")
                text.removeSubrange(..<end.upperBound)
                guard let id = lines.first(where: { $0.hasPrefix("id: ") })?.dropFirst(4),
                    let data = lines.first(where: { $0.hasPrefix("data: ") })?.dropFirst(6)
                else { continue }
                events.append((String(id), try TimelineEvent(json: ByteBuffer(string: String(data)))))
            }
            if events.count >= count { break }
        }
        return Array(events.prefix(count))
    }
}

@Suite("HTTP interface: description")
struct OpenAPITests {
    @Test("the description has the routes that are served, with their methods, and no other")
    func routes() throws {
        guard case .object(let document)? = JSONValue(json: OpenAPIDocument.text),
            case .object(let paths)? = document["paths"]
        else {
            Issue.record("the description is not JSON")
            return
        }
        #expect(document["openapi"] == .text("3.1.0"))
        var described: [String: Set<String>] = [:]
        for (path, value) in paths {
            guard case .object(let methods) = value else { continue }
            described[path] = Set(methods.keys)
        }
        let served = APIRoute.table.map { ($0.path, Set($0.methods.map { "\($0)".lowercased() })) }
        #expect(described == Dictionary(uniqueKeysWithValues: served))
        for (path, methods) in APIRoute.table {
            let sample = path.replacing("{id}", with: "x").replacing("{name}", with: "x").replacing(
                "{report}",
                with: "latency"
            )
            #expect(APIRoute(path: sample)?.methods == methods, "\(path)")
        }
        for path in ["/", "/v1", "/v1/messages/", "/v1/reports/x", "/v1/messages/a/b", "/v1/messages/a/timeline/b"] {
            #expect(APIRoute(path: path) == nil, "\(path)")
        }
    }

    @Test("messages are described with the members that they have")
    func members() throws {
        guard case .object(let document)? = JSONValue(json: OpenAPIDocument.text),
            case .object(let components)? = document["components"], case .object(let schemas)? = components["schemas"],
            case .object(let message)? = schemas["Message"], case .object(let properties)? = message["properties"]
        else {
            Issue.record("the description has no schema of messages")
            return
        }
        #expect(Set(properties.keys) == Set(MessageResource.members))
        func words(_ schema: JSONValue?) -> Set<String> {
            guard case .object(let members)? = schema, case .array(let values)? = members["enum"] else { return [] }
            return Set(values.map { value in if case .text(let text) = value { text } else { "" } })
        }
        #expect(words(schemas["Status"]) == Set(MessageStatus.allCases.map(\.rawValue)))
        #expect(words(schemas["Channel"]) == Set(MDCPipeline.Channel.allCases.map(\.rawValue)))
        guard case .object(let event)? = schemas["Event"], case .object(let members)? = event["properties"] else {
            Issue.record("the description has no schema of events")
            return
        }
        #expect(words(members["kind"]) == Set(TimelineEvent.Kind.allCases.map(\.rawValue)))
    }

    @Test("keys choose members, to have or to leave out, and nothing that does not exist")
    func projection() throws {
        #expect(try Projection("id, status").members == ["id", "status"])
        #expect(try !Projection(#"{"content": 0}"#).isInclusive)
        for text in ["", "colour", #"{"id": 1, "content": 0}"#, #"{"id": 2}"#, "{"] {
            #expect(throws: APIProblem.self) { try Projection(text) }
        }
        #expect(try MessageQuery.order("-createdAt,lane").map(\.isDescending) == [true, false])
        for text in ["colour", "", #"{"id": 1, "lane": 1}"#, "a,b,c,d,e"] {
            #expect(throws: APIProblem.self) { try MessageQuery.order(text) }
        }
    }

    @Test("a place in the event stream is written and read back")
    func cursor() {
        let cursor = EventCursor(offsets: [1, 0, 7, 1 << 40])
        #expect(EventCursor("\(cursor)") == cursor)
        for text in ["", "1.2.3", "1.2.3.4.5", "1.2.3.-4", "a.b.c.d"] { #expect(EventCursor(text) == nil) }
    }
}
