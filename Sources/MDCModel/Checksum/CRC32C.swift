// SPDX-License-Identifier: Apache-2.0

import CMDCChecksum

/// The checksum of record batches: CRC-32C (Castagnoli, RFC 3720), by the processor's own instructions where it
/// has them.
public enum CRC32C {
    /// The checksum of `bytes`.
    public static func compute(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        mdc_crc32c(0, bytes.baseAddress, bytes.count)
    }

    /// Continues: the checksum of what `crc` covers with `bytes` after it. Begin with 0.
    public static func extend(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        mdc_crc32c(crc, bytes.baseAddress, bytes.count)
    }

    /// How it is computed on this machine, for start-up logs and benchmark reports: `sse4.2`, `armv8` or `table`.
    public static var implementation: String { String(cString: mdc_crc32c_implementation()) }
}
