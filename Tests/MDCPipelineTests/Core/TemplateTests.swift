// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import MDCModel
import Testing

@testable import MDCPipeline

@Suite("Templates")
struct TemplateTests {
    private func fill(_ text: String, _ variables: String, isHTML: Bool = false) throws -> (String, [String]) {
        guard case .object(let members)? = JSONValue(json: variables) else { throw NotJSON() }
        let scope = TemplateScope(members)
        let filled = try TemplateText(text, isHTML: isHTML).render(scope)
        return (filled, scope.problems("the template").map(\.field))
    }

    struct NotJSON: Error {}

    @Test(
        "texts are filled in",
        arguments: [
            ("Hello {{name}}", #"{"name":"Ada"}"#, "Hello Ada"),
            ("no places", "{}", "no places"),
            ("{{a}}{{ b }}{{c}}", #"{"a":1,"b":-2.5,"c":true}"#, "1-2.5true"),
            ("{{order.id}} for {{order.to.name}}", #"{"order":{"id":7,"to":{"name":"Ada"}}}"#, "7 for Ada"),
            (
                "{{#items}}{{name}}: {{price}} {{currency}};{{/items}}",
                #"{"items":[{"name":"a","price":1},{"name":"b","price":2}],"currency":"EUR"}"#, "a: 1 EUR;b: 2 EUR;"
            ),
            ("{{#items}}[{{.}}]{{/items}}{{^items}}none{{/items}}", #"{"items":["x","y"]}"#, "[x][y]"),
            ("{{#items}}[{{.}}]{{/items}}{{^items}}none{{/items}}", #"{"items":[]}"#, "none"),
            ("{{#name}}Dear {{name}}{{/name}}{{^name}}Hello{{/name}}", "{}", "Hello"),
            ("{{#name}}Dear {{name}}{{/name}}{{^name}}Hello{{/name}}", #"{"name":""}"#, "Hello"),
            ("{{#name}}Dear {{name}}{{/name}}", #"{"name":"Ada"}"#, "Dear Ada"),
            ("{{#isNew}}new{{/isNew}}{{^isNew}}old{{/isNew}}", #"{"isNew":false}"#, "old"),
            ("{{#to}}{{name}}{{/to}}", #"{"to":{"name":"Ada"}}"#, "Ada"),
            ("{{! nothing }}x{{uppercased(name)}}", #"{"name":"ada"}"#, "xADA"),
            ("{{count(items)}} pieces", #"{"items":[1,2,3]}"#, "3 pieces"),
            ("\n{{#a}}\n  {{a}}\n{{/a}}\nend", #"{"a":"x"}"#, "\n  x\nend"),
            ("<b>{{name}}</b> {{{name}}} {{&name}}", #"{"name":"<&\">"}"#, "<b><&\"></b> <&\"> <&\">"),
        ] as [(String, String, String)]
    )
    func fills(text: String, variables: String, expected: String) throws {
        let (filled, problems) = try fill(text, variables)
        #expect(filled == expected)
        #expect(problems.isEmpty, "\(problems)")
    }

    @Test("only HTML is escaped, and there everything but what is asked for raw")
    func escaping() throws {
        let (html, _) = try fill("<b>{{name}}</b>{{{name}}}", ##"{"name":"<i a='1'>&\""}"##, isHTML: true)
        #expect(html == "<b>&lt;i a=&#39;1&#39;&gt;&amp;&quot;</b><i a='1'>&\"")
        let (list, _) = try fill("{{#a}}{{x}}{{/a}}", #"{"a":[{"x":"<"},{"x":">"}]}"#, isHTML: true)
        #expect(list == "&lt;&gt;")
    }

    @Test(
        "what is missing is named, and only where it is needed",
        arguments: [
            ("{{a}} {{b.c}} {{d.e}}", #"{"b":{},"d":"x"}"#, ["a", "b.c", "d.e"]),
            ("{{a}}", #"{"a":null}"#, ["a"]),
            ("{{#a}}{{b}}{{/a}}", "{}", []),
            ("{{#a}}{{b}}{{/a}}", #"{"a":true}"#, ["b"]),
            ("{{#a}}{{b}}{{/a}}", #"{"a":[{"b":1},{}]}"#, ["b"]),
            ("{{lowercased(a)}}", "{}", ["a"]),
            ("{{a}}", #"{"a":{"b":1}}"#, ["a"]),
            ("{{a}}", #"{"a":[1]}"#, ["a"]),
            ("{{{a}}}{{&b}}", "{}", ["a", "b"]),
        ] as [(String, String, [String])]
    )
    func missing(text: String, variables: String, names: [String]) throws {
        #expect(try fill(text, variables).1 == names.map { "variables." + $0 })
    }

    @Test(
        "what is no template is refused with a reason",
        arguments: [
            ("{{a", "without '}}'"), ("{{#a}}x", "not closed"), ("{{#a}}x{{/b}}", "another name"),
            ("{{> a}}", "partials"),
            ("{{=<% %>=}}", "delimiters"), ("{{% CONTENT_TYPE:TEXT}}", "pragmas"), ("{{<a}}{{/a}}", "blocks"),
            ("{{a b}}", "names"), ("{{*a}}", "names"), ("{{.a}}", "names"), ("{{}}", "names"), ("{{a..b}}", "names"),
            (String(repeating: "{{#a}}", count: 9), "more than 8"), ("{{f(a}}", "tag"),
        ] as [(String, String)]
    )
    func refuses(text: String, reason: String) {
        let problem = #expect(throws: TemplateText.Problem.self) { try TemplateText(text, isHTML: false) }
        #expect(problem?.description.contains(reason) == true, "\(problem?.description ?? "none")")
    }

    @Test("sections in sections cannot grow without bound")
    func bounded() throws {
        let list = "[" + Array(repeating: "1", count: 2_000).joined(separator: ",") + "]"
        let text = String(repeating: "{{#a}}", count: 8) + "text" + String(repeating: "{{/a}}", count: 8)
        let (filled, problems) = try fill(text, "{\"a\":\(list)}")
        #expect(problems == ["variables"])
        #expect(filled.utf8.count < 64 << 20)
    }

    @Test("random texts are refused or filled in, and never end the process")
    func random() {
        var generator = SeededGenerator(seed: 7)
        let pieces = [
            "{{", "}}", "{", "}", "#a", "/a", "^a", "a", ".", " ", "\n", "!", "&", "(", ")", "b.c", "=", "%", "é", "x",
        ]
        for _ in 0..<5_000 {
            let text = (0..<Int.random(in: 1...14, using: &generator))
                .map { _ in pieces.randomElement(using: &generator) ?? "" }.joined()
            guard let template = try? TemplateText(text, isHTML: Bool.random(using: &generator)) else { continue }
            _ = template.render(TemplateScope(["a": .array([.text("x"), .object(["b": .null])]), "b": .object([:])]))
        }
    }

    @Test(
        "the nearest language is taken",
        arguments: [
            ("de-AT", "de-AT"), ("de-at", "de-AT"), ("de_AT", "de-AT"), ("de-CH", "de"), ("de", "de"), ("fr", "en"),
            (nil, "en"), ("zh-Hant-TW", "zh-Hant"), ("zh", "en"), ("?", "en"),
        ] as [(String?, String)]
    )
    func locales(asked: String?, taken: String) {
        let variants = Dictionary(
            uniqueKeysWithValues: ["en", "de", "de-AT", "zh-Hant"].map { ($0, MessageContent(text: $0)) }
        )
        let template = MessageTemplate(name: "t", channel: .sms, defaultLocale: "en", variants: variants)
        #expect(template.variant(for: asked)?.locale == taken)
        #expect(template.problems().isEmpty)
    }

    @Test("a template that cannot be kept says why, field by field")
    func problems() throws {
        let bad = MessageTemplate(
            name: "a b",
            channel: .email,
            defaultLocale: "fr",
            variants: ["EN": MessageContent(text: ""), "de": MessageContent(subject: "{{#x}}", text: "{{a")]
        )
        #expect(
            Set(bad.problems().map(\.field))
                == ["name", "defaultLocale", "variants.EN", "variants.de.text", "variants.de.subject"]
        )
        for (json, field) in [
            ("{}", "channel"), ("[]", "template"), (#"{"channel":"sms"}"#, "variants"),
            (#"{"channel":"sms","variants":{"en":{"text":1}}}"#, "variants.en.text"),
            (#"{"channel":"sms","variants":{"en":{"text":"a"},"de":{"text":"b"}}}"#, "defaultLocale"),
            (#"{"channel":"sms","variants":{},"colour":1}"#, "colour"),
        ] {
            let error = #expect(throws: PipelineError.self) {
                try MessageTemplate.given(json: json, name: "t", tenant: nil)
            }
            #expect(error?.issues.first?.field == field, "\(json)")
        }
    }

    @Test("the same submission is recognised when its template has changed since")
    func digest() {
        var draft = MessageDraft(
            channel: .sms,
            to: "+4915112345678",
            content: MessageContent(text: "first"),
            template: "t"
        )
        draft.templateSource = TemplateSource(version: 1, locale: "en", digest: "aa")
        var later = draft
        later.content.text = "second"
        later.templateSource = TemplateSource(version: 2, locale: "en", digest: "aa")
        #expect(draft.contentDigest == later.contentDigest)
        later.templateSource?.digest = "bb"
        #expect(draft.contentDigest != later.contentDigest)
    }
}
