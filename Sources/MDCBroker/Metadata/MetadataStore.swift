// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// What the metadata log adds up to on this node. Readers take the image as it is; the quorum's driver changes it when a
/// change is committed.
final class MetadataStore: Sendable {
    /// The log that holds the metadata.
    static let topicPartition = TopicPartition(topic: "__cluster_metadata", partition: 0)
    /// Its id is fixed, as in Kafka.
    static let topicID = TopicID(high: 0, low: 1)

    /// Changes that were applied.
    struct Delta: Sendable {
        /// Nil where anything may have changed: a snapshot took the place of the image.
        var records: [MetadataRecord]?
        var image: MetadataImage
        /// Of the last change.
        var index: Int64
    }

    private struct State {
        var image: MetadataImage
        var index: Int64
    }

    private let state: Mutex<State>
    /// Closures in locks are in structures (`GroupCommit.Handlers` tells why).
    private struct Handlers: Sendable {
        var changed: @Sendable (Delta) -> Void = { _ in }
    }
    private let handlers = Mutex(Handlers())

    init(image: MetadataImage, index: Int64) { state = Mutex(State(image: image, index: index)) }

    /// The metadata now.
    var image: MetadataImage { state.withLock { $0.image } }

    /// Sets who is told of changes, in their order, by the thread that makes them.
    func onChange(_ handler: @escaping @Sendable (Delta) -> Void) { handlers.withLock { $0.changed = handler } }

    /// What is committed up to `index`; `records` are what came since the last time.
    func apply(_ records: [MetadataRecord], index: Int64) {
        let image = state.withLock { state in
            for record in records { state.image.apply(record) }
            state.index = index
            return state.image
        }
        handlers.withLock { $0 }.changed(Delta(records: records, image: image, index: index))
    }

    /// Takes over the image of a snapshot.
    func replace(_ image: MetadataImage, index: Int64) {
        state.withLock { $0 = State(image: image, index: index) }
        handlers.withLock { $0 }.changed(Delta(records: nil, image: image, index: index))
    }

    /// A snapshot forgot the deleted topics whose folders are gone.
    func forgetDeleted(keeping kept: Set<TopicID>) { state.withLock { $0.image.forgetDeleted(keeping: kept) } }
}
