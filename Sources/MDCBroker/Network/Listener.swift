// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// Accepts the clients' connections.
final class Listener: Sendable {
    private let channel: any Channel
    /// Where it listens; the port is the real one where 0 was asked for.
    let address: HostPort

    private init(channel: any Channel, address: HostPort) {
        self.channel = channel
        self.address = address
    }

    /// Listens on `address`; who connects waits until ``accept()``.
    /// - Throws: `.network` where the address cannot be had.
    static func bind(
        _ address: HostPort,
        group: MultiThreadedEventLoopGroup,
        workers: [LoopWorker],
        server: ServerContext
    ) async throws(BrokerError) -> Listener {
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.autoRead, value: false)
            .childChannelOption(.socketOption(.tcp_nodelay), value: 1)
            // One buffer a turn, which `FrameReceiver` gives: NIO would keep the others.
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                guard let worker = workers.first(where: { $0.eventLoop === channel.eventLoop }) else {
                    preconditionFailure("every event loop has a worker")
                }
                let host = channel.remoteAddress?.ipAddress ?? "unknown"
                guard let connection = server.open(host: host, worker: worker) else {
                    server.logger.debug("refusing a connection: too many", metadata: ["client": "\(host)"])
                    return channel.close()
                }
                let delay = server.quotas.connectionDelay(ip: host, now: mdc_monotonic_ns())
                if delay == QuotaManager.longestDelay {
                    server.connectionClosed(connection)
                    return channel.close()
                }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        ConnectionHandler(server: server, connection: connection, mutedFor: delay)
                    )
                }
            }
        do {
            let channel = try await bootstrap.bind(host: address.host, port: address.port).get()
            return Listener(
                channel: channel,
                address: HostPort(host: address.host, port: channel.localAddress?.port ?? address.port)
            )
        } catch {
            throw BrokerError(
                .network,
                "cannot listen on \(address); is another process using the port?",
                cause: error
            )
        }
    }

    /// Accepts who has connected, and who will.
    func accept() async throws { try await channel.setOption(.autoRead, value: true).get() }

    /// Accepts nobody any more.
    func close() async { try? await channel.close() }
}
