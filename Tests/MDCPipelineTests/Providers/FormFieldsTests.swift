// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCPipeline

@Suite struct FormFieldsTests {
    @Test func encodesAsBrowsersDo() {
        let fields = FormFields([("body", "50% off & more = good, नमस्ते"), ("a b", "+")])
        let hindi = "%E0%A4%A8%E0%A4%AE%E0%A4%B8%E0%A5%8D%E0%A4%A4%E0%A5%87"
        #expect(fields.encoded == "body=50%25+off+%26+more+%3D+good%2C+\(hindi)&a+b=%2B")
    }

    @Test func readsWhatIsBroken() {
        let fields = FormFields(decoding: "a=%zz&b&=c&&d=%4&e=1=2&e=3")
        #expect(fields["a"] == "%zz")
        #expect(fields["b"] == "")
        #expect(fields[""] == "c")
        #expect(fields["d"] == "%4")
        #expect(fields["e"] == "1=2")
    }

    @Test(arguments: [UInt64(1), 2, 3]) func anyTextComesBack(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for _ in 0..<300 {
            let fields = FormFields(
                (0..<Int.random(in: 1...5, using: &random)).map { _ in (randomText(&random), randomText(&random)) }
            )
            #expect(FormFields(decoding: fields.encoded) == fields)
        }
    }

    @Test func anyBytesAreRead() {
        var random = SplitMix64(seed: 4)
        for _ in 0..<1_000 {
            let bytes = (0..<Int.random(in: 0...60, using: &random)).map { _ in
                [UInt8.random(in: 0...255, using: &random), UInt8(ascii: "%"), UInt8(ascii: "&")].randomElement(
                    using: &random
                )!
            }
            _ = FormFields(decoding: String(decoding: bytes, as: UTF8.self))
        }
    }
}

/// Text of scalars of all planes, controls and marks among them.
func randomText(_ random: inout SplitMix64, lengthMax: Int = 20) -> String {
    let pools: [ClosedRange<UInt32>] = [
        0x00...0x7F, 0x20...0x7E, 0x80...0x7FF, 0x900...0x97F, 0x1F600...0x1F64F, 0xE000...0xFFFF,
    ]
    var text = ""
    for _ in 0..<Int.random(in: 0...lengthMax, using: &random) {
        let pool = pools.randomElement(using: &random)!
        if let scalar = Unicode.Scalar(UInt32.random(in: pool, using: &random)) { text.unicodeScalars.append(scalar) }
    }
    return text
}
