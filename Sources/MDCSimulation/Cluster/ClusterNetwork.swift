// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCModel
    import MDCRaft
    import NIOCore

    @testable import MDCBroker

    /// What lies between the nodes: delays, loses, repeats and reorders, and is cut in one direction or both.
    final class ClusterNetwork: @unchecked Sendable {
        // Sendable: a simulation has one thread.
        let scheduler: ClusterScheduler
        var random: SimulationRandom
        /// Directions in which nothing comes through: from, to.
        var cuts: Set<[Int32]> = []
        /// Messages in a thousand that are lost, and that come twice.
        var lost = 0
        var doubled = 0
        /// The longest ordinary delay, in microseconds; one message in fifty takes up to thirty times as long.
        var delay = 1_500
        private var running: [Int32: ClusterNode] = [:]
        /// When the last bytes of a connection arrive.
        private var arrivals: [UInt64: Int64] = [:]
        private var connections: UInt64 = 0

        init(_ scheduler: ClusterScheduler, seed: UInt64) {
            self.scheduler = scheduler
            random = SimulationRandom(seed: seed)
        }

        func started(_ node: ClusterNode) { running[node.id] = node }
        func ended(_ id: Int32) { running[id] = nil }
        func node(_ id: Int32) -> ClusterNode? { running[id] }
        var nodes: [ClusterNode] { running.values.sorted { $0.id < $1.id } }
        func isCut(_ from: Int32, _ to: Int32) -> Bool { cuts.contains([from, to]) }

        private func nextDelay() -> Int64 {
            let usual = Int64(100 + random.below(delay))
            return random.once(in: 50) ? usual * Int64(1 + random.below(30)) : usual
        }

        /// A message on its own: it may be lost, late, or come twice.
        func send(from: Int32, to: Int32, _ body: @escaping (ClusterNode) -> Void) {
            guard !isCut(from, to), random.below(1000) >= lost else { return }
            for _ in 0..<(random.below(1000) < doubled ? 2 : 1) {
                scheduler.after(nextDelay()) { [self] in
                    guard !isCut(from, to), let node = running[to] else { return }
                    node.perform { body(node) }
                }
            }
        }

        func connectionID() -> UInt64 {
            connections += 1
            return connections
        }

        /// Bytes on a connection: in order, never twice. `failed` where they do not come through.
        func transmit(
            _ connection: UInt64,
            from: Int32,
            to: Int32,
            run: UInt64?,
            _ body: @escaping (ClusterNode) -> Void,
            failed: @escaping () -> Void
        ) {
            let isLost = isCut(from, to) || random.below(2000) < lost
            let time = max(scheduler.now + nextDelay(), arrivals[connection] ?? 0)
            arrivals[connection] = time
            scheduler.at(time) { [self] in
                guard !isLost, !isCut(from, to), let node = running[to], run == nil || node.run == run else {
                    return failed()
                }
                node.perform { body(node) }
            }
        }
    }

    /// Connections between the controllers.
    final class SimulatedTransport: QuorumTransporting, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private let network: ClusterNetwork
        private unowned let node: ClusterNode
        private var answers: [UInt64: (to: Int32, done: @Sendable (QuorumAnswer) -> Void)] = [:]
        private var number: UInt64 = 0

        init(_ network: ClusterNetwork, _ node: ClusterNode) {
            self.network = network
            self.node = node
        }

        var present: [QuorumHello] {
            network.nodes.filter { $0.id != node.id && !network.isCut($0.id, node.id) }
                .compactMap { $0.services?.quorum.hello }
        }

        func start(_: HostPort?, delegate _: any QuorumTransportDelegate & Sendable) async throws(BrokerError) {}
        func close() {}
        func learn(_: Int32, _: ControllerEndpoint) {}
        func forget(_: Int32) {}
        func isConnected(_ id: Int32) -> Bool {
            network.node(id) != nil && !network.isCut(node.id, id) && !network.isCut(id, node.id)
        }
        func describe(_: Int32, _ done: @escaping @Sendable (QuorumDescription?) -> Void) { done(nil) }

        func send(_ message: RaftMessage) {
            guard let bytes = encoded(.raft(message)) else { return }
            network.send(from: node.id, to: message.to.node.rawValue) { other in
                guard case .raft(let message)? = try? QuorumFrame(bytes) else { return }
                other.services?.quorum.received(message)
            }
        }

        private func encoded(_ frame: QuorumFrame) -> ByteBuffer? {
            guard var bytes = try? frame.encoded() else { return nil }
            bytes.moveReaderIndex(forwardBy: 4)
            return bytes
        }

        func ask(_ id: Int32, _ change: ControllerChange, _ done: @escaping @Sendable (QuorumAnswer) -> Void) {
            guard isConnected(id), let bytes = encoded(.request(id: 0, change)), let target = network.node(id)?.run
            else {
                return done(.refused(Refusal(code: .notController, message: "cannot be reached")))
            }
            number += 1
            let number = number
            answers[number] = (id, done)
            let (own, run) = (node.id, node.run)
            let connection = network.connectionID()
            network.transmit(connection, from: own, to: id, run: target) { [network] other in
                guard case .request(_, let change)? = try? QuorumFrame(bytes) else { return }
                other.services?.quorum.received(change) { answer in
                    network.transmit(connection, from: id, to: own, run: run) { node in
                        node.transport?.answered(number, answer)
                    } failed: {
                    }
                }
            } failed: {
            }
            node.services?.loop.after(5_000_000) { [weak self] in
                self?.answered(number, .refused(Refusal(code: .requestTimedOut, message: "no answer in time")))
            }
        }

        private func answered(_ number: UInt64, _ answer: QuorumAnswer) {
            answers.removeValue(forKey: number)?.done(answer)
        }

        /// The connection to a node is known to be gone.
        func lost(_ id: Int32) {
            for (number, answer) in answers.sorted(by: { $0.key < $1.key }) where answer.to == id {
                answered(number, .refused(Refusal(code: .notController, message: "the connection broke")))
            }
        }
    }

    /// A follower's connection to its leader.
    final class SimulatedLink: FollowerLink {
        private let network: ClusterNetwork
        private let node: ClusterNode
        private let remote: Int32
        private let onFrame: (ByteBuffer) -> Void
        private let onClose: () -> Void
        private let connection: UInt64
        private let run: UInt64
        private(set) var remoteRun: UInt64?
        private(set) var isClosed = false

        init(
            _ network: ClusterNetwork,
            _ node: ClusterNode,
            to remote: Int32,
            whenReady: @escaping () -> Void,
            onFrame: @escaping (ByteBuffer) -> Void,
            onClose: @escaping () -> Void
        ) {
            self.network = network
            self.node = node
            self.remote = remote
            self.onFrame = onFrame
            self.onClose = onClose
            run = node.run
            connection = network.connectionID()
            let isReachable = !network.isCut(node.id, remote) && !network.isCut(remote, node.id)
            node.services?.loop.after(isReachable ? Int64(200 + network.random.below(2000)) : 2_000_000) { [self] in
                guard !isClosed else { return }
                guard isReachable, let target = network.node(remote) else { return close() }
                remoteRun = target.run
                whenReady()
            }
        }

        func send(_ frame: ByteBuffer) {
            var bytes = frame
            bytes.moveReaderIndex(forwardBy: 4)
            let body = bytes
            // What was sent before this end closed the connection is read by the other nevertheless.
            network.transmit(connection, from: node.id, to: remote, run: remoteRun) { [self] other in
                other.server?.received(body, from: self)
            } failed: { [self] in
                // A process that is gone resets the connection, where that gets through.
                guard network.node(remote)?.run != remoteRun, !network.isCut(remote, node.id) else { return }
                node.services?.loop.after(500) { [self] in close() }
            }
        }

        /// The other end answers.
        func reply(_ frame: ByteBuffer) {
            network.transmit(connection, from: remote, to: node.id, run: run) { [self] _ in
                guard !isClosed else { return }
                var bytes = frame
                bytes.moveReaderIndex(forwardBy: 4)
                onFrame(bytes)
            } failed: {
            }
        }

        func close() {
            guard !isClosed else { return }
            isClosed = true
            guard node.run == run, node.services != nil else { return }
            onClose()
        }
    }
#endif
