// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import Mustache

/// One text with places for variables, ready to be filled in.
///
/// The language is Mustache as `swift-mustache` reads it, without partials, blocks, pragmas and changes of delimiters. Variables
/// that are not there are errors, which Mustache does not have; so each place of a variable is marked (`{{name}}` becomes
/// `{{*name}}`) before the text is given to the library, and ``TemplateScope`` knows by the mark that a value is needed, where a
/// section asks whether there is one.
struct TemplateText: Sendable {
    /// Why a text is no template.
    struct Problem: Error, Sendable, Hashable, CustomStringConvertible {
        var description: String
    }

    private let template: MustacheTemplate
    private let size: Int
    /// The first parts of all names in it.
    let names: Set<String>
    /// Whether it has no places at all.
    private let isPlain: Bool
    private let source: String

    static let nestingMax = 8

    /// - Parameter isHTML: Values are escaped for HTML.
    init(_ text: String, isHTML: Bool) throws(Problem) {
        source = text
        size = text.utf8.count
        let marked = try Self.marked(text)
        names = marked.names
        isPlain = !text.contains("{{")
        do {
            // The pragma stands on a line of its own, which the library takes out.
            template = try MustacheTemplate(string: isHTML ? marked.text : "{{% CONTENT_TYPE:TEXT}}\n" + marked.text)
        } catch let error as MustacheTemplate.ParserError {
            let line = error.context.lineNumber - (isHTML ? 0 : 1)
            throw Problem(description: "is no template: \(Self.words(error.error)) in line \(max(1, line))")
        } catch {
            throw Problem(description: "is no template: \(error)")
        }
    }

    /// Fills it in. What is missing is noted in the scope.
    func render(_ scope: TemplateScope) -> String {
        if isPlain { return source }
        scope.weight = max(64, size)
        return template.render(scope)
    }

    /// The text with marked places, and the names in it.
    private static func marked(_ text: String) throws(Problem) -> (text: String, names: Set<String>) {
        var out = ""
        var names: Set<String> = []
        var depth = 0
        var rest = text[...]
        while let open = rest.firstRange(of: "{{") {
            out += rest[..<open.upperBound]
            rest = rest[open.upperBound...]
            let isTriple = rest.first == "{"
            guard let close = rest.firstRange(of: isTriple ? "}}}" : "}}") else {
                throw Problem(description: "has a '{{' without '}}'")
            }
            let tag = rest[..<close.lowerBound]
            rest = rest[close.lowerBound...]
            var sign = ""
            var name = tag
            if let first = tag.first, "#^/!{&><$=%".contains(first) {
                sign = String(first)
                name = tag.dropFirst()
            }
            switch sign {
            case "!":
                out += tag
                continue
            case ">", "<", "$", "=", "%":
                throw Problem(
                    description:
                        "has '{{\(tag.prefix(40))}}': partials, blocks, pragmas and other delimiters are not taken"
                )
            case "#", "^": depth += 1
            case "/": depth -= 1
            default: break
            }
            guard depth <= nestingMax else {
                throw Problem(description: "has more than \(nestingMax) sections in each other")
            }
            let (before, bare, after) = try split(name, tag)
            if let first = bare.split(separator: ".").first { names.insert(String(first)) }
            let needsValue = (sign.isEmpty || sign == "{" || sign == "&") && bare != "." && !bare.isEmpty
            out += sign + before + (needsValue ? "*" : "") + bare + after
        }
        return (out + rest, names)
    }

    /// `lowercased(name)` taken apart: the transforms, the name and the brackets.
    private static func split(
        _ name: Substring,
        _ tag: Substring
    ) throws(Problem) -> (before: String, name: String, after: String) {
        let text = name.trimming(" \t")
        let before = text.lastIndex(of: "(").map { text[...$0] } ?? text.prefix(0)
        let inner = text[before.endIndex...]
        let bare = inner.firstIndex(of: ")").map { inner[..<$0] } ?? inner
        let isName = bare.utf8.allSatisfy { EmailAddress.isAlphanumeric($0) || $0 == 0x5F || $0 == 0x2D || $0 == 0x2E }
        let isPath = bare == "." || !(bare.hasPrefix(".") || bare.hasSuffix(".") || bare.contains(".."))
        guard isName, isPath, !bare.isEmpty || !before.isEmpty else {
            throw Problem(
                description:
                    "has '{{\(tag.prefix(40))}}': names have letters, digits, '_' and '-', and dots between them"
            )
        }
        return (String(before), String(bare), String(inner[bare.endIndex...]))
    }

    private static func words(_ error: any Error) -> String {
        switch error as? MustacheTemplate.Error {
        case .sectionCloseNameIncorrect: "a section is closed under another name"
        case .unfinishedName: "a tag is not finished, or its name is not one"
        case .expectedSectionEnd: "a section is not closed"
        default: "\(error)"
        }
    }
}

/// The variables of a message, as a template asks for them; notes what is missing.
///
/// It also counts what filling in may cost, because sections in sections multiply: beyond a bound it gives nothing more.
final class TemplateScope: MustacheParent {
    /// What the library does for one asking: bytes of the template times elements of the section.
    static let costMax = 32 << 20

    private let root: [String: JSONValue]
    fileprivate var missing: [String] = []
    fileprivate var unusable: [String: String] = [:]
    fileprivate var cost = 0
    /// Bytes that one turn of a section may give.
    var weight = 64

    init(_ variables: [String: JSONValue]) { root = variables }

    /// What kept the text from being filled in, field by field.
    func problems(_ template: String) -> [ValidationIssue] {
        var issues: [ValidationIssue] = []
        for name in missing {
            issues.append(
                ValidationIssue(.error, "variables.\(name)", "is missing; \(template) needs a value for it")
            )
        }
        for (name, words) in unusable.sorted(by: { $0.key < $1.key }) {
            issues.append(ValidationIssue(.error, "variables.\(name)", words))
        }
        if cost > Self.costMax {
            issues.append(
                ValidationIssue(.error, "variables", "make the text of \(template) too long; give shorter lists")
            )
        }
        return issues
    }

    func child(named name: String) -> Any? {
        let isNeeded = name.hasPrefix("*")
        let name = isNeeded ? String(name.dropFirst()) : name
        guard spend(1), let value = root[name], value != .null else {
            if isNeeded { note(missing: name) }
            return isNeeded ? "" : nil
        }
        return given(value, path: name, isNeeded: isNeeded)
    }

    fileprivate func note(missing name: String) {
        if cost <= Self.costMax, missing.count < 20, !missing.contains(name) { missing.append(name) }
    }

    /// False once too much was asked.
    fileprivate func spend(_ turns: Int) -> Bool {
        cost += turns * weight
        return cost <= Self.costMax
    }

    /// A value in the form that the library understands.
    fileprivate func given(_ value: JSONValue, path: String, isNeeded: Bool) -> Any? {
        switch value {
        case .null: return nil
        case .bool(let flag):
            return isNeeded ? TemplateNode(self, value, path, isNeeded: true) as Any : flag
        case .array(let elements):
            if isNeeded { return TemplateNode(self, value, path, isNeeded: true) }
            guard spend(elements.count) else { return nil }
            return elements.map { TemplateNode(self, $0, path, isNeeded: false) }
        case .text(let text):
            // An empty text is none for a section, as in other languages' Mustache.
            if !isNeeded, text.isEmpty { return nil }
            cost += text.utf8.count
            return TemplateNode(self, value, path, isNeeded: isNeeded)
        case .integer, .number, .object: return TemplateNode(self, value, path, isNeeded: isNeeded)
        }
    }
}

/// One value of the variables.
private struct TemplateNode: MustacheParent, MustacheCustomRenderable, MustacheTransformable {
    private let scope: TemplateScope
    private let value: JSONValue
    private let path: String
    /// Whether it was asked for on the way to a value that must be there.
    private let isNeeded: Bool

    init(_ scope: TemplateScope, _ value: JSONValue, _ path: String, isNeeded: Bool) {
        self.scope = scope
        self.value = value
        self.path = path
        self.isNeeded = isNeeded
    }

    var isNull: Bool { value == .null }

    var renderText: String {
        switch value {
        case .null: ""
        case .bool(let flag): flag ? "true" : "false"
        case .integer(let number): String(number)
        case .number(let number): String(number)
        case .text(let text): text
        case .array, .object: unusable()
        }
    }

    private func unusable() -> String {
        scope.unusable[path] = "is \(value.kind), where the template needs a text or a number"
        return ""
    }

    func child(named name: String) -> Any? {
        let isMarked = name.hasPrefix("*")
        let name = isMarked ? String(name.dropFirst()) : name
        guard scope.spend(1), case .object(let members) = value, let member = members[name], member != .null else {
            // An element of a section has not what a marked name asks for: whoever stands around it is asked next.
            if isNeeded { scope.note(missing: "\(path).\(name)") }
            return isNeeded ? "" : nil
        }
        return scope.given(member, path: "\(path).\(name)", isNeeded: isNeeded || isMarked)
    }

    func transform(_ name: String) -> Any? {
        switch value {
        case .array(let elements):
            switch name {
            case "count": elements.count
            case "empty": elements.isEmpty
            default: nil
            }
        default: renderText.transform(name)
        }
    }
}
