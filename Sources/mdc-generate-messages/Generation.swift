// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Reads the schemas and compares what follows from them with the files of the repository.
enum Generation {
    /// Writes the files that differ, or, with `check`, only tells them. Returns the exit status.
    static func run(root: URL, check: Bool) throws -> Int32 {
        let schemas = root.appending(path: "Sources/MDCProtocol/Schemas")
        let generated = root.appending(path: "Sources/MDCProtocol/Generated")
        let manager = FileManager.default
        var files: [SchemaFile] = []
        for name in try manager.contentsOfDirectory(atPath: schemas.path).sorted() where name.hasSuffix(".schema") {
            let text = try String(contentsOf: schemas.appending(path: name), encoding: .utf8)
            files.append(try SchemaParser.parse(file: String(name.dropLast(7)), text: text))
        }

        var wanted: [String: String] = [:]
        for file in files { wanted["\(file.name).swift"] = SwiftEmitter(file: file).source() }
        let table = TableEmitter(files: files)
        wanted["APITable.swift"] = table.table()
        wanted["MessageTypes.swift"] = table.messageTypes()

        try manager.createDirectory(at: generated, withIntermediateDirectories: true)
        var outputs: [(url: URL, text: String)] = wanted.map { (generated.appending(path: $0.key), $0.value) }
        let page = root.appending(path: "docs/wire-compatibility.md")
        let clients = try? clientTable(in: String(contentsOf: page, encoding: .utf8))
        outputs.append((page, table.compatibility(clients: clients ?? "")))
        var differing: [String] = []
        for (url, text) in outputs.sorted(by: { $0.url.path < $1.url.path }) {
            if (try? String(contentsOf: url, encoding: .utf8)) == text { continue }
            differing.append(url.lastPathComponent)
            if check { continue }
            try manager.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }
        for name in try manager.contentsOfDirectory(atPath: generated.path).sorted()
        where name.hasSuffix(".swift") && wanted[name] == nil {
            differing.append(name)
            if !check { try manager.removeItem(at: generated.appending(path: name)) }
        }
        if check && !differing.isEmpty {
            print("out of date: \(differing.joined(separator: ", ")); run dev/generate-messages and commit the result")
            return 1
        }
        let messages = files.reduce(0) { $0 + $1.messages.count }
        print("\(files.count) schemas, \(messages) messages, \(differing.count) files \(check ? "differ" : "written")")
        return 0
    }

    /// The part of the page that `dev/interop --matrix` writes, which stays as it is.
    private static func clientTable(in page: String) -> String? {
        guard let begin = page.range(of: "<!-- clients: begin -->"),
            let end = page.range(of: "<!-- clients: end -->\n", range: begin.upperBound..<page.endIndex)
        else { return nil }
        return String(page[begin.lowerBound..<end.upperBound])
    }
}
