// SPDX-License-Identifier: Apache-2.0

/// The keys of each kind.
extension ProviderSettings {
    static func smtp(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> Kind {
        let host = try table.text("host")
        let security = try table.choice("security", SMTPSecurity.startTLS)
        let preset = security == .tls ? 465 : security == .startTLS ? 587 : 25
        var credentials: SMTPCredentials?
        if let user = try table.optionalText("user") {
            credentials = SMTPCredentials(user: user, password: try table.secret("password").value)
        }
        var configuration = SMTPProvider.Configuration(
            name: name,
            host: host,
            port: try table.number("port", preset, 1...65_535),
            clientName: try table.text("client_name", "localhost"),
            security: security,
            tls: try table.tls(),
            credentials: credentials,
            returnPath: try table.optionalText("return_path"),
            messageIDDomain: try table.optionalText("message_id_domain"),
            unsubscribeURL: try table.optionalText("unsubscribe_url"),
            connections: try table.number("connections", 16, 1...1_000),
            messagesPerConnection: try table.number("messages_per_connection", 1_000, 1...1_000_000),
            idleTimeout: try table.duration("idle_timeout", .seconds(30)),
            connectTimeout: try table.duration("connect_timeout", .seconds(5)),
            replyTimeout: try table.duration("reply_timeout", .seconds(30)),
            contentReplyTimeout: try table.duration("content_reply_timeout", .seconds(60))
        )
        var reports: MailReportReceiver.Configuration?
        if var inner = try table.optionalTable("reports") {
            reports = MailReportReceiver.Configuration(
                provider: name,
                host: try inner.text("host", "127.0.0.1"),
                port: try inner.number("port", 2525, 0...65_535)
            )
            try inner.finish()
        }
        configuration.sendsReceipts = reports != nil || table.has("callback_secret")
        return .smtp(configuration, reports: reports)
    }

    static func smpp(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> SMPPProvider.Configuration {
        SMPPProvider.Configuration(
            name: name,
            host: try table.text("host"),
            port: try table.number("port", 2775, 1...65_535),
            systemID: try table.text("system_id"),
            password: try table.secret("password"),
            systemType: try table.text("system_type", ""),
            tls: try table.flag("tls", false) ? try table.tls() : nil,
            binds: try table.number("binds", 1, 1...64),
            window: try table.number("window", 50, 1...10_000),
            alphabet: try table.choice("alphabet", SMPPAlphabet.gsm7),
            concatenation: try table.choice("concatenation", SMPPConcatenation.udh),
            serviceType: try table.text("service_type", ""),
            idInAnswer: try table.choice("id_in_answer", SMPPIDForm.text),
            idInReceipt: try table.choice("id_in_receipt", SMPPIDForm.text),
            receipts: try table.flag("receipts", true),
            parameters: try tags(table.texts("parameters"), "\(table.place).parameters"),
            connectTimeout: try table.duration("connect_timeout", .seconds(5)),
            responseTimeout: try table.duration("response_timeout", .seconds(10)),
            enquireInterval: try table.duration("enquire_interval", .seconds(30)),
            reconnectMax: try table.duration("reconnect_max", .seconds(30))
        )
    }

    /// `"0x1400" = "…"`.
    private static func tags(_ texts: [String: String], _ place: String) throws(PipelineError) -> [UInt16: String] {
        var tags: [UInt16: String] = [:]
        for (name, text) in texts {
            guard name.hasPrefix("0x"), let tag = UInt16(name.dropFirst(2), radix: 16) else {
                throw PipelineError(.configuration, "\(place).\(name): write tags as hexadecimal, such as \"0x1400\"")
            }
            tags[tag] = text
        }
        return tags
    }

    static func kannel(_ name: String, _ table: inout SettingsTable) throws(PipelineError)
        -> KannelProvider.Configuration
    {
        KannelProvider.Configuration(
            name: name,
            url: try table.text("url"),
            username: try table.text("user"),
            password: try table.secret("password"),
            smsc: try table.optionalText("smsc"),
            metaData: try table.optionalText("meta_data"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3)),
            tls: try table.tls()
        )
    }

    static func twilio(_ name: String, _ table: inout SettingsTable) throws(PipelineError)
        -> TwilioProvider.Configuration
    {
        TwilioProvider.Configuration(
            name: name,
            baseURL: try table.text("url", "https://api.twilio.com"),
            accountSID: try table.text("account"),
            authToken: try table.secret("auth_token"),
            messagingServiceSID: try table.optionalText("messaging_service"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3)),
            tls: try table.tls()
        )
    }

    static func kaleyra(_ name: String, _ table: inout SettingsTable) throws(PipelineError)
        -> KaleyraProvider.Configuration
    {
        KaleyraProvider.Configuration(
            name: name,
            baseURL: try table.text("url"),
            accountID: try table.text("account"),
            apiKey: try table.secret("api_key"),
            format: try table.flag("json", false) ? .json : .form,
            typeByLane: try table.texts("type_by_lane", ["critical": "OTP", "bulk": "MKT"]),
            templateIDs: try table.texts("template_ids"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3))
        )
    }

    static func kaleyraLegacy(_ name: String, _ table: inout SettingsTable) throws(PipelineError)
        -> KaleyraLegacyProvider.Configuration
    {
        KaleyraLegacyProvider.Configuration(
            name: name,
            url: try table.text("url", "https://api-alerts.kaleyra.com/v4/"),
            apiKey: try table.secret("api_key"),
            entityID: try table.optionalText("entity_id"),
            templateIDs: try table.texts("template_ids"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3)),
            tls: try table.tls()
        )
    }

    private static func aws(_ table: inout SettingsTable) throws(PipelineError) -> AWSEndpoint {
        AWSEndpoint(
            region: try table.text("region"),
            credentials: AWSCredentials(
                accessKeyID: try table.text("access_key_id"),
                secretAccessKey: try table.secret("secret_access_key"),
                sessionToken: try table.optionalSecret("session_token")
            ),
            url: try table.optionalText("url"),
            tls: try table.tls()
        )
    }

    static func ses(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> Kind {
        let endpoint = try aws(&table)
        var configuration = SESProvider.Configuration(
            name: name,
            endpoint: endpoint,
            configurationSet: try table.optionalText("configuration_set"),
            unsubscribeURL: try table.optionalText("unsubscribe_url"),
            concurrency: try table.number("concurrency", 32, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3))
        )
        var events: SQSPoller.Configuration?
        if var inner = try table.optionalTable("events") {
            var queue = endpoint
            queue.url = try inner.optionalText("url")
            events = SQSPoller.Configuration(
                provider: name,
                endpoint: queue,
                queueURL: try inner.text("queue_url"),
                pollers: try inner.number("pollers", 2, 1...64),
                wait: try inner.number("wait_seconds", 20, 0...20),
                visibility: try inner.number("visibility_seconds", 60, 1...43_200)
            )
            try inner.finish()
        }
        configuration.sendsReceipts = events != nil
        return .ses(configuration, events: events)
    }

    static func sns(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> SNSPushProvider.Configuration
    {
        var configuration = SNSPushProvider.Configuration(
            name: name,
            endpoint: try aws(&table),
            applicationARN: try table.optionalText("application_arn"),
            concurrency: try table.number("concurrency", 32, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3))
        )
        // Its logs of deliveries, brought to the callback listener.
        configuration.sendsReceipts = table.has("callback_secret")
        return configuration
    }

    static func fcm(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> Kind {
        let account = try table.secret("service_account")
        let tls = try table.tls()
        let configuration = FCMProvider.Configuration(
            name: name,
            baseURL: try table.text("url", "https://fcm.googleapis.com"),
            project: try table.text("project"),
            appsReport: table.has("callback_secret"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(3))
        )
        return .fcm(configuration, account: account, tls: tls)
    }

    static func apns(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> APNsProvider.Configuration {
        APNsProvider.Configuration(
            name: name,
            baseURL: try table.text("url", "https://api.push.apple.com"),
            teamID: try table.text("team_id"),
            keyID: try table.text("key_id"),
            key: try table.secret("key"),
            topic: try table.text("topic"),
            pushType: try table.text("push_type", "alert"),
            appsReport: table.has("callback_secret"),
            concurrency: try table.number("concurrency", 64, 1...10_000),
            requestTimeout: try table.duration("request_timeout", .seconds(10)),
            connectTimeout: try table.duration("connect_timeout", .seconds(5)),
            tls: try table.tls()
        )
    }
}
