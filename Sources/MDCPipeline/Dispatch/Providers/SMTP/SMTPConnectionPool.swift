// SPDX-License-Identifier: Apache-2.0

import NIOCore
import Synchronization

/// A bounded number of connections to one server, reused from mail to mail, closed when idle.
final class SMTPConnectionPool: Sendable {
    struct Configuration: Sendable {
        var host: String
        var port: Int
        var identity: SMTPSession.Identity
        var connections: Int
        var messagesPerConnection: Int
        var idleTimeout: Duration
        var limits: SMTPConnection.Limits
        var encryption: SMTPConnection.Encryption?
    }

    private struct Idle: Sendable {
        var connection: SMTPConnection
        var mails: Int
        /// Tells an idle period from the next one of the same connection.
        var period: UInt64
    }

    private struct State {
        var idle: [Idle] = []
        var periods: UInt64 = 0
        var opened = 0
        var isClosed = false
    }

    private let configuration: Configuration
    private let group: any EventLoopGroup
    private let gate: ConcurrencyGate
    private let state = Mutex(State())

    init(_ configuration: Configuration, group: any EventLoopGroup) {
        precondition(configuration.messagesPerConnection > 0, "a connection must take at least one mail")
        self.configuration = configuration
        self.group = group
        self.gate = ConcurrencyGate(limit: configuration.connections)
    }

    /// Connections made so far.
    var openedConnections: Int { state.withLock { $0.opened } }
    /// Connections that wait for a mail.
    var idleConnections: Int { state.withLock { $0.idle.count } }

    func send(_ mail: SMTPMail) async -> SendOutcome {
        await gate.pass {
            if let idle = takeIdle() {
                let result = await idle.connection.send(mail)
                release(idle, result)
                // The server may have closed it just now; then nothing of the mail was taken, and a fresh one is tried.
                guard case .retriable("connection", _, _) = result.outcome else { return result.outcome }
            }
            do {
                let connection = try await SMTPConnection.open(
                    host: configuration.host,
                    port: configuration.port,
                    identity: configuration.identity,
                    limits: configuration.limits,
                    encryption: configuration.encryption,
                    group: group
                )
                state.withLock { $0.opened += 1 }
                let result = await connection.send(mail)
                release(Idle(connection: connection, mails: 0, period: 0), result)
                return result.outcome
            } catch let failure as SMTPConnectFailure {
                return failure.outcome
            } catch {
                return .retriable(code: "connect", reason: "\(error)")
            }
        }
    }

    /// Closes idle connections; those in use are closed when they come back.
    func close() {
        let idle = state.withLock { state in
            state.isClosed = true
            defer { state.idle = [] }
            return state.idle
        }
        for entry in idle { entry.connection.quit() }
    }

    /// The one used last: the others may then fall idle and be closed.
    private func takeIdle() -> Idle? {
        while let idle = state.withLock({ $0.idle.popLast() }) {
            if idle.connection.channel.isActive { return idle }
        }
        return nil
    }

    private func release(_ used: Idle, _ result: SMTPSendResult) {
        guard result.isReusable else { return }
        let mails = used.mails + 1
        guard mails < configuration.messagesPerConnection else { return used.connection.quit() }
        let period: UInt64? = state.withLock { state in
            guard !state.isClosed else { return nil }
            state.periods += 1
            state.idle.append(Idle(connection: used.connection, mails: mails, period: state.periods))
            return state.periods
        }
        guard let period else { return used.connection.quit() }
        used.connection.channel.eventLoop.scheduleTask(in: TimeAmount(configuration.idleTimeout)) { [weak self] in
            self?.closeIdle(period: period)
        }
    }

    private func closeIdle(period: UInt64) {
        let idle = state.withLock { state -> Idle? in
            guard let index = state.idle.firstIndex(where: { $0.period == period }) else { return nil }
            return state.idle.remove(at: index)
        }
        idle?.connection.quit()
    }
}
