// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCClient
import MDCModel
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// Copies topics, their settings and the places of groups from one cluster to another, each committed record once.
///
/// What it has done is at the target, in the transactions that did it; so it may be killed at any time. See `docs/mirror.md`.
public final class Mirror: Service, Sendable {
    private let configuration: MirrorConfiguration
    private let eventLoopGroup: any EventLoopGroup
    private let logger: Logger
    private let shared = Mutex(MirrorStatus())
    private let isStopping = Atomic(false)

    /// Makes a mirror. Throws ``MirrorError`` (`configuration`).
    public init(_ configuration: MirrorConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) throws {
        try configuration.validate()
        self.configuration = configuration
        self.eventLoopGroup = eventLoopGroup
        self.logger = logger
    }

    /// How far it is.
    public var status: MirrorStatus { shared.withLock { $0 } }

    /// Copies until graceful shutdown or cancellation. Throws ``MirrorError``: what no repetition helps.
    public func run() async throws {
        // The round under way is ended: a transaction that is left open would keep readers of the target waiting.
        try await withGracefulShutdownHandler {
            try await copy()
        } onGracefulShutdown: {
            self.isStopping.store(true, ordering: .relaxed)
        }
    }

    private var mustEnd: Bool { Task.isCancelled || isStopping.load(ordering: .relaxed) }

    private func copy() async throws {
        var failures = 0
        while !mustEnd {
            let session = MirrorSession(configuration, eventLoopGroup, logger) { change in
                self.shared.withLock { change(&$0) }
            }
            var failure: (any Error)?
            do {
                try await session.start()
                failures = 0
                while !mustEnd { try await session.round() }
            } catch {
                failure = error
            }
            await session.close()
            shared.withLock { $0.isRunning = false }
            if mustEnd || failure is CancellationError { return }
            if let error = failure as? MirrorError { throw error }
            if let error = failure as? ClientError, error.code == .fenced {
                throw MirrorError(
                    .replaced,
                    "another process runs the mirror '\(configuration.name)' and has taken over: stop one of them"
                )
            }
            failures += 1
            shared.withLock { $0.restarts += 1 }
            let pause = min(500 << min(failures - 1, 5), 10_000)
            logger.warning(
                "the mirror begins anew from its last commit",
                metadata: ["error": "\(failure.map { "\($0)" } ?? "")", "after": "\(pause) ms"]
            )
            for _ in 0..<(pause / 250) where !mustEnd { try? await Task.sleep(for: .milliseconds(250)) }
        }
    }
}

extension Mirror {
    /// How far a mirror is by what the clusters say, whether it runs or not. Throws `ClientError`.
    public static func status(of name: String, source: Admin, target: Admin, prefix: String) async throws
        -> [MirrorStatus.Partition]
    {
        let positions = try await target.groupOffsets(MirrorConfiguration.group(of: name))
        let places = positions.filter { $0.key.topic.hasPrefix(prefix) }.map { place, position in
            (
                TopicPartition(topic: String(place.topic.dropFirst(prefix.count)), partition: place.partition),
                position.offset
            )
        }
        let topics = Set(try await source.listTopics())
        let known = places.filter { topics.contains($0.0.topic) }
        let ends = try await source.endOffsets(known.map(\.0))
        return known.map { MirrorStatus.Partition(partition: $0.0, position: $0.1, end: ends[$0.0] ?? $0.1) }
            .sorted { $0.partition < $1.partition }
    }
}
