// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C. A CRC is the remainder of the message, taken as a polynomial over GF(2), modulo P. Bytes are fed
// lowest bit first, so every 32-bit value here is "reflected": bit 31 stands for x^0, bit 0 for x^31.
//
// The CPU's crc32 instruction takes 8 bytes with a latency of three cycles but can start one each cycle. Hence
// three independent streams over three neighbouring stretches of the input, whose remainders are put together:
// appending n bits to a message multiplies its remainder by x^n, so
//     crc(A B C) = crc(A)·x^(2n) + crc(B)·x^n + crc(C)      (mod P, n = bits of a stretch)
// A product of two reflected 32-bit values by carry-less multiplication is, read as a reflected 64-bit value, the
// product times x; feeding that to the crc32 instruction with a zero state multiplies by x^32 and reduces. So to
// multiply by x^n the factor must be x^(n-33) mod P. The factors for stretches of 8 bytes, 16 bytes, … come from
// one another: crc32 of eight zero bytes is multiplication by x^64. They are made when the program is loaded.
#include "CMDCChecksum.h"
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

typedef uint32_t (*crc_function)(uint32_t crc, const uint8_t *bytes, size_t length);
typedef uint32_t (*shift_function)(uint32_t crc, uint64_t length);

static const uint32_t polynomial = 0x82F63B78u;

static inline uint64_t load64(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

// ---- Tables: eight bytes a step, for processors without CRC instructions ----

static uint32_t tables[8][256];

static void make_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t remainder = byte;
        for (int bit = 0; bit < 8; bit++) {
            remainder = (remainder >> 1) ^ ((remainder & 1) ? polynomial : 0);
        }
        tables[0][byte] = remainder;
    }
    // tables[k][b] is the remainder of byte b with k zero bytes after it.
    for (int k = 1; k < 8; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *bytes, size_t length) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (length >= 8) {
        uint64_t word = load64(bytes) ^ crc;
        crc = tables[7][word & 0xFF] ^ tables[6][(word >> 8) & 0xFF] ^ tables[5][(word >> 16) & 0xFF]
            ^ tables[4][(word >> 24) & 0xFF] ^ tables[3][(word >> 32) & 0xFF] ^ tables[2][(word >> 40) & 0xFF]
            ^ tables[1][(word >> 48) & 0xFF] ^ tables[0][word >> 56];
        bytes += 8;
        length -= 8;
    }
#endif
    while (length-- > 0) {
        crc = (crc >> 8) ^ tables[0][(crc ^ *bytes++) & 0xFF];
    }
    return crc;
}

// ---- Putting checksums of neighbouring stretches together ----

// Carry-less product of two reflected 32-bit values: reflected too, times x.
static uint64_t multiply(uint32_t a, uint32_t b) {
    uint64_t product = 0;
    for (int bit = 0; bit < 32; bit++) {
        product ^= ((uint64_t)a << bit) & (0 - (uint64_t)((b >> bit) & 1));
    }
    return product;
}

// Such a product times x^32, modulo P: what eight bytes of it leave in a register that was zero.
static uint32_t reduce_by_table(uint64_t product) {
    uint8_t bytes[8];
    for (int at = 0; at < 8; at++) {
        bytes[at] = (uint8_t)(product >> (8 * at));
    }
    return crc_by_table(0, bytes, sizeof bytes);
}

// shifts[d][i] = x^(8n - 33) mod P with n = i·256^d: what multiplies a remainder by x^(8n), n bytes further on.
static uint32_t shifts[4][256];

static void make_shifts(void) {
    uint32_t origin = 0x80000000u;  // x^0
    for (int step = 0; step < 33; step++) {
        // Divided by x. Where x^0 is set, the value had wrapped around.
        origin = (origin & 0x80000000u) ? ((origin ^ polynomial) << 1) | 1 : origin << 1;
    }
    uint8_t zero = 0;
    for (int digit = 0; digit < 4; digit++) {
        shifts[digit][0] = origin;
        for (int i = 1; i < 256; i++) {
            if (digit == 0) {
                shifts[0][i] = crc_by_table(shifts[0][i - 1], &zero, 1);
            } else if (i == 1) {
                // 256 steps of the digit before.
                shifts[digit][1] = reduce_by_table(multiply(shifts[digit - 1][255], shifts[digit - 1][1]));
            } else {
                shifts[digit][i] = reduce_by_table(multiply(shifts[digit][i - 1], shifts[digit][1]));
            }
        }
    }
}

static uint32_t shift_by_table(uint32_t crc, uint64_t length) {
    for (int digit = 0; digit < 4; digit++, length >>= 8) {
        if (length & 0xFF) crc = reduce_by_table(multiply(crc, shifts[digit][length & 0xFF]));
    }
    return crc;
}

// ---- Three streams: constants shared by x86 and Arm ----

#if defined(__x86_64__) || defined(__aarch64__)
enum {
    // Below this many bytes the merge costs more than the second and third stream bring.
    three_way_from = 300,
    // Longest stretch of one stream, in 8-byte words: 12 KiB a round, still inside the first-level cache.
    words_max = 512,
};

// factors[n] = x^(64n - 33) mod P: what multiplies a remainder by x^(64n), n words further on.
static uint32_t factors[2 * words_max + 1];

static void make_factors(void) {
    // x^(64-33) = x^31, which reflected is bit 0.
    uint32_t factor = 1;
    for (int n = 1; n <= 2 * words_max; n++) {
        factors[n] = factor;
        uint8_t zeros[8] = {0};
        factor = crc_by_table(factor, zeros, sizeof zeros);
    }
}
#endif

#if defined(__x86_64__)

#define TARGET_SSE42 __attribute__((target("sse4.2,pclmul")))

TARGET_SSE42 static inline uint32_t crc_one_stream(uint32_t crc, const uint8_t *bytes, size_t length) {
    uint64_t state = crc;
    while (length >= 8) {
        state = _mm_crc32_u64(state, load64(bytes));
        bytes += 8;
        length -= 8;
    }
    crc = (uint32_t)state;
    if (length & 4) {
        uint32_t word;
        memcpy(&word, bytes, sizeof word);
        crc = _mm_crc32_u32(crc, word);
        bytes += 4;
    }
    if (length & 2) {
        uint16_t word;
        memcpy(&word, bytes, sizeof word);
        crc = _mm_crc32_u16(crc, word);
        bytes += 2;
    }
    if (length & 1) {
        crc = _mm_crc32_u8(crc, *bytes);
    }
    return crc;
}

TARGET_SSE42 static uint32_t crc_sse42(uint32_t crc, const uint8_t *bytes, size_t length) {
    while (length >= three_way_from) {
        size_t words = length / 24;
        if (words > words_max) {
            words = words_max;
        }
        const uint8_t *first = bytes, *second = bytes + words * 8, *third = bytes + words * 16;
        uint64_t a = crc, b = 0, c = 0;
        size_t left = words;
        for (; left >= 4; left -= 4) {
            for (int step = 0; step < 32; step += 8) {
                a = _mm_crc32_u64(a, load64(first + step));
                b = _mm_crc32_u64(b, load64(second + step));
                c = _mm_crc32_u64(c, load64(third + step));
            }
            first += 32;
            second += 32;
            third += 32;
        }
        for (; left > 0; left--) {
            a = _mm_crc32_u64(a, load64(first));
            b = _mm_crc32_u64(b, load64(second));
            c = _mm_crc32_u64(c, load64(third));
            first += 8;
            second += 8;
            third += 8;
        }
        __m128i of_a = _mm_clmulepi64_si128(
            _mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)(uint64_t)factors[2 * words]), 0);
        __m128i of_b = _mm_clmulepi64_si128(
            _mm_cvtsi64_si128((long long)b), _mm_cvtsi64_si128((long long)(uint64_t)factors[words]), 0);
        uint64_t shifted = (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(of_a, of_b));
        crc = (uint32_t)(_mm_crc32_u64(0, shifted) ^ c);
        bytes += words * 24;
        length -= words * 24;
    }
    return crc_one_stream(crc, bytes, length);
}

TARGET_SSE42 static uint32_t shift_sse42(uint32_t crc, uint64_t length) {
    for (int digit = 0; digit < 4; digit++, length >>= 8) {
        if ((length & 0xFF) == 0) continue;
        __m128i product = _mm_clmulepi64_si128(
            _mm_cvtsi64_si128((long long)(uint64_t)crc),
            _mm_cvtsi64_si128((long long)(uint64_t)shifts[digit][length & 0xFF]), 0);
        crc = (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
    }
    return crc;
}

static bool has_sse42_and_pclmul(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2) && (c & bit_PCLMUL);
}

#elif defined(__aarch64__)

#if defined(__clang__)
#define TARGET_CRC __attribute__((target("crc")))
#else
#define TARGET_CRC __attribute__((target("+crc")))
#endif

TARGET_CRC static inline uint32_t crc_one_stream(uint32_t crc, const uint8_t *bytes, size_t length) {
    while (length >= 8) {
        crc = __crc32cd(crc, load64(bytes));
        bytes += 8;
        length -= 8;
    }
    while (length-- > 0) {
        crc = __crc32cb(crc, *bytes++);
    }
    return crc;
}

TARGET_CRC static uint32_t shift_armv8(uint32_t crc, uint64_t length) {
    for (int digit = 0; digit < 4; digit++, length >>= 8) {
        if (length & 0xFF) crc = __crc32cd(0, multiply(crc, shifts[digit][length & 0xFF]));
    }
    return crc;
}

TARGET_CRC static uint32_t crc_armv8(uint32_t crc, const uint8_t *bytes, size_t length) {
    // The merge takes some 100 cycles here, so three streams pay only for longer input.
    while (length >= 4 * three_way_from) {
        size_t words = length / 24;
        if (words > words_max) {
            words = words_max;
        }
        const uint8_t *first = bytes, *second = bytes + words * 8, *third = bytes + words * 16;
        uint32_t a = crc, b = 0, c = 0;
        for (size_t at = 0; at < words * 8; at += 8) {
            a = __crc32cd(a, load64(first + at));
            b = __crc32cd(b, load64(second + at));
            c = __crc32cd(c, load64(third + at));
        }
        crc = __crc32cd(0, multiply(a, factors[2 * words]) ^ multiply(b, factors[words])) ^ c;
        bytes += words * 24;
        length -= words * 24;
    }
    return crc_one_stream(crc, bytes, length);
}

static bool has_crc_instructions(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
    return true;  // every 64-bit Apple processor has them
#endif
}

#endif

// ---- The choice ----

static struct {
    crc_function function;
    shift_function shift;
    const char *name;
} variants[3];
static int variant_count;
static crc_function chosen;
static shift_function chosen_shift;

// Runs before main and before any thread, so nothing here needs a lock.
__attribute__((constructor)) static void choose(void) {
    make_tables();
    make_shifts();
    variants[variant_count].function = crc_by_table;
    variants[variant_count].shift = shift_by_table;
    variants[variant_count++].name = "table";
#if defined(__x86_64__)
    make_factors();
    if (has_sse42_and_pclmul()) {
        variants[variant_count].function = crc_sse42;
        variants[variant_count].shift = shift_sse42;
        variants[variant_count++].name = "sse4.2";
    }
#elif defined(__aarch64__)
    make_factors();
    if (has_crc_instructions()) {
        variants[variant_count].function = crc_armv8;
        variants[variant_count].shift = shift_armv8;
        variants[variant_count++].name = "armv8";
    }
#endif
    chosen = variants[variant_count - 1].function;
    chosen_shift = variants[variant_count - 1].shift;
}

uint32_t mdc_crc32c(uint32_t crc, const void *bytes, size_t length) {
    return ~chosen(~crc, bytes, length);
}

uint32_t mdc_crc32c_table(uint32_t crc, const void *bytes, size_t length) {
    return ~crc_by_table(~crc, bytes, length);
}

// The inversions before and after cancel out: crc(A B) = crc(A)·x^(8|B|) + crc(B) holds for the finished checksums too.
uint32_t mdc_crc32c_join(uint32_t first, uint32_t second, uint64_t length) {
    return chosen_shift(first, length) ^ second;
}

const char *mdc_crc32c_implementation(void) { return variants[variant_count - 1].name; }
int mdc_crc32c_variant_count(void) { return variant_count; }
const char *mdc_crc32c_variant_name(int variant) { return variants[variant].name; }

uint32_t mdc_crc32c_variant(int variant, uint32_t crc, const void *bytes, size_t length) {
    return ~variants[variant].function(~crc, bytes, length);
}

uint32_t mdc_crc32c_join_variant(int variant, uint32_t first, uint32_t second, uint64_t length) {
    return variants[variant].shift(first, length) ^ second;
}
