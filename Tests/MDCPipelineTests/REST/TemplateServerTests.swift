// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCJSON
import MDCModel
import NIOHTTP1
import Testing

@testable import MDCPipeline

@Suite("HTTP interface: templates", .serialized)
struct TemplateServerTests {
    private static let json = [("content-type", "application/json")]
    private static let welcome =
        #"{"channel":"sms","defaultLocale":"en","variants":{"en":{"text":"Hello {{name}}"},"de":{"text":"Hallo {{name}}, дом"}}}"#

    @Test("are kept in versions, belong to their tenant, and make texts", .timeLimit(.minutes(4)))
    func templates() async throws {
        try await APIBench.with { api in
            let (_, token) = try await api.key(tenant: "shop")
            let (_, bank) = try await api.key(tenant: "bank")
            let (_, all) = try await api.key(tenant: nil)
            let path = "/v1/templates/welcome"
            let first = try await api.send(.PUT, path, token, Self.json, Self.welcome)
            #expect(first.status == 200 && first["version"] == .integer(1), "\(first)")
            let changed = Self.welcome.replacing("Hello", with: "Good day")
            let second = try await api.send(.PUT, path, token, Self.json, changed)
            #expect(second["version"] == .integer(2) && second["versions"] == .array([.integer(1), .integer(2)]))
            #expect(try await api.get(path + "?version=1", token).text.contains("Hello"))
            #expect(try await api.get(path + "?version=9", token).status == 404)
            #expect(try await api.get(path, bank).status == 404)
            #expect(try await api.get(path + "?tenant=shop", all).status == 200)
            #expect(try await api.get(path + "?tenant=shop", bank).status == 400)
            #expect(try await api.send(.DELETE, path, bank, [], nil).status == 404)
            let bad = try await api.send(
                .PUT,
                path,
                token,
                Self.json,
                Self.welcome.replacing("{{name}}\"},", with: "{{name\"},")
            )
            #expect(bad.status == 422 && bad.text.contains("variants.en.text"), "\(bad)")
            let (_, reader) = try await api.key(tenant: "shop", scopes: [.read, .readTemplates])
            #expect(try await api.send(.PUT, path, reader, Self.json, Self.welcome).status == 403)
            let list = try await api.get("/v1/templates", reader)
            #expect(list.status == 200 && list.text.contains("\"version\":2") && list.text.contains("[\"de\",\"en\"]"))

            let draft =
                #"{"channel":"sms","to":"+4915112345678","template":"welcome","locale":"de-AT","variables":{"name":"Ada"}}"#
            let key = [("idempotency-key", "w1")]
            let sent = try await api.post(draft, token, key)
            #expect(sent.status == 202 && sent["locale"] == .text("de") && sent["encoding"] == .text("ucs2"), "\(sent)")
            #expect(sent["templateVersion"] == .integer(2) && sent["segments"] == .integer(1))
            guard case .text(let id)? = sent["id"] else { throw APIServerTests.Unexpected(sent) }
            try await api.eventually("the message is stored") {
                try await api.get("/v1/messages/\(id)", token).text.contains("Hallo Ada, дом")
            }
            // The template changes, the same submission stays the same.
            _ = try await api.send(.PUT, path, token, Self.json, Self.welcome.replacing("Hallo", with: "Servus"))
            #expect(try await api.post(draft, token, key).status == 200)
            #expect(try await api.post(draft.replacing("Ada", with: "Eva"), token, key).status == 422)

            for (change, field) in [
                (("\"name\":\"Ada\"", "\"nam\":\"Ada\""), "variables.name"),
                (("\"welcome\"", "\"nothing\""), "template"),
                (("\"de-AT\"", "\"!\""), "locale"),
                (("\"locale\"", "\"templateVersion\":77,\"locale\""), "templateVersion"),
                (("\"locale\"", "\"content\":{\"text\":\"x\"},\"locale\""), "variables"),
            ] {
                let answer = try await api.post(draft.replacing(change.0, with: change.1), token)
                #expect(answer.status == 422 && answer.text.contains("\"field\":\"\(field)\""), "\(answer)")
            }
            let fallback = try await api.post(
                draft.replacing("de-AT", with: "fr").replacing("\"Ada\"", with: "\"Ada\",\"x\":1"),
                token
            )
            #expect(fallback["locale"] == .text("en"))
            #expect(
                fallback.text.contains("'fr' has no variant") && fallback.text.contains("variables.x"),
                "\(fallback)"
            )
            let named = try await api.post(
                draft.replacing("\"locale\"", with: "\"templateVersion\":1,\"locale\""),
                token
            )
            #expect(named["templateVersion"] == .integer(1))
            #expect(try await api.send(.DELETE, path, token, [], nil).status == 204)
            #expect(try await api.get(path, token).status == 404)
            #expect(try await api.post(draft, token).status == 422)
        }
    }

    @Test("old versions make room", .timeLimit(.minutes(4)))
    func versions() async throws {
        try await APIBench.with { api in
            let book = api.center.templates
            for number in 1...TemplateBook.versionsMax + 3 {
                let template = MessageTemplate(
                    name: "t",
                    channel: .sms,
                    defaultLocale: "en",
                    variants: ["en": MessageContent(text: "\(number)")]
                )
                #expect(try await book.put(template).version == number)
            }
            let kept = try await book.versions("t", tenant: nil)
            #expect(kept == Array(4...TemplateBook.versionsMax + 3))
            #expect(try await book.template("t", tenant: "anyone")?.variants["en"]?.text == "23")
        }
    }
}
