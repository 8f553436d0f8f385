// SPDX-License-Identifier: Apache-2.0

import NIOCore
import Testing

@testable import MDCPipeline

/// The codec and the session of SMPP, without a network.
@Suite struct SMPPSessionTests {
    private func session(window: Int = 2) -> SMPPSession {
        SMPPSession(
            .init(
                bind: SMPPBind(systemID: "esme", password: "secret"),
                window: window,
                responseTimeout: 1_000,
                enquireInterval: 5_000,
                deliveriesMax: 1
            ),
            now: 0
        )
    }

    private func bound(window: Int = 2) -> SMPPSession {
        var session = session(window: window)
        guard case .write(let bind)? = session.opened().first else { preconditionFailure("no bind") }
        #expect(bind.command == SMPPCommand.bindTransceiver)
        let answer = SMPPPDU(command: bind.command | SMPPCommand.answerBit, sequence: bind.sequence)
        #expect(session.received(answer, now: 1) == [.bound])
        return session
    }

    private func answer(_ command: UInt32, _ sequence: UInt32, status: UInt32 = 0) -> SMPPPDU {
        SMPPPDU(command: command | SMPPCommand.answerBit, status: status, sequence: sequence)
    }

    @Test func theWindowIsKeptAndAnswersComeInAnyOrder() {
        var session = bound()
        _ = session.send(SMPPCommand.submitSM, ByteBuffer(), token: 1, now: 10)
        _ = session.send(SMPPCommand.submitSM, ByteBuffer(), token: 2, now: 11)
        #expect(!session.canSend)
        let second = session.received(answer(SMPPCommand.submitSM, 3, status: 0x58), now: 12)
        #expect(second == [.finish(token: 2, .answered(status: 0x58, body: ByteBuffer()))])
        #expect(session.canSend)
        // An answer that nobody waits for, and one that comes twice, change nothing.
        #expect(session.received(answer(SMPPCommand.submitSM, 3), now: 13).isEmpty)
        #expect(session.tick(now: 1_010) == [.finish(token: 1, .unanswered("no answer in time"))])
        #expect(session.received(answer(SMPPCommand.submitSM, 2), now: 1_011).isEmpty)
    }

    @Test func whatIsUnderWayAtTheEndIsUnanswered() {
        var session = bound()
        _ = session.send(SMPPCommand.submitSM, ByteBuffer(), token: 7, now: 10)
        #expect(session.end("gone") == [.finish(token: 7, .unanswered("gone")), .close("gone")])
        #expect(session.end("again").isEmpty)
    }

    @Test func aSilentPeerIsAskedAndThenLeft() {
        var session = bound()
        let asked = session.tick(now: 5_001)
        guard case .write(let unit)? = asked.first else { return #expect(Bool(false), "not asked") }
        #expect(unit.command == SMPPCommand.enquireLink)
        #expect(session.tick(now: 5_500).isEmpty)
        #expect(session.tick(now: 6_001) == [.close("no answer to enquire_link")])
    }

    @Test func deliveriesAreAnsweredOnceStored() {
        var session = bound()
        let message = SMPPShortMessage(
            source: SMPPAddress(recipient: "+1"),
            destination: SMPPAddress(sender: "MDC")
        )
        let unit = SMPPPDU(command: SMPPCommand.deliverSM, sequence: 9, body: message.encoded())
        #expect(
            session.received(unit, now: 2)
                == [.deliver(sequence: 9, command: SMPPCommand.deliverSM, message)]
        )
        // The second is one too many.
        guard case .write(let refusal)? = session.received(unit, now: 3).first else { return #expect(Bool(false)) }
        #expect(refusal.status == 0x14)
        guard
            case .write(let stored)? = session.delivered(sequence: 9, command: SMPPCommand.deliverSM, status: 0).first
        else { return #expect(Bool(false)) }
        #expect(stored.command == SMPPCommand.deliverSM | SMPPCommand.answerBit && stored.sequence == 9)
    }

    @Test func refusedBindsAndStrangeUnits() {
        var session = session()
        _ = session.opened()
        let refused = session.received(answer(SMPPCommand.bindTransceiver, 1, status: 0x0E), now: 1)
        #expect(refused.first == .refused(status: 0x0E))
        var other = bound()
        guard case .write(let nack)? = other.received(SMPPPDU(command: 0x42, sequence: 5), now: 2).first else {
            return #expect(Bool(false))
        }
        #expect(nack.command == SMPPCommand.genericNack && nack.status == 3 && nack.sequence == 5)
        var third = bound()
        let unbound = third.received(SMPPPDU(command: SMPPCommand.unbind, sequence: 6), now: 2)
        #expect(unbound.count == 2 && unbound.last == .close("the SMSC ended the session"))
    }

    @Test func hostileLengths() throws {
        for length: UInt32 in [0, 15, 70_001, .max] {
            var bytes = ByteBuffer(integer: length)
            #expect(throws: SMPPProtocolError.self) { try SMPPPDU.decode(&bytes) }
        }
        var short = ByteBuffer(integer: UInt32(16))
        #expect(try SMPPPDU.decode(&short) == nil)
        var message = SMPPShortMessage(source: SMPPAddress(recipient: "+1"), destination: SMPPAddress(recipient: "+2"))
        message.content = Array("hello".utf8)
        message.parameters = [SMPPParameter(SMPPTag.messageState, byte: 2)]
        let whole = Array(message.encoded().readableBytesView)
        #expect(try SMPPShortMessage(ByteBuffer(bytes: whole)) == message)
        // Cut anywhere, it is refused or shorter, and never a trap.
        for count in 0..<whole.count {
            _ = try? SMPPShortMessage(ByteBuffer(bytes: whole.prefix(count)))
        }
        var generator = SeededGenerator(seed: 5)
        for _ in 0..<20_000 {
            var bytes = whole
            for _ in 0..<3 {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            if let read = try? SMPPShortMessage(ByteBuffer(bytes: bytes)) { _ = SMPPReceipt(read) }
        }
    }

    @Test func randomUnitsLeaveTheSessionWhole() {
        var generator = SeededGenerator(seed: 3)
        let commands: [UInt32] = [0x80000009, 0x80000004, 5, 0x15, 0x80000015, 6, 0x80000006, 0x80000000, 0x42]
        for _ in 0..<2_000 {
            var session = session(window: 5)
            _ = session.opened()
            var open: Set<UInt64> = []
            var token: UInt64 = 0
            var now: Int64 = 0
            for _ in 0..<40 {
                now += Int64.random(in: 0...400, using: &generator)
                var actions: [SMPPSession.Action] = []
                if session.canSend, Bool.random(using: &generator) {
                    token += 1
                    open.insert(token)
                    actions = session.send(SMPPCommand.submitSM, ByteBuffer(), token: token, now: now)
                } else {
                    let unit = SMPPPDU(
                        command: commands.randomElement(using: &generator) ?? 0,
                        status: UInt32.random(in: 0...2, using: &generator),
                        sequence: UInt32.random(in: 1...6, using: &generator)
                    )
                    actions = session.received(unit, now: now) + session.tick(now: now)
                }
                for case .finish(let token, _) in actions { #expect(open.remove(token) != nil) }
                #expect(session.outstanding == open.count)
            }
            for case .finish(let token, _) in session.end("over") { #expect(open.remove(token) != nil) }
            #expect(open.isEmpty)
        }
    }
}

/// Texts, ids and receipts of SMPP.
@Suite struct SMPPTextTests {
    @Test func alphabets() throws {
        #expect(SMPPText.gsm7("@Å_^€")?.joined().map { $0 } == [0x00, 0x0E, 0x11, 0x1B, 0x14, 0x1B, 0x65])
        #expect(SMPPText.gsm7("àz?") == [[0x7F], [0x7A], [0x3F]])
        #expect(SMPPText.gsm7("é") == [[0x05]])
        #expect(SMPPText.gsm7("ç") == nil)
        let latin = try #require(SMPPText("çé", alphabet: .latin1, concatenation: .udh))
        #expect(latin.dataCoding == 3 && latin.parts == [[0xE7, 0xE9]])
        let other = try #require(SMPPText("ç", alphabet: .gsm7, concatenation: .udh))
        #expect(other.dataCoding == 8 && other.parts == [[0x00, 0xE7]])
    }

    /// The parts are as many as the client was told when it submitted.
    @Test func partsAsCounted() throws {
        var generator = SeededGenerator(seed: 8)
        let letters = ["a", "€", "é", "ж", "👋", "[", " "]
        for _ in 0..<500 {
            let kinds = Array(letters.prefix(Int.random(in: 1...letters.count, using: &generator)))
            let text = (0..<Int.random(in: 1...400, using: &generator))
                .map { _ in kinds.randomElement(using: &generator) ?? "a" }.joined()
            let counted = SMSSegments(text)
            let cut = try #require(SMPPText(text, alphabet: .gsm7, concatenation: .udh))
            #expect(cut.parts.count == counted.count, "\(text)")
            #expect(cut.parts.allSatisfy { $0.count <= (cut.dataCoding == 0 ? 160 : 140) })
        }
        #expect(SMPPText(String(repeating: "a", count: 4_000), alphabet: .gsm7, concatenation: .udh) == nil)
    }

    @Test func idsInSeveralForms() {
        #expect(SMPPIDForm.hex.normalised("0A1F") == "2591")
        #expect(SMPPIDForm.decimal.normalised("0000002591") == "2591")
        #expect(SMPPIDForm.text.normalised(" 00AbC ") == "abc")
        #expect(SMPPIDForm.decimal.normalised("not-a-number") == "not-a-number")
        #expect(SMPPIDForm.text.normalised("000") == "000")
    }

    @Test func receipts() throws {
        var message = SMPPShortMessage(source: SMPPAddress(recipient: "+1"), destination: SMPPAddress(sender: "MDC"))
        message.esmClass = 4
        message.content = Array(
            "id:12 sub:001 dlvrd:000 submit date:2611231200 done date:2611231201 stat:UNDELIV err:069 text:id:9 stat:X"
                .utf8
        )
        let receipt = try #require(SMPPReceipt(message))
        #expect(receipt.messageID == "12" && receipt.state == "UNDELIV" && receipt.error == "069")
        #expect(receipt.done == "2611231201" && receipt.status == .undelivered && message.isReceipt)
        message.parameters = [
            SMPPParameter(SMPPTag.receiptedMessageID, Array("ff\0".utf8)), SMPPParameter(SMPPTag.messageState, byte: 2),
        ]
        let tagged = try #require(SMPPReceipt(message))
        #expect(tagged.messageID == "ff" && tagged.status == .delivered)
        message.parameters = []
        message.content = Array("hello".utf8)
        #expect(SMPPReceipt(message) == nil)
    }

    @Test func manyPartsMakeOneReceipt() {
        var parts = SMPPParts()
        let first = parts.begin(2, reference: "m.1")
        parts.add("a", to: first)
        #expect(parts.report("a", .delivered)?.isIntermediate == true)
        parts.add("b", to: first)
        // The same part again does not complete it.
        #expect(parts.report("a", .delivered)?.isIntermediate == true)
        let whole = parts.report("b", .delivered)
        #expect(whole == .init(firstID: "a", reference: "m.1", status: .delivered, isIntermediate: false))
        parts.settle("b")
        #expect(parts.count == 0 && parts.report("b", .delivered) == nil)
        let second = parts.begin(2, reference: "m.2")
        parts.add("c", to: second)
        parts.add("d", to: second)
        #expect(parts.report("d", .failed)?.isIntermediate == false)
    }

    @Test func aReceiptMayBelongToWhatIsUnderWay() {
        var parts = SMPPParts()
        #expect(parts.limit(of: "a") == nil)
        let first = parts.begin(2, reference: "m.1")
        parts.add("a", to: first)
        #expect(parts.limit(of: "a") == nil)
        let limit = parts.limit(of: "b")
        #expect(limit == first)
        // What begins after the receipt came cannot be its message.
        let second = parts.begin(1, reference: "m.2")
        #expect(parts.mayBelong("b", upTo: first))
        parts.finish(first)
        #expect(!parts.mayBelong("b", upTo: first) && parts.mayBelong("b", upTo: second))
        parts.add("b", to: second)
        #expect(!parts.mayBelong("b", upTo: second))
    }

    @Test func validity() {
        #expect(SMPPProvider.relative(seconds: 5) == "000000000100000R")
        #expect(SMPPProvider.relative(seconds: 2 * 86_400 + 3_661) == "000002010101000R")
    }

    @Test func senders() {
        #expect(SMPPAddress(sender: "Bank") == SMPPAddress(ton: 5, npi: 0, text: "Bank"))
        #expect(SMPPAddress(sender: "+447700900123") == SMPPAddress(ton: 1, npi: 1, text: "447700900123"))
        #expect(SMPPAddress(sender: "12345") == SMPPAddress(ton: 3, npi: 0, text: "12345"))
    }
}
