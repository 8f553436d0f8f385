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

    /// The checksum of two stretches one after the other, from the checksum of each and the second's length in bytes
    /// (below 4 GiB): for bytes that two checksums cover, at the price of one pass.
    public static func join(_ first: UInt32, _ second: UInt32, length: Int) -> UInt32 {
        mdc_crc32c_join(first, second, UInt64(length))
    }

    /// How it is computed on this machine, for start-up logs and benchmark reports: `sse4.2`, `armv8` or `table`.
    public static var implementation: String { String(cString: mdc_crc32c_implementation()) }
}
