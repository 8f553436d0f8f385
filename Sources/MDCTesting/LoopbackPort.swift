// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Ports of 127.0.0.1 for servers that a test starts.
public enum LoopbackPort {
    /// No port was found.
    public struct NoneFree: Error, CustomStringConvertible {
        /// What was looked for.
        public let description = "no free port between 10000 and 32000"
    }

    private static let given = Mutex<Set<Int>>([])

    /// A port that nobody listens on and that this process did not give out before, below those that systems give to
    /// outgoing connections: one of these could take the place of a server that is killed and started again.
    public static func free() throws(NoneFree) -> Int {
        for _ in 0..<1_000 {
            let port = Int.random(in: 10_000..<32_000)
            if isFree(port), given.withLock({ $0.insert(port).inserted }) { return port }
        }
        throw NoneFree()
    }

    private static func isFree(_ port: Int) -> Bool {
        #if canImport(Darwin)
            let stream = SOCK_STREAM
        #else
            let stream = Int32(SOCK_STREAM.rawValue)
        #endif
        let socket = socket(AF_INET, stream, 0)
        guard socket >= 0 else { return false }
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(socket, generic, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}
