// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// A text with places for variables, in one or several languages: a record of the compacted topic `mdc.templates`.
///
/// Each part of a variant is a Mustache template of its own: the subject, the text, the HTML, the title, the values of `data`.
public struct MessageTemplate: Codable, Sendable, Hashable {
    /// What messages call it.
    public var name: String
    /// Whose messages may use it; nil: everyone's.
    public var tenant: String?
    /// The channel that it is written for.
    public var channel: Channel
    /// Counts up with each `put`, from 1.
    public var version: Int
    /// The variant for those whose language there is none of.
    public var defaultLocale: String
    /// What the recipient reads, by locale (`de`, `de-AT`).
    public var variants: [String: MessageContent]
    /// When this version was put.
    public var updatedAt: Timestamp

    /// Makes a value from its parts.
    public init(
        name: String,
        tenant: String? = nil,
        channel: Channel,
        version: Int = 1,
        defaultLocale: String,
        variants: [String: MessageContent],
        updatedAt: Timestamp = 0
    ) {
        self.name = name
        self.tenant = tenant
        self.channel = channel
        self.version = version
        self.defaultLocale = defaultLocale
        self.variants = variants
        self.updatedAt = updatedAt
    }

    /// The most bytes of all variants together.
    static let bytesMax = 256 * 1024
    /// The most variants.
    static let variantsMax = 64

    /// The key of all its versions.
    var key: String { Self.key(name, tenant: tenant) }

    /// The key of its record.
    var recordKey: String { "\(key):\(version)" }

    static func key(_ name: String, tenant: String?) -> String { "\(tenant ?? "*"):\(name)" }

    /// What is wrong with it, field by field.
    func problems() -> [ValidationIssue] {
        var issues: [ValidationIssue] = []
        func error(_ field: String, _ message: String) { issues.append(ValidationIssue(.error, field, message)) }
        if !Self.isName(name) {
            error("name", "'\(name.prefix(64))' is no name; use 1 to 64 letters, digits, '-', '_' or '.'")
        }
        if let tenant, !Self.isName(tenant) {
            error("tenant", "'\(tenant.prefix(64))' is no name; use 1 to 64 letters, digits, '-', '_' or '.'")
        }
        if variants.isEmpty || variants.count > Self.variantsMax {
            error("variants", "there are \(variants.count); give 1 to \(Self.variantsMax)")
        }
        if variants[defaultLocale] == nil {
            error(
                "defaultLocale",
                "'\(defaultLocale.prefix(32))' has no variant; there are \(variants.keys.sorted().joined(separator: ", "))"
            )
        }
        var size = 0
        for (locale, content) in variants.sorted(by: { $0.key < $1.key }) {
            let field = "variants.\(locale.prefix(32))"
            if Locales.normal(locale) != locale {
                error(field, "is no locale; write it as de, de-AT or zh-Hant-TW")
            }
            if let problem = Self.contentProblem(content, channel) { error(field, problem) }
            for (part, text) in content.parts {
                size += text.utf8.count
                do {
                    _ = try TemplateText(text, isHTML: part == "html")
                } catch {
                    issues.append(ValidationIssue(.error, "\(field).\(part)", error.description))
                }
            }
        }
        if size > Self.bytesMax { error("variants", "have \(size) bytes; at most \(Self.bytesMax) are taken") }
        return issues
    }

    private static func contentProblem(_ content: MessageContent, _ channel: Channel) -> String? {
        switch channel {
        case .sms: content.text.isEmpty ? "has no text" : nil
        case .email:
            content.text.isEmpty && content.html?.isEmpty ?? true ? "has neither text nor html; give at least one" : nil
        case .push:
            content.text.isEmpty && content.title?.isEmpty ?? true && content.data?.isEmpty ?? true
                ? "has neither title, text nor data; give at least one" : nil
        }
    }

    private static func isName(_ text: String) -> Bool {
        (1...64).contains(text.utf8.count)
            && text.utf8.allSatisfy { EmailAddress.isAlphanumeric($0) || $0 == 0x2D || $0 == 0x5F || $0 == 0x2E }
    }

    /// The variant for a locale: its own, else that of the language without its last part, and so on, else the default one.
    func variant(for locale: String?) -> (locale: String, content: MessageContent)? {
        if let wanted = locale.flatMap(Locales.normal) {
            for tag in Locales.chain(wanted) {
                if let content = variants[tag] { return (tag, content) }
            }
        }
        return variants[defaultLocale].map { (defaultLocale, $0) }
    }
}

extension MessageContent {
    /// The texts in it, with their names.
    var parts: [(name: String, text: String)] {
        var parts: [(String, String)] = [("text", text)]
        if let subject { parts.append(("subject", subject)) }
        if let html { parts.append(("html", html)) }
        if let title { parts.append(("title", title)) }
        for (name, value) in (data ?? [:]).sorted(by: { $0.key < $1.key }) { parts.append(("data.\(name)", value)) }
        return parts
    }
}

/// Names of languages (BCP 47), as far as variants of templates need them.
enum Locales {
    /// The usual form: `de`, `de-AT`, `zh-Hant-TW`; `_` is taken for `-`. Nil if it is none.
    static func normal(_ text: String) -> String? {
        guard (2...35).contains(text.utf8.count) else { return nil }
        var parts: [String] = []
        for part in text.split(whereSeparator: { $0 == "-" || $0 == "_" }) {
            guard (1...8).contains(part.utf8.count), part.utf8.allSatisfy(EmailAddress.isAlphanumeric) else {
                return nil
            }
            let isLetters = part.utf8.allSatisfy { !(0x30...0x39).contains($0) }
            switch (parts.isEmpty, part.utf8.count) {
            case (true, let count):
                guard count >= 2, isLetters else { return nil }
                parts.append(part.lowercased())
            case (false, 2) where isLetters: parts.append(part.uppercased())
            case (false, 4) where isLetters: parts.append(part.prefix(1).uppercased() + part.dropFirst().lowercased())
            default: parts.append(part.lowercased())
            }
        }
        let normal = parts.joined(separator: "-")
        return normal.utf8.count == text.utf8.count ? normal : nil
    }

    /// The locale, then what is left when its last part is taken off, and so on.
    static func chain(_ locale: String) -> [String] {
        var tags: [String] = []
        var parts = locale.split(separator: "-")
        while !parts.isEmpty {
            tags.append(parts.joined(separator: "-"))
            parts.removeLast()
        }
        return tags
    }
}

/// From what a message's text was made: kept with it, so that the same submission is recognised after the template has changed.
public struct TemplateSource: Codable, Sendable, Hashable {
    /// The version of the template.
    public var version: Int
    /// The variant that was taken.
    public var locale: String
    /// A digest of template, locale asked for and variables, in hexadecimal.
    public var digest: String

    /// Makes a value from its parts.
    public init(version: Int, locale: String, digest: String) {
        self.version = version
        self.locale = locale
        self.digest = digest
    }
}
