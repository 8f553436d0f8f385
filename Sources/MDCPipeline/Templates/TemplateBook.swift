// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
public import MDCClient
import MDCModel
public import NIOCore
import Synchronization

/// The templates on the log: followed, put, deleted, and filled in for messages.
public final class TemplateBook: Sendable {
    /// The most versions that are kept of a template; the oldest go first.
    public static let versionsMax = 20

    private struct Entry: Sendable {
        var template: MessageTemplate
        /// By locale and part.
        var texts: [String: [String: TemplateText]]
    }

    private let follower: TopicFollower
    private let writer: RecordWriter
    private let logger: Logger
    private let known: KnownTemplates
    private let putting = ConcurrencyGate(limit: 1)

    private final class KnownTemplates: Sendable {
        /// By key, then by version.
        let entries = Mutex<[String: [Int: Entry]]>([:])
    }

    init(client: ClientConfiguration, writer: RecordWriter, eventLoopGroup: any EventLoopGroup, logger: Logger) {
        self.writer = writer
        self.logger = logger
        let known = KnownTemplates()
        self.known = known
        follower = TopicFollower(
            Topics.templates,
            client: client,
            eventLoopGroup: eventLoopGroup,
            logger: logger,
            apply: { records in
                for record in records { Self.apply(record, to: known, logger) }
            }
        )
    }

    /// Over a producer of the caller's, which stays the caller's.
    public convenience init(
        client: ClientConfiguration,
        producer: Producer,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) {
        self.init(
            client: client,
            writer: RecordWriter(producer: producer, logger: logger),
            eventLoopGroup: eventLoopGroup,
            logger: logger
        )
    }

    /// Ends the reading of the topic.
    public func close() async { await follower.close() }

    private static func apply(_ record: ConsumerRecord, to known: KnownTemplates, _ logger: Logger) {
        guard let key = record.key.map({ String(buffer: $0) }) else { return }
        guard let value = record.value else {
            guard let colon = key.lastIndex(of: ":"), let version = Int(key[key.index(after: colon)...]) else { return }
            let name = String(key[..<colon])
            return known.entries.withLock { entries in
                entries[name]?[version] = nil
                if entries[name]?.isEmpty ?? false { entries[name] = nil }
            }
        }
        do {
            let template = try JSONDecoder().decode(MessageTemplate.self, from: Data(value.readableBytesView))
            var texts: [String: [String: TemplateText]] = [:]
            for (locale, content) in template.variants {
                for (part, text) in content.parts {
                    texts[locale, default: [:]][part] = try TemplateText(text, isHTML: part == "html")
                }
            }
            let entry = Entry(template: template, texts: texts)
            known.entries.withLock { $0[template.key, default: [:]][template.version] = entry }
        } catch {
            logger.warning("an unreadable template is passed over", metadata: ["key": "\(key)", "error": "\(error)"])
        }
    }

    // MARK: - Reading

    /// Returns once what was put until now is known here. - Throws: ``PipelineError`` (`log`).
    public func refresh() async throws(PipelineError) { try await follower.caughtUp() }

    /// The latest version of each template that a tenant can use; nil: of all templates.
    public func list(tenant: String?) async throws(PipelineError) -> [MessageTemplate] {
        try await refresh()
        return known.entries.withLock { entries in
            entries.values.compactMap { versions in versions.max { $0.key < $1.key }?.value.template }
        }
        .filter { template in tenant.map { template.tenant == nil || template.tenant == $0 } ?? true }
        .sorted { ($0.name, $0.tenant ?? "") < ($1.name, $1.tenant ?? "") }
    }

    /// A template; a tenant's own goes before one for all.
    ///
    /// - Parameter version: nil: the latest.
    public func template(
        _ name: String,
        tenant: String?,
        version: Int? = nil
    ) async throws(PipelineError) -> MessageTemplate? {
        try await refresh()
        return entry(name, tenant: tenant, version: version)?.template
    }

    /// The versions that there are of exactly this template.
    public func versions(_ name: String, tenant: String?) async throws(PipelineError) -> [Int] {
        try await refresh()
        return known.entries.withLock { $0[MessageTemplate.key(name, tenant: tenant)]?.keys.sorted() ?? [] }
    }

    private func entry(_ name: String, tenant: String?, version: Int?) -> Entry? {
        known.entries.withLock { entries in
            let keys =
                (tenant.map { [MessageTemplate.key(name, tenant: $0)] } ?? []) + [
                    MessageTemplate.key(name, tenant: nil)
                ]
            for key in keys {
                guard let versions = entries[key] else { continue }
                return version.map { versions[$0] } ?? versions.max { $0.key < $1.key }?.value
            }
            return nil
        }
    }

    // MARK: - Writing

    /// Keeps a template as the next version of its name; returns it once it is durable.
    ///
    /// Two processes that put the same name within the same moment may give it the same version; the later one counts.
    ///
    /// - Throws: ``PipelineError`` with code `invalidMessage` (see `issues`) or `log`.
    public func put(_ template: MessageTemplate) async throws(PipelineError) -> MessageTemplate {
        let issues = template.problems()
        guard issues.isEmpty else {
            throw PipelineError(.invalidMessage, issues.map(\.description).joined(separator: "; "), issues: issues)
        }
        let result = await putting.pass { () async -> Result<MessageTemplate, PipelineError> in
            do throws(PipelineError) {
                return .success(try await write(template))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private func write(_ template: MessageTemplate) async throws(PipelineError) -> MessageTemplate {
        try await refresh()
        var template = template
        let versions = known.entries.withLock { $0[template.key]?.keys.sorted() ?? [] }
        template.version = (versions.last ?? 0) + 1
        template.updatedAt = SystemTime.now()
        try await writer.write([
            ProducerRecord(
                topic: Topics.templates,
                key: ByteBuffer(string: template.recordKey),
                value: ByteBuffer(string: encodeJSON(template))
            )
        ])
        let old = versions.dropLast(Self.versionsMax - 1)
        if !old.isEmpty { try await writer.write(old.map { Self.end("\(template.key):\($0)") }) }
        try await refresh()
        return template
    }

    /// Deletes all versions of exactly this template; false if there are none.
    public func delete(_ name: String, tenant: String?) async throws(PipelineError) -> Bool {
        let key = MessageTemplate.key(name, tenant: tenant)
        let versions = try await versions(name, tenant: tenant)
        guard !versions.isEmpty else { return false }
        try await writer.write(versions.map { Self.end("\(key):\($0)") })
        try await refresh()
        return true
    }

    private static func end(_ key: String) -> ProducerRecord {
        ProducerRecord(topic: Topics.templates, key: ByteBuffer(string: key), value: nil)
    }

    // MARK: - Filling in

    /// The draft with the text that its template makes of its variables. What is known here is used: see ``refresh()``.
    ///
    /// - Throws: ``PipelineError`` with code `invalidMessage` that names the fields.
    func filled(_ draft: MessageDraft) throws(PipelineError) -> (draft: MessageDraft, warnings: [ValidationIssue]) {
        let name = draft.template ?? ""
        guard let entry = entry(name, tenant: draft.tenant ?? "default", version: draft.templateVersion) else {
            if let version = draft.templateVersion {
                throw Self.invalid(
                    "templateVersion",
                    "there is no version \(version) of the template '\(name.prefix(64))'"
                )
            }
            throw Self.invalid("template", "'\(name.prefix(64))' is not known; `mdc template list` shows what there is")
        }
        let template = entry.template
        guard template.channel == draft.channel else {
            throw Self.invalid("template", "'\(name)' is for \(template.channel), not for \(draft.channel)")
        }
        var warnings: [ValidationIssue] = []
        if let locale = draft.locale, Locales.normal(locale) == nil {
            throw Self.invalid("locale", "'\(locale.prefix(40))' is no locale; write it as de or de-AT")
        }
        guard let (locale, content) = template.variant(for: draft.locale) else {
            throw Self.invalid("template", "'\(name)' has no variant for its default locale; put it again")
        }
        if let wanted = draft.locale, Locales.chain(Locales.normal(wanted) ?? "").contains(locale) == false {
            warnings.append(
                ValidationIssue(.warning, "locale", "'\(wanted)' has no variant; '\(locale)' was taken")
            )
        }
        let scope = TemplateScope(draft.variables ?? [:])
        let texts = entry.texts[locale] ?? [:]
        func fill(_ part: String, _ text: String?) -> String? {
            guard text != nil else { return nil }
            return texts[part]?.render(scope)
        }
        var filled = content
        filled.text = fill("text", content.text) ?? ""
        filled.subject = fill("subject", content.subject)
        filled.html = fill("html", content.html)
        filled.title = fill("title", content.title)
        for (key, value) in content.data ?? [:] { filled.data?[key] = fill("data.\(key)", value) }
        filled.attachments = draft.content.attachments
        let problems = scope.problems("template '\(name)' (version \(template.version), \(locale))")
        guard problems.isEmpty else {
            throw PipelineError(.invalidMessage, problems.map(\.description).joined(separator: "; "), issues: problems)
        }
        let used = texts.values.reduce(into: Set<String>()) { $0.formUnion($1.names) }
        for key in (draft.variables ?? [:]).keys.sorted() where !used.contains(key) {
            warnings.append(
                ValidationIssue(
                    .warning,
                    "variables.\(key.prefix(64))",
                    "is not used by template '\(name)' (\(locale))"
                )
            )
        }
        var result = draft
        result.content = filled
        result.templateSource = TemplateSource(
            version: template.version,
            locale: locale,
            digest: Self.digest(draft)
        )
        return (result, warnings)
    }

    /// Of what the client said, not of what the template made of it.
    private static func digest(_ draft: MessageDraft) -> String {
        let said =
            "\(draft.template ?? "")\n\(draft.templateVersion ?? 0)\n\(draft.locale ?? "")\n"
            + encodeJSON(draft.variables ?? [:]) + encodeJSON(draft.content.attachments ?? [])
        return hexadecimal(SHA256.hash(Array(said.utf8)).prefix(8))
    }

    static func invalid(_ field: String, _ message: String) -> PipelineError {
        let issue = ValidationIssue(.error, field, message)
        return PipelineError(.invalidMessage, issue.description, issues: [issue])
    }
}
