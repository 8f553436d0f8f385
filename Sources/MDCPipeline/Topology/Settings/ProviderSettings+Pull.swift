// SPDX-License-Identifier: Apache-2.0

import Foundation

extension ProviderSettings {
    /// `[provider.<name>.pull]`.
    func pullPlan(_ table: inout SettingsTable) throws(PipelineError) -> PullPlan? {
        guard var keys = try table.optionalTable("pull") else { return nil }
        let source: ReportPull
        var tls: ProviderTLS?
        switch kind {
        case .kaleyra(let settings):
            source = .kaleyra(url: settings.baseURL, account: settings.accountID, apiKey: settings.apiKey)
        case .kaleyraLegacy(let settings):
            source = .kaleyraLegacy(url: settings.url, apiKey: settings.apiKey)
            tls = settings.tls
        case .twilio(let settings):
            source = .twilio(url: settings.baseURL, account: settings.accountSID, token: settings.authToken)
            tls = settings.tls
        default:
            throw PipelineError(
                .configuration,
                "provider.\(name).pull: this kind has no report to ask for; kaleyra, kaleyra-v4 and twilio have one"
            )
        }
        let zoneName = try keys.text("zone", "Etc/UTC")
        guard let zone = TimeZone(identifier: zoneName) else {
            throw PipelineError(
                .configuration,
                "provider.\(name).pull.zone: '\(zoneName)' is no time zone; write it as \"Asia/Kolkata\""
            )
        }
        let schedule: CronSchedule
        let text = try keys.text("schedule")
        do {
            schedule = try CronSchedule(text)
        } catch {
            throw PipelineError(.configuration, "provider.\(name).pull.schedule: \(error.message)")
        }
        let plan = PullPlan(
            provider: name,
            channel: channel,
            source: source,
            schedule: schedule,
            zone: zone,
            windowMilliseconds: try keys.duration("window", .seconds(86_400)).milliseconds,
            graceMilliseconds: try keys.duration("grace", .seconds(300)).milliseconds,
            tls: tls
        )
        try keys.finish()
        guard plan.graceMilliseconds < plan.windowMilliseconds else {
            throw PipelineError(
                .configuration,
                "provider.\(name).pull.grace: is not less than window, so nothing is left"
            )
        }
        return plan
    }
}
