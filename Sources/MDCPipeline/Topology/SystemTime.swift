// SPDX-License-Identifier: Apache-2.0

import Foundation
public import MDCModel
import NIOCore

/// The clocks of the running system. Machines get time as a parameter; services take it from here.
public enum SystemTime {
    /// The time of day in milliseconds.
    public static func now() -> Timestamp {
        Timestamp(Int64(Date().timeIntervalSince1970 * 1_000))
    }

    /// A clock that never goes back, in nanoseconds.
    static func monotonicNanoseconds() -> Int64 {
        Int64(NIODeadline.now().uptimeNanoseconds)
    }
}
