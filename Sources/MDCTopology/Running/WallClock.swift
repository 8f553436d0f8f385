// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel

/// The time of day, for records that come of no other record. Everything else runs on the monotonic clock.
enum WallClock {
    static func now() -> Timestamp { Timestamp(Int64(Date().timeIntervalSince1970 * 1_000)) }
}
