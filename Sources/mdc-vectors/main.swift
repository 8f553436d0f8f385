// SPDX-License-Identifier: Apache-2.0

// Checks recorded examples of messages, record batches and key hashes against our codecs.
//
//     mdc-vectors DIR      DIR holds message-vectors.jsonl, record-batch-vectors.jsonl, murmur2-vectors.txt, or some
//
// Prints a line for each failure and at last `N passed, N failed`; exits with 1 where something failed.

import Foundation
import MDCTesting

guard CommandLine.arguments.count == 2 else {
    print("usage: mdc-vectors DIR")
    exit(2)
}
let directory = CommandLine.arguments[1]
let kinds: [(fileName: String, run: (String) throws -> VectorResult)] = [
    (MessageVectors.fileName, MessageVectors.run),
    (RecordBatchVectors.fileName, RecordBatchVectors.run),
    (Murmur2Vectors.fileName, Murmur2Vectors.run),
]
do {
    let found = kinds.filter { FileManager.default.fileExists(atPath: directory + "/" + $0.fileName) }
    if found.isEmpty {
        print("mdc-vectors: \(directory) has none of \(kinds.map(\.fileName).joined(separator: ", "))")
        exit(2)
    }
    let results = try found.map { try $0.run(directory) }
    for failure in results.flatMap(\.failures) { print(failure) }
    let failed = results.reduce(0) { $0 + $1.failed }
    print("\(results.reduce(0) { $0 + $1.passed }) passed, \(failed) failed")
    exit(failed == 0 ? 0 : 1)
} catch {
    print("mdc-vectors: \(error)")
    exit(1)
}
