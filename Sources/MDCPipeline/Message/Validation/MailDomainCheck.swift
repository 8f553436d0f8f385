// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
public import NIOCore
import NIOPosix
import Synchronization

/// Asks name servers whether a domain takes mail (RFC 5321, section 5.1; RFC 7505). What cannot be found out counts as yes: no message is
/// refused because a name server is slow.
public final class MailDomainCheck: Sendable {
    /// Whom to ask, and how long.
    public struct Configuration: Sendable, Hashable {
        /// The name server; nil: the first of `/etc/resolv.conf`.
        public var host: String?
        /// Its port.
        public var port: Int
        /// How long one question waits; it is asked twice.
        public var timeout: Duration

        /// Makes a value from its parts.
        public init(host: String? = nil, port: Int = 53, timeout: Duration = .seconds(2)) {
            self.host = host
            self.port = port
            self.timeout = timeout
        }
    }

    /// Answers that are remembered: for an hour, refusals for five minutes.
    private static let knownMax = 50_000

    private struct Known: Sendable {
        var problem: String?
        var until: Int64
    }

    private let configuration: Configuration
    private let group: any EventLoopGroup
    private let logger: Logger
    private let known = Mutex<[String: Known]>([:])
    private let gate = ConcurrencyGate(limit: 64)

    /// - Parameter group: Runs the questions; not shut down by this.
    public init(_ configuration: Configuration, group: any EventLoopGroup, logger: Logger) {
        self.configuration = configuration
        self.group = group
        self.logger = logger
    }

    /// What is wrong with these domains, in ASCII; those that take mail, or may, are not in it.
    func problems(_ domains: Set<String>) async -> [String: String] {
        await withTaskGroup(of: (String, String?).self) { tasks in
            for domain in domains { tasks.addTask { [self] in (domain, await problem(domain)) } }
            var problems: [String: String] = [:]
            for await (domain, problem) in tasks { problems[domain] = problem }
            return problems
        }
    }

    private func problem(_ domain: String) async -> String? {
        let now = SystemTime.monotonicNanoseconds()
        if let entry = known.withLock({ $0[domain] }), entry.until > now { return entry.problem }
        let result = await gate.pass { await look(domain) }
        switch result {
        case .unknown: return nil
        case .known(let problem):
            known.withLock { known in
                if known.count >= Self.knownMax { known = [:] }
                known[domain] = Known(problem: problem, until: now + (problem == nil ? 3_600 : 300) * 1_000_000_000)
            }
            return problem
        }
    }

    private enum Look: Sendable {
        case known(problem: String?)
        case unknown
    }

    private func look(_ domain: String) async -> Look {
        guard let mx = await ask(domain, .mx) else { return .unknown }
        if mx.code == 3 { return .known(problem: "does not exist; is it misspelt?") }
        guard mx.code == 0 else { return .unknown }
        if mx.isNullMX { return .known(problem: "takes no mail (its MX record says so)") }
        if mx.count > 0 || mx.isTruncated { return .known(problem: nil) }
        // Without MX records the host of that name itself takes the mail.
        for type in [DNSMessage.RecordType.a, .aaaa] {
            guard let host = await ask(domain, type), host.code == 0 else { return .unknown }
            if host.count > 0 || host.isTruncated { return .known(problem: nil) }
        }
        return .known(problem: "has neither a mail server nor a host; is it misspelt?")
    }

    private func ask(_ domain: String, _ type: DNSMessage.RecordType) async -> DNSMessage.Answer? {
        guard let host = configuration.host ?? Self.systemServer,
            let address = try? SocketAddress(ipAddress: host, port: configuration.port)
        else { return nil }
        for _ in 0..<2 {
            let id = UInt16.random(in: 0...UInt16.max)
            guard let question = DNSMessage.question(id: id, name: domain, type: type) else { return nil }
            do {
                if let answer = try await exchange(question, type, address) { return answer }
            } catch {
                logger.debug("a name server was not asked", metadata: ["error": "\(error)"])
            }
        }
        return nil
    }

    /// One datagram there and one back; nil if none came in time. The port is new for each question, and a foreign answer is passed over.
    private func exchange(
        _ question: ByteBuffer,
        _ type: DNSMessage.RecordType,
        _ address: SocketAddress
    ) async throws -> DNSMessage.Answer? {
        let loop = group.next()
        let promise = loop.makePromise(of: DNSMessage.Answer?.self)
        let channel: any NIOCore.Channel
        do {
            channel = try await DatagramBootstrap(group: loop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            DNSHandler(question: question, type: type, address: address, promise: promise)
                        )
                    }
                }
                .bind(host: address.protocol == .inet6 ? "::" : "0.0.0.0", port: 0).get()
        } catch {
            promise.fail(error)
            throw error
        }
        let timeout = loop.scheduleTask(in: TimeAmount(configuration.timeout)) { promise.succeed(nil) }
        channel.writeAndFlush(AddressedEnvelope(remoteAddress: address, data: question), promise: nil)
        let result = try await promise.futureResult.get()
        timeout.cancel()
        try? await channel.close()
        return result
    }

    private static let systemServer: String? = {
        guard let bytes = FileManager.default.contents(atPath: "/etc/resolv.conf") else { return nil }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            if words.count >= 2, words[0] == "nameserver" { return String(words[1]) }
        }
        return nil
    }()
}

/// Waits for the answer to one question.
private final class DNSHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let question: ByteBuffer
    private let type: DNSMessage.RecordType
    private let address: SocketAddress
    private let promise: EventLoopPromise<DNSMessage.Answer?>

    init(
        question: ByteBuffer,
        type: DNSMessage.RecordType,
        address: SocketAddress,
        promise: EventLoopPromise<DNSMessage.Answer?>
    ) {
        self.question = question
        self.type = type
        self.address = address
        self.promise = promise
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = unwrapInboundIn(data)
        guard envelope.remoteAddress == address,
            let answer = DNSMessage.answer(envelope.data, to: question, type: type)
        else { return }
        promise.succeed(answer)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { promise.succeed(nil) }

    func channelInactive(context: ChannelHandlerContext) { promise.succeed(nil) }
}
