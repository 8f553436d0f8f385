// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

extension ClusterCommand {
    /// `mdc cluster status`
    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows nodes, partitions and the metadata quorum, and what is wrong with them."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Node: Encodable {
            let id: Int32
            let address: String
            @Nullable var rack: String?
            let isFenced: Bool
            /// Partitions.
            var leads = 0
            var holds = 0
            /// Of those that it holds, those that it is not in sync with.
            var outOfSync = 0
        }

        private struct Replica: Encodable {
            let node: Int32
            let directory: String
            let isVoter: Bool
            let isLeader: Bool
            /// Changes that it lacks of those that are committed.
            @Nullable var lag: Int64?
            @Nullable var secondsSinceCaughtUp: Int64?
        }

        private struct Quorum: Encodable {
            let leader: Int32
            let epoch: Int32
            let highWatermark: Int64
            let replicas: [Replica]
        }

        private struct Partitions: Encodable {
            var count = 0
            /// Without a leader.
            var offline = 0
            /// With a replica out of sync.
            var underReplicated = 0
            /// Led by another than the preferred leader.
            var notPreferred = 0
            var moving = 0
        }

        private struct Cluster: Encodable {
            @Nullable var clusterID: String?
            var nodes: [Node]
            @Nullable var quorum: Quorum?
            var partitions = Partitions()
        }

        func run() async throws {
            let cluster = try await connection.withAdmin { try await Self.gather($0) }
            try output.print(cluster) { Self.text(cluster) }
        }

        private static func gather(_ admin: Admin) async throws -> Cluster {
            let description = try await admin.describeCluster()
            let nodes = try await admin.describeNodes().map {
                Node(
                    id: $0.id.rawValue,
                    address: ClusterCommand.address($0.host, $0.port),
                    rack: $0.rack,
                    isFenced: $0.isFenced
                )
            }
            var cluster = Cluster(clusterID: description.clusterID, nodes: nodes, quorum: try await quorum(admin))
            cluster.partitions.moving = try await admin.listReassignments().count
            var figures: [Int32: (leads: Int, holds: Int, outOfSync: Int)] = [:]
            for partition in try await admin.describeTopics().flatMap(\.partitions) {
                cluster.partitions.count += 1
                if partition.leader == nil { cluster.partitions.offline += 1 }
                if partition.inSyncReplicas.count < partition.replicas.count { cluster.partitions.underReplicated += 1 }
                if let leader = partition.leader {
                    if leader != partition.replicas.first { cluster.partitions.notPreferred += 1 }
                    figures[leader.rawValue, default: (0, 0, 0)].leads += 1
                }
                for replica in partition.replicas {
                    figures[replica.rawValue, default: (0, 0, 0)].holds += 1
                    if !partition.inSyncReplicas.contains(replica) {
                        figures[replica.rawValue, default: (0, 0, 0)].outOfSync += 1
                    }
                }
            }
            for index in cluster.nodes.indices {
                guard let found = figures[cluster.nodes[index].id] else { continue }
                cluster.nodes[index].leads = found.leads
                cluster.nodes[index].holds = found.holds
                cluster.nodes[index].outOfSync = found.outOfSync
            }
            return cluster
        }

        /// Nil where the broker does not tell.
        private static func quorum(_ admin: Admin) async throws -> Quorum? {
            let found: QuorumDescription
            do {
                found = try await admin.describeQuorum()
            } catch let error as ClientError where error.code == .unsupportedVersion {
                return nil
            }
            let now = found.replicas.compactMap(\.lastHeard?.rawValue).max() ?? 0
            return Quorum(
                leader: found.leader.rawValue,
                epoch: found.epoch,
                highWatermark: found.highWatermark,
                replicas: found.replicas.map { replica in
                    Replica(
                        node: replica.node.rawValue,
                        directory: "\(replica.directory)",
                        isVoter: replica.isVoter,
                        isLeader: replica.isVoter && replica.node == found.leader,
                        lag: replica.logEnd < 0 ? nil : max(0, found.highWatermark - replica.logEnd),
                        secondsSinceCaughtUp: replica.lastCaughtUp.map { max(0, now - $0.rawValue) / 1000 }
                    )
                }
            )
        }

        private static func text(_ cluster: Cluster) -> String {
            var text = "cluster \(cluster.clusterID ?? "without an id")\n\n"
            var nodes = Table([
                .number("NODE"), .text("ADDRESS"), .text("RACK"), .text("STATE"), .number("LEADS"), .number("HOLDS"),
                .number("OUT OF SYNC"),
            ])
            for node in cluster.nodes {
                nodes.add([
                    "\(node.id)", node.address, node.rack ?? "", node.isFenced ? "fenced" : "active", "\(node.leads)",
                    "\(node.holds)", "\(node.outOfSync)",
                ])
            }
            text += nodes.rendered()
            if let quorum = cluster.quorum {
                text += "\nquorum: leader \(quorum.leader), epoch \(quorum.epoch), committed \(quorum.highWatermark)\n"
                var table = Table([
                    .number("NODE"), .text("ROLE"), .number("LAG"), .number("CAUGHT UP"), .text("DIRECTORY"),
                ])
                for replica in quorum.replicas {
                    table.add([
                        "\(replica.node)", replica.isLeader ? "leader" : replica.isVoter ? "voter" : "observer",
                        replica.lag.map { "\($0)" } ?? "-",
                        replica.secondsSinceCaughtUp.map { "\($0) s ago" } ?? "never", replica.directory,
                    ])
                }
                text += table.rendered()
            }
            let partitions = cluster.partitions
            text += "\npartitions: \(partitions.count), without a leader \(partitions.offline), "
            text +=
                "under-replicated \(partitions.underReplicated), not led by the preferred \(partitions.notPreferred), "
            return text + "moving \(partitions.moving)\n"
        }
    }

    static func address(_ host: String, _ port: Int) -> String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
