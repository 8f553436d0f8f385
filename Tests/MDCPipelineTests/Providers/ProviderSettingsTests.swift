// SPDX-License-Identifier: Apache-2.0

import Foundation
import TOMLKit
import Testing

@testable import MDCPipeline

/// Providers as a configuration file describes them.
@Suite struct ProviderSettingsTests {
    private func read(_ text: String, _ environment: [String: String] = ["KEY": "0123456789abcdef"]) throws
        -> [ProviderSettings]
    {
        let table = try #require(try TOMLTable(string: text)["provider"]?.table)
        return try ProviderSettings.read(table, environment: environment)
    }

    @Test func everyKind() throws {
        let secret = #"{ env = "KEY" }"#
        let aws = "region = \"eu-central-1\"\naccess_key_id = \"a\"\nsecret_access_key = \(secret)"
        let kinds = [
            (
                "smtp",
                "host = \"mx\"\nuser = \"u\"\npassword = \(secret)\nsecurity = \"tls\"\n[provider.x.reports]\nport = 2525"
            ),
            (
                "smpp",
                "host = \"smsc\"\nsystem_id = \"e\"\npassword = \(secret)\nid_in_answer = \"hex\"\nparameters = { \"0x1400\" = \"1\" }"
            ),
            ("kannel", "url = \"http://k\"\nuser = \"u\"\npassword = \(secret)\ncallback_secret = \(secret)"),
            ("twilio", "account = \"AC\"\nauth_token = \(secret)\ncallback_secret = \(secret)"),
            ("kaleyra", "url = \"https://k\"\naccount = \"A\"\napi_key = \(secret)\ncallback_secret = \(secret)"),
            ("kaleyra-v4", "api_key = \(secret)\ntemplate_ids = { otp = \"1\" }"),
            ("ses", aws + "\n[provider.x.events]\nqueue_url = \"https://q\""), ("sns", aws),
            ("fcm", "service_account = \(secret)\nproject = \"p\""),
            ("apns", "team_id = \"t\"\nkey_id = \"k\"\nkey = \(secret)\ntopic = \"a\""),
        ]
        #expect(Set(kinds.map(\.0)) == Set(ProviderSettings.kinds))
        for (kind, keys) in kinds {
            let providers = try read("[provider.x]\nkind = \"\(kind)\"\n\(keys)")
            #expect(providers.count == 1)
            // Whatever is printed of it, the secret is not.
            var dumped = ""
            dump(providers, to: &dumped)
            if !["smtp", "kaleyra"].contains(kind) { #expect(!dumped.contains("0123456789abcdef"), "\(kind)") }
            #expect(!"\(providers)".contains("0123456789abcdef") || kind == "kaleyra", "\(kind)")
        }
        let route = try read(
            "[provider.tw]\nkind = \"twilio\"\naccount = \"AC\"\nauth_token = \(secret)\ncallback_secret = \(secret)"
        )[0]
        .route(publicURL: "https://mdc.example.com")
        #expect(route?.signature == .twilio(token: "0123456789abcdef", publicURL: "https://mdc.example.com"))
    }

    @Test(arguments: [
        ("[provider.x]\nkind = \"smtp\"", "provider.x.host: is missing"),
        ("[provider.x]\nkind = \"pigeon\"", "'pigeon' is not known; there are smtp"),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nport = 0", "provider.x.port: write a whole number"),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nhots = 1", "provider.x.hots: is not known; there are"),
        (
            "[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nuser = \"u\"\npassword = \"hunter2\"",
            "secrets do not stand in this file"
        ),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nuser = \"u\"\npassword = { env = \"NONE\" }", "NONE is not set"),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nsecurity = \"ssl\"", "\"none\", \"starttls\", \"tls\""),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nrate = 0", "provider.x.rate: write how many per second"),
        ("[provider.x]\nkind = \"smtp\"\nhost = \"h\"\nsenders = \"A\"", "provider.x.senders: write a list"),
        (
            "[provider.x]\nkind = \"smtp\"\nhost = \"h\"\ncallback_secret = { env = \"SHORT\" }",
            "at least 16 characters"
        ),
    ])
    func mistakesAreNamed(text: String, words: String) {
        do {
            _ = try read(text, ["SHORT": "abc"])
            Issue.record("it was taken: \(text)")
        } catch {
            #expect("\(error)".contains(words), "\(error)")
            #expect(!"\(error)".contains("hunter2"))
        }
    }

    @Test func secretsFromFiles() throws {
        let folder = try RealServers.folder("secrets")
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = folder.path + "/password"
        try "hunter2\n".write(toFile: path, atomically: true, encoding: .utf8)
        let providers = try read(
            "[provider.x]\nkind = \"smpp\"\nhost = \"h\"\nsystem_id = \"e\"\npassword = { file = \"\(path)\" }"
        )
        guard case .smpp(let configuration) = providers[0].kind else { return #expect(Bool(false)) }
        #expect(configuration.password.value == "hunter2")
        #expect("\(configuration)".contains("<secret>") && !"\(configuration)".contains("hunter2"))
    }
}
