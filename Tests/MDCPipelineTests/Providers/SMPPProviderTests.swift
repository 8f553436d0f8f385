// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// Our SMPP client against an SMSC made of PyPI's `smpp34`, in a process of its own.
@Suite(.serialized) struct SMPPProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func message(_ index: Int, fate: String = "99", text: String = "hello") -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .sms,
            lane: "critical",
            to: "+447700\(String(format: "%04d", index))\(fate)",
            sender: "MDC",
            content: MessageContent(text: text),
            createdAt: 1_790_000_000_000
        )
    }

    private func provider(
        _ port: Int,
        _ receipts: any ReceiptSink,
        concatenation: SMPPConcatenation = .udh,
        responseTimeout: Duration = .seconds(30)
    ) throws -> SMPPProvider {
        try SMPPProvider(
            .init(
                host: "127.0.0.1",
                port: port,
                systemID: "esme",
                password: "secret",
                binds: 2,
                window: 20,
                concatenation: concatenation,
                idInAnswer: .hex,
                idInReceipt: .decimal,
                parameters: [0x1400: "1101234"],
                connectTimeout: .seconds(30),
                responseTimeout: responseTimeout
            ),
            receipts: receipts,
            group: group,
            logger: quietLogger()
        )
    }

    @Test func everyFate() async throws {
        let smsc = try await SMSC.start()
        defer { smsc.stop() }
        let kept = KeptReceipts()
        kept.failNext(1)
        let provider = try provider(smsc.port, kept, responseTimeout: .seconds(3))
        let fates = ["99", "01", "02", "03", "04", "05", "06"]
        var outcomes: [String: SendOutcome] = [:]
        for (index, fate) in fates.enumerated() {
            outcomes[fate] = await provider.send(message(index, fate: fate), attempt: 1)
        }
        guard case .rejected("ESME_RINVDSTADR", _)? = outcomes["01"] else {
            return #expect(Bool(false), "\(outcomes)")
        }
        #expect(outcomes["02"]?.isThrottled == true)
        guard case .inDoubt? = outcomes["03"] else { return #expect(Bool(false), "\(outcomes)") }
        for fate in ["99", "04", "05", "06"] {
            guard case .accepted? = outcomes[fate] else { return #expect(Bool(false), "\(fate): \(outcomes)") }
        }
        // The first receipt was refused by the log, so the SMSC was told to bring it again, or it did not: all others are there.
        #expect(await waitUntil { kept.receipts.count >= 3 }, "\(kept.receipts)")
        let failed = kept.receipts.first { $0.reference == message(5, fate: "05").reference(attempt: 1) }
        #expect(failed?.status == .undelivered)
        let byTag = kept.receipts.first { $0.reference == message(6, fate: "06").reference(attempt: 1) }
        #expect(byTag?.status == .delivered)
        // The early receipt has only the provider's id, in the form that the answer then has.
        if case .accepted(let id, _)? = outcomes["04"] {
            #expect(kept.receipts.contains { $0.providerMessageID == id && $0.status == .delivered })
        }
        await provider.shutdown()
        let first = try #require(smsc.submits().first { $0.to.hasSuffix("99") })
        #expect(first.ton == 5)
        #expect(first.from == "MDC")
        #expect(first.tlvs["1400"] == Data("1101234".utf8).map { String(format: "%02x", $0) }.joined())
    }

    @Test(arguments: [SMPPConcatenation.udh, .udh16, .sar])
    func longTextsAreOneMessage(concatenation: SMPPConcatenation) async throws {
        let smsc = try await SMSC.start()
        defer { smsc.stop() }
        let kept = KeptReceipts()
        let provider = try provider(smsc.port, kept, concatenation: concatenation)
        let text = String(repeating: "नमस्ते ", count: 30)
        let outcome = await provider.send(message(1, text: text), attempt: 1)
        guard case .accepted(let id, let detail) = outcome else { return #expect(Bool(false), "\(outcome)") }
        #expect(detail == "4 parts")
        #expect(await waitUntil { !kept.receipts.isEmpty })
        #expect(kept.receipts.count == 1)
        let receipt = try #require(kept.receipts.first)
        #expect(receipt.reference == message(1).reference(attempt: 1))
        #expect(receipt.providerMessageID == id)
        await provider.shutdown()
        let submits = try smsc.submits()
        #expect(submits.count == 4)
        var joined: [UInt8] = []
        for (index, submit) in submits.enumerated() {
            #expect(submit.coding == 8)
            let bytes = submit.bytes
            switch concatenation {
            case .udh:
                #expect(submit.esm & 0x40 != 0)
                #expect(Array(bytes[0...2]) == [5, 0, 3] && Array(bytes[4...5]) == [4, UInt8(index + 1)])
                joined += bytes.dropFirst(6)
            case .udh16:
                #expect(Array(bytes[0...2]) == [6, 8, 4] && Array(bytes[5...6]) == [4, UInt8(index + 1)])
                joined += bytes.dropFirst(7)
            case .sar:
                #expect(submit.tlvs["020e"] == "04" && submit.tlvs["020f"] == String(format: "%02x", index + 1))
                joined += bytes
            case .payload: break
            }
        }
        #expect(SMPPText.decode(joined, dataCoding: 8) == text)
    }

    /// Many at once through two binds, each receipt joined; prints what it took.
    @Test func manyAtOnce() async throws {
        let smsc = try await SMSC.start()
        defer { smsc.stop() }
        let kept = KeptReceipts()
        let provider = try provider(smsc.port, kept)
        let count = 2_000
        let began = ContinuousClock.now
        let accepted = await withTaskGroup(of: Bool.self) { tasks in
            for index in 0..<count {
                let message = message(index)
                tasks.addTask {
                    if case .accepted = await provider.send(message, attempt: 1) { true } else { false }
                }
            }
            return await tasks.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(accepted == count)
        #expect(await waitUntil { kept.receipts.count >= count }, "\(kept.receipts.count) receipts")
        print("SMPP: \(count) messages with receipts through smpp34 in \(ContinuousClock.now - began)")
        #expect(kept.receipts.allSatisfy { $0.status == .delivered })
        #expect(provider.bindCount == 2)
        await provider.shutdown()
    }

    @Test func aNewSMSCIsFound() async throws {
        let first = try await SMSC.start()
        let kept = KeptReceipts()
        let provider = try provider(first.port, kept)
        guard case .accepted = await provider.send(message(1), attempt: 1) else { return #expect(Bool(false)) }
        // Both binds are there before the SMSC dies, so one more is a new one.
        #expect(await waitUntil { provider.bindCount == 2 })
        first.stop()
        let port = first.port
        let second = try await SMSC.start(port: port)
        defer { second.stop() }
        // What was under way when the SMSC died is in doubt or was not sent; sooner or later the bind is back.
        #expect(
            await waitUntil {
                if case .accepted = await provider.send(message(2), attempt: 1) { true } else { false }
            }
        )
        #expect(provider.bindCount > 2)
        await provider.shutdown()
    }

    @Test func nobodyThere() async throws {
        let provider = try SMPPProvider(
            .init(host: "127.0.0.1", port: 1, systemID: "esme", password: "secret", connectTimeout: .milliseconds(300)),
            receipts: KeptReceipts(),
            group: group,
            logger: quietLogger()
        )
        let outcome = await provider.send(message(1), attempt: 1)
        guard case .retriable("connect", let reason, _) = outcome else { return #expect(Bool(false), "\(outcome)") }
        #expect(!reason.contains("secret"))
        await provider.shutdown()
    }
}

private final class SMSC {
    struct Submit: Decodable {
        var to: String
        var from: String
        var ton: Int
        var coding: Int
        var esm: Int
        var text: String
        var tlvs: [String: String]

        var bytes: [UInt8] {
            let digits = Array(text)
            return stride(from: 0, to: digits.count, by: 2).compactMap {
                UInt8(String(digits[$0...($0 + 1)]), radix: 16)
            }
        }
    }

    let port: Int
    private let process: Process
    private let folder: URL

    private init(port: Int, process: Process, folder: URL) {
        self.port = port
        self.process = process
        self.folder = folder
    }

    static func start(port: Int? = nil) async throws -> SMSC {
        let folder = try RealServers.folder("smsc")
        let chosen = if let port { port } else { try LoopbackPort.free() }
        let process = try RealServers.start(
            try RealServers.program(RealServers.python.path),
            [RealServers.script("smsc.py"), String(chosen), folder.path + "/submits"],
            log: folder.appending(path: "log")
        )
        do {
            try await RealServers.waitForPort(chosen)
        } catch {
            RealServers.kill(process)
            throw error
        }
        return SMSC(port: chosen, process: process, folder: folder)
    }

    func submits() throws -> [Submit] {
        try String(contentsOf: folder.appending(path: "submits"), encoding: .utf8).split(separator: "\n")
            .map { try JSONDecoder().decode(Submit.self, from: Data($0.utf8)) }
    }

    func stop() {
        RealServers.kill(process)
        try? FileManager.default.removeItem(at: folder)
    }
}
