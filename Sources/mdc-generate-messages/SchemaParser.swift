// SPDX-License-Identifier: Apache-2.0

/// Reads one schema file. The format is described in docs/protocol.md.
struct SchemaParser {
    private let file: String
    private let lines: [Substring]
    private var number = 0
    private var comments: [String] = []
    private var result: SchemaFile

    private init(file: String, text: String) {
        self.file = file
        self.lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        self.result = SchemaFile(name: file, about: [], api: nil, messages: [])
    }

    static func parse(file: String, text: String) throws(SchemaError) -> SchemaFile {
        var parser = SchemaParser(file: file, text: text)
        try parser.run()
        return parser.result
    }

    // MARK: Lines

    private func fail(_ detail: String) -> SchemaError { SchemaError(file: file, line: number, detail: detail) }

    private mutating func nextLine() -> Substring? {
        guard number < lines.count else { return nil }
        number += 1
        return lines[number - 1]
    }

    /// The next line if it is indented, that is, if it belongs to the current section. Empty lines may stand between.
    private mutating func nextIndented() -> (depth: Int, words: [Substring], prose: String?)? {
        guard let next = lines[number...].firstIndex(where: { !$0.isEmpty }), lines[next].first == " " else {
            return nil
        }
        number = next + 1
        let line = lines[number - 1]
        let spaces = line.prefix { $0 == " " }.count
        var words = line.split(separator: " ")
        var prose: String?
        if let dashes = words.firstIndex(of: "--") {
            prose = words[(dashes + 1)...].joined(separator: " ")
            words.removeSubrange(dashes...)
        }
        return (spaces / 2, words, prose)
    }

    private mutating func run() throws(SchemaError) {
        while let line = nextLine() {
            let words = line.split(separator: " ")
            guard let first = words.first else {
                if result.about.isEmpty { result.about = comments.filter { !$0.hasPrefix("SPDX") } }
                comments = []
                continue
            }
            switch first {
            case _ where first.hasPrefix("#"): comments.append(String(line.drop { $0 == "#" || $0 == " " }))
            case "api": try parseAPI(words)
            case "notes": try parseNotes()
            case "request": try parseMessage(words, kind: .request)
            case "response": try parseMessage(words, kind: .response)
            case "data": try parseMessage(words, kind: .data)
            default: throw fail("expected api, notes, request, response or data, not “\(first)”")
            }
        }
    }

    // MARK: Sections

    private mutating func parseAPI(_ words: [Substring]) throws(SchemaError) {
        guard words.count == 3, let key = Int(words[1]) else { throw fail("write: api NUMBER NAME") }
        var settings: [Substring: Substring] = [:]
        while let (_, words, _) = nextIndented() {
            guard words.count == 2 else { throw fail("write: SETTING VALUE") }
            settings[words[0]] = words[1]
        }
        guard let versions = settings["versions"] else { throw fail("the api needs a line: versions LOW-HIGH") }
        guard let scope = settings["scope"], ["broker", "forwarded", "controller", "retired"].contains(scope) else {
            throw fail("the api needs a line: scope broker, forwarded, controller or retired")
        }
        let all = try range(versions, within: nil)
        let advertised = try range(settings["advertise"] ?? versions, within: all)
        result.api = API(
            key: key,
            name: String(words[2]),
            versions: all,
            advertised: advertised,
            served: try range(settings["serve"] ?? settings["advertise"] ?? versions, within: all),
            flexibleFrom: try flexible(settings["flexible"] ?? "none"),
            scope: String(scope)
        )
    }

    private mutating func parseNotes() throws(SchemaError) {
        while let (_, words, _) = nextIndented() {
            guard let first = words.first, let version = Int(first) else { throw fail("write: VERSION WHAT CHANGED") }
            result.api?.notes.append((version, words.dropFirst().joined(separator: " ")))
        }
        guard let api = result.api, api.notes.map(\.version) == Array(api.versions.low...api.versions.high) else {
            throw fail("write one note for each version, in order")
        }
    }

    private mutating func parseMessage(_ words: [Substring], kind: MessageKind) throws(SchemaError) {
        guard words.count >= 2 else { throw fail("the message needs a name") }
        var versions: VersionRange
        var flexibleFrom: Int?
        if let api = result.api, kind != .data {
            versions = api.versions
            flexibleFrom = api.flexibleFrom
        } else {
            guard words.count == 6, words[2] == "versions", words[4] == "flexible" else {
                throw fail("write: data NAME versions LOW-HIGH flexible VERSION+ (or none)")
            }
            versions = try range(words[3], within: nil)
            flexibleFrom = try flexible(words[5])
        }
        let name = String(words[1])
        var message = Message(
            name: name,
            kind: kind,
            versions: versions,
            flexibleFrom: flexibleFrom,
            root: Structure(name: name, versions: versions),
            about: comments
        )
        comments = []
        try parseFields(into: &message)
        if let wrong = message.settleVersions() { throw fail(wrong) }
        result.messages.append(message)
    }

    /// Fields of a message: the depth of a line tells to which structure it belongs.
    private mutating func parseFields(into message: inout Message) throws(SchemaError) {
        var open: [String] = [message.name]  // the structure at each depth
        while let (depth, words, prose) = nextIndented() {
            guard depth >= 1, depth <= open.count else { throw fail("indented too deeply") }
            open.removeSubrange(depth...)
            if words[0] == "struct", words.count == 2 {
                open.append(String(words[1]))
                message.structures.append(Structure(name: open[depth], versions: message.versions))
                continue
            }
            var field = try parseField(words, in: message)
            field.prose = prose
            if let parent = message.structures.firstIndex(where: { $0.name == open[depth - 1] }) {
                message.structures[parent].fields.append(field)
            } else if open[depth - 1] == message.name {
                message.root.fields.append(field)
            } else {
                throw fail("no structure to hold the field \(field.name)")
            }
            open.append("")
            if let name = field.type.structureName {
                open[depth] = name
                if let next = number < lines.count ? lines[number] : nil,
                    next.prefix(while: { $0 == " " }).count / 2 > depth
                {
                    message.structures.append(Structure(name: name, versions: message.versions))
                }
            }
        }
    }

    /// `name type[?[range]] [range] [tag N] [= default] [ignorable] [inflexible]`
    private func parseField(_ words: [Substring], in message: Message) throws(SchemaError) -> Field {
        guard words.count >= 2 else { throw fail("write: NAME TYPE …") }
        var rest = words.dropFirst(2)
        var versions = message.versions
        if let first = rest.first, first.first?.isNumber == true {
            versions = try range(first, within: message.versions)
            rest = rest.dropFirst()
        }
        let parts = words[1].split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        var nullable: VersionRange?
        if parts.count == 2 { nullable = parts[1].isEmpty ? versions : try range(parts[1], within: message.versions) }
        let type: FieldType =
            parts[0].hasPrefix("[")
            ? .array(FieldType(String(parts[0].dropFirst().dropLast()))) : FieldType(String(parts[0]))
        var field = Field(
            name: String(words[0]),
            type: type,
            versions: versions,
            nullable: nullable,
            ignorable: false,
            inflexible: false
        )
        while let word = rest.popFirst() {
            switch word {
            case "tag":
                guard let number = rest.popFirst().flatMap({ Int($0) }) else { throw fail("write: tag NUMBER") }
                field.tag = number
            case "=":
                guard let value = rest.popFirst() else { throw fail("write: = VALUE") }
                field.initial = String(value)
            case "ignorable": field.ignorable = true
            case "inflexible": field.inflexible = true
            default: throw fail("do not know “\(word)”")
            }
        }
        return field
    }

    // MARK: Words

    /// `3`, `3+` or `3-5`.
    private func range(_ text: Substring, within all: VersionRange?) throws(SchemaError) -> VersionRange {
        let parts = text.split(separator: "-")
        if text.hasSuffix("+"), let low = Int(text.dropLast()), let all {
            return VersionRange(low: low, high: all.high)
        }
        if parts.count == 1, let only = Int(text) { return VersionRange(low: only, high: only) }
        if parts.count == 2, let low = Int(parts[0]), let high = Int(parts[1]), low <= high {
            return VersionRange(low: low, high: high)
        }
        throw fail("“\(text)” is not a range of versions; write 3, 3+ or 3-5")
    }

    private func flexible(_ text: Substring) throws(SchemaError) -> Int? {
        if text == "none" { return nil }
        guard text.hasSuffix("+"), let version = Int(text.dropLast()) else { throw fail("write: flexible 9+ or none") }
        return version
    }
}

extension Message {
    /// Works out in which versions each structure is in use. Returns what is wrong, if anything.
    mutating func settleVersions() -> String? {
        var found: [String: VersionRange] = [:]
        var wrong: String?
        func visit(_ structure: Structure, _ versions: VersionRange) {
            for field in structure.fields {
                guard let name = field.type.structureName else { continue }
                guard let target = structures.first(where: { $0.name == name }) else {
                    wrong = "\(self.name) has no structure \(name)"
                    continue
                }
                let used = versions.intersection(field.versions)
                found[name] = found[name].map { $0.union(used) } ?? used
                visit(target, used)
            }
        }
        visit(root, versions)
        for index in structures.indices {
            guard let versions = found[structures[index].name] else {
                return "\(name).\(structures[index].name) is not used"
            }
            structures[index].versions = versions
        }
        for structure in [root] + structures {
            let tags = structure.fields.compactMap(\.tag)
            if tags.sorted() != Array(0..<tags.count) {
                return "number the tags of \(structure.name) from 0 without gaps"
            }
        }
        return wrong
    }
}
