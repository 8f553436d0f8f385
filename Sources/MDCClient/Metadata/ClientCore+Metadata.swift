// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore

/// Metadata: one request at a time, for every topic of interest; on demand, at most once in `retryBackoff`, and at
/// least once in `metadataMaxAge`.
extension ClientCore {
    /// Asks for metadata soon; requests made meanwhile share the answer. On the event loop.
    @discardableResult
    func refreshMetadata() -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        if isClosed { return eventLoop.makeFailedFuture(Self.closedError) }
        if let refresh { return refresh }
        let pause: TimeAmount
        if let ended = refreshEndedAt {
            let earliest = ended + retryBackoff.delay(attempt: refreshFailures, using: &generator)
            pause = earliest - .now()
        } else {
            pause = .nanoseconds(0)
        }
        let promise = eventLoop.makePromise(of: Void.self)
        refresh = promise.futureResult
        if pause > .nanoseconds(0) {
            let later = eventLoop.assumeIsolated().scheduleTask(in: pause) { self.sendMetadataRequest(promise) }
            // Closed, or the loop ends, before it is due: who waits is told.
            later.futureResult.whenFailure { _ in promise.fail(Self.closedError) }
            scheduledRefresh = later
        } else {
            sendMetadataRequest(promise)
        }
        return promise.futureResult
    }

    /// A refresh that covers `topic`, also where one without it is under way.
    func refreshMetadata(including topic: String) -> EventLoopFuture<Void> {
        if topicsOfInterest.insert(topic).inserted, let refresh {
            let promise = eventLoop.makePromise(of: Void.self)
            refresh.assumeIsolated().whenComplete { _ in
                // The topic is new, so do not wait out the usual pause.
                self.refreshEndedAt = nil
                self.refreshMetadata().cascade(to: promise)
            }
            return promise.futureResult
        }
        return refreshMetadata()
    }

    private func sendMetadataRequest(_ promise: EventLoopPromise<Void>) {
        let topics = topicsOfInterest.sorted()
        let allowAutoTopicCreation = self.allowAutoTopicCreation
        send(MetadataRequest.self, to: .any, versions: 0...13) { version in
            MetadataRequest(
                topics: topics.isEmpty && version == 0 ? [] : topics.map { .init(name: $0) },
                allowAutoTopicCreation: version >= 4 ? allowAutoTopicCreation : true
            )
        }.assumeIsolated().whenComplete { result in
            self.refresh = nil
            self.refreshEndedAt = .now()
            switch result {
            case .failure(let error):
                self.refreshFailures += 1
                promise.fail(error)
            case .success(let response):
                if response.errorCode != 0 {
                    self.refreshFailures += 1
                    promise.fail(ClientError.broker(ErrorCode(rawValue: response.errorCode), "asking for metadata"))
                    return
                }
                self.refreshFailures = 0
                self.metadata.apply(MetadataCache.Update(response), now: .now())
                self.closeStaleConnections()
                self.schedulePeriodicRefresh()
                promise.succeed(())
                for listener in self.metadataListeners { listener() }
            }
        }
    }

    private func schedulePeriodicRefresh() {
        periodicRefresh?.cancel()
        guard !isClosed else { return }
        periodicRefresh = eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(configuration.metadataMaxAge)) {
            self.refreshMetadata()
        }
    }

    /// Closes connections to brokers that moved or are gone.
    private func closeStaleConnections() {
        for (key, connection) in connections {
            guard case .broker(let id) = key.node, metadata.brokers[id]?.address != connection.address else { continue }
            connections[key] = nil
            connection.close(ClientError(.connection, "broker \(id) is no longer at \(connection.address)"))
        }
    }

    /// The topic, asked for where it is not known, until the deadline. From anywhere.
    func waitForTopic(_ name: String, until deadline: NIODeadline) async throws -> MetadataCache.Topic {
        while true {
            var failure: ClientError
            do {
                let topic = try await eventLoop.flatSubmit {
                    if let topic = self.metadata.topic(name) {
                        self.topicsOfInterest.insert(name)
                        return self.eventLoop.makeSucceededFuture(topic as MetadataCache.Topic?)
                    }
                    return self.refreshMetadata(including: name).map { self.metadata.topics[name] }
                }.get()
                if let topic, topic.error == .none { return topic }
                let code = topic?.error ?? .unknownTopicOrPartition
                failure = .broker(code, "looking up topic '\(name)'")
                if !code.isRetriable { throw failure }
            } catch let error as ClientError where error.code != .closed {
                failure = error
                if !error.isRetriable { throw error }
            }
            if NIODeadline.now() + .milliseconds(50) >= deadline { throw failure }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}

extension MetadataCache.Update {
    /// Frees an answer from its version.
    init(_ response: MetadataResponse) {
        var brokers: [Int32: MetadataCache.Broker] = [:]
        for broker in response.brokers {
            brokers[broker.nodeId] = MetadataCache.Broker(
                address: BrokerAddress(host: broker.host, port: Int(broker.port)),
                rack: broker.rack
            )
        }
        let topics = response.topics.compactMap { topic -> MetadataCache.Topic? in
            guard let name = topic.name else { return nil }
            let sorted = topic.partitions.sorted { $0.partitionIndex < $1.partitionIndex }
            // Partitions are dense; an answer that skips some ends where it does.
            let dense = sorted.enumerated().prefix { $0.offset == Int($0.element.partitionIndex) }.map(\.element)
            return MetadataCache.Topic(
                name: name,
                id: topic.topicId,
                isInternal: topic.isInternal,
                error: ErrorCode(rawValue: topic.errorCode),
                partitions: dense.map {
                    MetadataCache.Partition(
                        leader: $0.leaderId,
                        leaderEpoch: $0.leaderEpoch,
                        replicas: $0.replicaNodes,
                        inSyncReplicas: $0.isrNodes,
                        error: ErrorCode(rawValue: $0.errorCode)
                    )
                }
            )
        }
        self.init(
            brokers: brokers,
            clusterID: response.clusterId,
            controllerID: response.controllerId,
            topics: topics
        )
    }
}
