// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCModel
import MDCPipeline

/// `mdc webhook`: where clients are told what becomes of their messages.
struct WebhookCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "webhook",
        abstract: "Makes, lists, tests, disables and enables webhooks, and renews their signing keys.",
        subcommands: [
            WebhookCreateCommand.self, WebhookListCommand.self, WebhookTestCommand.self, WebhookRotateCommand.self,
            WebhookDisableCommand.self, WebhookEnableCommand.self,
        ]
    )
}

/// Which webhook. Shared by the commands about one.
struct WebhookOptions: ParsableArguments {
    @Argument(help: "The id of the webhook: `mdc webhook list` shows it.")
    var id: String
    @OptionGroup var connection: ConnectionOptions

    func withWebhook(_ body: (ClientRegistry, ClientRegistry.WebhookStatus) async throws -> Void) async throws {
        try await connection.withRegistry { registry in
            guard let found = try await registry.webhooks().first(where: { $0.webhook.id == id }) else {
                throw CommandError("webhook '\(id)' does not exist: see `mdc webhook list`")
            }
            try await body(registry, found)
        }
    }
}

/// `mdc webhook create`.
struct WebhookCreateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Makes a webhook and prints its id and signing key.",
        discussion: "Posts are signed as the Standard Webhooks specification says; docs/rest.md describes them."
    )

    @Option(help: "Whose messages it is about.")
    var tenant: String
    @Option(help: "Where to post: https, or http for this machine.")
    var url: String
    @Option(
        help: ArgumentHelp(
            "What to post: message.delivered and so on, message.* for all; repeatable (default: how messages end).",
            valueName: "type"
        )
    )
    var event: [String] = []
    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private struct Created: Encodable {
        var id: String
        var secret: String
    }

    func run() async throws {
        try await connection.withRegistry { registry in
            let events = event.isEmpty ? Webhook.finalTypes : Set(event)
            let webhook = try Webhook(tenant: tenant, url: url, events: events, now: commandTime())
            try await registry.put(webhook, action: "webhook create")
            let created = Created(id: webhook.id, secret: webhook.keys[0].value)
            try output.print(created) { "\(created.id)\n\(created.secret)\n" }
        }
    }
}

/// `mdc webhook list`.
struct WebhookListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists the webhooks and how they fare, without their keys."
    )

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private struct Listed: Encodable {
        var id: String
        var tenant: String
        var url: String
        var events: [String]
        var keys: Int
        var state: String
        @Nullable var reason: String?
        @Nullable var failingSince: Timestamp?
        var createdAt: Timestamp

        init(_ status: ClientRegistry.WebhookStatus) {
            let (webhook, health) = (status.webhook, status.health)
            id = webhook.id
            tenant = webhook.tenant
            url = webhook.url
            events = webhook.events.sorted()
            keys = webhook.keys.count { $0.expiresAt.map { $0 > commandTime() } ?? true }
            let isDisabled = webhook.disabledAt != nil || health.disabledAt != nil
            state = isDisabled ? "disabled" : health.failingSince == nil ? "enabled" : "failing"
            reason = webhook.disabledAt == nil ? health.reason : "by order"
            failingSince = health.failingSince
            createdAt = webhook.createdAt
        }
    }

    func run() async throws {
        let listed = try await connection.withRegistry { try await $0.webhooks() }.map(Listed.init)
        try output.print(listed) {
            var table = Table([
                .text("ID"), .text("TENANT"), .text("STATE"), .text("URL"), .text("EVENTS"), .number("KEYS"),
                .text("REASON"),
            ])
            for webhook in listed {
                table.add([
                    webhook.id, webhook.tenant, webhook.state, webhook.url, webhook.events.joined(separator: " "),
                    "\(webhook.keys)", webhook.reason ?? "",
                ])
            }
            return table.rendered()
        }
    }
}

/// `mdc webhook test`.
struct WebhookTestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test",
        abstract: "Posts one signed report of type webhook.test from here; exits with 1 if it is not taken."
    )

    @OptionGroup var options: WebhookOptions

    func run() async throws {
        try await options.withWebhook { registry, found in
            if let problem = try await registry.test(found.webhook) {
                throw CommandError("\(found.webhook.url) did not take the post: \(problem)")
            }
        }
        StandardOutput.write("taken\n")
    }
}

/// `mdc webhook rotate`.
struct WebhookRotateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate",
        abstract: "Makes a new signing key and prints it; the old one signs as well for a while."
    )

    @Option(help: ArgumentHelp("How long the old key signs as well: 30m, 24h, 7d.", valueName: "time"))
    var overlap = "24h"
    @OptionGroup var options: WebhookOptions

    func validate() throws {
        guard LengthOfTime.milliseconds(overlap) != nil else {
            throw ValidationError("--overlap '\(overlap)' is no length of time; use 30m, 24h or 7d")
        }
    }

    func run() async throws {
        try await options.withWebhook { registry, found in
            var webhook = found.webhook
            webhook.rotate(now: commandTime(), overlapMilliseconds: LengthOfTime.milliseconds(overlap) ?? 0)
            try await registry.put(webhook, action: "webhook rotate")
            StandardOutput.write(webhook.keys[0].value + "\n")
        }
    }
}

/// `mdc webhook disable`.
struct WebhookDisableCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disable",
        abstract: "Posts nothing more to a webhook."
    )

    @OptionGroup var options: WebhookOptions

    func run() async throws {
        try await options.withWebhook { registry, found in
            var webhook = found.webhook
            webhook.disabledAt = webhook.disabledAt ?? commandTime()
            try await registry.put(webhook, action: "webhook disable")
        }
        StandardOutput.write("disabled \(options.id)\n")
    }
}

/// `mdc webhook enable`.
struct WebhookEnableCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enable",
        abstract: "Posts to a webhook again that was disabled, by order or because it failed."
    )

    @OptionGroup var options: WebhookOptions

    func run() async throws {
        try await options.withWebhook { registry, found in
            try await registry.clearHealth(of: found.webhook, action: "webhook enable")
            var webhook = found.webhook
            webhook.disabledAt = nil
            try await registry.put(webhook, action: "webhook enable")
        }
        StandardOutput.write("enabled \(options.id)\n")
    }
}
