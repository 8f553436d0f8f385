// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// What an offline check found.
public struct CheckReport: Hashable, Sendable, CustomStringConvertible {
    /// Something that is wrong.
    public struct Problem: Hashable, Sendable, CustomStringConvertible {
        /// How bad it is.
        public enum Severity: Hashable, Sendable {
            /// Records are lost or cannot be vouched for.
            case data
            /// A derived file is wrong; the next start makes it anew from the log.
            case derived
        }
        public var severity: Severity
        /// The file.
        public var path: String
        /// Where in the file.
        public var position: Int
        /// The first offset concerned, where that can be said.
        public var offset: Offset?
        /// What is wrong.
        public var message: String

        public var description: String {
            let where_ = offset.map { " (offset \($0))" } ?? ""
            return "\(severity == .data ? "DATA" : "derived") \(path) at byte \(position)\(where_): \(message)"
        }
    }

    public var partitions = 0
    public var segments = 0
    public var batches = 0
    public var records = 0
    /// Bytes of record batches that were verified.
    public var bytes = 0
    public var problems: [Problem] = []
    /// What is no problem but worth knowing, such as space that a killed process had reserved.
    public var notes: [String] = []

    /// Whether nothing is wrong.
    public var isSound: Bool { problems.isEmpty }

    public var description: String {
        var lines = [
            "\(partitions) partitions, \(segments) segments, \(batches) batches, \(records) records, \(bytes) bytes verified"
        ]
        lines += notes.map { "note: \($0)" }
        lines += problems.map(\.description)
        lines.append(problems.isEmpty ? "nothing is wrong" : "\(problems.count) problems")
        return lines.joined(separator: "\n")
    }
}

/// How far a check has come.
public struct CheckProgress: Hashable, Sendable {
    /// Bytes verified so far, and in all.
    public var bytes: Int
    public var totalBytes: Int
    /// The file that is being verified.
    public var path: String
}
