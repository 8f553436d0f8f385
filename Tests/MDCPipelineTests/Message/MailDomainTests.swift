// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

@Suite("Mail domains")
struct MailDomainTests {
    /// Answers as the name asks for; and counts what it was asked.
    private final class NameServer: ChannelInboundHandler, Sendable {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>
        typealias OutboundOut = AddressedEnvelope<ByteBuffer>
        private let counts = Mutex<[String: Int]>([:])
        func count(_ name: String) -> Int { counts.withLock { $0[name] ?? 0 } }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let envelope = unwrapInboundIn(data)
            var bytes = Array(envelope.data.readableBytesView)
            var labels: [String] = []
            var at = 12
            while bytes[at] != 0 {
                labels.append(String(decoding: bytes[(at + 1)...(at + Int(bytes[at]))], as: UTF8.self))
                at += Int(bytes[at]) + 1
            }
            let name = labels.joined(separator: ".")
            let type = bytes[at + 2]
            counts.withLock { $0[name, default: 0] += 1 }
            func record(_ type: UInt8, _ data: [UInt8]) -> [UInt8] {
                [0xC0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, UInt8(data.count)] + data
            }
            var records: [[UInt8]] = []
            switch (name, type) {
            case ("good.example", 15):
                records = [record(15, [0, 10, 1, 97, 0xC0, 12]), record(15, [0, 20, 1, 98, 0xC0, 12])]
            case ("null.example", 15): records = [record(15, [0, 0, 0])]
            case ("host.example", 28): records = [record(28, Array(repeating: 1, count: 16))]
            case ("missing.example", _): bytes[3] |= 3
            case ("broken.example", _): bytes[3] |= 2
            case ("silent.example", _): return
            case ("forged.example", _): bytes[0] ^= 0xFF
            default: break
            }
            bytes[2] |= 0x80
            bytes[7] = UInt8(records.count)
            let answer = ByteBuffer(bytes: bytes + records.flatMap { $0 })
            context.writeAndFlush(
                wrapOutboundOut(AddressedEnvelope(remoteAddress: envelope.remoteAddress, data: answer)),
                promise: nil
            )
        }
    }

    @Test("that exist, that do not, that take no mail, and those that nobody knows of", .timeLimit(.minutes(4)))
    func domains() async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let server = NameServer()
        let channel = try await DatagramBootstrap(group: group)
            .channelInitializer { $0.pipeline.addHandler(server) }
            .bind(host: "127.0.0.1", port: 0).get()
        let port = try #require(channel.localAddress?.port)
        let check = MailDomainCheck(
            .init(host: "127.0.0.1", port: port, timeout: .milliseconds(300)),
            group: group,
            logger: quietLogger()
        )
        let names: Set = [
            "good.example", "null.example", "host.example", "missing.example", "empty.example", "broken.example",
            "silent.example", "forged.example",
        ]
        let problems = await check.problems(names)
        #expect(Set(problems.keys) == ["null.example", "missing.example", "empty.example"], "\(problems)")
        #expect(problems["missing.example"]?.contains("does not exist") == true)
        let asked = server.count("good.example")
        #expect(await check.problems(["good.example"]) == [:])
        #expect(server.count("good.example") == asked)
        #expect(server.count("silent.example") == 2)
        try await channel.close()
    }

    @Test("no bytes of an answer end the process")
    func random() throws {
        var generator = SeededGenerator(seed: 3)
        let question = try #require(DNSMessage.question(id: 7, name: "good.example", type: .mx))
        var whole = Array(question.readableBytesView)
        (whole[2], whole[7]) = (0x81, 2)
        for _ in 0..<2 { whole += [0xC0, 12, 0, 15, 0, 1, 0, 0, 0, 60, 0, 4, 0, 10, 0xC0, 12] }
        #expect(DNSMessage.answer(ByteBuffer(bytes: whole), to: question, type: .mx)?.count == 2)
        for _ in 0..<20_000 {
            var bytes = Array(whole.prefix(Int.random(in: 0...whole.count, using: &generator)))
            for _ in 0..<Int.random(in: 0...4, using: &generator) where !bytes.isEmpty {
                bytes[Int.random(in: bytes.indices, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            _ = DNSMessage.answer(ByteBuffer(bytes: bytes), to: question, type: .mx)
        }
        for name in ["", ".", "a..b", String(repeating: "a", count: 64) + ".b", String(repeating: "a.", count: 130)] {
            #expect(DNSMessage.question(id: 1, name: name, type: .mx) == nil)
        }
    }
}
