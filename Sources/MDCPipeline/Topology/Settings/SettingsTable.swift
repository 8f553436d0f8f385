// SPDX-License-Identifier: Apache-2.0

import Foundation
import TOMLKit

/// A table of a configuration file that is read key by key, so that what nobody asked for can be named.
struct SettingsTable {
    /// Where it stands, for messages, such as `provider.mail`.
    let place: String
    private let table: TOMLTable
    private let environment: [String: String]
    private(set) var read: Set<String> = []

    init(_ table: TOMLTable, place: String, environment: [String: String]) {
        self.table = table
        self.place = place
        self.environment = environment
    }

    private func problem(_ key: String, _ words: String) -> PipelineError {
        PipelineError(.configuration, "\(place).\(key): \(words)")
    }

    func has(_ key: String) -> Bool { table[key] != nil }

    mutating func optionalText(_ key: String) throws(PipelineError) -> String? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let text = value.string, !text.isEmpty else { throw problem(key, "write a text") }
        return text
    }

    mutating func text(_ key: String) throws(PipelineError) -> String {
        guard let text = try optionalText(key) else { throw problem(key, "is missing; write a text") }
        return text
    }

    mutating func text(_ key: String, _ preset: String) throws(PipelineError) -> String {
        try optionalText(key) ?? preset
    }

    mutating func number(_ key: String, _ preset: Int, _ range: ClosedRange<Int>) throws(PipelineError) -> Int {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let number = value.int, range.contains(number) else {
            throw problem(key, "write a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    mutating func flag(_ key: String, _ preset: Bool) throws(PipelineError) -> Bool {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let flag = value.bool else { throw problem(key, "write true or false") }
        return flag
    }

    private func double(_ value: any TOMLValueConvertible) -> Double? { value.double ?? value.int.map(Double.init) }

    /// A number from 0 on, with or without a fraction.
    mutating func positive(_ key: String, _ preset: Double) throws(PipelineError) -> Double {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let number = double(value), number >= 0, number <= 1e9 else {
            throw problem(key, "write a number from 0 on")
        }
        return number
    }

    /// A share, more than 0 and at most 1.
    mutating func share(_ key: String, _ preset: Double) throws(PipelineError) -> Double {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let number = double(value), number > 0, number <= 1 else {
            throw problem(key, "write a share such as 0.5, more than 0 and at most 1")
        }
        return number
    }

    /// So many per second.
    mutating func rate(_ key: String) throws(PipelineError) -> Double? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let number = double(value), number > 0, number <= 1e6 else {
            throw problem(key, "write how many per second, more than 0")
        }
        return number
    }

    /// A table of rates.
    mutating func rates(_ key: String) throws(PipelineError) -> [String: Double] {
        guard var inner = try optionalTable(key) else { return [:] }
        var rates: [String: Double] = [:]
        for name in inner.table.keys { rates[name] = try inner.rate(name) }
        return rates
    }

    /// A table of numbers from 0 on.
    mutating func positives(_ key: String) throws(PipelineError) -> [String: Double] {
        guard var inner = try optionalTable(key) else { return [:] }
        var numbers: [String: Double] = [:]
        for name in inner.table.keys { numbers[name] = try inner.positive(name, 0) }
        return numbers
    }

    /// A list of texts.
    mutating func list(_ key: String) throws(PipelineError) -> [String] {
        read.insert(key)
        guard let value = table[key] else { return [] }
        guard let array = value.array else { throw problem(key, "write a list such as [\"a\", \"b\"]") }
        var texts: [String] = []
        for element in array {
            guard let text = element.string, !text.isEmpty else { throw problem(key, "write a list of texts") }
            texts.append(text)
        }
        return texts
    }

    /// `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"3d"`.
    mutating func duration(_ key: String, _ preset: Duration) throws(PipelineError) -> Duration {
        read.insert(key)
        guard let value = table[key] else { return preset }
        let units: [(String, Int64)] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        if let text = value.string {
            for (unit, milliseconds) in units where text.hasSuffix(unit) {
                guard let count = Int64(text.dropLast(unit.count)), (1...1_000_000_000).contains(count) else {
                    continue
                }
                return .milliseconds(count * milliseconds)
            }
        }
        throw problem(key, "write a length of time such as \"250ms\", \"30s\" or \"5m\"")
    }

    mutating func choice<Value: RawRepresentable & CaseIterable>(_ key: String, _ preset: Value) throws(PipelineError)
        -> Value where Value.RawValue == String
    {
        guard let text = try optionalText(key) else { return preset }
        guard let value = Value(rawValue: text) else {
            let known = Value.allCases.map { "\"\($0.rawValue)\"" }.joined(separator: ", ")
            throw problem(key, "write one of \(known)")
        }
        return value
    }

    /// `{ env = "NAME" }` or `{ file = "PATH" }`: a secret does not stand in the file itself.
    mutating func optionalSecret(_ key: String) throws(PipelineError) -> Secret? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let source = value.table, source.keys.count == 1 else {
            throw problem(key, "secrets do not stand in this file; write { env = \"NAME\" } or { file = \"PATH\" }")
        }
        if let name = source["env"]?.string {
            guard let secret = environment[name], !secret.isEmpty else {
                throw problem(key, "the environment variable \(name) is not set")
            }
            return Secret(secret)
        }
        if let path = source["file"]?.string {
            guard let bytes = FileManager.default.contents(atPath: path) else {
                throw problem(key, "cannot read '\(path)'")
            }
            let secret = String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            guard !secret.isEmpty else { throw problem(key, "'\(path)' is empty") }
            return Secret(secret)
        }
        throw problem(key, "write { env = \"NAME\" } or { file = \"PATH\" }")
    }

    mutating func secret(_ key: String) throws(PipelineError) -> Secret {
        guard let secret = try optionalSecret(key) else {
            throw problem(key, "is missing; write { env = \"NAME\" } or { file = \"PATH\" }")
        }
        return secret
    }

    /// A table of texts.
    mutating func texts(_ key: String, _ preset: [String: String] = [:]) throws(PipelineError) -> [String: String] {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let given = value.table else { throw problem(key, "write a table such as { name = \"value\" }") }
        var texts: [String: String] = [:]
        for name in given.keys {
            guard let text = given[name]?.string else { throw problem("\(key).\(name)", "write a text") }
            texts[name] = text
        }
        return texts
    }

    /// The table of a key, to be read by itself.
    mutating func optionalTable(_ key: String) throws(PipelineError) -> SettingsTable? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let inner = value.table else { throw problem(key, "write a table") }
        return SettingsTable(inner, place: "\(place).\(key)", environment: environment)
    }

    /// `trust`, `server_name`.
    mutating func tls() throws(PipelineError) -> ProviderTLS {
        ProviderTLS(trustedCertificates: try optionalText("trust"), serverName: try optionalText("server_name"))
    }

    /// To be called last: names a key that was not asked for.
    func finish() throws(PipelineError) {
        guard let unknown = table.keys.filter({ !read.contains($0) }).sorted().first else { return }
        throw problem(unknown, "is not known; there are \(read.sorted().joined(separator: ", "))")
    }
}
