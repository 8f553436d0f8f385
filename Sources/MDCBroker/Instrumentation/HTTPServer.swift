// SPDX-License-Identifier: Apache-2.0

import NIOCore
import NIOHTTP1
import NIOPosix

/// `/livez`, `/readyz` and `/metrics`. One request a connection, small bounds, a time limit.
final class HTTPServer: Sendable {
    /// What a page answers.
    struct Answer: Sendable {
        var status: HTTPResponseStatus
        var contentType = "text/plain; charset=utf-8"
        var body: String
    }

    private let channel: any Channel
    let address: HostPort

    private init(channel: any Channel, address: HostPort) {
        self.channel = channel
        self.address = address
    }

    /// Listens on `address`; `page` answers a path, on any thread, nil for 404.
    static func bind(
        _ address: HostPort,
        group: MultiThreadedEventLoopGroup,
        blocking: NIOThreadPool,
        page: @escaping @Sendable (String) -> Answer?
    ) async throws(BrokerError) -> HTTPServer {
        let limiter = ConnectionLimiter(maximum: 100, maximumPerHost: 100)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                guard limiter.admit("") else { return channel.close() }
                channel.closeFuture.whenComplete { _ in limiter.release("") }
                return channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.configureHTTPServerPipeline(withErrorHandling: true)
                    try pipeline.addHandler(HTTPPageHandler(blocking: blocking, page: page))
                }
            }
        do {
            let channel = try await bootstrap.bind(host: address.host, port: address.port).get()
            return HTTPServer(
                channel: channel,
                address: HostPort(host: address.host, port: channel.localAddress?.port ?? address.port)
            )
        } catch {
            throw BrokerError(
                .network,
                "cannot listen on \(address) for --http; is another process using the port?",
                cause: error
            )
        }
    }

    func close() async { try? await channel.close() }
}

private final class HTTPPageHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let blocking: NIOThreadPool
    private let page: @Sendable (String) -> HTTPServer.Answer?
    private var deadline: Scheduled<Void>?
    private var isAnswered = false

    init(blocking: NIOThreadPool, page: @escaping @Sendable (String) -> HTTPServer.Answer?) {
        self.blocking = blocking
        self.page = page
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        deadline = context.eventLoop.scheduleTask(in: .seconds(10)) { channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { deadline?.cancel() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard case .head(let head) = unwrapInboundIn(data), !isAnswered else { return }
        isAnswered = true
        guard head.method == .GET || head.method == .HEAD else {
            return answer(context, HTTPServer.Answer(status: .methodNotAllowed, body: "only GET\n"), isHead: false)
        }
        let path = String(head.uri.prefix { $0 != "?" })
        let isHead = head.method == .HEAD
        let page = page
        // Collecting metrics may take a while; the loop serves clients meanwhile.
        blocking.runIfActive(eventLoop: context.eventLoop) { page(path) }
            .assumeIsolated().whenComplete { result in
                let found = (try? result.get()) ?? nil
                self.answer(context, found ?? HTTPServer.Answer(status: .notFound, body: "not found\n"), isHead: isHead)
            }
    }

    private func answer(_ context: ChannelHandlerContext, _ answer: HTTPServer.Answer, isHead: Bool) {
        let body = ByteBuffer(string: answer.body)
        let head = HTTPResponseHead(
            version: .http1_1,
            status: answer.status,
            headers: [
                "content-type": answer.contentType, "content-length": String(body.readableBytes), "connection": "close",
            ]
        )
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if !isHead { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
