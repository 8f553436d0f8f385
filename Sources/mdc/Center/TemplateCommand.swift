// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCModel
import MDCPipeline

/// `mdc template …`
struct TemplateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "template",
        abstract: "Keeps the templates that messages are made of, in several languages.",
        subcommands: [Put.self, Get.self, List.self, Delete.self]
    )

    /// Which template is meant.
    struct Place: ParsableArguments {
        @Argument(help: "The name of the template.")
        var name: String
        @Option(help: "Whose template it is (default: everyone's).")
        var tenant: String?
    }

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keeps a template as the next version of its name.",
            discussion: """
                The file is JSON: {"channel": "sms", "defaultLocale": "en", "variants": {"en": {"text": "Hello {{name}}"}, \
                "de": {"text": "Hallo {{name}}"}}}. Mails have subject, text and html, push messages title, text and data. \
                A template of one language needs no file: --channel, --locale and --text.
                """
        )
        @OptionGroup var place: Place
        @Option(help: ArgumentHelp("A JSON file; - reads standard input.", valueName: "file"))
        var file: String?
        @Option(help: "Without a file: the channel.")
        var channel: String?
        @Option(help: "Without a file: the language.")
        var locale = "en"
        @Option(help: "Without a file: what the recipient reads.")
        var text: String?
        @Option(help: "Without a file, mail: the subject.")
        var subject: String?
        @Option(help: "Without a file, mail: the text as HTML.")
        var html: String?
        @Option(help: "Without a file, push: the title.")
        var title: String?
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if file != nil {
                guard channel == nil, text == nil, subject == nil, html == nil, title == nil else {
                    throw ValidationError("--file brings the template: leave out --channel and the texts")
                }
            } else {
                guard let channel, text != nil || html != nil else {
                    throw ValidationError("say what to keep: --file, or --channel and --text")
                }
                guard Channel(rawValue: channel) != nil else {
                    throw ValidationError("--channel '\(channel)' is not one of \(Channel.allCases.names)")
                }
            }
        }

        private func template() throws -> MessageTemplate {
            if let file {
                let bytes =
                    file == "-"
                    ? FileHandle.standardInput.readDataToEndOfFile() : FileManager.default.contents(atPath: file)
                guard let bytes else {
                    throw CommandError("cannot read '\(file)'; does it exist, and may it be read?")
                }
                do {
                    return try MessageTemplate.given(
                        json: String(decoding: bytes, as: UTF8.self),
                        name: place.name,
                        tenant: place.tenant
                    )
                } catch {
                    throw CommandError(error.description)
                }
            }
            return MessageTemplate(
                name: place.name,
                tenant: place.tenant,
                channel: channel.flatMap(Channel.init) ?? .sms,
                defaultLocale: locale,
                variants: [locale: MessageContent(subject: subject, text: text ?? "", html: html, title: title)]
            )
        }

        func run() async throws {
            let template = try template()
            let kept = try await connection.withCenter { center in
                try await center.withTemplates { try await $0.put(template) }
            }
            try output.print(kept) { "\(kept.name) version \(kept.version)\n" }
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints a template as JSON.")
        @OptionGroup var place: Place
        @Option(help: "The version (default: the latest).")
        var version: Int?
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            let found = try await connection.withCenter { center in
                try await center.withTemplates { book in
                    try await book.template(place.name, tenant: place.tenant, version: version)
                }
            }
            guard let found else {
                let what = version.map { "there is no version \($0) of template '\(place.name)'" }
                throw CommandError((what ?? "there is no template '\(place.name)'") + ": see `mdc template list`")
            }
            StandardOutput.write(try JSONOutput.line(found))
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the templates with their latest versions.")
        @Option(help: "Only those that this tenant can use.")
        var tenant: String?
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Row: Encodable {
            var name: String
            @Nullable var tenant: String?
            var channel: Channel
            var version: Int
            var defaultLocale: String
            var locales: [String]
            var updatedAt: Timestamp
        }

        func run() async throws {
            let templates = try await connection.withCenter { center in
                try await center.withTemplates { try await $0.list(tenant: tenant) }
            }
            let rows = templates.map { template in
                Row(
                    name: template.name,
                    tenant: template.tenant,
                    channel: template.channel,
                    version: template.version,
                    defaultLocale: template.defaultLocale,
                    locales: template.variants.keys.sorted(),
                    updatedAt: template.updatedAt
                )
            }
            try output.print(rows) {
                var table = Table([
                    .text("NAME"), .text("TENANT"), .text("CHANNEL"), .number("VERSION"), .text("LOCALES"),
                    .text("SINCE"),
                ])
                for row in rows {
                    let locales = row.locales.map { $0 == row.defaultLocale ? $0 + "*" : $0 }.joined(separator: " ")
                    table.add([
                        row.name, row.tenant ?? "*", row.channel.rawValue, "\(row.version)", locales,
                        MessageText.time(row.updatedAt),
                    ])
                }
                return table.rendered()
            }
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Deletes all versions of a template.",
            discussion: "Messages that were made of it keep their text."
        )
        @OptionGroup var place: Place
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            let isGone = try await connection.withCenter { center in
                try await center.withTemplates { try await $0.delete(place.name, tenant: place.tenant) }
            }
            guard isGone else { throw CommandError("there is no template '\(place.name)': see `mdc template list`") }
            StandardOutput.write("deleted \(place.name)\n")
        }
    }
}
