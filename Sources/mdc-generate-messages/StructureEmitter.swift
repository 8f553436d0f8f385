// SPDX-License-Identifier: Apache-2.0

/// Writes the members of one structure: properties, initialisers, reading, writing.
struct StructureEmitter {
    let message: Message
    let structure: Structure

    private var path: String {
        structure.name == message.name ? message.name : "\(message.name).\(structure.name)"
    }
    private var isRoot: Bool { structure.name == message.name }
    private var hasTags: Bool { message.flexibleFrom.map { $0 <= structure.versions.high } ?? false }
    private var plain: [Field] { structure.fields.filter { $0.tag == nil } }
    private var tagged: [Field] { structure.fields.filter { $0.tag != nil }.sorted { ($0.tag ?? 0) < ($1.tag ?? 0) } }

    func emit(into out: inout SourceText) {
        emitProperties(into: &out)
        emitMemberwiseInit(into: &out)
        emitReader(into: &out)
        emitWriter(into: &out)
    }

    // MARK: Properties

    private func emitProperties(into out: inout SourceText) {
        for field in structure.fields {
            out.line("/// \(documentation(of: field))")
            out.line("public var \(field.name.swiftName): \(swiftType(of: field))")
        }
        if hasTags {
            out.line("/// Tagged fields that this version of the software does not know.")
            out.line("public var unknownTaggedFields: [UnknownTaggedField]")
        }
        out.line()
    }

    private func documentation(of field: Field) -> String {
        var text = field.prose.map { $0.hasSuffix(".") ? "\($0) " : "\($0). " } ?? ""
        text += "`\(field.type.text)`"
        if !field.versions.contains(structure.versions) {
            text +=
                field.versions.high >= structure.versions.high
                ? ", from version \(field.versions.low)"
                : field.versions.low <= structure.versions.low
                    ? ", up to version \(field.versions.high)" : ", versions \(field.versions.text)"
        }
        if let nullable = field.nullable, !nullable.contains(field.versions) {
            text += ", null from version \(nullable.low)"
        }
        if let tag = field.tag { text += ", tag \(tag)" }
        return text + "."
    }

    private func swiftType(of field: Field) -> String { field.type.swift + (field.isOptional ? "?" : "") }

    private func initialValue(of field: Field) -> String {
        if field.isOptional {
            if field.initial == "null" { return "nil" }
            // Null is the natural default only where every version can write it.
            if field.initial == nil, let nullable = field.nullable,
                nullable.contains(field.versions.intersection(structure.versions))
            {
                return "nil"
            }
        }
        if let initial = field.initial {
            if initial == "min" || initial == "max" { return "\(field.type.swift).\(initial)" }
            return field.type == .string ? "\"\(initial)\"" : initial
        }
        switch field.type {
        case .bool: return "false"
        case .string: return "\"\""
        case .uuid: return "KafkaUUID.zero"
        case .bytes, .records: return "ByteBuffer()"
        case .structure(let name): return "\(name)()"
        case .array: return "[]"
        default: return "0"
        }
    }

    private func emitMemberwiseInit(into out: inout SourceText) {
        var parameters = structure.fields.map { "\($0.name.swiftName): \(swiftType(of: $0)) = \(initialValue(of: $0))" }
        if hasTags { parameters.append("unknownTaggedFields: [UnknownTaggedField] = []") }
        out.line("/// Makes one; each field has its default.")
        if parameters.isEmpty {
            out.line("public init() {}")
        } else {
            out.line("public init(")
            out.indented { out in
                for (index, parameter) in parameters.enumerated() {
                    out.line(parameter + (index + 1 < parameters.count ? "," : ""))
                }
            }
            out.block(")") { out in
                for field in structure.fields { out.line("self.\(field.name) = \(field.name.swiftName)") }
                if hasTags { out.line("self.unknownTaggedFields = unknownTaggedFields") }
            }
        }
        out.line()
    }

    // MARK: Versions

    /// The condition under which `range` holds, given that the structure is in use; nil for always.
    private func condition(_ range: VersionRange) -> String? {
        let low = range.low > structure.versions.low
        let high = range.high < structure.versions.high
        switch (low, high) {
        case (false, false): return nil
        case (true, false): return "version >= \(range.low)"
        case (false, true): return "version <= \(range.high)"
        case (true, true):
            return range.low == range.high
                ? "version == \(range.low)" : "version >= \(range.low) && version <= \(range.high)"
        }
    }

    /// `true`, `false`, or the name of the local constant.
    private var flexible: String {
        guard let first = message.flexibleFrom, first <= structure.versions.high else { return "false" }
        return first <= structure.versions.low ? "true" : "flexible"
    }

    private func flexible(of field: Field) -> String { field.inflexible ? "false" : flexible }

    /// Declares the local constant where the encoding depends on the version.
    private func emitFlexible(into out: inout SourceText) {
        guard flexible == "flexible", let first = message.flexibleFrom else { return }
        out.line("let flexible: Bool = version >= \(first)")
    }

    // MARK: Reading

    private func emitReader(into out: inout SourceText) {
        let needsVersion = isRoot || !structure.fields.isEmpty
        out.line("/// Reads the fields of `version`.")
        out.block("public init(from reader: inout MessageReader, version: Int16) throws(ProtocolError)") { out in
            if isRoot { out.line("try Self.check(version)") }
            out.line("self.init()")
            emitFlexible(into: &out)
            for field in plain {
                let statements = readStatements(of: field)
                if let condition = condition(field.versions) {
                    out.block("if \(condition)") { out in for line in statements { out.line(line) } }
                } else {
                    for line in statements { out.line(line) }
                }
            }
            guard hasTags else { return }
            if flexible == "true" {
                emitTagReader(into: &out)
            } else {
                out.block("if flexible") { out in emitTagReader(into: &out) }
            }
        }
        out.line()
        _ = needsVersion
    }

    private func emitTagReader(into out: inout SourceText) {
        let label = "\"\(path).taggedFields\""
        if tagged.isEmpty {
            out.line("self.unknownTaggedFields = try reader.unknownTags(\(label))")
            return
        }
        out.line("let tags: Int = try reader.taggedFieldCount(\(label))")
        out.block("for _ in 0..<tags") { out in
            out.line("let tag: UInt32 = try reader.tag(\(label))")
            out.line("switch tag {")
            for field in tagged {
                let condition = condition(field.versions).map { " where \($0)" } ?? ""
                out.line("case \(field.tag ?? 0)\(condition):")
                out.indented { out in
                    out.line("let outer: Int = try reader.openTag(\(name(of: field)))")
                    for line in readStatements(of: field) { out.line(line) }
                    out.line("try reader.closeTag(\(name(of: field)), outer)")
                }
            }
            out.line("default:")
            out.indented { out in
                out.line("self.unknownTaggedFields.append(try reader.unknownTag(\(label), tag))")
            }
            out.line("}")
        }
    }

    private func name(of field: Field) -> String { "\"\(path).\(field.name)\"" }

    private func readStatements(of field: Field) -> [String] {
        let target = "self.\(field.name)"
        guard let nullable = field.nullable else {
            return ["\(target) = \(readExpression(of: field, nullable: false))"]
        }
        guard let condition = conditionWithin(field, nullable) else {
            return ["\(target) = \(readExpression(of: field, nullable: true))"]
        }
        return [
            "if \(condition) {", "    \(target) = \(readExpression(of: field, nullable: true))",
            "} else {", "    \(target) = \(readExpression(of: field, nullable: false))", "}",
        ]
    }

    /// The condition under which the field may be null, given that it is carried; nil for always.
    private func conditionWithin(_ field: Field, _ nullable: VersionRange) -> String? {
        let carried = field.versions.intersection(structure.versions)
        if nullable.contains(carried) { return nil }
        if nullable.low > carried.low && nullable.high >= carried.high { return "version >= \(nullable.low)" }
        return "version >= \(nullable.low) && version <= \(nullable.high)"
    }

    private func readExpression(of field: Field, nullable: Bool) -> String {
        let label = name(of: field)
        let flexible = flexible(of: field)
        switch field.type {
        case .bool: return "try reader.bool(\(label))"
        case .float64: return "try reader.double(\(label))"
        case .uuid: return "try reader.uuid(\(label))"
        case .string: return "try reader.\(nullable ? "nullableString" : "string")(\(label), flexible: \(flexible))"
        case .bytes, .records:
            return "try reader.\(nullable ? "nullableBytes" : "bytes")(\(label), flexible: \(flexible))"
        case .structure(let type):
            let read = "try \(type)(from: &reader, version: version)"
            return nullable ? "try reader.isPresent(\(label)) ? \(read) : nil" : read
        case .array(let element):
            let function = nullable ? "nullableArray" : "array"
            guard case .structure(let type) = element else {
                return "try reader.\(function)(\(label), of: \(element.swift).self, flexible: \(flexible))"
            }
            return "try reader.\(function)(\(label), of: \(type).self, version: version, flexible: \(flexible), "
                + "minimumSize: \(message.minimumSize(of: type)))"
        default: return "try reader.integer(\(label))"
        }
    }

    // MARK: Writing

    private func emitWriter(into out: inout SourceText) {
        out.line("/// Writes the fields of `version`.")
        out.block("public func write(to writer: inout MessageWriter, version: Int16) throws(ProtocolError)") { out in
            if isRoot { out.line("try Self.check(version)") }
            emitFlexible(into: &out)
            for field in plain {
                let statements = writeStatements(of: field)
                guard let condition = condition(field.versions) else {
                    for line in statements { out.line(line) }
                    continue
                }
                out.line("if \(condition) {")
                out.indented { out in for line in statements { out.line(line) } }
                out.line(field.ignorable ? "}" : "} else if \(isSet(field)) {")
                if !field.ignorable { emitUnsupported(name(of: field), into: &out) }
            }
            emitTagWriter(into: &out)
        }
    }

    private func emitUnsupported(_ label: String, into out: inout SourceText) {
        out.indented { out in out.line("throw MessageWriter.unsupported(\(label), version: version)") }
        out.line("}")
    }

    private func emitTagWriter(into out: inout SourceText) {
        for field in tagged where !field.ignorable {
            guard let condition = condition(field.versions) else { continue }
            out.line("if !(\(condition)) && \(isSet(field)) {")
            emitUnsupported(name(of: field), into: &out)
        }
        guard hasTags else { return }
        if flexible == "true" {
            emitTags(into: &out)
            return
        }
        out.line("if flexible {")
        out.indented { out in emitTags(into: &out) }
        out.line("} else if !self.unknownTaggedFields.isEmpty {")
        emitUnsupported("\"\(path).unknownTaggedFields\"", into: &out)
    }

    private func emitTags(into out: inout SourceText) {
        if tagged.isEmpty {
            out.line("writer.unknownTags(self.unknownTaggedFields)")
            return
        }
        out.line("var tags: Int = self.unknownTaggedFields.count")
        for field in tagged {
            let conditions = [condition(field.versions), isSet(field)].compactMap { $0 }
            out.line("let write\(field.tag ?? 0): Bool = \(conditions.joined(separator: " && "))")
            out.line("if write\(field.tag ?? 0) { tags += 1 }")
        }
        out.line("writer.unsignedVarint(UInt32(tags))")
        for field in tagged {
            out.block("if write\(field.tag ?? 0)") { out in
                out.line("let mark: Int = writer.openTag(\(field.tag ?? 0))")
                for line in writeStatements(of: field) { out.line(line) }
                out.line("writer.closeTag(mark)")
            }
        }
        out.line("writer.appendUnknownTags(self.unknownTaggedFields)")
    }

    /// Whether the field differs from its default.
    private func isSet(_ field: Field) -> String {
        let value = "self.\(field.name)"
        let initial = initialValue(of: field)
        switch field.type {
        case .bool: return initial == "true" ? "!\(value)" : value
        case .array where initial == "[]":
            return field.isOptional ? "\(value)?.isEmpty != true" : "!\(value).isEmpty"
        default: return "\(value) != \(initial)"
        }
    }

    private func writeStatements(of field: Field) -> [String] {
        let value = "self.\(field.name)"
        guard let nullable = field.nullable else { return [writeStatement(of: field, value, nullable: false)] }
        if case .structure = field.type {
            return [
                "if let value: \(field.type.swift) = \(value) {",
                "    writer.integer(1 as Int8)",
                "    try value.write(to: &writer, version: version)",
                "} else {",
                "    writer.integer(-1 as Int8)",
                "}",
            ]
        }
        guard let condition = conditionWithin(field, nullable) else {
            return [writeStatement(of: field, value, nullable: true)]
        }
        return [
            "if !(\(condition)) && \(value) == nil {",
            "    throw MessageWriter.unexpectedNull(\(name(of: field)), version: version)",
            "}",
            writeStatement(of: field, value, nullable: true),
        ]
    }

    private func writeStatement(of field: Field, _ value: String, nullable: Bool) -> String {
        let label = name(of: field)
        let flexible = flexible(of: field)
        switch field.type {
        case .bool: return "writer.bool(\(value))"
        case .float64: return "writer.double(\(value))"
        case .uuid: return "writer.uuid(\(value))"
        case .string:
            return "try writer.\(nullable ? "nullableString" : "string")(\(label), \(value), flexible: \(flexible))"
        case .bytes, .records:
            return "try writer.\(nullable ? "nullableBytes" : "bytes")(\(label), \(value), flexible: \(flexible))"
        case .structure: return "try \(value).write(to: &writer, version: version)"
        case .array(let element):
            let version = element.structureName == nil ? "" : "version: version, "
            return
                "try writer.\(nullable ? "nullableArray" : "array")(\(label), \(value), \(version)flexible: \(flexible))"
        default: return "writer.integer(\(value))"
        }
    }
}

extension Message {
    /// The least number of bytes that a structure takes, over the versions in which it is in use.
    func minimumSize(of name: String) -> Int {
        guard let structure = structures.first(where: { $0.name == name }) else { return 1 }
        let sizes = (structure.versions.low...structure.versions.high).map { size(of: structure, version: $0) }
        return max(1, sizes.min() ?? 1)
    }

    private func size(of structure: Structure, version: Int) -> Int {
        let flexible = flexibleFrom.map { $0 <= version } ?? false
        var total = flexible ? 1 : 0
        for field in structure.fields where field.tag == nil && field.versions.contains(version) {
            switch field.type {
            case .bool, .int8: total += 1
            case .int16, .uint16: total += 2
            case .int32, .uint32: total += 4
            case .int64, .float64: total += 8
            case .uuid: total += 16
            case .string: total += flexible && !field.inflexible ? 1 : 2
            case .bytes, .records, .array: total += flexible ? 1 : 4
            case .structure(let name):
                if field.nullable?.contains(version) == true {
                    total += 1
                } else if let inner = structures.first(where: { $0.name == name }) {
                    total += size(of: inner, version: version)
                }
            }
        }
        return total
    }
}
