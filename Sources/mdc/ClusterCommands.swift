// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel
import MDCProtocol

/// `mdc api-versions`
struct APIVersionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "api-versions",
        abstract: "Lists the requests that the broker serves, with their versions."
    )

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
        let key: Int16
        let name: String
        let minimum: Int16
        let maximum: Int16
    }

    func run() async throws {
        let rows = try await connection.withAdmin { admin in
            try await admin.apiVersions().map {
                Row(
                    key: $0.apiKey,
                    name: APIKey(rawValue: $0.apiKey).description,
                    minimum: $0.versions.lowerBound,
                    maximum: $0.versions.upperBound
                )
            }
        }
        try output.print(rows) {
            var table = Table([.number("KEY"), .text("REQUEST"), .number("FROM"), .number("TO")])
            for row in rows { table.add(["\(row.key)", row.name, "\(row.minimum)", "\(row.maximum)"]) }
            return table.rendered()
        }
    }
}

/// `mdc cluster`
struct ClusterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster",
        abstract: "Shows the cluster's brokers and its controller."
    )

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
