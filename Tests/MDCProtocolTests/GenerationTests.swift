// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import mdc_generate_messages

struct GenerationTests {
    private var root: URL {
        URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized
    }

    @Test("the generated code and the page on compatibility follow from the schemas")
    func upToDate() throws {
        #expect(try Generation.run(root: root, check: true) == 0, "run dev/generate-messages and commit the result")
    }

    @Test("the same schemas give the same files, and a check sees one that differs")
    func deterministic() throws {
        let copy = FileManager.default.temporaryDirectory.appending(path: "mdc-generate-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: copy) }
        let sources = "Sources/MDCProtocol"
        try FileManager.default.createDirectory(at: copy.appending(path: sources), withIntermediateDirectories: true)
        try FileManager.default.copyItem(
            at: root.appending(path: sources + "/Schemas"),
            to: copy.appending(path: sources + "/Schemas")
        )
        #expect(try Generation.run(root: copy, check: true) == 1)
        #expect(try Generation.run(root: copy, check: false) == 0)
        #expect(try Generation.run(root: copy, check: true) == 0)
        let name = sources + "/Generated/00_Produce.swift"
        let written = try String(contentsOf: copy.appending(path: name), encoding: .utf8)
        #expect(try written == String(contentsOf: root.appending(path: name), encoding: .utf8))
        try "stale".write(
            to: copy.appending(path: sources + "/Generated/99_Gone.swift"),
            atomically: true,
            encoding: .utf8
        )
        #expect(try Generation.run(root: copy, check: true) == 1)
    }

    @Test(
        "mistakes are told with their line",
        arguments: [
            ("apy 0 X", "x.schema:1: expected api"),
            ("data X versions 0-1 flexible 1+\n  name string 5+6", "x.schema:2: “5+6” is not a range"),
            ("data X versions 0 flexible none\n  list [Y]", "X has no structure Y"),
            ("data X versions 0 flexible none\n  name string often", "do not know “often”"),
            ("data X versions 0 flexible 0+\n  name string tag 1", "number the tags of X from 0"),
            ("api 0 X\n  versions 0-1\n  scope broker\nnotes\n  0 First.", "write one note for each version"),
        ]
    )
    func mistakes(text: String, message: String) {
        let error = #expect(throws: SchemaError.self) { _ = try SchemaParser.parse(file: "x", text: text) }
        #expect(error?.description.contains(message) == true, "\(error?.description ?? "")")
    }
}
