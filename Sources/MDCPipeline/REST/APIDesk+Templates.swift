// SPDX-License-Identifier: Apache-2.0

import Foundation
import HTTPTypes
import Hummingbird
import MDCJSON
import MDCModel
import NIOCore

extension APIDesk {
    private struct TemplateList: Encodable {
        var templates: [TemplateHead]
    }

    private struct TemplateHead: Encodable {
        var name: String
        var tenant: String?
        var channel: Channel
        var version: Int
        var defaultLocale: String
        var locales: [String]
        var updatedAt: Timestamp
    }

    /// A template with the versions that there are of it.
    private struct FullTemplate: Encodable {
        var template: MessageTemplate
        var versions: [Int]

        private enum Keys: String, CodingKey { case versions }

        func encode(to encoder: any Encoder) throws {
            try template.encode(to: encoder)
            var container = encoder.container(keyedBy: Keys.self)
            try container.encode(versions, forKey: .versions)
        }
    }

    func listTemplates(_ request: Request, _ key: APIKey) async throws -> Response {
        _ = try QueryParameters(request, known: [])
        let heads = try await templates.list(tenant: key.tenant).map { template in
            TemplateHead(
                name: template.name,
                tenant: template.tenant,
                channel: template.channel,
                version: template.version,
                defaultLocale: template.defaultLocale,
                locales: template.variants.keys.sorted(),
                updatedAt: template.updatedAt
            )
        }
        return Self.tagged(encodeJSON(TemplateList(templates: heads)), for: request)
    }

    func template(_ name: String, _ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(request, known: ["version", "tenant"])
        let version = parameters["version"] == nil ? nil : try parameters.number("version", 1, 1...Int(Int32.max))
        let tenant = try Self.templateTenant(parameters, key)
        guard let template = try await templates.template(name, tenant: tenant, version: version) else {
            throw Self.noTemplate(name)
        }
        let versions = try await templates.versions(name, tenant: template.tenant)
        return Self.tagged(encodeJSON(FullTemplate(template: template, versions: versions)), for: request)
    }

    func putTemplate(_ name: String, _ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(request, known: ["tenant"])
        let tenant = try Self.templateTenant(parameters, key)
        let bytes = try await body(of: request)
        let template: MessageTemplate
        do {
            template = try MessageTemplate.given(json: String(buffer: bytes), name: name, tenant: tenant)
        } catch {
            throw APIProblem(
                422,
                "The template cannot be kept",
                error.message,
                errors: APIProblem.details(error.issues)
            )
        }
        do {
            let kept = try await templates.put(template)
            let versions = try await templates.versions(name, tenant: tenant)
            return Self.json(encodeJSON(FullTemplate(template: kept, versions: versions)))
        } catch let error where error.code == .invalidMessage {
            throw APIProblem(
                422,
                "The template cannot be kept",
                error.message,
                errors: APIProblem.details(error.issues)
            )
        }
    }

    func deleteTemplate(_ name: String, _ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(request, known: ["tenant"])
        guard try await templates.delete(name, tenant: try Self.templateTenant(parameters, key)) else {
            throw Self.noTemplate(name)
        }
        return Response(status: .noContent)
    }

    /// A key of one tenant sees and changes that tenant's templates, and sees those for all.
    private static func templateTenant(_ parameters: QueryParameters, _ key: APIKey) throws(APIProblem) -> String? {
        guard let asked = parameters["tenant"] else { return key.tenant }
        guard key.covers(asked) else {
            throw .parameter("tenant", "this API key acts for '\(key.tenant ?? "")'; leave the tenant out")
        }
        return asked
    }

    private static func noTemplate(_ name: String) -> APIProblem {
        APIProblem(
            404,
            "Not found",
            "template '\(name.prefix(64))' is not known here; GET /v1/templates lists what there is"
        )
    }
}

extension MessageTemplate {
    /// Reads a template as clients write it: `channel`, `defaultLocale`, `variants`.
    ///
    /// - Throws: ``PipelineError`` with code `invalidMessage` that names the member.
    public static func given(json text: String, name: String, tenant: String?) throws(PipelineError) -> MessageTemplate
    {
        func invalid(_ field: String, _ words: String) -> PipelineError { TemplateBook.invalid(field, words) }
        guard text.utf8.count <= bytesMax * 4, case .object(let members)? = JSONValue(json: text) else {
            throw invalid("template", "is no JSON object; write {\"channel\", \"defaultLocale\", \"variants\"}")
        }
        // What GET answers may be sent back as it is.
        let known = ["channel", "defaultLocale", "variants", "name", "tenant", "version", "versions", "updatedAt"]
        for member in members.keys.sorted() where !known.contains(member) {
            throw invalid(String(member.prefix(64)), "is not known; there are channel, defaultLocale and variants")
        }
        guard case .text(let channelName)? = members["channel"], let channel = Channel(rawValue: channelName) else {
            throw invalid("channel", "use one of: \(Channel.allCases.names)")
        }
        guard case .object(let given)? = members["variants"] else {
            throw invalid("variants", "is missing; write {\"en\": {\"text\": \"Hello {{name}}\"}}")
        }
        var variants: [String: MessageContent] = [:]
        for (locale, value) in given.sorted(by: { $0.key < $1.key }) {
            variants[locale] = try variant(value, place: "variants.\(locale.prefix(32))")
        }
        var defaultLocale = variants.count == 1 ? variants.keys.first : nil
        if let value = members["defaultLocale"] {
            guard case .text(let locale) = value else {
                throw invalid("defaultLocale", "write a locale such as \"en\"")
            }
            defaultLocale = locale
        }
        guard let defaultLocale else { throw invalid("defaultLocale", "is missing; name one of the variants") }
        return MessageTemplate(
            name: name,
            tenant: tenant,
            channel: channel,
            defaultLocale: defaultLocale,
            variants: variants
        )
    }

    private static func variant(_ value: JSONValue, place: String) throws(PipelineError) -> MessageContent {
        guard case .object(let parts) = value else { throw TemplateBook.invalid(place, "is no object of texts") }
        var content = MessageContent(text: "")
        for (part, value) in parts.sorted(by: { $0.key < $1.key }) {
            switch (part, value) {
            case ("text", .text(let text)): content.text = text
            case ("subject", .text(let text)): content.subject = text
            case ("html", .text(let text)): content.html = text
            case ("title", .text(let text)): content.title = text
            case ("data", .object(let members)):
                var data: [String: String] = [:]
                for (name, member) in members {
                    guard case .text(let text) = member else {
                        throw TemplateBook.invalid(
                            "\(place).data.\(name.prefix(64))",
                            "is \(member.kind); write a text"
                        )
                    }
                    data[name] = text
                }
                content.data = data
            default:
                throw TemplateBook.invalid(
                    "\(place).\(part.prefix(64))",
                    "is not known, or no text; there are subject, text, html, title and data"
                )
            }
        }
        return content
    }
}
