// SPDX-License-Identifier: Apache-2.0

// Writes the Swift of the messages, the table of APIs and docs/wire-compatibility.md from Sources/MDCProtocol/Schemas.
//
//     mdc-generate-messages ROOT           write the files that differ
//     mdc-generate-messages ROOT --check   write nothing; exit 1 where a file differs

import Foundation

let arguments = CommandLine.arguments.dropFirst()
guard let root = arguments.first, arguments.count == 1 || (arguments.count == 2 && arguments.last == "--check") else {
    print("usage: mdc-generate-messages ROOT [--check]")
    exit(2)
}
do {
    exit(try Generation.run(root: URL(filePath: root), check: arguments.last == "--check"))
} catch {
    print("mdc-generate-messages: \(error)")
    exit(1)
}
