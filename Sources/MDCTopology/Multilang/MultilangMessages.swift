// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import NIOCore

/// What a child says. Source: the multi-language protocol of Apache Storm.
enum MultilangCommand: Hashable {
    /// The handshake's answer.
    case pid(Int64)
    case emit(Emit)
    case ack(String)
    case fail(String)
    case log(String, level: Int64)
    case error(String)
    case sync
    case metrics

    struct Emit: Hashable {
        var values: [JSONValue]
        var stream: String
        var anchors: [String]
        /// The one task that gets it.
        var task: Int?
        /// Whether the child waits to be told which tasks got it.
        var needsTaskIDs: Bool
    }

    /// Throws ``TopologyError`` (`child`) for what is none.
    init(_ message: JSONValue) throws(TopologyError) {
        func text(_ name: String) throws(TopologyError) -> String {
            switch message[name] {
            case .text(let text)?: return text
            // Some libraries send ids as they got them, some as numbers.
            case .integer(let number)?: return String(number)
            default: throw TopologyError(.child, "the child sent a command without '\(name)'")
            }
        }
        guard let command = message["command"]?.text else {
            guard let pid = message["pid"]?.integer else {
                throw TopologyError(.child, "the child sent what is neither a command nor its pid")
            }
            self = .pid(pid)
            return
        }
        switch command {
        case "emit": self = .emit(try Emit(message))
        case "ack": self = .ack(try text("id"))
        case "fail": self = .fail(try text("id"))
        case "log": self = .log(try text("msg"), level: message["level"]?.integer ?? 2)
        case "error": self = .error(try text("msg"))
        case "sync": self = .sync
        case "metrics": self = .metrics
        default: throw TopologyError(.child, "the child sent the command '\(command.prefix(40))', which is not known")
        }
    }
}

extension MultilangCommand.Emit {
    init(_ message: JSONValue) throws(TopologyError) {
        guard let values = message["tuple"]?.array else {
            throw TopologyError(.child, "the child emitted something without 'tuple'")
        }
        var anchors: [String] = []
        for anchor in message["anchors"]?.array ?? [] {
            if let id = anchor.text ?? anchor.integer.map(String.init) { anchors.append(id) }
        }
        let task = message["task"]?.integer.map(Int.init)
        var needsTaskIDs = task == nil
        if case .bool(false)? = message["need_task_ids"] { needsTaskIDs = false }
        self.init(
            values: values,
            stream: message["stream"]?.text ?? ProcessorContext.defaultStream,
            anchors: anchors,
            task: task,
            needsTaskIDs: needsTaskIDs
        )
    }
}

/// Records as tuples, and back.
enum MultilangTuple {
    /// How a record's value is given to the child.
    enum Input: String, Sendable, CaseIterable {
        /// As text.
        case text
        /// As the JSON document that it is.
        case json
    }

    /// `[key, value]`. Throws ``TopologyError`` (`processor`) for what is no text, or no JSON.
    static func values(_ record: StreamRecord, _ input: Input) throws(TopologyError) -> JSONValue {
        func text(_ bytes: ByteBuffer?, _ what: String) throws(TopologyError) -> JSONValue {
            guard let bytes else { return .null }
            guard let text = String(validating: bytes.readableBytesView, as: UTF8.self) else {
                throw TopologyError(.processor, "the record's \(what) is not UTF-8, and children get text only")
            }
            return .text(text)
        }
        let key = try text(record.key, "key")
        guard input == .json, let value = record.value else { return .array([key, try text(record.value, "value")]) }
        do {
            return .array([key, try JSONValue(parsing: value.readableBytesView)])
        } catch {
            throw TopologyError(.processor, "the record's value is not JSON", cause: error)
        }
    }

    /// One value is the value; of several the first is the key, and the second, or the list of the others, the value. Texts are taken
    /// as they are, everything else as JSON.
    static func keyAndValue(_ values: [JSONValue]) throws -> (key: ByteBuffer?, value: ByteBuffer?) {
        func bytes(_ value: JSONValue) throws -> ByteBuffer? {
            switch value {
            case .null: nil
            case .text(let text): ByteBuffer(string: text)
            default: ByteBuffer(bytes: try value.serialized())
            }
        }
        switch values.count {
        case 0: return (nil, nil)
        case 1: return (nil, try bytes(values[0]))
        case 2: return (try bytes(values[0]), try bytes(values[1]))
        default: return (try bytes(values[0]), try bytes(.array(Array(values.dropFirst()))))
        }
    }
}
