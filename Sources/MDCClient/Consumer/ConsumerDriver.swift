// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import NIOCore

enum StartPosition: Sendable, Hashable {
    case offset(Offset)
    case committed
    case reset(ConsumerConfiguration.OffsetReset)
}

final class ConsumerDriver: Sendable {
    static let error = ClientError(.invalidState, "the consumer is not complete in this version")
    init(_ configuration: ConsumerConfiguration, eventLoop: any EventLoop, logger: Logger) throws {}
    func untilShutdownOrClosed() async {}
    func subscribe(
        _ topics: [String],
        onAssigned: Consumer.RebalanceCallback?,
        onRevoked: Consumer.RebalanceCallback?,
        onLost: Consumer.RebalanceCallback?
    ) async throws { throw Self.error }
    func assign(_ positions: [TopicPartition: StartPosition]) async throws { throw Self.error }
    func poll(maxRecords: Int, timeout: Duration) async throws -> [ConsumerRecord] { throw Self.error }
    func commit(_ offsets: [TopicPartition: OffsetAndMetadata]) async throws { throw Self.error }
    func commitPositions() async throws { throw Self.error }
    func committed(_ partitions: [TopicPartition]) async throws -> [TopicPartition: OffsetAndMetadata] {
        throw Self.error
    }
    func position(_ partition: TopicPartition) throws -> Offset? { throw Self.error }
    func seek(_ partition: TopicPartition, to position: StartPosition) throws { throw Self.error }
    func setPaused(_ partitions: [TopicPartition], _ paused: Bool) throws { throw Self.error }
    var assignment: Set<TopicPartition> { [] }
    var paused: Set<TopicPartition> { [] }
    var memberID: String? { nil }
    var lag: [TopicPartition: Int64] { [:] }
    func listOffsets(_ partitions: [(TopicPartition, Int64)]) async throws -> [TopicPartition: OffsetAndTimestamp] {
        throw Self.error
    }
    func close() async {}
}
