// SPDX-License-Identifier: Apache-2.0

#if MDC_SANITIZE
    import MDCModel

    /// Under a sanitizer a module's own `Mutex` hides that of Synchronization, see `SanitizedMutex`.
    typealias Mutex<Value: ~Copyable> = SanitizedMutex<Value>
#endif
