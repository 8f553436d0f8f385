// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCJSON
import MDCTopology
import NIOCore
import TOMLKit

/// A topology as a TOML file has it; see `docs/topologies.md`.
struct TopologyFile {
    var topology: Topology
    var settings: TopologySettings

    /// Reads a file. Throws `CommandError` that names the key and the fix.
    init(path: String, client: ClientConfiguration, eventLoopGroup: any EventLoopGroup) throws {
        guard let bytes = FileManager.default.contents(atPath: path) else {
            throw CommandError("cannot read '\(path)'; does it exist, and may it be read?")
        }
        let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
        do {
            try self.init(
                toml: String(decoding: bytes, as: UTF8.self),
                folder: folder,
                client: client,
                eventLoopGroup: eventLoopGroup
            )
        } catch let error as CommandError {
            throw CommandError("\(path): \(error.description)")
        } catch let error as TopologyError {
            throw CommandError("\(path): \(error.message)")
        }
    }

    /// `folder`: where relative folders begin.
    init(toml: String, folder: String, client: ClientConfiguration, eventLoopGroup: any EventLoopGroup) throws {
        let root: TOMLTable
        do {
            root = try TOMLTable(string: toml)
        } catch {
            throw CommandError("this is not TOML: \(error)")
        }
        for name in root.keys where !["topology", "source", "processor", "sink"].contains(name) {
            throw CommandError(
                "[\(name)] is not known; there are [topology], [source.<name>], [processor.<name>] and [sink.<name>]"
            )
        }
        guard let head = root["topology"]?.table else {
            throw CommandError("[topology] is missing: it has at least a name")
        }
        var table = TopologyTable(head, place: "topology")
        topology = Topology(
            try table.text("name"),
            guarantee: try table.choice("guarantee", Topology.Guarantee.atLeastOnce)
        )
        topology.retries = try table.number("retries", topology.retries, 0...1_000)
        settings = TopologySettings(client: client)
        settings.inFlightMax = try table.number("in_flight", settings.inFlightMax, 1...1_000_000)
        settings.queueCapacity = try table.number("queue", settings.queueCapacity, 1...1_000_000)
        settings.commitInterval = try table.duration("commit_interval", settings.commitInterval)
        settings.transactionInterval = try table.duration("transaction_interval", settings.transactionInterval)
        settings.transactionRecordsMax = try table.number(
            "transaction_records",
            settings.transactionRecordsMax,
            1...1_000_000
        )
        settings.transactionTimeout = try table.duration("transaction_timeout", settings.transactionTimeout)
        settings.sessionTimeout = try table.duration("session_timeout", settings.sessionTimeout)
        settings.drainTimeout = try table.duration("drain_timeout", settings.drainTimeout)
        settings.retryBackoff = try table.duration("retry_backoff", settings.retryBackoff)
        try table.finish()

        for (name, inner) in try Self.tables(root, "source") {
            var table = TopologyTable(inner, place: "source.\(name)")
            topology.source(name, topics: try table.list("topics"))
            try table.finish()
        }
        for (name, inner) in try Self.tables(root, "processor") {
            var table = TopologyTable(inner, place: "processor.\(name)")
            try Self.readProcessor(&table, name, folder, eventLoopGroup, into: &topology)
            try table.finish()
        }
        for (name, inner) in try Self.tables(root, "sink") {
            var table = TopologyTable(inner, place: "sink.\(name)")
            topology.sink(name, topic: try table.text("topic"), from: try table.list("from"))
            try table.finish()
        }
        try topology.validate()
    }

    private static func tables(_ root: TOMLTable, _ kind: String) throws -> [(String, TOMLTable)] {
        guard let value = root[kind] else { return [] }
        guard let outer = value.table else { throw CommandError("write [\(kind).<name>] for each \(kind)") }
        return try outer.keys.sorted().map { name in
            guard let inner = outer[name]?.table else {
                throw CommandError("write [\(kind).\(name)] and its keys below it")
            }
            return (name, inner)
        }
    }

    private static func readProcessor(
        _ table: inout TopologyTable,
        _ name: String,
        _ folder: String,
        _ group: any EventLoopGroup,
        into topology: inout Topology
    ) throws {
        let inputs = try table.list("from")
        let parallelism = try table.number("parallelism", 1, 1...256)
        if table.has("window") {
            guard try table.text("window") == "count" else {
                throw CommandError("processor.\(name).window: write \"count\"; other windows are written in Swift")
            }
            topology.window(
                name,
                from: inputs,
                parallelism: parallelism,
                size: try table.duration("size", .seconds(60)),
                grace: try table.optionalDuration("grace") ?? .zero,
                reduce: Topology.count
            )
            return
        }
        var child = MultilangConfiguration(command: try table.list("command"))
        guard !child.command.isEmpty else {
            throw CommandError(
                "processor.\(name): write a command such as [\"python3\", \"split.py\"], or window = \"count\""
            )
        }
        child.folder =
            try table.optionalText("folder").map {
                $0.hasPrefix("/") ? $0 : folder + "/" + $0
            } ?? folder
        child.readsJSON = try table.flag("json", false)
        child.maxPending = try table.number("pending", child.maxPending, 1...100_000)
        child.timeout = try table.duration("timeout", child.timeout)
        child.tupleTimeout = try table.duration("tuple_timeout", child.tupleTimeout)
        child.heartbeatInterval = try table.duration("heartbeat", child.heartbeatInterval)
        for (key, value) in try table.texts("environment") { child.environment[key] = value }
        child.conf = try table.documents("conf")
        topology.multilang(
            name,
            from: inputs,
            options: .init(
                grouping: try table.choice("grouping", Grouping.shuffle),
                parallelism: parallelism,
                tickInterval: try table.optionalDuration("tick")
            ),
            child,
            eventLoopGroup: group
        )
    }
}

/// A table that is read key by key, so that what nobody asked for can be named.
private struct TopologyTable {
    private let place: String
    private let table: TOMLTable
    private var read: Set<String> = []

    init(_ table: TOMLTable, place: String) {
        self.table = table
        self.place = place
    }

    private func problem(_ key: String, _ words: String) -> CommandError { CommandError("\(place).\(key): \(words)") }

    func has(_ key: String) -> Bool { table[key] != nil }

    mutating func optionalText(_ key: String) throws -> String? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let text = value.string, !text.isEmpty else { throw problem(key, "write a text") }
        return text
    }

    mutating func text(_ key: String) throws -> String {
        guard let text = try optionalText(key) else { throw problem(key, "is missing; write a text") }
        return text
    }

    mutating func number(_ key: String, _ preset: Int, _ range: ClosedRange<Int>) throws -> Int {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let number = value.int, range.contains(number) else {
            throw problem(key, "write a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    mutating func flag(_ key: String, _ preset: Bool) throws -> Bool {
        read.insert(key)
        guard let value = table[key] else { return preset }
        guard let flag = value.bool else { throw problem(key, "write true or false") }
        return flag
    }

    mutating func list(_ key: String) throws -> [String] {
        read.insert(key)
        guard let value = table[key] else { return [] }
        guard let array = value.array else { throw problem(key, "write a list such as [\"a\", \"b\"]") }
        return try array.map { element in
            guard let text = element.string, !text.isEmpty else { throw problem(key, "write a list of texts") }
            return text
        }
    }

    /// `"250ms"`, `"30s"`, `"5m"`, `"2h"`.
    mutating func optionalDuration(_ key: String) throws -> Duration? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        let units: [(String, Int64)] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
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

    mutating func duration(_ key: String, _ preset: Duration) throws -> Duration {
        try optionalDuration(key) ?? preset
    }

    mutating func choice<Value: RawRepresentable & CaseIterable>(_ key: String, _ preset: Value) throws -> Value
    where Value.RawValue == String {
        guard let text = try optionalText(key) else { return preset }
        guard let value = Value(rawValue: text) else {
            let known = Value.allCases.map { "\"\($0.rawValue)\"" }.joined(separator: ", ")
            throw problem(key, "write one of \(known)")
        }
        return value
    }

    private mutating func inner(_ key: String) throws -> TOMLTable? {
        read.insert(key)
        guard let value = table[key] else { return nil }
        guard let inner = value.table else { throw problem(key, "write [\(place).\(key)] and its keys below it") }
        return inner
    }

    /// A table of texts.
    mutating func texts(_ key: String) throws -> [String: String] {
        guard let inner = try inner(key) else { return [:] }
        var texts: [String: String] = [:]
        for name in inner.keys {
            guard let text = inner[name]?.string else { throw problem("\(key).\(name)", "write a text") }
            texts[name] = text
        }
        return texts
    }

    /// A table of texts, numbers and flags.
    mutating func documents(_ key: String) throws -> [String: JSONValue] {
        guard let inner = try inner(key) else { return [:] }
        var documents: [String: JSONValue] = [:]
        for name in inner.keys {
            if let text = inner[name]?.string {
                documents[name] = .text(text)
            } else if let flag = inner[name]?.bool {
                documents[name] = .bool(flag)
            } else if let number = inner[name]?.int {
                documents[name] = .integer(Int64(number))
            } else if let number = inner[name]?.double {
                documents[name] = .number(number)
            } else {
                throw problem(
                    "\(key).\(name)",
                    "write a text, a number, true or false; names with dots stand in quotes"
                )
            }
        }
        return documents
    }

    /// Throws where there is a key that nobody asked for.
    func finish() throws {
        for key in table.keys.sorted() where !read.contains(key) {
            throw problem(key, "is not known here; there are \(read.sorted().joined(separator: ", "))")
        }
    }
}
