// SPDX-License-Identifier: Apache-2.0

import MDCLog
import NIOCore
import Synchronization

/// Part of an answer.
enum ResponsePiece: Sendable {
    case bytes(ByteBuffer)
    /// Records that go from the file to the socket.
    case file(FileSlice)

    var length: Int {
        switch self {
        case .bytes(let buffer): buffer.readableBytes
        case .file(let slice): slice.length
        }
    }
}

/// Bytes that an unsent answer holds, counted from its making until it is sent or dropped: a slow reader's share of the
/// event loop's room for copies.
final class HeldCopies: Sendable {
    private let worker: LoopWorker
    private let bytes: Atomic<Int>

    init(_ bytes: Int, on worker: LoopWorker) {
        self.worker = worker
        self.bytes = Atomic(bytes)
        worker.holds(bytes)
    }

    deinit { release() }

    /// They are held no longer.
    func release() { worker.holds(-bytes.exchange(0, ordering: .relaxed)) }
}

/// One client's connection, as the rest of the broker sees it.
final class Connection: Sendable {
    /// Unique in this process.
    let id: UInt64
    /// The client's address, as Kafka writes it: `/127.0.0.1`.
    let clientHost: String
    let worker: LoopWorker
    /// Only touched on the loop of `worker`; nil once the channel is gone.
    nonisolated(unsafe) weak var handler: ConnectionHandler?
    /// Produce requests that wait until their transaction takes them.
    let produceQueue = ProduceQueue()
    /// Whether it has ended. Only touched on the loop of `worker`.
    nonisolated(unsafe) var isClosed = false

    init(id: UInt64, clientHost: String, worker: LoopWorker) {
        self.id = id
        self.clientHost = clientHost
        self.worker = worker
    }

    /// Runs `body` with the handler: at once where we are on its loop, else with the next wake.
    func onLoop(_ body: @escaping @Sendable (ConnectionHandler) -> Void) {
        if worker.eventLoop.inEventLoop {
            if let handler { body(handler) }
            return
        }
        worker.submit { if let handler = self.handler { body(handler) } }
    }

    /// Closes the connection; `reason` is logged.
    func close(_ reason: String) { onLoop { $0.close(reason) } }
}
