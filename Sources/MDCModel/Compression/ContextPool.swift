// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Keeps a few of a C library's contexts, which are costly to make, for the next use. A context belongs to whoever
/// took it out until it is put back, so no two threads ever share one.
final class ContextPool: Sendable {
    /// The pointer of a context. Sendable because the pool hands each to one user at a time.
    private struct Context: @unchecked Sendable { let pointer: OpaquePointer }

    private let idle = Mutex<[Context]>([])
    private let capacity: Int
    private let make: @Sendable () -> OpaquePointer?
    private let free: @Sendable (OpaquePointer) -> Void

    /// Keeps up to `capacity` contexts; more than one per core are of no use.
    init(
        capacity: Int = 8,
        make: @escaping @Sendable () -> OpaquePointer?,
        free: @escaping @Sendable (OpaquePointer) -> Void
    ) {
        self.capacity = capacity
        self.make = make
        self.free = free
    }

    /// Takes an idle context, or makes one; nil where the library has no memory.
    func take() -> OpaquePointer? {
        idle.withLock { $0.popLast() }?.pointer ?? make()
    }

    /// Puts a context back, or frees it where there are enough, or where it has grown too large to keep.
    func put(_ pointer: OpaquePointer, keep: Bool) {
        let context = Context(pointer: pointer)
        let kept =
            keep
            && idle.withLock { contexts in
                guard contexts.count < capacity else { return false }
                contexts.append(context)
                return true
            }
        if !kept { free(pointer) }
    }
}
