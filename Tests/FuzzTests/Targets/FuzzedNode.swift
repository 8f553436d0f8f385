// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Logging
import MDCBroker
import MDCLog
import Synchronization

/// A node in this process, in a folder of its own that goes away with it: in memory where the system has such a file
/// system, for an answer waits for a sync.
final class FuzzedNode: Sendable {
    let port: Int
    private let directory: String
    private let task: Task<Void, any Error>

    init() {
        let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
        var template = Array("\(parent)/mdc-fuzz-XXXXXX".utf8CString)
        directory = String(cString: mkdtemp(&template))
        var configuration = BrokerConfiguration()
        configuration.dataDirectory = directory + "/data"
        configuration.listen = HostPort(host: "127.0.0.1", port: 0)
        configuration.http = nil
        configuration.networkThreads = 1
        configuration.autoCreateTopics = false
        configuration.offsetsTopicPartitions = 1
        configuration.transactionTopicPartitions = 1
        configuration.groupInitialRebalanceDelay = 0
        configuration.shutdownTimeoutMilliseconds = 100
        let broker = Broker(
            configuration: configuration,
            logger: Logger(label: "fuzz", factory: { _ in SwiftLogNoOpLogHandler() })
        )
        task = Task { try await broker.run() }
        while broker.state != .ready {
            require(broker.state != .stopped, "the node does not start")
            usleep(1000)
        }
        port = broker.boundAddresses?.listen.port ?? 0
    }

    deinit {
        let task = task
        task.cancel()
        let flag = Flag()
        Task {
            try? await task.value
            flag.isSet.store(true, ordering: .releasing)
        }
        while !flag.isSet.load(ordering: .acquiring) { usleep(1000) }
        Self.remove(directory)
    }

    private final class Flag: Sendable {
        let isSet = Atomic<Bool>(false)
    }

    private static func remove(_ path: String) {
        let fileSystem = POSIXFileSystem()
        for entry in (try? fileSystem.list(path)) ?? [] {
            let child = "\(path)/\(entry.name)"
            if entry.isDirectory { remove(child) } else { try? fileSystem.unlink(child) }
        }
        try? fileSystem.removeDirectory(path)
    }
}

/// A client's end of a connection, which waits for a short time only.
final class LoopbackSocket {
    private let descriptor: Int32
    private static let patienceMilliseconds = 20

    /// Connects; nil where that fails.
    init?(port: Int) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        var limit = timeval(tv_sec: 0, tv_usec: Self.patienceMilliseconds * 1000)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var one: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
        // A close without lingering leaves no port behind: there are thousands of connections a second.
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            return nil
        }
    }

    deinit { close(descriptor) }

    /// Sends all bytes; false where the peer has closed.
    func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    /// Bytes from the peer; nil where it has closed or says nothing for a while.
    func receive() -> [UInt8]? {
        var chunk = [UInt8](repeating: 0, count: 65536)
        let count = recv(descriptor, &chunk, chunk.count, 0)
        return count > 0 ? Array(chunk[..<count]) : nil
    }
}
