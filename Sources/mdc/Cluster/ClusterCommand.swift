// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

/// `mdc cluster …`
struct ClusterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster",
        abstract: "Shows the cluster, moves partitions, and has nodes join and go.",
        subcommands: [
            Brokers.self, Status.self, Rebalance.self, Reassign.self, Drain.self, Elect.self, Unregister.self,
            AddVoter.self,
            RemoveVoter.self, Features.self,
        ],
        defaultSubcommand: Brokers.self
    )
}

extension ClusterCommand {
    /// `mdc cluster brokers`
    struct Brokers: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows the cluster's brokers and its controller.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Broker: Encodable {
            let id: Int32
            let host: String
            let port: Int
            @Nullable var rack: String?
            let isController: Bool
        }

        private struct Cluster: Encodable {
            @Nullable var clusterID: String?
            @Nullable var controller: Int32?
            let brokers: [Broker]
        }

        func run() async throws {
            let cluster = try await connection.withAdmin { admin in
                let found = try await admin.describeCluster()
                return Cluster(
                    clusterID: found.clusterID,
                    controller: found.controllerID?.rawValue,
                    brokers: found.brokers.map {
                        Broker(
                            id: $0.id.rawValue,
                            host: $0.host,
                            port: $0.port,
                            rack: $0.rack,
                            isController: $0.id == found.controllerID
                        )
                    }
                )
            }
            try output.print(cluster) {
                var table = Table([.number("BROKER"), .text("ADDRESS"), .text("RACK"), .text("CONTROLLER")])
                for broker in cluster.brokers {
                    let host = broker.host.contains(":") ? "[\(broker.host)]" : broker.host
                    table.add([
                        "\(broker.id)", "\(host):\(broker.port)", broker.rack ?? "", broker.isController ? "yes" : "",
                    ])
                }
                return "cluster \(cluster.clusterID ?? "without an id")\n" + table.rendered()
            }
        }
    }
}
