// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import NIOCore
import Synchronization

/// Requests of this node to other brokers, on their ordinary listeners: one connection for each of them and each use, so
/// that requests of a kind that waits long hold up no others. Made when first needed, and anew after it broke.
///
/// A request is sent once. What became of one that is not answered nobody knows; who sent it decides whether to send it again.
final class PeerRequests: Sendable {
    /// What a connection is for.
    enum Use: String, Sendable {
        case markers = "txn-markers"
        case admission = "txn-admission"
        case shareStates = "share-states"
        case checksums = "checksums"
    }

    private struct Key: Hashable {
        var node: Int32
        var use: Use
    }

    private struct State {
        var links: [Key: PeerLink] = [:]
        var isStopped = false
    }

    private let node: Int32
    private let directory: any BrokerDirectory
    private let group: any EventLoopGroup
    private let state = Mutex(State())
    private let names = ConnectionNames()

    init(node: Int32, directory: any BrokerDirectory, group: any EventLoopGroup) {
        self.node = node
        self.directory = directory
        self.group = group
    }

    /// Sends a request; `done` is called once, from any thread, with the answer, or nil where there is none: the node cannot
    /// be reached, or did not answer in time.
    func send<Request: RequestMessage>(
        _ request: Request,
        version: Int16,
        to remote: Int32,
        _ use: Use,
        within milliseconds: Int64,
        _ done: @escaping @Sendable (Request.Response?) -> Void
    ) {
        let link = state.withLock { state -> PeerLink? in
            if state.isStopped { return nil }
            let key = Key(node: remote, use: use)
            if let link = state.links[key] { return link }
            let link = PeerLink(eventLoop: group.next(), address: { [directory] in directory.endpoint(of: remote) }) {
                [node, directory, names] in
                "\(use.rawValue):\(node):\(directory.ownBrokerEpoch):\(names.next())"
            }
            state.links[key] = link
            return link
        }
        guard let link else { return done(nil) }
        link.send(
            { correlation, client throws(ProtocolError) in
                try Frame.request(request, version: version, correlationId: correlation, clientId: client)
            },
            within: milliseconds
        ) { frame in
            guard var frame else { return done(nil) }
            do throws(ProtocolError) {
                _ = try ResponseHeader(readingHeadOf: &frame, apiKey: Request.apiKey, apiVersion: version)
                done(try Request.Response(reading: &frame, version: version))
            } catch {
                done(nil)
            }
        }
    }

    /// Closes all connections; who waits gets no answer.
    func stop() {
        let links = state.withLock { state in
            state.isStopped = true
            defer { state.links = [:] }
            return Array(state.links.values)
        }
        for link in links { link.stop() }
    }
}

/// Numbers connections in the order in which they are made.
private final class ConnectionNames: Sendable {
    private let last = Atomic<UInt64>(0)

    func next() -> UInt64 { last.add(1, ordering: .relaxed).newValue }
}

/// One connection to another broker and the requests on it. Confined to its event loop, hence unchecked.
private final class PeerLink: @unchecked Sendable {
    typealias Encoder = @Sendable (Int32, String) throws(ProtocolError) -> ByteBuffer
    typealias Reply = @Sendable (ByteBuffer?) -> Void

    private struct Pending {
        var encode: Encoder
        var done: Reply
        var timeout: Scheduled<Void>
        var isSent = false
    }

    /// More requests than this at a time are not taken: the peer does not keep up.
    private static let capacity = 10_000

    private let eventLoop: any EventLoop
    private let address: @Sendable () -> (host: String, port: Int)?
    /// Who this node says it is, on each connection anew.
    private let newName: @Sendable () -> String
    private var connection: PeerConnection?
    private var isConnected = false
    private var isStopped = false
    private var name = ""
    /// By correlation id.
    private var pending: [Int32: Pending] = [:]
    private var correlation: Int32 = 0
    /// Connections in a row that came to nothing, and until when none is made.
    private var failures = 0
    private var notBefore = NIODeadline.uptimeNanoseconds(0)

    init(
        eventLoop: any EventLoop,
        address: @escaping @Sendable () -> (host: String, port: Int)?,
        newName: @escaping @Sendable () -> String
    ) {
        self.eventLoop = eventLoop
        self.address = address
        self.newName = newName
    }

    /// From any thread.
    func send(_ encode: @escaping Encoder, within milliseconds: Int64, _ done: @escaping Reply) {
        eventLoop.execute {
            guard !self.isStopped, self.pending.count < Self.capacity, self.connect() else { return done(nil) }
            self.correlation &+= 1
            let id = self.correlation
            let timeout = self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
                // What was sent may still be carried out: only another connection tells later requests from it.
                if self.pending[id] != nil { self.drop() }
            }
            self.pending[id] = Pending(encode: encode, done: done, timeout: timeout)
            if self.isConnected { self.write(id) }
        }
    }

    func stop() {
        eventLoop.execute {
            self.isStopped = true
            self.drop()
        }
    }

    private func drop() {
        if let connection { connection.close() } else { failAll() }
    }

    /// Sees to it that there is a connection, or will be; tells whether it can be hoped for.
    private func connect() -> Bool {
        if connection != nil { return true }
        guard NIODeadline.now() >= notBefore, let address = address() else { return false }
        name = newName()
        let made = PeerConnection.connect(
            to: address,
            on: eventLoop,
            whenReady: {
                self.isConnected = true
                for id in self.pending.keys.sorted() { self.write(id) }
            },
            onFrame: { self.received($0) },
            onClose: { self.lost() }
        )
        if !made.isClosed { connection = made }
        return !made.isClosed
    }

    private func write(_ id: Int32) {
        guard let one = pending[id], !one.isSent else { return }
        do throws(ProtocolError) {
            connection?.send(try one.encode(id, name))
            pending[id]?.isSent = true
        } catch {
            finish(id, nil)
        }
    }

    private func received(_ frame: ByteBuffer) {
        guard let id = frame.getInteger(at: frame.readerIndex, as: Int32.self), pending[id] != nil else {
            connection?.close()
            return
        }
        failures = 0
        finish(id, frame)
    }

    private func finish(_ id: Int32, _ frame: ByteBuffer?) {
        guard let one = pending.removeValue(forKey: id) else { return }
        one.timeout.cancel()
        one.done(frame)
    }

    private func lost() {
        connection = nil
        isConnected = false
        // A connection that nobody used may end.
        if !pending.isEmpty {
            failures += 1
            let pause = min(50 << Int64(min(failures - 1, 5)), 1000)
            notBefore = .now() + .milliseconds(Int64(Double(pause) * Double.random(in: 0.5...1)))
        }
        failAll()
    }

    private func failAll() {
        let all = pending
        pending = [:]
        for id in all.keys.sorted() {
            all[id]?.timeout.cancel()
            all[id]?.done(nil)
        }
    }
}
