// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import MDCRaft
import NIOCore
import NIOPosix

/// What the parts of a node need of the machine beside disk and event loop: time, chance, connections to peers, an end. The
/// simulation of a cluster has its own (docs/cluster-simulation.md).
struct NodeEnvironment: Sendable {
    /// Milliseconds of a clock that never goes back.
    var monotonic: @Sendable () -> Int64 = { Int64(mdc_monotonic_ns() / 1_000_000) }
    /// The time of day.
    var wall: @Sendable () -> Timestamp = { Timestamp(mdc_wall_clock_ms()) }
    /// Random bits.
    var random: @Sendable () -> UInt64 = {
        var system = SystemRandomNumberGenerator()
        return system.next()
    }
    /// Ends the process: it must not go on.
    var stop: @Sendable (String) -> Void = { fatalError($0) }
    /// Connects to another broker, on the loop, as ``PeerConnection/connect(to:on:whenReady:onFrame:onClose:)``.
    var connect: PeerConnector = { PeerConnection.connect(to: $0, on: $1, whenReady: $2, onFrame: $3, onClose: $4) }

    /// The machine that the process runs on.
    static let system = NodeEnvironment()

    /// A number from 0 to 1.
    func fraction() -> Double { Double(random() >> 11) / Double(1 << 53) }
    /// For what wants a generator.
    var generator: Generator { Generator(environment: self) }

    struct Generator: RandomNumberGenerator {
        fileprivate let environment: NodeEnvironment
        mutating func next() -> UInt64 { environment.random() }
    }
}

/// Makes connections to other brokers.
typealias PeerConnector =
    @Sendable (
        _ address: (host: String, port: Int), _ eventLoop: any EventLoop, _ whenReady: @escaping () -> Void,
        _ onFrame: @escaping (ByteBuffer) -> Void, _ onClose: @escaping () -> Void
    ) -> any FollowerLink

/// A connection to another broker; confined to its event loop.
protocol FollowerLink: AnyObject {
    var isClosed: Bool { get }
    /// Sends a frame.
    func send(_ frame: ByteBuffer)
    /// Closes it; the end is told before this returns.
    func close()
}

/// Runs work that may wait for the disk, away from the caller; in its order where it has one thread.
protocol WorkQueue: Sendable {
    func submit(_ body: @escaping @Sendable (NIOThreadPool.WorkItemState) -> Void)
}

extension NIOThreadPool: WorkQueue {}

/// What the quorum's driver needs of the network; all on its event loop. See ``QuorumTransport``.
protocol QuorumTransporting: AnyObject, Sendable {
    /// Who is connected to this node and has said who he is.
    var present: [QuorumHello] { get }
    func start(_ address: HostPort?, delegate: any QuorumTransportDelegate & Sendable) async throws(BrokerError)
    func close()
    func learn(_ node: Int32, _ endpoint: ControllerEndpoint)
    func forget(_ node: Int32)
    func isConnected(_ node: Int32) -> Bool
    func send(_ message: RaftMessage)
    func ask(_ node: Int32, _ change: ControllerChange, _ done: @escaping @Sendable (QuorumAnswer) -> Void)
    func describe(_ node: Int32, _ done: @escaping @Sendable (QuorumDescription?) -> Void)
}

extension QuorumTransport: QuorumTransporting {}
extension PeerConnection: FollowerLink {}
