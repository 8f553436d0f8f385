// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
import Synchronization
import Testing

@testable import MDCBroker

/// A controller that decides what a test tells it to: it hands partition states to the nodes that are up and commits
/// proposals by compare-and-set.
final class StaticController: PartitionChangeProposing, Sendable {
    private struct Node {
        var replicas: ReplicaManager?
        var address: HostPort?
        var epoch: Int64 = 0
    }

    private struct State {
        var nodes: [Int32: Node] = [:]
        var topics: [TopicID: TopicImage] = [:]
    }

    private let state = Mutex(State())
    /// One at a time, as a node's metadata thread would.
    private let order = Mutex(())

    func topic(_ id: TopicID) -> TopicImage? { state.withLock { $0.topics[id] } }
    func partition(_ id: TopicID, _ index: Int = 0) -> PartitionImage? { topic(id)?.partitions[index] }

    /// What all nodes know of the topics.
    private var image: MetadataImage {
        var image = MetadataImage()
        for topic in state.withLock({ Array($0.topics.values) }) {
            image.apply(
                .topicCreated(
                    name: topic.name,
                    id: topic.id,
                    replicas: topic.partitions.map(\.replicas),
                    configs: topic.configs
                )
            )
        }
        return image
    }

    func membership(of node: Int32) -> ClusterMembership {
        ClusterMembership(proposing: self, directory: Directory(controller: self, node: node)) { replicas, address in
            self.state.withLock {
                $0.nodes[node, default: Node()].replicas = replicas
                $0.nodes[node, default: Node()].address = address
                $0.nodes[node, default: Node()].epoch += 1
            }
            self.publish()
        }
    }

    func isUp(_ node: Int32) -> Bool { state.withLock { $0.nodes[node]?.replicas != nil } }

    /// The node is gone.
    func lost(_ node: Int32) { state.withLock { $0.nodes[node]?.replicas = nil } }

    private struct Directory: BrokerDirectory {
        let controller: StaticController
        let node: Int32

        func endpoint(of node: Int32) -> (host: String, port: Int)? {
            controller.state.withLock { $0.nodes[node]?.address }.map { ($0.host, $0.port) }
        }
        var ownBrokerEpoch: Int64 { controller.state.withLock { $0.nodes[node]?.epoch ?? -1 } }
        func isInService(_ node: Int32, brokerEpoch: Int64) -> Bool {
            controller.state.withLock {
                $0.nodes[node]?.replicas != nil && (brokerEpoch < 0 || $0.nodes[node]?.epoch == brokerEpoch)
            }
        }
    }

    func create(_ name: String, replicas: [[Int32]], configs: [String: String] = [:]) -> TopicID {
        var random = SystemRandomNumberGenerator()
        let id = TopicID.random(using: &random)
        state.withLock {
            $0.topics[id] = TopicImage(
                name: name,
                id: id,
                partitions: replicas.map { PartitionImage(replicas: $0, isr: $0, leader: $0[0]) },
                configs: configs
            )
        }
        publish()
        return id
    }

    /// Changes a partition; a new leader begins a new epoch.
    func change(_ id: TopicID, _ index: Int = 0, _ body: (inout PartitionImage) -> Void) {
        state.withLock { state in
            guard var partition = state.topics[id]?.partitions[index] else { return }
            let leader = partition.leader
            body(&partition)
            if partition.leader != leader { partition.leaderEpoch += 1 }
            partition.partitionEpoch += 1
            state.topics[id]?.partitions[index] = partition
        }
        publish()
    }

    /// The same node leads anew, as after its restart.
    func leadAnew(_ id: TopicID, _ index: Int = 0) { change(id, index) { $0.leaderEpoch += 1 } }

    func remove(_ id: TopicID) {
        let nodes = state.withLock { state in
            state.topics[id] = nil
            return state.nodes.values.compactMap(\.replicas)
        }
        let image = image
        order.withLock { _ in
            for node in nodes {
                node.registry.note(image)
                node.remove(topicID: id)
            }
        }
    }

    func publish() {
        order.withLock { _ in
            let (nodes, topics) = state.withLock { ($0.nodes.values.compactMap(\.replicas), $0.topics.values) }
            let image = image
            for node in nodes {
                node.registry.note(image)
                for topic in topics {
                    for (index, partition) in topic.partitions.enumerated() {
                        do {
                            try node.apply(topic: topic, partition: Int32(index), state: partition)
                        } catch {
                            Issue.record("a state cannot be applied: \(error)")
                        }
                    }
                }
            }
        }
    }

    func alterPartition(
        topicID: TopicID,
        partition: Int32,
        leaderEpoch: Int32,
        partitionEpoch: Int32,
        newISR: [(node: Int32, brokerEpoch: Int64)],
        _ done: @escaping @Sendable (Result<PartitionImage, Refusal>) -> Void
    ) {
        let result = state.withLock { state -> Result<PartitionImage, Refusal> in
            guard var image = state.topics[topicID]?.partitions[Int(partition)] else {
                return .failure(Refusal(code: .unknownTopicId, message: "no such topic"))
            }
            guard image.leaderEpoch == leaderEpoch else {
                return .failure(Refusal(code: .fencedLeaderEpoch, message: "another leader epoch"))
            }
            guard image.partitionEpoch == partitionEpoch else {
                return .failure(Refusal(code: .invalidUpdateVersion, message: "another partition epoch"))
            }
            for (node, epoch) in newISR where epoch != -1 || !image.isr.contains(node) {
                guard state.nodes[node]?.epoch == epoch else {
                    return .failure(Refusal(code: .ineligibleReplica, message: "node \(node) was started since"))
                }
            }
            image.isr = newISR.map(\.node)
            if !image.isr.contains(image.leader), let next = image.isr.first {
                image.leader = next
                image.leaderEpoch += 1
            }
            image.partitionEpoch += 1
            state.topics[topicID]?.partitions[Int(partition)] = image
            return .success(image)
        }
        // From another thread, as an answer over the network.
        Task {
            done(result)
            self.publish()
        }
    }
}

/// Nodes in this process, with real sockets and disks.
final class StaticCluster {
    let controller = StaticController()
    private(set) var nodes: [Int32: BrokerFixture] = [:]

    static func with(_ count: Int32 = 3, _ body: (StaticCluster) async throws -> Void) async throws {
        let cluster = StaticCluster()
        for id in 1...count { try await cluster.start(id) }
        do {
            try await body(cluster)
        } catch {
            await cluster.stopAll()
            throw error
        }
        await cluster.stopAll()
    }

    func start(_ id: Int32, fileSystem: any FileSystem = POSIXFileSystem()) async throws {
        let fixture =
            nodes[id]
            ?? BrokerFixture(fileSystem: fileSystem, cluster: controller.membership(of: id)) { configuration in
                configuration.nodeID = id
                configuration.networkThreads = 1
                configuration.replicaLagMilliseconds = 1000
            }
        nodes[id] = fixture
        try await fixture.start()
    }

    func stop(_ id: Int32) async throws {
        controller.lost(id)
        try await nodes[id]?.stop()
    }

    func stopAll() async { for node in nodes.values { try? await node.stop() } }

    func connect(_ id: Int32) throws -> RawKafkaConnection { try #require(nodes[id]).connect() }

    /// Waits for something that must come, on a machine however slow.
    static func eventually(_ what: String, _ isSo: () throws -> Bool) async throws {
        for _ in 0..<3000 {
            if try isSo() { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        Issue.record("did not come: \(what)")
        throw TimedOut()
    }

    struct TimedOut: Error {}
}
