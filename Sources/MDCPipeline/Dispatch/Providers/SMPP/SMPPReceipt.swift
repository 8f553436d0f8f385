// SPDX-License-Identifier: Apache-2.0

/// What a delivery receipt says (SMPP 3.4, appendix B): parameters where there are any, else the text.
struct SMPPReceipt: Sendable, Equatable {
    var messageID: String
    /// `DELIVRD`, `EXPIRED`, `DELETED`, `UNDELIV`, `ACCEPTD`, `UNKNOWN`, `REJECTD`, `ENROUTE`.
    var state: String
    var error: String?
    /// `done date`, as `YYMMDDhhmm[ss]`, in the centre's time zone.
    var done: String?

    static let states = [
        1: "ENROUTE", 2: "DELIVRD", 3: "EXPIRED", 4: "DELETED", 5: "UNDELIV", 6: "ACCEPTD", 7: "UNKNOWN", 8: "REJECTD",
    ]

    /// Returns nil if it names no message or no state.
    init?(_ message: SMPPShortMessage) {
        let text = SMPPText.decode(Array(message.payload.prefix(1_024)), dataCoding: message.dataCoding)
        let fields = Self.fields(text)
        let named = message[SMPPTag.receiptedMessageID].map { bytes in
            String(decoding: bytes.prefix { $0 != 0 }.prefix(64), as: UTF8.self)
        }
        guard let id = named.flatMap({ $0.isEmpty ? nil : $0 }) ?? fields["id"], !id.isEmpty, id.utf8.count <= 65 else {
            return nil
        }
        messageID = id
        let state =
            message[SMPPTag.messageState]?.first.flatMap { Self.states[Int($0)] } ?? fields["stat"]?.uppercased()
        guard let state, !state.isEmpty else { return nil }
        self.state = String(state.prefix(16))
        error = fields["err"].map { String($0.prefix(16)) }
        if error == nil, let code = message[SMPPTag.networkErrorCode], code.count == 3 {
            error = "\(code[0]):\(UInt16(code[1]) << 8 | UInt16(code[2]))"
        }
        done = fields["done date"].map { String($0.prefix(16)) }
    }

    /// `id:… sub:… dlvrd:… submit date:… done date:… stat:… err:… text:…`, in any order and case; `text` ends it.
    static func fields(_ text: String) -> [String: String] {
        var fields: [String: String] = [:]
        let names = ["id", "sub", "dlvrd", "submit date", "done date", "stat", "err"]
        let bytes = Array(text.utf8)
        let lower = bytes.map { (0x41...0x5A).contains($0) ? $0 + 0x20 : $0 }
        let end = Self.find(Array("text:".utf8), in: lower, from: 0) ?? bytes.count
        for name in names {
            let mark = Array((name + ":").utf8)
            var from = 0
            while let at = find(mark, in: lower, from: from), at < end {
                from = at + mark.count
                // `id:` also stands in `mid:`: a name begins the text or follows a space.
                guard at == 0 || lower[at - 1] == 0x20 else { continue }
                let value = bytes[from..<end].drop { $0 == 0x20 }.prefix { $0 != 0x20 }
                fields[name] = String(decoding: value, as: UTF8.self)
                break
            }
        }
        return fields
    }

    private static func find(_ mark: [UInt8], in bytes: [UInt8], from: Int) -> Int? {
        guard bytes.count >= mark.count else { return nil }
        var at = from
        while at + mark.count <= bytes.count {
            if bytes[at..<(at + mark.count)].elementsEqual(mark) { return at }
            at += 1
        }
        return nil
    }

    /// What the state means to us.
    var status: ProviderReceipt.Status { Self.status(state) }

    static func status(_ state: String) -> ProviderReceipt.Status {
        switch state {
        case "DELIVRD": .delivered
        case "ENROUTE", "ACCEPTD", "SCHEDLD": .sent
        case "EXPIRED": .expired
        case "UNDELIV": .undelivered
        case "DELETED", "REJECTD": .failed
        default: .other
        }
    }
}

/// What a status of an answer means (SMPP 3.4, 5.1.3).
enum SMPPStatus {
    static let names: [UInt32: String] = [
        0x00: "ESME_ROK", 0x01: "ESME_RINVMSGLEN", 0x02: "ESME_RINVCMDLEN", 0x03: "ESME_RINVCMDID",
        0x04: "ESME_RINVBNDSTS", 0x05: "ESME_RALYBND", 0x06: "ESME_RINVPRTFLG", 0x07: "ESME_RINVREGDLVFLG",
        0x08: "ESME_RSYSERR", 0x0A: "ESME_RINVSRCADR", 0x0B: "ESME_RINVDSTADR", 0x0C: "ESME_RINVMSGID",
        0x0D: "ESME_RBINDFAIL", 0x0E: "ESME_RINVPASWD", 0x0F: "ESME_RINVSYSID", 0x14: "ESME_RMSGQFUL",
        0x15: "ESME_RINVSERTYP", 0x33: "ESME_RINVNUMDESTS", 0x43: "ESME_RINVESMCLASS", 0x44: "ESME_RCNTSUBDL",
        0x45: "ESME_RSUBMITFAIL", 0x48: "ESME_RINVSRCTON", 0x49: "ESME_RINVSRCNPI", 0x50: "ESME_RINVDSTTON",
        0x51: "ESME_RINVDSTNPI", 0x58: "ESME_RTHROTTLED", 0x61: "ESME_RINVSCHED", 0x62: "ESME_RINVEXPIRY",
        0x64: "ESME_RX_T_APPN", 0x65: "ESME_RX_P_APPN", 0x66: "ESME_RX_R_APPN", 0x67: "ESME_RQUERYFAIL",
        0xC2: "ESME_RINVPARLEN", 0xC3: "ESME_RMISSINGOPTPARAM", 0xC4: "ESME_RINVOPTPARAMVAL",
        0xFE: "ESME_RDELIVERYFAILURE", 0xFF: "ESME_RUNKNOWNERR",
    ]

    static func name(_ status: UInt32) -> String { names[status] ?? "0x" + String(status, radix: 16, uppercase: true) }

    /// The pause that "too fast" asks for.
    static let throttlePause: Duration = .seconds(1)
    /// The pause when our account is at fault.
    static let operatorPause: Duration = .seconds(60)

    /// What a refused `submit_sm` means.
    static func outcome(_ status: UInt32) -> SendOutcome {
        let name = name(status)
        let reason = "the SMSC answered \(name)"
        switch status {
        case 0x58, 0x14: return .retriable(code: name, reason: reason, retryAfter: throttlePause)
        case 0x04, 0x05, 0x0D, 0x0E, 0x0F: return .retriable(code: name, reason: reason, retryAfter: operatorPause)
        case 0x08, 0x64, 0x66, 0xFE, 0xFF: return .retriable(code: name, reason: reason)
        // Vendors' own: credit, routing and the like; trying again later harms less than giving up.
        case 0x400...0x4FF: return .retriable(code: name, reason: reason, retryAfter: operatorPause)
        default: return .rejected(code: name, reason: reason)
        }
    }
}
