// SPDX-License-Identifier: Apache-2.0

import Foundation

extension MessageValidator {
    /// The most files of a message.
    static let attachmentsMax = 20

    func checkAttachments(_ result: inout Result) {
        guard let files = result.draft.content.attachments else { return }
        guard !files.isEmpty else {
            result.draft.content.attachments = nil
            return
        }
        guard result.draft.channel == .email else {
            return result.error("content.attachments", "are for e-mail; put an address of the file into the text")
        }
        guard files.count <= Self.attachmentsMax else {
            return result.error("content.attachments", "are \(files.count); at most \(Self.attachmentsMax) are sent")
        }
        var size = 0
        var ids: Set<String> = []
        for (index, file) in files.enumerated() {
            let field = "content.attachments.\(index)"
            if let problem = Self.nameProblem(file.name) { result.error("\(field).name", problem) }
            if let problem = Self.typeProblem(file.contentType) { result.error("\(field).contentType", problem) }
            if let bytes = Data(base64Encoded: file.data) {
                size += bytes.count
                if bytes.isEmpty { result.warning("\(field).data", "is empty") }
            } else {
                result.error(
                    "\(field).data",
                    "is no base64 (RFC 4648: A-Z, a-z, 0-9, '+', '/', padded with '=', no line ends)"
                )
            }
            guard let id = file.contentID else { continue }
            if let problem = Self.contentIDProblem(id) {
                result.error("\(field).contentID", problem)
            } else if !ids.insert(id).inserted {
                result.error("\(field).contentID", "'\(id)' is used twice; each image needs its own")
            } else if result.draft.content.html?.contains("cid:\(id)") != true {
                result.warning("\(field).contentID", "is not named in the html; write <img src=\"cid:\(id)\">")
            }
        }
        if size > configuration.attachmentBytesMax {
            result.error(
                "content.attachments",
                "have \(size) bytes; at most \(configuration.attachmentBytesMax) are taken: put an address into the text"
            )
        }
    }

    private static func nameProblem(_ name: String) -> String? {
        guard (1...255).contains(name.utf8.count) else { return "has \(name.utf8.count) bytes; use 1 to 255" }
        let isBad = name.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7F || $0 == "/" || $0 == "\\" }
        return isBad ? "has a slash or a control character; give the bare name of the file" : nil
    }

    /// `type/subtype`, with parameters of plain values.
    private static func typeProblem(_ type: String) -> String? {
        let parts = type.split(separator: ";", omittingEmptySubsequences: false).map { $0.trimming(" ") }
        let names = parts[0].split(separator: "/", omittingEmptySubsequences: false)
        guard type.utf8.count <= 127, names.count == 2, names.allSatisfy(isToken),
            parts.dropFirst().allSatisfy({ parameter in
                let sides = parameter.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                return sides.count == 2 && sides.allSatisfy(isToken)
            })
        else { return "'\(type.prefix(60))' is no media type; write it as application/pdf or image/png" }
        // These may not be in base64, and would be taken for parts of the mail.
        if ["multipart", "message"].contains(names[0].lowercased()) {
            return "'\(type.prefix(60))' cannot be attached; use application/octet-stream"
        }
        return nil
    }

    private static func isToken(_ text: Substring) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { EmailAddress.isAlphanumeric($0) || "!#$&^_.+-".utf8.contains($0) }
    }

    private static func contentIDProblem(_ id: String) -> String? {
        let isPlain = id.utf8.allSatisfy { EmailAddress.isAlphanumeric($0) || "._-@".utf8.contains($0) }
        return isPlain && (1...128).contains(id.utf8.count)
            ? nil : "'\(id.prefix(60))' is no content id; use 1 to 128 letters, digits, '.', '_', '-' or '@'"
    }
}
