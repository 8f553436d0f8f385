// SPDX-License-Identifier: Apache-2.0

// Checks recorded examples of messages against our codecs.
//
//     mdc-vectors DIR      DIR holds message-vectors.jsonl
//
// Prints a line for each failure and at last `N passed, N failed`; exits with 1 where something failed.

import Foundation
import MDCTesting

guard CommandLine.arguments.count == 2 else {
    print("usage: mdc-vectors DIR")
    exit(2)
}
do {
    let directory = CommandLine.arguments[1]
    let results = [try MessageVectors.run(directory: directory)]
    for failure in results.flatMap(\.failures) { print(failure) }
    let failed = results.reduce(0) { $0 + $1.failed }
    print("\(results.reduce(0) { $0 + $1.passed }) passed, \(failed) failed")
    exit(failed == 0 ? 0 : 1)
} catch {
    print("mdc-vectors: \(error)")
    exit(1)
}
