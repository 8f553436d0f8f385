// SPDX-License-Identifier: Apache-2.0

/// How texts are written into short messages.
public enum SMPPAlphabet: String, Sendable, Hashable, CaseIterable {
    /// GSM 03.38 (one character a byte) as the default alphabet, else UCS-2.
    case gsm7
    /// ISO 8859-1 (data coding 3) where it suffices, else UCS-2.
    case latin1
    /// UCS-2 (data coding 8) always.
    case ucs2
}

/// How a text that does not fit in one short message is sent.
public enum SMPPConcatenation: String, Sendable, Hashable, CaseIterable {
    /// In parts with a user data header of an 8-bit reference.
    case udh
    /// In parts with a user data header of a 16-bit reference: fewer mix-ups, one character less a part.
    case udh16
    /// In parts that the centre joins by its optional parameters `sar_*`.
    case sar
    /// Whole, in the optional parameter `message_payload`.
    case payload
}

/// A text as the bytes of short messages. Pure.
struct SMPPText: Sendable, Equatable {
    /// The most parts of a message.
    static let partsMax = 20

    var dataCoding: UInt8
    /// The content of each part, without headers.
    var parts: [[UInt8]]

    /// Returns nil if it takes more than ``partsMax`` parts.
    init?(_ text: String, alphabet: SMPPAlphabet, concatenation: SMPPConcatenation) {
        let units: [[UInt8]]
        if alphabet == .gsm7, let gsm = Self.gsm7(text) {
            (dataCoding, units) = (0, gsm)
        } else if alphabet == .latin1, let latin = Self.latin1(text) {
            (dataCoding, units) = (3, latin)
        } else {
            (dataCoding, units) = (8, Self.ucs2(text))
        }
        // A part carries 140 bytes: 160 septets, 140 bytes or 70 units; a header takes 6 or 7 bytes of them.
        let (single, header, header16) =
            switch dataCoding {
            case 0: (160, 153, 152)
            case 3: (140, 134, 133)
            default: (140, 134, 132)
            }
        let size = units.reduce(0) { $0 + $1.count }
        if concatenation == .payload || size <= single {
            let whole = Array(units.joined())
            guard size <= single * Self.partsMax else { return nil }
            parts = [whole]
            return
        }
        let limit = concatenation == .udh16 ? header16 : header
        parts = [[]]
        for unit in units {
            if parts[parts.count - 1].count + unit.count > limit { parts.append([]) }
            parts[parts.count - 1] += unit
        }
        guard parts.count <= Self.partsMax else { return nil }
    }

    private static let basic = Array(
        ("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\u{1B}ÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
            + "¿abcdefghijklmnopqrstuvwxyzäöñüà").unicodeScalars
    )
    private static let codes: [Unicode.Scalar: [UInt8]] = {
        var codes: [Unicode.Scalar: [UInt8]] = [:]
        for (index, scalar) in basic.enumerated() where index != 0x1B { codes[scalar] = [UInt8(index)] }
        let extended: [(Unicode.Scalar, UInt8)] = [
            ("\u{0C}", 0x0A), ("^", 0x14), ("{", 0x28), ("}", 0x29), ("\\", 0x2F), ("[", 0x3C), ("~", 0x3D),
            ("]", 0x3E), ("|", 0x40), ("€", 0x65),
        ]
        for (scalar, code) in extended { codes[scalar] = [0x1B, code] }
        return codes
    }()

    /// One or two bytes a character; nil if one is not in the alphabet.
    static func gsm7(_ text: String) -> [[UInt8]]? {
        var units: [[UInt8]] = []
        for scalar in text.unicodeScalars {
            guard let code = codes[scalar] else { return nil }
            units.append(code)
        }
        return units
    }

    static func latin1(_ text: String) -> [[UInt8]]? {
        var units: [[UInt8]] = []
        for scalar in text.unicodeScalars {
            guard scalar.value <= 0xFF else { return nil }
            units.append([UInt8(scalar.value)])
        }
        return units
    }

    /// Two or four bytes a character: a surrogate pair stays together.
    static func ucs2(_ text: String) -> [[UInt8]] {
        text.unicodeScalars.map { scalar in
            UTF16.encode(scalar)!.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xFF)] }
        }
    }

    /// Reads a content, for receipts and messages from phones.
    static func decode(_ bytes: [UInt8], dataCoding: UInt8) -> String {
        switch dataCoding {
        case 8:
            var units: [UInt16] = []
            for index in stride(from: 0, to: bytes.count - 1, by: 2) {
                units.append(UInt16(bytes[index]) << 8 | UInt16(bytes[index + 1]))
            }
            return String(decoding: units, as: UTF16.self)
        case 3: return String(String.UnicodeScalarView(bytes.map { Unicode.Scalar($0) }))
        // Receipts are ASCII, whatever the default alphabet is; in GSM 03.38 their characters have the same codes but `_` and `@`.
        default: return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// The units of a message, one for each part. - Parameter reference: tells this message's parts from another's.
    func messages(_ template: SMPPShortMessage, concatenation: SMPPConcatenation, reference: UInt16)
        -> [SMPPShortMessage]
    {
        parts.enumerated().map { index, part in
            var message = template
            message.dataCoding = dataCoding
            message.content = part
            let (total, number) = (UInt8(parts.count), UInt8(index + 1))
            guard parts.count > 1 else {
                if part.count > 254 || concatenation == .payload {
                    message.content = []
                    message.parameters.append(SMPPParameter(SMPPTag.messagePayload, part))
                }
                return message
            }
            switch concatenation {
            case .udh, .payload:
                message.esmClass |= 0x40
                message.content = [5, 0, 3, UInt8(reference & 0xFF), total, number] + part
            case .udh16:
                message.esmClass |= 0x40
                message.content = [6, 8, 4, UInt8(reference >> 8), UInt8(reference & 0xFF), total, number] + part
            case .sar:
                message.parameters += [
                    SMPPParameter(SMPPTag.sarReference, word: reference),
                    SMPPParameter(SMPPTag.sarTotal, byte: total), SMPPParameter(SMPPTag.sarNumber, byte: number),
                ]
            }
            return message
        }
    }
}

/// How a centre writes its ids; answers and receipts of one centre may differ.
public enum SMPPIDForm: String, Sendable, Hashable, CaseIterable {
    /// Compared as text, but for case and zeros at the front.
    case text
    /// A decimal number.
    case decimal
    /// A hexadecimal number.
    case hex

    /// One form for what may be written in several: numbers become decimal.
    func normalised(_ id: String) -> String {
        let text = id.filter { !$0.isWhitespace }.lowercased()
        let radix: Int
        switch self {
        case .text:
            let bare = text.drop { $0 == "0" }
            return bare.isEmpty ? text : String(bare)
        case .decimal: radix = 10
        case .hex: radix = 16
        }
        guard let number = UInt128(text, radix: radix) else { return SMPPIDForm.text.normalised(text) }
        return String(number)
    }
}
