// SPDX-License-Identifier: Apache-2.0

import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// A request as a simulator sees it: head and whole body.
struct SimulatorRequest: Sendable {
    var method: HTTPMethod
    var path: String
    var headers: HTTPHeaders
    var body: ByteBuffer
}

/// A simulator's answer.
struct SimulatorResponse: Sendable {
    var status: HTTPResponseStatus
    var headers: HTTPHeaders = [:]
    var body: String
}

/// Answers one request, at any time and from any thread; or never.
struct SimulatorResponder: Sendable {
    fileprivate let channel: any NIOCore.Channel
    fileprivate let keepAlive: Bool

    /// Answers now or after a pause.
    func respond(_ response: SimulatorResponse, after delay: Duration = .zero) {
        let channel = channel
        let keepAlive = keepAlive
        if delay > .zero {
            channel.eventLoop.scheduleTask(in: TimeAmount(delay)) {
                Self.write(response, keepAlive: keepAlive, to: channel)
            }
        } else {
            channel.eventLoop.execute { Self.write(response, keepAlive: keepAlive, to: channel) }
        }
    }

    /// Says nothing, and closes the connection after a pause.
    func hang(for delay: Duration) {
        let channel = channel
        channel.eventLoop.scheduleTask(in: TimeAmount(delay)) { channel.close(promise: nil) }
    }

    private static func write(_ response: SimulatorResponse, keepAlive: Bool, to channel: any NIOCore.Channel) {
        var head = HTTPResponseHead(version: .http1_1, status: response.status, headers: response.headers)
        head.headers.replaceOrAdd(name: "content-length", value: String(response.body.utf8.count))
        if !keepAlive { head.headers.replaceOrAdd(name: "connection", value: "close") }
        channel.write(HTTPServerResponsePart.head(head), promise: nil)
        channel.write(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(string: response.body))), promise: nil)
        let end = channel.writeAndFlush(HTTPServerResponsePart.end(nil))
        if !keepAlive { end.whenComplete { _ in channel.close(promise: nil) } }
    }
}

/// A small HTTP/1.1 server for simulated providers: whole bodies up to a limit, answers when the simulator likes.
final class SimulatorHTTPServer: Sendable {
    typealias Handler = @Sendable (SimulatorRequest, SimulatorResponder) -> Void

    private let channel: any NIOCore.Channel
    private let connections: SimulatorConnections
    /// Where it listens.
    let port: Int

    private init(channel: any NIOCore.Channel, connections: SimulatorConnections, port: Int) {
        self.channel = channel
        self.connections = connections
        self.port = port
    }

    static func start(
        host: String,
        port: Int,
        group: any EventLoopGroup,
        handler: @escaping Handler
    ) async throws -> SimulatorHTTPServer {
        let connections = SimulatorConnections()
        let channel = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { child in
                child.eventLoop.makeCompletedFuture {
                    connections.add(child)
                    try child.pipeline.syncOperations.configureHTTPServerPipeline(withPipeliningAssistance: true)
                    try child.pipeline.syncOperations.addHandler(SimulatorHTTPHandler(handler: handler))
                }
            }
            .bind(host: host, port: port).get()
        return SimulatorHTTPServer(
            channel: channel,
            connections: connections,
            port: channel.localAddress?.port ?? port
        )
    }

    /// Closes the listener and every connection.
    func shutdown() async {
        try? await channel.close()
        await connections.closeAll()
    }
}

/// The open connections of a simulator, so that it can close them.
final class SimulatorConnections: Sendable {
    private let channels = Mutex<[ObjectIdentifier: any NIOCore.Channel]>([:])

    func add(_ channel: any NIOCore.Channel) {
        let id = ObjectIdentifier(channel)
        channels.withLock { $0[id] = channel }
        channel.closeFuture.whenComplete { _ in self.channels.withLock { $0[id] = nil } }
    }

    func closeAll() async {
        for channel in channels.withLock({ Array($0.values) }) { try? await channel.close() }
    }
}

private final class SimulatorHTTPHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private static let bodyBytesMax = 1 << 20

    private let handler: SimulatorHTTPServer.Handler
    private var head: HTTPRequestHead?
    private var body = ByteBuffer()

    init(handler: @escaping SimulatorHTTPServer.Handler) { self.handler = handler }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
            body.clear()
        case .body(var part):
            guard body.readableBytes + part.readableBytes <= Self.bodyBytesMax else {
                context.close(promise: nil)
                return
            }
            body.writeBuffer(&part)
        case .end:
            guard let head else { return }
            self.head = nil
            let request = SimulatorRequest(method: head.method, path: head.uri, headers: head.headers, body: body)
            handler(request, SimulatorResponder(channel: context.channel, keepAlive: head.isKeepAlive))
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
