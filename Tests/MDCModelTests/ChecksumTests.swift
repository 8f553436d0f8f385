// SPDX-License-Identifier: Apache-2.0

import CMDCChecksum
import MDCModel
import MDCTesting
import NIOCore
import Testing

/// A small seeded generator (SplitMix64), so that a failing case can be run again.
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}

@Suite struct ChecksumTests {
    /// CRC-32C by its definition, a bit at a time; `state` is the remainder before, inverted.
    static func step(_ state: UInt32, _ byte: UInt8) -> UInt32 {
        var state = state ^ UInt32(byte)
        for _ in 0..<8 { state = (state >> 1) ^ (state & 1 == 1 ? 0x82F6_3B78 : 0) }
        return state
    }

    @Test func knownValues() {
        func crc(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { CRC32C.compute($0) } }
        #expect(crc(Array("123456789".utf8)) == 0xE306_9283)
        #expect(crc([]) == 0)
        // RFC 3720, appendix B.4.
        #expect(crc([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(crc([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(crc((0..<32).map { UInt8($0) }) == 0x46DD_794E)
    }

    @Test func everyVariantAgreesWithTheDefinitionAtEveryLengthAndAlignment() {
        var random = Seeded(seed: 1)
        let data = random.bytes(2064)
        data.withUnsafeBytes { bytes in
            for offset in 0..<16 {
                var state = UInt32.max
                for length in 0...2000 {
                    let expected = ~state
                    for variant in 0..<mdc_crc32c_variant_count() {
                        let found = mdc_crc32c_variant(variant, 0, bytes.baseAddress! + offset, length)
                        if found != expected {
                            Issue.record("variant \(variant), offset \(offset), length \(length)")
                            return
                        }
                    }
                    state = Self.step(state, bytes[offset + length])
                }
            }
        }
    }

    @Test func partsGiveTheSameAsTheWhole() {
        var random = Seeded(seed: 2)
        let data = random.bytes(150_000)
        data.withUnsafeBytes { bytes in
            let whole = mdc_crc32c_table(0, bytes.baseAddress, bytes.count)
            #expect(CRC32C.compute(bytes) == whole)
            for _ in 0..<50 {
                let cut = Int.random(in: 0...bytes.count, using: &random)
                let first = CRC32C.compute(UnsafeRawBufferPointer(rebasing: bytes[..<cut]))
                #expect(CRC32C.extend(first, UnsafeRawBufferPointer(rebasing: bytes[cut...])) == whole)
            }
        }
    }

    @Test func checksumsOfNeighboursAreThoseOfTheWholeByEveryVariant() {
        var random = Seeded(seed: 3)
        // Lengths of one, two and three digits to the base 256, and with digits that are zero.
        let data = [UInt8](repeating: 0, count: 70_000) + random.bytes(200_000)
        data.withUnsafeBytes { bytes in
            let whole = mdc_crc32c_table(0, bytes.baseAddress, bytes.count)
            let ends = [0, 1, 2, 3, 4, 5, 7, 8, 33, 255, 256, 257, 65_535, 65_536, 65_537, 131_072, bytes.count]
            let others = (0..<50).map { _ in Int.random(in: 0...bytes.count, using: &random) }
            for length in ends + others {
                let cut = bytes.count - length
                let first = mdc_crc32c_table(0, bytes.baseAddress, cut)
                let second = mdc_crc32c_table(0, bytes.baseAddress! + cut, length)
                #expect(CRC32C.join(first, second, length: length) == whole, "length \(length)")
                for variant in 0..<mdc_crc32c_variant_count() {
                    let joined = mdc_crc32c_join_variant(variant, first, second, UInt64(length))
                    #expect(joined == whole, "variant \(variant), length \(length)")
                }
            }
        }
    }
}

@Suite struct VectorTests {
    @Test func recordBatches() throws {
        let directory = MessageVectors.defaultDirectory
        let result = try RecordBatchVectors.run(directory: directory)
        #expect(result.failures == [])
        #expect(result.passed > 0)
    }

    @Test func murmur2() throws {
        let result = try Murmur2Vectors.run(directory: MessageVectors.defaultDirectory)
        #expect(result.failures == [])
        #expect(result.passed > 0)
    }

    /// The runner itself must notice a wrong field, a wrong record and wrong bytes.
    @Test func aWrongVectorFails() throws {
        let vectors = try RecordBatchVectors.load(directory: MessageVectors.defaultDirectory)
        let good = try #require(vectors.first)
        var fields = good.fields
        fields["maxTimestamp"] = .integer(1)
        #expect(throws: (any Error).self) {
            try RecordBatchVectors.check(.init(name: "fields", fields: fields, bytes: good.bytes))
        }
        var bytes = good.bytes
        bytes.setInteger(UInt8(1), at: bytes.writerIndex - 1)
        #expect(throws: (any Error).self) {
            try RecordBatchVectors.check(.init(name: "bytes", fields: good.fields, bytes: bytes))
        }
    }
}
