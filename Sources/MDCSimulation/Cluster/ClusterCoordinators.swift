// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Logging
    import MDCModel
    import NIOCore

    @testable import MDCBroker

    /// The coordinators of a node, put together as `BrokerServices` does.
    struct ClusterCoordinators {
        let groups: GroupCoordinatorService
        let transactions: TransactionCoordinatorService

        init(
            configuration: BrokerConfiguration,
            store: MetadataStore,
            registry: PartitionRegistry,
            controller: Controller,
            membership: BrokerLifecycle,
            loop: SimulatedLoop,
            blocking: SimulatedQueue,
            environment: NodeEnvironment,
            network: ClusterNetwork,
            node: ClusterNode,
            logger: Logger
        ) {
            let access = BrokerInternalTopics(
                configuration: configuration,
                metadata: store,
                partitions: registry,
                controller: controller,
                timers: loop,
                blocking: blocking,
                address: configuration.listen,
                environment: environment
            )
            groups = GroupCoordinatorService(access: access, settings: configuration.groupSettings, logger: logger)
            let own = BrokerTransactionNode(
                node: configuration.nodeID,
                partitions: registry,
                metadata: store,
                controller: controller,
                groups: groups,
                peers: PeerRequests(node: configuration.nodeID, directory: membership, group: loop),
                environment: environment
            )
            transactions = TransactionCoordinatorService(
                access: access,
                node: SimulatedTransactionNode(own, controller, network, node),
                settings: configuration.transactionSettings,
                logger: logger
            )
        }

        /// A leadership begins or ends here.
        func changed(_ topic: String, _ partition: Int32, _ count: Int, leads: Bool) {
            switch topic {
            case InternalTopic.consumerOffsets.name:
                if leads { groups.elected(partition, of: count) } else { groups.resigned(partition) }
            case InternalTopic.transactionState.name:
                if leads { transactions.elected(partition, of: count) } else { transactions.resigned(partition) }
            default: break
            }
        }
    }

    /// What transaction coordinators need of their node: its own partitions as in the broker, other nodes over the simulated
    /// network.
    final class SimulatedTransactionNode: TransactionNode, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private let own: BrokerTransactionNode
        private unowned let controller: Controller
        private let network: ClusterNetwork
        private unowned let node: ClusterNode
        private var connections: [Int32: UInt64] = [:]

        init(
            _ own: BrokerTransactionNode,
            _ controller: Controller,
            _ network: ClusterNetwork,
            _ node: ClusterNode
        ) {
            self.own = own
            self.controller = controller
            self.network = network
            self.node = node
        }

        func newProducerID(_ done: @escaping @Sendable (Result<Int64, CoordinatorStorageError>) -> Void) {
            controller.quorum.submit(.reserveProducerIDs(count: 1)) { answer in
                switch answer {
                case .done(_, let id): done(.success(id))
                case .refused(let refusal):
                    done(.failure(CoordinatorStorageError(code: refusal.code, description: refusal.message)))
                }
            }
        }

        func prepareGroups(_ done: @escaping @Sendable (ErrorCode) -> Void) { own.prepareGroups(done) }
        func coordinatorEpoch(partition: Int32) -> Int32? { own.coordinatorEpoch(partition: partition) }
        func place(_ partition: TopicPartition) -> LeaderPlace { own.place(partition) }

        func write(
            _ marker: TransactionEndMarker,
            to partition: TopicPartition,
            _ done: @escaping @Sendable (ErrorCode) -> Void
        ) {
            own.write(marker, to: partition, done)
        }

        func send(
            _ marker: TransactionEndMarker,
            _ partitions: [TopicPartition],
            to remote: Int32,
            _ done: @escaping @Sendable ([TopicPartition: ErrorCode]) -> Void
        ) {
            ask(remote, within: 5_000_000) { other, answer in
                guard let services = other.services else { return }
                let results = ResultsInOrder<ErrorCode>(partitions.count) { codes in
                    answer(Dictionary(zip(partitions, codes), uniquingKeysWith: { $1 }))
                }
                for (index, partition) in partitions.enumerated() {
                    services.coordinators.transactions.node.write(marker, to: partition) { results.put($0, at: index) }
                }
            } done: { (codes: [TopicPartition: ErrorCode]?) in
                done(codes ?? Dictionary(uniqueKeysWithValues: partitions.map { ($0, .requestTimedOut) }))
            }
        }

        func ask(
            _ remote: Int32,
            toAdmit partitions: [TopicPartition],
            to id: String,
            _ producer: ProducerIdentity,
            adds: Bool,
            _ done: @escaping @Sendable (ErrorCode) -> Void
        ) {
            ask(remote, within: 3_000_000) { other, answer in
                guard let transactions = other.services?.coordinators.transactions else { return }
                if adds {
                    return transactions.add(partitions, to: id, producer, version: TransactionVersion.second, answer)
                }
                transactions.verify(partitions, in: id, producer) { result in
                    switch result {
                    case .success(let missing): answer(missing.isEmpty ? .none : .transactionAbortable)
                    case .failure(let refusal): answer(refusal.code)
                    }
                }
            } done: { (code: ErrorCode?) in
                done(code ?? .coordinatorNotAvailable)
            }
        }

        /// One request to another node; nil where no answer comes in time. Requests to one node keep their order.
        private func ask<Answer: Sendable>(
            _ remote: Int32,
            within microseconds: Int64,
            _ request: @escaping (ClusterNode, @escaping @Sendable (Answer) -> Void) -> Void,
            done: @escaping @Sendable (Answer?) -> Void
        ) {
            let connection = connections[remote] ?? network.connectionID()
            connections[remote] = connection
            let back = network.connectionID()
            let (own, run) = (node.id, node.run)
            let once = Unsafe(OnceOnly(done))
            network.transmit(connection, from: own, to: remote, run: network.node(remote)?.run) { [network] other in
                request(other) { answer in
                    network.transmit(back, from: remote, to: own, run: run) { _ in
                        once.value.call(answer)
                    } failed: {
                    }
                }
            } failed: {
            }
            node.services?.loop.after(microseconds) { once.value.call(nil) }
        }
    }

    /// Calls back once.
    final class OnceOnly<Value> {
        private var done: ((Value?) -> Void)?
        init(_ done: @escaping (Value?) -> Void) { self.done = done }
        func call(_ value: Value?) {
            let done = done
            self.done = nil
            done?(value)
        }
    }
#endif
