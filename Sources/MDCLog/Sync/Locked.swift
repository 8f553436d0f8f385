// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Synchronization

/// A mutex with a condition to wait for, around a value. `Mutex` has no condition.
///
/// Unchecked: the value is reached only with the mutex held, and the mutex and condition live at fixed addresses until
/// the box goes.
final class Monitor<Value: Sendable>: @unchecked Sendable {
    private var value: Value
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func withLock<R>(_ body: (inout Value) -> R) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body(&value)
    }

    /// Waits until `body` returns a value; it is called again after each `wakeAll`.
    func wait<R>(_ body: (inout Value) -> R?) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&value) { return result }
            pthread_cond_wait(condition, mutex)
        }
    }

    /// Waits like `wait`, at most `milliseconds`; nil when the time is over.
    func wait<R>(atMost milliseconds: Int64, _ body: (inout Value) -> R?) -> R? {
        var until = timespec()
        clock_gettime(CLOCK_REALTIME, &until)
        let nanoseconds = until.tv_nsec + Int(milliseconds % 1000) * 1_000_000
        until.tv_sec += Int(milliseconds / 1000) + nanoseconds / 1_000_000_000
        until.tv_nsec = nanoseconds % 1_000_000_000
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&value) { return result }
            if pthread_cond_timedwait(condition, mutex, &until) != 0 { return body(&value) }
        }
    }

    func wakeAll() { pthread_cond_broadcast(condition) }
    func wakeOne() { pthread_cond_signal(condition) }
}

/// Starts a thread of the engine; `isUrgent` where somebody waits for what it does, else it gets behind the others for
/// processor and disk. It is for the body to end.
func startThread(_ name: String, isUrgent: Bool = true, _ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let isUrgent: Bool
        let body: @Sendable () -> Void
        init(_ isUrgent: Bool, _ body: @escaping @Sendable () -> Void) {
            self.isUrgent = isUrgent
            self.body = body
        }
    }
    let context = Unmanaged.passRetained(Box(isUrgent, body)).toOpaque()
    let result = mdc_start_thread(name, context) { context in
        guard let context else { return }
        let box = Unmanaged<Box>.fromOpaque(context).takeRetainedValue()
        if !box.isUrgent { mdc_lower_thread_priority() }
        box.body()
    }
    precondition(result == 0, "no thread could be started for \(name) (errno \(-result)): raise the process limit")
}
