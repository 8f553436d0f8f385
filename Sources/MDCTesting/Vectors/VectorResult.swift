// SPDX-License-Identifier: Apache-2.0

/// What a run over recorded examples found.
public struct VectorResult: Sendable {
    /// How many examples were as they should be.
    public var passed: Int
    /// How many were not.
    public var failed: Int
    /// One line for each that failed: which, and how.
    public var failures: [String]

    /// A result to count up.
    public init(passed: Int = 0, failed: Int = 0, failures: [String] = []) {
        self.passed = passed
        self.failed = failed
        self.failures = failures
    }
}
