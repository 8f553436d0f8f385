// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Who leads what, for clients that asked the wrong node (KIP-951).
extension BrokerServices {
    /// The leader of a partition and its epoch; nil where there is none.
    func leader(ofName name: String?, id: TopicID, _ index: Int32) -> (node: Int32, epoch: Int32)? {
        let image = metadata.image
        let topic = name.map { image.topic($0) } ?? image.topic(id)
        guard let topic, topic.partitions.indices.contains(Int(index)) else { return nil }
        let partition = topic.partitions[Int(index)]
        return partition.leader < 0 ? nil : (partition.leader, partition.leaderEpoch)
    }

    /// Puts the leader into a refused partition of a Produce answer, and its address among `endpoints`.
    func hint(
        _ response: inout ProduceResponse.PartitionProduceResponse,
        ofName name: String?,
        id: TopicID,
        _ endpoints: inout [ProduceResponse.NodeEndpoint]
    ) {
        guard let (node, epoch) = leader(ofName: name, id: id, response.index) else { return }
        response.currentLeader = .init(leaderId: node, leaderEpoch: epoch)
        guard !endpoints.contains(where: { $0.nodeId == node }), let (host, port, rack) = endpoint(of: node) else {
            return
        }
        endpoints.append(.init(nodeId: node, host: host, port: port, rack: rack))
    }

    /// Where clients find a node; nil where that is not known.
    func endpoint(of node: Int32) -> (host: String, port: Int32, rack: String?)? {
        if node == configuration.nodeID {
            return (advertised.host, Int32(advertised.port), configuration.rack)
        }
        return replicas?.directory.endpoint(of: node).map { ($0.host, Int32($0.port), nil) }
    }
}
