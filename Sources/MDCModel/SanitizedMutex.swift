// SPDX-License-Identifier: Apache-2.0

#if MDC_SANITIZE
    import Glibc

    /// `Mutex` for builds under a sanitizer (`MDC_SANITIZE=1`, see `dev/sanitize`), on a POSIX mutex.
    ///
    /// A contended `Mutex` of Synchronization is taken within Swift's runtime, where the thread sanitizer does not look: each
    /// contended lock would be reported as a race. It knows POSIX mutexes, and their order. Each module that has locks
    /// names this type `Mutex` in such builds, which hides the other one.
    ///
    /// Unchecked: the value is reached only with the mutex held, and both live at fixed addresses until the object goes.
    public final class SanitizedMutex<Value: ~Copyable>: @unchecked Sendable {
        private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        private let value = UnsafeMutablePointer<Value>.allocate(capacity: 1)

        /// Makes a mutex that protects `initialValue`.
        public init(_ initialValue: consuming sending Value) {
            pthread_mutex_init(mutex, nil)
            value.initialize(to: initialValue)
        }

        deinit {
            value.deinitialize(count: 1)
            value.deallocate()
            pthread_mutex_destroy(mutex)
            mutex.deallocate()
        }

        /// Calls `body` with the value and the lock held. Not recursive.
        public func withLock<Result: ~Copyable, Failure: Error>(
            _ body: (inout sending Value) throws(Failure) -> sending Result
        ) throws(Failure) -> sending Result {
            pthread_mutex_lock(mutex)
            defer { pthread_mutex_unlock(mutex) }
            return try body(&value.pointee)
        }
    }

    typealias Mutex<Value: ~Copyable> = SanitizedMutex<Value>
#endif
