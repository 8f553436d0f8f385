// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import NIOCore
import NIOHTTP1
import NIOPosix

/// `/metrics` of a command that runs until it is stopped.
final class MetricsPage: Sendable {
    private let host: String
    private let port: Int
    private let group: any EventLoopGroup
    private let page: @Sendable () -> String

    init(_ address: String, group: any EventLoopGroup, page: @escaping @Sendable () -> String) throws {
        guard let colon = address.lastIndex(of: ":"), let port = Int(address[address.index(after: colon)...]) else {
            throw ValidationError("--http '\(address)' is not HOST:PORT, such as 127.0.0.1:9465")
        }
        host = String(address[..<colon])
        self.port = port
        self.group = group
        self.page = page
    }

    func start() async throws -> any Channel {
        let page = page
        do {
            return try await ServerBootstrap(group: group)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.configureHTTPServerPipeline(withErrorHandling: true)
                        try channel.pipeline.syncOperations.addHandler(Handler(page: page))
                    }
                }.bind(host: host, port: port).get()
        } catch {
            throw CommandError("--http \(host):\(port) cannot be listened on: \(error)")
        }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        private let page: @Sendable () -> String
        private var isFound = false

        init(page: @escaping @Sendable () -> String) { self.page = page }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): isFound = head.uri == "/metrics" && head.method == .GET
            case .body: break
            case .end:
                let text = ByteBuffer(string: isFound ? page() : "only GET /metrics is here\n")
                var headers = HTTPHeaders([
                    ("content-type", "text/plain; version=0.0.4"), ("content-length", "\(text.readableBytes)"),
                ])
                headers.add(name: "connection", value: "close")
                let head = HTTPResponseHead(version: .http1_1, status: isFound ? .ok : .notFound, headers: headers)
                context.write(wrapOutboundOut(.head(head)), promise: nil)
                context.write(wrapOutboundOut(.body(.byteBuffer(text))), promise: nil)
                let channel = context.channel
                context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
            }
        }
    }
}
