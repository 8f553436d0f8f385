// SPDX-License-Identifier: Apache-2.0
#ifndef CMDC_CHECKSUM_H
#define CMDC_CHECKSUM_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Continues a CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, RFC 3720) over `length` more bytes.
/// `crc` is 0 for the first part, or what an earlier call returned. The fastest way that the processor
/// offers is chosen once, when the program is loaded.
uint32_t mdc_crc32c(uint32_t crc, const void *bytes, size_t length);

/// The same by tables alone: what runs where there are no CRC instructions, and what tests compare with.
uint32_t mdc_crc32c_table(uint32_t crc, const void *bytes, size_t length);

/// The checksum of two stretches one after the other, from the checksum of each and the second's length (below 4 GiB):
/// some nanoseconds instead of another pass over the bytes.
uint32_t mdc_crc32c_join(uint32_t first, uint32_t second, uint64_t length);

/// The name of the way chosen: "sse4.2", "armv8" or "table".
const char *mdc_crc32c_implementation(void);

/// Number of ways that this processor can run, slowest first; for tests.
int mdc_crc32c_variant_count(void);
/// The checksum by way `variant` (0 ..< mdc_crc32c_variant_count()); for tests.
uint32_t mdc_crc32c_variant(int variant, uint32_t crc, const void *bytes, size_t length);
/// `mdc_crc32c_join` by way `variant`; for tests.
uint32_t mdc_crc32c_join_variant(int variant, uint32_t first, uint32_t second, uint64_t length);
/// The name of way `variant`; for tests.
const char *mdc_crc32c_variant_name(int variant);

#ifdef __cplusplus
}
#endif
#endif
