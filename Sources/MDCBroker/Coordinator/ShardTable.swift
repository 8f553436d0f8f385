// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// The shards of one kind of coordinator on a node: one a partition of their topic, none while that does not exist.
final class ShardTable<Shard: CoordinatorShard>: Sendable {
    typealias Runtime = ShardRuntime<Shard>

    private let access: any InternalTopicAccess
    private let logger: Logger
    private let make: @Sendable (Int32) -> Runtime
    private let shards = Mutex<[Runtime]>([])

    init(access: any InternalTopicAccess, logger: Logger, make: @escaping @Sendable (Int32) -> Runtime) {
        self.access = access
        self.logger = logger
        self.make = make
    }

    var all: [Runtime] { shards.withLock { $0 } }
    var isEmpty: Bool { shards.withLock { $0.isEmpty } }

    /// The shard that `id` lives in.
    func shard(of id: String) -> Runtime? {
        shards.withLock { shards in
            shards.isEmpty
                ? nil : shards[Int(GroupCoordinatorService.partition(of: id, count: Int32(shards.count)))]
        }
    }

    /// The shard of a partition of the topic.
    func shard(at partition: Int32) -> Runtime? {
        shards.withLock { $0.indices.contains(Int(partition)) ? $0[Int(partition)] : nil }
    }

    /// Loads every shard. Blocks; called once before the node serves.
    func start() {
        guard let count = access.partitionCount(of: Shard.topic) else { return }
        for shard in open(count) { shard.load() }
    }

    /// Answers everyone who waits and gives all shards up.
    func stop() {
        for shard in all { shard.stop() }
    }

    /// This node begins to lead a partition of the topic, which has `count`, in another epoch: its shard is loaded.
    func elected(_ partition: Int32, of count: Int) {
        for shard in open(Int32(count)) where shard.partition != partition { shard.stop() }
        guard let shard = shard(at: partition) else { return }
        access.runBlocking { shard.load() }
    }

    /// This node leads a partition of the topic no longer: who waits is told to look for the coordinator anew.
    func resigned(_ partition: Int32) { shard(at: partition)?.stop() }

    /// Makes the shards of a topic of `count` partitions; returns those that are new and must be loaded.
    private func open(_ count: Int32) -> [Runtime] {
        shards.withLock { shards in
            guard shards.isEmpty else { return [] }
            shards = (0..<count).map(make)
            return shards
        }
    }

    /// Sees to it that the topic exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) {
        if !isEmpty { return done(.none) }
        access.create(Shard.topic) { [self] result in
            switch result {
            case .success(let count):
                let opened = open(count)
                access.runBlocking {
                    for shard in opened { shard.load() }
                    done(.none)
                }
            case .failure(let error):
                logger.warning("cannot create \(Shard.topic.name)", metadata: ["error": "\(error)"])
                done(.coordinatorNotAvailable)
            }
        }
    }
}
