// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import MDCRaft
import NIOCore
import NIOPosix

/// What the transport tells the driver; on its event loop.
protocol QuorumTransportDelegate: AnyObject {
    func received(_ message: RaftMessage)
    func received(_ change: ControllerChange, _ answer: @escaping @Sendable (QuorumAnswer) -> Void)
    /// How the quorum is; nil where this node does not lead it.
    func describe(_ answer: @escaping @Sendable (QuorumDescription?) -> Void)
    /// Nobody listens at the node's address: its process is gone.
    func isGone(_ node: Int32)
    var hello: QuorumHello { get }
}

/// Connections between the controllers. Each node connects to each other and says there what it has to say; answers to wishes
/// come back on the same connection. What cannot be sent at once is dropped: Raft repeats it. All on one event loop.
final class QuorumTransport: @unchecked Sendable {
    // Sendable: everything is touched on `eventLoop` alone.
    private final class Peer: @unchecked Sendable {
        let address: HostPort
        var channel: (any Channel)?
        var isConnecting = false
        var failures = 0
        var answers: [UInt64: @Sendable (QuorumAnswer) -> Void] = [:]
        var descriptions: [UInt64: @Sendable (QuorumDescription?) -> Void] = [:]
        /// Replaced by another address.
        var isGone = false

        init(_ address: HostPort) { self.address = address }
    }

    let eventLoop: any EventLoop
    private let logger: Logger
    /// Whose address is in the settings.
    private let configured: Set<Int32>
    private var peers: [Int32: Peer]
    private var greetings: [ObjectIdentifier: QuorumHello] = [:]
    private weak var delegate: (any QuorumTransportDelegate)?
    private var server: (any Channel)?
    private var accepted: [ObjectIdentifier: any Channel] = [:]
    private var nextID: UInt64 = 1
    private var isClosed = false

    init(eventLoop: any EventLoop, peers: [Voter], logger: Logger) {
        self.eventLoop = eventLoop
        self.logger = logger
        configured = Set(peers.map(\.id))
        self.peers = Dictionary(peers.map { ($0.id, Peer($0.address)) }, uniquingKeysWith: { first, _ in first })
    }

    /// Listens and connects. Throws `.network`.
    func start(_ address: HostPort?, delegate: any QuorumTransportDelegate & Sendable) async throws(BrokerError) {
        if let address {
            let bootstrap = ServerBootstrap(group: eventLoop)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelOption(.socketOption(.tcp_nodelay), value: 1)
                .childChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(QuorumConnection(self, outgoing: nil))
                    }
                }
            do {
                let channel = try await bootstrap.bind(host: address.host, port: address.port).get()
                try await eventLoop.submit { self.server = channel }.get()
            } catch {
                throw BrokerError(
                    .network,
                    "cannot listen on \(address) for controllers; is another process using the port?",
                    cause: error
                )
            }
        }
        eventLoop.execute {
            self.delegate = delegate
            for id in self.peers.keys { self.connect(id) }
        }
    }

    func close() {
        isClosed = true
        server?.close(promise: nil)
        for channel in accepted.values { channel.close(promise: nil) }
        for peer in peers.values {
            peer.channel?.close(promise: nil)
            fail(peer)
        }
    }

    // MARK: Members

    /// Who is connected to this node and has said who he is.
    var present: [QuorumHello] { Array(greetings.values) }

    /// Where a node is that is not among the voters of the settings.
    func learn(_ node: Int32, _ endpoint: ControllerEndpoint) {
        guard !isClosed, !configured.contains(node), node != delegate?.hello.node else { return }
        let address = HostPort(host: endpoint.host, port: Int(endpoint.port))
        if let known = peers[node], known.address == address { return }
        forget(node)
        peers[node] = Peer(address)
        connect(node)
    }

    /// A node that joined at run time has gone for good.
    func forget(_ node: Int32) {
        guard !configured.contains(node), let peer = peers.removeValue(forKey: node) else { return }
        peer.isGone = true
        peer.channel?.close(promise: nil)
        fail(peer)
    }

    // MARK: Sending

    func isConnected(_ node: Int32) -> Bool { peers[node]?.channel != nil }

    func send(_ message: RaftMessage) {
        guard let channel = peers[message.to.node.rawValue]?.channel, channel.isWritable,
            let bytes = try? QuorumFrame.raft(message).encoded()
        else { return }
        channel.writeAndFlush(bytes, promise: nil)
    }

    /// Asks another node's controller; answered with NOT_CONTROLLER where it cannot be reached.
    func ask(_ node: Int32, _ change: ControllerChange, _ done: @escaping @Sendable (QuorumAnswer) -> Void) {
        guard let peer = peers[node], let channel = peer.channel, channel.isWritable else {
            return done(.refused(Self.unreachable(node)))
        }
        nextID += 1
        let id = nextID
        do {
            let bytes = try QuorumFrame.request(id: id, change).encoded()
            peer.answers[id] = done
            channel.writeAndFlush(bytes, promise: nil)
        } catch {
            return done(.refused(Refusal(code: .invalidRequest, message: "\(error)")))
        }
        eventLoop.scheduleTask(in: .seconds(5)) {
            peer.answers.removeValue(forKey: id)?(
                .refused(
                    Refusal(code: .requestTimedOut, message: "node \(node), the controller, did not answer in time")
                )
            )
        }
    }

    /// Asks another node how the quorum is; nil where it does not tell.
    func describe(_ node: Int32, _ done: @escaping @Sendable (QuorumDescription?) -> Void) {
        nextID += 1
        let id = nextID
        guard let peer = peers[node], let channel = peer.channel, channel.isWritable,
            let bytes = try? QuorumFrame.describe(id: id).encoded()
        else { return done(nil) }
        peer.descriptions[id] = done
        channel.writeAndFlush(bytes, promise: nil)
        eventLoop.scheduleTask(in: .seconds(5)) { peer.descriptions.removeValue(forKey: id)?(nil) }
    }

    private static func unreachable(_ node: Int32) -> Refusal {
        Refusal(code: .notController, message: "the controller, node \(node), cannot be reached; try again")
    }

    // MARK: Connecting

    private func connect(_ id: Int32) {
        guard !isClosed, let peer = peers[id], peer.channel == nil, !peer.isConnecting else { return }
        peer.isConnecting = true
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(.seconds(1))
            .channelOption(.socketOption(.tcp_nodelay), value: 1)
            .channelOption(.writeBufferWaterMark, value: .init(low: 4 << 20, high: 16 << 20))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(QuorumConnection(self, outgoing: id))
                }
            }
        bootstrap.connect(host: peer.address.host, port: peer.address.port).whenComplete { result in
            peer.isConnecting = false
            guard !peer.isGone else {
                if case .success(let channel) = result { channel.close(promise: nil) }
                return
            }
            switch result {
            case .success(let channel):
                guard !self.isClosed else { return channel.close(promise: nil) }
                peer.channel = channel
                peer.failures = 0
                if let hello = self.delegate?.hello, let bytes = try? QuorumFrame.hello(hello).encoded() {
                    channel.writeAndFlush(bytes, promise: nil)
                }
            case .failure(let error):
                peer.failures += 1
                if Self.isRefused(error) { self.delegate?.isGone(id) }
                let wait = min(500, 25 << min(peer.failures, 5))
                self.eventLoop.scheduleTask(in: .milliseconds(Int64(wait))) { self.connect(id) }
            }
        }
    }

    private static func isRefused(_ error: any Error) -> Bool {
        if let error = error as? IOError { return error.errnoCode == ECONNREFUSED }
        guard let error = error as? NIOConnectionError, !error.connectionErrors.isEmpty else { return false }
        return error.connectionErrors.allSatisfy { ($0.error as? IOError)?.errnoCode == ECONNREFUSED }
    }

    private func fail(_ peer: Peer) {
        let descriptions = peer.descriptions
        peer.descriptions = [:]
        for done in descriptions.values { done(nil) }
        let answers = peer.answers
        peer.answers = [:]
        for answer in answers.values {
            answer(
                .refused(Refusal(code: .notController, message: "the connection to the controller broke; try again"))
            )
        }
    }

    // MARK: From connections

    fileprivate func opened(_ channel: any Channel) { accepted[ObjectIdentifier(channel)] = channel }

    fileprivate func closed(_ channel: any Channel, outgoing: Int32?) {
        accepted[ObjectIdentifier(channel)] = nil
        greetings[ObjectIdentifier(channel)] = nil
        guard let id = outgoing, let peer = peers[id], peer.channel === channel else { return }
        peer.channel = nil
        fail(peer)
        connect(id)
    }

    fileprivate func received(_ frame: QuorumFrame, on channel: any Channel, from node: Int32?, outgoing: Int32?) {
        switch frame {
        case .hello: break
        case .raft(let message):
            // Who said hello as one node does not speak for another.
            guard message.from.node.rawValue == node else { return }
            delegate?.received(message)
        case .request(let id, let change):
            delegate?.received(change) { answer in
                guard let bytes = try? QuorumFrame.answer(id: id, answer).encoded() else { return }
                channel.writeAndFlush(bytes, promise: nil)
            }
        case .answer(let id, let answer):
            guard let outgoing else { return }
            peers[outgoing]?.answers.removeValue(forKey: id)?(answer)
        case .describe(let id):
            delegate?.describe { description in
                guard let bytes = try? QuorumFrame.description(id: id, description).encoded() else { return }
                channel.writeAndFlush(bytes, promise: nil)
            }
        case .description(let id, let description):
            guard let outgoing else { return }
            peers[outgoing]?.descriptions.removeValue(forKey: id)?(description)
        }
    }

    /// Why somebody who connects is not talked to; nil where he is welcome.
    fileprivate func problem(_ hello: QuorumHello) -> String? {
        guard let own = delegate?.hello else { return "the node stops" }
        if !own.clusterID.isEmpty, !hello.clusterID.isEmpty, own.clusterID != hello.clusterID {
            return "it belongs to cluster \(hello.clusterID), this node to \(own.clusterID)"
        }
        if hello.node == own.node { return "it has this node's id; give each node an id of its own" }
        return peers[hello.node] == nil && hello.listen == nil
            ? "node \(hello.node) is not among the voters of this node, and does not say where it listens" : nil
    }

    fileprivate func greeted(_ hello: QuorumHello, on channel: any Channel) {
        // A connection whose end was not noticed yet says nothing any more.
        for (former, known) in greetings where known.node == hello.node { greetings[former] = nil }
        greetings[ObjectIdentifier(channel)] = hello
        if let listen = hello.listen { learn(hello.node, listen) }
    }

    fileprivate func refused(_ hello: QuorumHello, _ problem: String) {
        logger.warning(
            "a controller's connection is refused",
            metadata: ["node": "\(hello.node)", "reason": "\(problem)"]
        )
    }
}

/// Cuts frames out of the bytes of one connection. Whatever is malformed closes it.
private final class QuorumConnection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let transport: QuorumTransport
    private let outgoing: Int32?
    private var buffer = ByteBuffer()
    private var node: Int32?

    init(_ transport: QuorumTransport, outgoing: Int32?) {
        self.transport = transport
        self.outgoing = outgoing
    }

    func channelActive(context: ChannelHandlerContext) {
        if outgoing == nil { transport.opened(context.channel) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        transport.closed(context.channel, outgoing: outgoing)
    }

    func errorCaught(context: ChannelHandlerContext, error _: any Error) { context.close(promise: nil) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        if buffer.readableBytes == 0 { buffer = bytes } else { buffer.writeBuffer(&bytes) }
        while let length = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self) {
            let limit = outgoing == nil && node == nil ? QuorumFrame.maxHelloBytes : QuorumFrame.maxBytes
            guard length <= limit else { return context.close(promise: nil) }
            guard buffer.readableBytes >= 4 + Int(length) else { break }
            buffer.moveReaderIndex(forwardBy: 4)
            guard let slice = buffer.readSlice(length: Int(length)), let frame = try? QuorumFrame(slice) else {
                return context.close(promise: nil)
            }
            guard accept(frame, context) else { return context.close(promise: nil) }
        }
        if buffer.readableBytes == 0 { buffer = ByteBuffer() } else { buffer.discardReadBytes() }
    }

    private func accept(_ frame: QuorumFrame, _ context: ChannelHandlerContext) -> Bool {
        if outgoing == nil, node == nil {
            guard case .hello(let hello) = frame else { return false }
            if let problem = transport.problem(hello) {
                transport.refused(hello, problem)
                return false
            }
            node = hello.node
            transport.greeted(hello, on: context.channel)
            return true
        }
        transport.received(frame, on: context.channel, from: node, outgoing: outgoing)
        return true
    }
}
