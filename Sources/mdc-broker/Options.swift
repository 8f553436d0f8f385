// SPDX-License-Identifier: Apache-2.0

/// An option of a command.
struct OptionDescription {
    /// Without the hyphens.
    var name: String
    /// What stands for its value in the help; nil for a flag.
    var value: String?
    var help: String
    /// Whether it may be given more than once; else the last one counts.
    var repeats = false
}

/// What a command is called, takes and does.
struct CommandDescription {
    var name: String
    var abstract: String
    var discussion = ""
    /// The argument that it needs.
    var argument: (name: String, help: String)?
    var options: [OptionDescription]
}

/// A command line that cannot be understood; the text says what to do.
struct UsageError: Error {
    var message: String
}

/// The words behind a command's name, taken apart.
///
/// Own code, because the usual parser brings half of Foundation into a binary that is to stay small (docs/decisions/0006).
struct Options {
    private var values: [String: [String]] = [:]
    private(set) var argument: String?
    private(set) var wantsHelp = false

    /// Takes `--name value`, `--name=value`, `--flag`, `-h`, `--help` and, behind `--` too, the argument.
    init(_ words: some Sequence<String>, for command: CommandDescription) throws(UsageError) {
        var rest = Array(words)[...]
        var isOver = false
        while let word = rest.popFirst() {
            if isOver || !word.hasPrefix("-") || word == "-" {
                guard command.argument != nil, argument == nil else {
                    throw UsageError(message: "unexpected argument '\(word)'")
                }
                argument = word
            } else if word == "--" {
                isOver = true
            } else if word == "-h" || word == "--help" {
                wantsHelp = true
            } else {
                try take(word, &rest, command)
            }
        }
        if let wanted = command.argument, argument == nil, !wantsHelp {
            throw UsageError(message: "<\(wanted.name)> is missing: \(wanted.help)")
        }
    }

    private mutating func take(
        _ word: String,
        _ rest: inout ArraySlice<String>,
        _ command: CommandDescription
    ) throws(UsageError) {
        let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard let option = command.options.first(where: { "--\($0.name)" == parts[0] }) else {
            let near = command.options.map { "--\($0.name)" }
                .map { (name: $0, distance: Self.distance($0, String(parts[0]))) }
                .min { $0.distance < $1.distance }
            let hint = near.map { $0.distance <= 3 ? "; did you mean '\($0.name)'?" : "" } ?? ""
            throw UsageError(message: "unknown option '\(parts[0])'\(hint)")
        }
        guard let placeholder = option.value else {
            if parts.count > 1 { throw UsageError(message: "'--\(option.name)' takes no value") }
            values[option.name] = []
            return
        }
        let value: String
        if parts.count > 1 {
            value = String(parts[1])
        } else if let next = rest.first, !next.hasPrefix("--") {
            value = next
            rest.removeFirst()
        } else {
            throw UsageError(message: "a value is missing: --\(option.name) <\(placeholder)>. \(option.help)")
        }
        values[option.name] = (option.repeats ? values[option.name] ?? [] : []) + [value]
    }

    /// The value of an option, as it was given.
    subscript(name: String) -> String? { values[name]?.last }
    /// All values of an option that may be repeated.
    func all(_ name: String) -> [String] { values[name] ?? [] }
    /// Whether a flag was given.
    func has(_ name: String) -> Bool { values[name] != nil }

    /// How many letters must be changed, added or removed.
    private static func distance(_ left: String, _ right: String) -> Int {
        let (left, right) = (Array(left.utf8), Array(right.utf8))
        var row = Array(0...right.count)
        for (index, letter) in left.enumerated() {
            var diagonal = row[0]
            row[0] = index + 1
            for (column, other) in right.enumerated() {
                let changed = diagonal + (letter == other ? 0 : 1)
                diagonal = row[column + 1]
                row[column + 1] = min(changed, diagonal + 1, row[column] + 1)
            }
        }
        return row[right.count]
    }
}

extension CommandDescription {
    /// The help, folded at 80 columns.
    var help: String {
        var text = "OVERVIEW: \(abstract)\n"
        if !discussion.isEmpty { text += "\n" + Self.fold(discussion, indent: 0, from: 0) + "\n" }
        text += "\nUSAGE: mdc-broker \(name)"
        if let argument { text += " <\(argument.name)>" }
        text += " [options]\n"
        if let argument { text += "\nARGUMENTS:\n" + Self.entry("<\(argument.name)>", argument.help) }
        text += "\nOPTIONS:\n"
        for option in options {
            let title = "--\(option.name)" + (option.value.map { " <\($0)>" } ?? "")
            text += Self.entry(title, option.help + (option.repeats ? " May be given more than once." : ""))
        }
        return text + Self.entry("-h, --help", "Shows this.")
    }

    private static func entry(_ title: String, _ help: String) -> String {
        let head = "  " + title
        if head.count < 25 {
            return head + String(repeating: " ", count: 26 - head.count) + fold(help, indent: 26, from: 26) + "\n"
        }
        return head + "\n" + String(repeating: " ", count: 26) + fold(help, indent: 26, from: 26) + "\n"
    }

    private static func fold(_ text: String, indent: Int, from start: Int) -> String {
        var folded = ""
        var column = start
        for word in text.split(separator: " ") {
            if column > indent && column + word.count >= 80 {
                folded += "\n" + String(repeating: " ", count: indent)
                column = indent
            } else if column > indent {
                folded += " "
                column += 1
            }
            folded += word
            column += word.count
        }
        return folded
    }
}
