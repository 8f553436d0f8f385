// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// What makes a peer's bytes unacceptable: the connection ends.
struct SMPPProtocolError: Error, Sendable, Equatable, CustomStringConvertible {
    var description: String
}

/// Kinds of units (SMPP 3.4, 5.1.2.1); an answer is its request with the highest bit set.
enum SMPPCommand {
    static let bindTransceiver: UInt32 = 0x09
    static let querySM: UInt32 = 0x03
    static let submitSM: UInt32 = 0x04
    static let deliverSM: UInt32 = 0x05
    static let unbind: UInt32 = 0x06
    static let enquireLink: UInt32 = 0x15
    static let dataSM: UInt32 = 0x103
    static let genericNack: UInt32 = 0x8000_0000
    static let answerBit: UInt32 = 0x8000_0000
}

/// Optional parameters that mean something to us (SMPP 3.4, 5.3.2).
enum SMPPTag {
    static let receiptedMessageID: UInt16 = 0x001E
    static let userMessageReference: UInt16 = 0x0204
    static let sarReference: UInt16 = 0x020C
    static let sarTotal: UInt16 = 0x020E
    static let sarNumber: UInt16 = 0x020F
    static let networkErrorCode: UInt16 = 0x0423
    static let messagePayload: UInt16 = 0x0424
    static let messageState: UInt16 = 0x0427
}

/// An optional parameter.
struct SMPPParameter: Sendable, Equatable {
    var tag: UInt16
    var value: [UInt8]

    init(_ tag: UInt16, _ value: [UInt8]) {
        self.tag = tag
        self.value = value
    }

    init(_ tag: UInt16, byte: UInt8) { self.init(tag, [byte]) }
    init(_ tag: UInt16, word: UInt16) { self.init(tag, [UInt8(word >> 8), UInt8(word & 0xFF)]) }
}

/// A protocol data unit: header and body, the body as bytes (SMPP 3.4, 3.2).
struct SMPPPDU: Sendable, Equatable {
    /// The longest that is taken: two message payloads' worth and more than any real one.
    static let bytesMax = 70_000
    static let headerBytes = 16

    var command: UInt32
    var status: UInt32 = 0
    /// 1…0x7FFFFFFF.
    var sequence: UInt32
    var body = ByteBuffer()

    /// Takes a whole unit off the front; nil if there is none yet. - Throws: if the bytes cannot be one.
    static func decode(_ buffer: inout ByteBuffer) throws(SMPPProtocolError) -> SMPPPDU? {
        guard let length = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self) else { return nil }
        guard (headerBytes...bytesMax).contains(Int(length)) else {
            throw SMPPProtocolError(description: "a unit of \(length) bytes; 16 to \(bytesMax) are possible")
        }
        guard buffer.readableBytes >= Int(length), var unit = buffer.readSlice(length: Int(length)) else { return nil }
        guard unit.readInteger(as: UInt32.self) != nil, let command = unit.readInteger(as: UInt32.self),
            let status = unit.readInteger(as: UInt32.self), let sequence = unit.readInteger(as: UInt32.self)
        else { return nil }
        return SMPPPDU(command: command, status: status, sequence: sequence, body: unit)
    }

    func encode(into buffer: inout ByteBuffer) {
        buffer.writeInteger(UInt32(Self.headerBytes + body.readableBytes))
        buffer.writeInteger(command)
        buffer.writeInteger(status)
        buffer.writeInteger(sequence)
        buffer.writeImmutableBuffer(body)
    }
}

extension ByteBuffer {
    /// A text that a zero byte ends, of at most `max` bytes with it.
    mutating func readSMPPString(max: Int, _ field: String) throws(SMPPProtocolError) -> String {
        guard let end = readableBytesView.prefix(max).firstIndex(of: 0) else {
            throw SMPPProtocolError(description: "\(field) does not end within \(max) bytes")
        }
        let bytes = readBytes(length: end - readerIndex) ?? []
        moveReaderIndex(forwardBy: 1)
        return String(decoding: bytes, as: UTF8.self)
    }

    mutating func readSMPPByte(_ field: String) throws(SMPPProtocolError) -> UInt8 {
        guard let byte = readInteger(as: UInt8.self) else {
            throw SMPPProtocolError(description: "the unit ends before \(field)")
        }
        return byte
    }

    /// All optional parameters to the end.
    mutating func readSMPPParameters() throws(SMPPProtocolError) -> [SMPPParameter] {
        var parameters: [SMPPParameter] = []
        while readableBytes > 0 {
            guard let tag = readInteger(as: UInt16.self), let length = readInteger(as: UInt16.self),
                let value = readBytes(length: Int(length))
            else { throw SMPPProtocolError(description: "an optional parameter is longer than its unit") }
            guard parameters.count < 256 else {
                throw SMPPProtocolError(description: "more than 256 optional parameters")
            }
            parameters.append(SMPPParameter(tag, value))
        }
        return parameters
    }

    mutating func writeSMPPString(_ text: String, max: Int) {
        writeBytes(text.utf8.lazy.filter { $0 != 0 }.prefix(max - 1))
        writeInteger(UInt8(0))
    }

    mutating func writeSMPPParameters(_ parameters: [SMPPParameter]) {
        for parameter in parameters {
            writeInteger(parameter.tag)
            writeInteger(UInt16(parameter.value.count))
            writeBytes(parameter.value)
        }
    }
}

/// An address with type of number and numbering plan (SMPP 3.4, 5.2.5 and 5.2.6).
struct SMPPAddress: Sendable, Equatable {
    var ton: UInt8
    var npi: UInt8
    var text: String

    init(ton: UInt8, npi: UInt8, text: String) {
        self.ton = ton
        self.npi = npi
        self.text = text
    }

    /// International for `+…`, short code for up to six digits, national for other digits, else alphanumeric.
    init(sender: String) {
        let digits = sender.hasPrefix("+") ? sender.dropFirst() : sender[...]
        let isNumber = !digits.isEmpty && digits.utf8.allSatisfy { (0x30...0x39).contains($0) }
        if !isNumber {
            self.init(ton: 5, npi: 0, text: String(sender.prefix(11)))
        } else if sender.hasPrefix("+") {
            self.init(ton: 1, npi: 1, text: String(digits))
        } else if digits.utf8.count <= 6 {
            self.init(ton: 3, npi: 0, text: String(digits))
        } else {
            self.init(ton: 0, npi: 1, text: String(digits))
        }
    }

    /// An E.164 number.
    init(recipient: String) {
        self.init(ton: 1, npi: 1, text: recipient.hasPrefix("+") ? String(recipient.dropFirst()) : recipient)
    }
}

/// `submit_sm` and `deliver_sm`, which have the same fields (SMPP 3.4, 4.4.1 and 4.6.1).
struct SMPPShortMessage: Sendable, Equatable {
    var serviceType = ""
    var source: SMPPAddress
    var destination: SMPPAddress
    var esmClass: UInt8 = 0
    var protocolID: UInt8 = 0
    var priority: UInt8 = 0
    var scheduleTime = ""
    var validityPeriod = ""
    var registeredDelivery: UInt8 = 0
    var replaceIfPresent: UInt8 = 0
    var dataCoding: UInt8 = 0
    var defaultMessageID: UInt8 = 0
    /// At most 254 bytes; longer ones go into `message_payload`.
    var content: [UInt8] = []
    var parameters: [SMPPParameter] = []

    init(source: SMPPAddress, destination: SMPPAddress) {
        self.source = source
        self.destination = destination
    }

    init(_ body: ByteBuffer) throws(SMPPProtocolError) {
        var body = body
        serviceType = try body.readSMPPString(max: 6, "service_type")
        source = SMPPAddress(
            ton: try body.readSMPPByte("source_addr_ton"),
            npi: try body.readSMPPByte("source_addr_npi"),
            text: try body.readSMPPString(max: 21, "source_addr")
        )
        destination = SMPPAddress(
            ton: try body.readSMPPByte("dest_addr_ton"),
            npi: try body.readSMPPByte("dest_addr_npi"),
            text: try body.readSMPPString(max: 21, "destination_addr")
        )
        esmClass = try body.readSMPPByte("esm_class")
        protocolID = try body.readSMPPByte("protocol_id")
        priority = try body.readSMPPByte("priority_flag")
        scheduleTime = try body.readSMPPString(max: 17, "schedule_delivery_time")
        validityPeriod = try body.readSMPPString(max: 17, "validity_period")
        registeredDelivery = try body.readSMPPByte("registered_delivery")
        replaceIfPresent = try body.readSMPPByte("replace_if_present_flag")
        dataCoding = try body.readSMPPByte("data_coding")
        defaultMessageID = try body.readSMPPByte("sm_default_msg_id")
        let length = try body.readSMPPByte("sm_length")
        guard let bytes = body.readBytes(length: Int(length)) else {
            throw SMPPProtocolError(description: "sm_length is \(length), but \(body.readableBytes) bytes follow")
        }
        content = bytes
        parameters = try body.readSMPPParameters()
    }

    func encoded() -> ByteBuffer {
        precondition(content.count <= 254, "a short message of \(content.count) bytes")
        var body = ByteBuffer()
        body.writeSMPPString(serviceType, max: 6)
        for address in [source, destination] {
            body.writeInteger(address.ton)
            body.writeInteger(address.npi)
            body.writeSMPPString(address.text, max: 21)
        }
        body.writeInteger(esmClass)
        body.writeInteger(protocolID)
        body.writeInteger(priority)
        body.writeSMPPString(scheduleTime, max: 17)
        body.writeSMPPString(validityPeriod, max: 17)
        body.writeInteger(registeredDelivery)
        body.writeInteger(replaceIfPresent)
        body.writeInteger(dataCoding)
        body.writeInteger(defaultMessageID)
        body.writeInteger(UInt8(content.count))
        body.writeBytes(content)
        body.writeSMPPParameters(parameters)
        return body
    }

    subscript(tag: UInt16) -> [UInt8]? { parameters.first { $0.tag == tag }?.value }

    /// The text's bytes, wherever they stand.
    var payload: [UInt8] { content.isEmpty ? self[SMPPTag.messagePayload] ?? [] : content }
    /// A delivery receipt or an intermediate notification, not a message from a phone.
    var isReceipt: Bool { esmClass & 0x3C == 0x04 || esmClass & 0x20 != 0 }
}

/// The body of `bind_transceiver` (SMPP 3.4, 4.1.5).
struct SMPPBind: Sendable, Equatable {
    var systemID: String
    var password: String
    var systemType = ""

    func encoded() -> ByteBuffer {
        var body = ByteBuffer()
        body.writeSMPPString(systemID, max: 16)
        body.writeSMPPString(password, max: 9)
        body.writeSMPPString(systemType, max: 13)
        body.writeBytes([0x34, 0, 0])
        body.writeSMPPString("", max: 41)
        return body
    }
}
