// SPDX-License-Identifier: Apache-2.0

import MDCLog
import Testing

@testable import MDCBroker

@Suite("Configuration")
struct BrokerConfigurationTests {
    private func failure(_ body: (inout BrokerConfiguration) throws(BrokerError) -> Void) -> String {
        var configuration = BrokerConfiguration()
        do throws(BrokerError) {
            try body(&configuration)
            return ""
        } catch {
            return error.description
        }
    }

    @Test("Settings go by Kafka's names")
    func settings() throws {
        var configuration = BrokerConfiguration()
        try configuration.set(assignment: "log.retention.hours=2")
        try configuration.set("num.partitions", to: "7")
        try configuration.set("listeners", to: "PLAINTEXT://[::1]:19092")
        try configuration.set("durability", to: "replicated")
        #expect(configuration.topicDefaults.retentionMilliseconds == 7_200_000)
        #expect(configuration.defaultPartitions == 7)
        #expect(configuration.listen == HostPort(host: "::1", port: 19092))
        #expect(configuration.topicDefaults.durability == .os)
        #expect(configuration.explicit.count == 4)
    }

    @Test("An unknown name suggests the nearest; a bad value says what is expected")
    func mistakes() {
        #expect(
            failure { c throws(BrokerError) in try c.set("log.retention.sm", to: "1") }.contains("log.retention.ms")
        )
        #expect(failure { c throws(BrokerError) in try c.set("num.partitions", to: "0") }.contains("1 to 10000"))
        #expect(failure { c throws(BrokerError) in try c.set("num.partitions", to: "x") }.contains("whole number"))
        #expect(failure { c throws(BrokerError) in try c.set(assignment: "nothing") }.contains("key=value"))
    }

    @Test("Every setting accepts its own default again")
    func defaults() {
        for setting in BrokerSettings.byName.values {
            var configuration = BrokerConfiguration()
            guard let value = setting.value(configuration) else { continue }
            #expect(setting.apply(&configuration, value) == nil, "\(setting.name)")
        }
        for setting in TopicSettings.all {
            var settings = LogSettings()
            #expect(setting.apply(&settings, setting.value(settings)) == nil, "\(setting.name)")
        }
    }

    @Test("TOML: tables are prefixes; comments, quotes, numbers, lists")
    func toml() throws {
        let text = """
            # a comment
            num.partitions = 3   # behind
            "broker.rack" = 'west # 1'
            [log]
            retention.ms = 1_000
            [log.cleanup]
            policy = ["compact", "delete"]
            """
        var configuration = BrokerConfiguration()
        try configuration.apply(toml: text, path: "x.toml")
        #expect(configuration.defaultPartitions == 3)
        #expect(configuration.rack == "west # 1")
        #expect(configuration.topicDefaults.retentionMilliseconds == 1000)
        #expect(configuration.topicDefaults.cleanupPolicy == [.compact, .delete])
    }

    @Test(
        "TOML: mistakes are told with their line",
        arguments: ["a = ", "a", "a = \"x", "[a", "a = 1 2", "a = bare", "a = [1", "[[a]]", "a = \"\\q\"", "= 1"]
    )
    func badTOML(_ line: String) {
        let told = failure { c throws(BrokerError) in try c.apply(toml: "\n" + line, path: "x.toml") }
        #expect(told.hasPrefix("x.toml:2:"), "\(line): \(told)")
    }

    @Test("TOML: a key that is set twice is refused")
    func twice() {
        let told = failure { c throws(BrokerError) in try c.apply(toml: "num.partitions=1\nnum.partitions=2", path: "f")
        }
        #expect(told.hasPrefix("f:2:"))
    }
}
