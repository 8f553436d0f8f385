// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import NIOCore
import NIOPosix

/// A connection to another broker, for requests of this node. Confined to its event loop, hence unchecked.
final class PeerConnection: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer

    /// Answers larger than this close the connection.
    private static let maximumFrame = 512 << 20

    private var decoder = FrameDecoder(maximumFrameSize: PeerConnection.maximumFrame)
    private var channel: (any Channel)?
    private let onFrame: (ByteBuffer) -> Void
    private let onClose: () -> Void
    private(set) var isClosed = false

    private init(onFrame: @escaping (ByteBuffer) -> Void, onClose: @escaping () -> Void) {
        self.onFrame = onFrame
        self.onClose = onClose
    }

    /// Connects; on the loop. `onClose` comes once, also where no connection is made.
    static func connect(
        to address: (host: String, port: Int),
        on eventLoop: any EventLoop,
        whenReady: @escaping () -> Void,
        onFrame: @escaping (ByteBuffer) -> Void,
        onClose: @escaping () -> Void
    ) -> PeerConnection {
        let connection = PeerConnection(onFrame: onFrame, onClose: onClose)
        ClientBootstrap(group: eventLoop)
            .connectTimeout(.seconds(2))
            .channelOption(.socketOption(.tcp_nodelay), value: 1)
            .channelOption(
                .recvAllocator,
                value: AdaptiveRecvByteBufferAllocator(minimum: 2048, initial: 65536, maximum: 1 << 20)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(connection) }
            }
            .connect(host: address.host, port: address.port)
            .assumeIsolated()
            .whenComplete { result in
                switch result {
                case .success(let channel):
                    if connection.isClosed { return channel.close(promise: nil) }
                    connection.channel = channel
                    whenReady()
                case .failure: connection.closed()
                }
            }
        return connection
    }

    /// Sends a frame; on the loop.
    func send(_ frame: ByteBuffer) { channel?.writeAndFlush(frame, promise: nil) }

    /// Closes it; on the loop. `onClose` comes before this returns.
    func close() {
        channel?.close(promise: nil)
        closed()
    }

    private func closed() {
        guard !isClosed else { return }
        isClosed = true
        onClose()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosed else { return }
        decoder.append(unwrapInboundIn(data))
        do throws(ProtocolError) {
            while !isClosed, let frame = try decoder.next() { onFrame(frame) }
        } catch {
            close()
        }
    }

    func channelInactive(context: ChannelHandlerContext) { closed() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { close() }
}
