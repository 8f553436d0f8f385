// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// The standard streams, without buffering: who starts the node waits for its line.
enum Console {
    /// Writes a line to standard output.
    static func line(_ text: String) { say(text, to: STDOUT_FILENO) }
    /// Writes a line to standard error.
    static func error(_ text: String) { say(text, to: STDERR_FILENO) }

    private static func say(_ text: String, to descriptor: Int32) {
        let bytes = Array((text + "\n").utf8)
        _ = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    }
}
