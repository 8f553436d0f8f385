// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// Our SMTP client against Debian's postfix: STARTTLS and implicit TLS, authentication, delivery, bounces, reports.
@Suite(.serialized) struct PostfixTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func message(_ index: Int, to domain: String) -> Message {
        Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", index))",
            channel: .email,
            to: "b\(index)@\(domain)",
            sender: "Müller <a@example.com>",
            content: MessageContent(subject: "Grüße \(index)", text: "Hello\n.\n..\n.end", html: "<p>नमस्ते</p>"),
            createdAt: 1_790_000_000_000
        )
    }

    private func configuration(_ postfix: Postfix, _ security: SMTPSecurity, password: String = "s3cret")
        -> SMTPProvider.Configuration
    {
        SMTPProvider.Configuration(
            host: "localhost",
            port: security == .tls ? postfix.tlsPort : postfix.port,
            security: security,
            tls: ProviderTLS(trustedCertificates: postfix.certificate),
            credentials: SMTPCredentials(user: "mdc@test", password: password),
            returnPath: "bounce@returns.example",
            connections: 4,
            connectTimeout: .seconds(30)
        )
    }

    @Test func mailsAndReportsThroughPostfix() async throws {
        let kept = KeptReceipts()
        let receiver = try await MailReportReceiver(
            .init(provider: "smtp"),
            sink: kept,
            group: group,
            logger: quietLogger()
        )
        let receiving = Task { try await receiver.run() }
        defer { receiving.cancel() }
        let postfix = try await Postfix.start(reportsTo: receiver.port)
        defer { postfix.stop() }
        // The first report is refused for now: postfix must bring it again.
        kept.failNext(1)
        for (security, domain) in [(SMTPSecurity.startTLS, "good.example"), (.tls, "bad.example")] {
            let provider = try SMTPProvider(validating: configuration(postfix, security), group: group)
            let base = security == .tls ? 100 : 0
            let outcomes = await withTaskGroup(of: SendOutcome.self) { tasks in
                for index in 0..<10 {
                    let message = message(base + index, to: domain)
                    tasks.addTask { await provider.send(message, attempt: 1) }
                }
                return await tasks.reduce(into: [SendOutcome]()) { $0.append($1) }
            }
            for outcome in outcomes {
                guard case .accepted = outcome else { Issue.record("\(security): \(outcome)"); continue }
            }
            #expect(provider.pool.openedConnections <= 4)
            await provider.shutdown()
        }
        #expect(await waitUntil(seconds: 90) { kept.receipts.count >= 20 }, "\(kept.receipts.count) reports")
        // The sink (`-N`) offers no DSN, so postfix reports that it relayed; the other domain's server refuses for good.
        for index in 0..<10 {
            let relayed = kept.receipts.filter { $0.reference == message(index, to: "x").reference(attempt: 1) }
            #expect(relayed.map(\.status) == [.sent])
            let failed = kept.receipts.filter { $0.reference == message(100 + index, to: "x").reference(attempt: 1) }
            #expect(failed.map(\.status) == [.failed])
            #expect(failed.first?.code?.hasPrefix("5.") == true, "\(failed)")
            #expect(failed.first?.reason?.contains("b\(100 + index)@bad.example") == true)
        }
        let mails = try postfix.deliveredMails()
        #expect(mails.count == 10)
        #expect(mails.allSatisfy { $0.contains("X-MDC-Reference") && $0.contains("TLS") })
    }

    @Test func whatIsRefused() async throws {
        let postfix = try await Postfix.start(reportsTo: 9)
        defer { postfix.stop() }
        func outcome(_ configuration: SMTPProvider.Configuration, to domain: String = "good.example") async throws
            -> SendOutcome
        {
            let provider = try SMTPProvider(validating: configuration, group: group)
            let outcome = await provider.send(message(1, to: domain), attempt: 1)
            await provider.shutdown()
            return outcome
        }
        // Wrong password: the message waits for someone to correct it, and the password is in no word of ours.
        let refused = try await outcome(configuration(postfix, .startTLS, password: "not-the-p4ssword"))
        guard case .retriable(let code, let reason, .seconds(60)) = refused else {
            return #expect(Bool(false), "\(refused)")
        }
        #expect(code == "5.7.8")
        #expect(!reason.contains("p4ssword"))
        // A certificate that nobody vouches for.
        var stranger = configuration(postfix, .startTLS)
        stranger.tls = ProviderTLS()
        let distrusted = try await outcome(stranger)
        guard case .retriable = distrusted else { return #expect(Bool(false), "\(distrusted)") }
        // The right certificate of another name.
        var misnamed = configuration(postfix, .tls)
        misnamed.tls.serverName = "mail.example.com"
        guard case .retriable = try await outcome(misnamed) else { return #expect(Bool(false), "wrong name") }
        // A recipient that postfix itself refuses for good.
        let rejected = try await outcome(configuration(postfix, .tls), to: "refused.example")
        guard case .rejected(code: "5.7.1", _) = rejected else { return #expect(Bool(false), "\(rejected)") }
    }
}

/// A postfix of its own: configuration, queue and processes in one folder.
private final class Postfix {
    let port: Int
    let tlsPort: Int
    let certificate: String
    private let folder: URL
    private let sinks: [Process]

    private init(port: Int, tlsPort: Int, certificate: String, folder: URL, sinks: [Process]) {
        self.port = port
        self.tlsPort = tlsPort
        self.certificate = certificate
        self.folder = folder
        self.sinks = sinks
    }

    static func start(reportsTo reportPort: Int) async throws -> Postfix {
        guard getuid() == 0 else {
            throw RealServers.Missing(description: "postfix can be started by root only: run the tests as root")
        }
        let command = try RealServers.program("/usr/sbin/postfix")
        let folder = try RealServers.folder("postfix")
        for name in ["etc/sasl", "queue", "data", "mails"] {
            try FileManager.default.createDirectory(
                at: folder.appending(path: name),
                withIntermediateDirectories: true
            )
        }
        try await RealServers.run(URL(filePath: "/bin/chown"), ["postfix", folder.appending(path: "data").path])
        try await RealServers.run(URL(filePath: "/bin/chmod"), ["777", folder.appending(path: "mails").path])
        let (certificate, key) = try await RealServers.certificate(in: folder)
        let ports = (
            smtp: try LoopbackPort.free(), tls: try LoopbackPort.free(),
            good: try LoopbackPort.free(), bad: try LoopbackPort.free()
        )
        let sink = try RealServers.program("/usr/sbin/smtp-sink")
        let sinks = [
            try RealServers.start(
                sink,
                ["-u", "nobody", "-N", "-d", folder.path + "/mails/%M.", "127.0.0.1:\(ports.good)", "100"]
            ),
            try RealServers.start(sink, ["-u", "nobody", "-f", "RCPT", "127.0.0.1:\(ports.bad)", "100"]),
        ]
        let made = Postfix(
            port: ports.smtp,
            tlsPort: ports.tls,
            certificate: certificate,
            folder: folder,
            sinks: sinks
        )
        do {
            try await made.writeConfiguration(key: key, good: ports.good, bad: ports.bad, reports: reportPort)
            try await RealServers.run(command, ["-c", folder.path + "/etc", "start"])
            for port in [ports.smtp, ports.tls, ports.good, ports.bad] { try await RealServers.waitForPort(port) }
        } catch {
            made.stop()
            throw error
        }
        return made
    }

    private func writeConfiguration(key: String, good: Int, bad: Int, reports: Int) async throws {
        let etc = folder.path + "/etc"
        // Cyrus SASL with a password file of its own; Debian looks for its settings in `sasl` below the path given.
        try "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: \(etc)/sasldb2\n"
            .write(toFile: etc + "/sasl/smtpd.conf", atomically: true, encoding: .utf8)
        let saslpasswd = try RealServers.program("/usr/sbin/saslpasswd2").path
        try await RealServers.run(
            URL(filePath: "/bin/sh"),
            ["-c", "printf s3cret | \(saslpasswd) -p -c -f \(etc)/sasldb2 -u test mdc && chown postfix \(etc)/sasldb2"]
        )
        let routes = [("good.example", good), ("bad.example", bad), ("returns.example", reports)]
            .map { "{ \($0.0) = smtp:[127.0.0.1]:\($0.1) }" }.joined(separator: ", ")
        try """
        compatibility_level = 3.6
        queue_directory = \(folder.path)/queue
        data_directory = \(folder.path)/data
        command_directory = /usr/sbin
        daemon_directory = /usr/lib/postfix/sbin
        mail_owner = postfix
        setgid_group = postdrop
        myhostname = mx.test
        mydestination =
        inet_interfaces = 127.0.0.1
        inet_protocols = ipv4
        mynetworks =
        alias_maps =
        local_recipient_maps =
        local_transport = error:nobody is here
        relay_domains =
        default_transport = error:5.4.4 no route in the test
        transport_maps = inline:{ \(routes) }
        disable_dns_lookups = yes
        smtp_dns_support_level = disabled
        smtpd_tls_security_level = may
        smtpd_tls_cert_file = \(certificate)
        smtpd_tls_key_file = \(key)
        smtpd_tls_auth_only = yes
        smtpd_tls_received_header = yes
        smtp_tls_security_level = none
        smtpd_sasl_auth_enable = yes
        smtpd_sasl_type = cyrus
        smtpd_sasl_path = smtpd
        cyrus_sasl_config_path = \(etc)
        smtpd_recipient_restrictions = check_recipient_access inline:{ { refused.example = REJECT not here } },
          permit_sasl_authenticated, reject
        smtpd_relay_restrictions = permit_sasl_authenticated, reject
        minimal_backoff_time = 1s
        maximal_backoff_time = 2s
        queue_run_delay = 1s
        maillog_file = \(folder.path)/log
        maillog_file_prefixes = /var, /tmp, \(folder.path)

        """.write(toFile: etc + "/main.cf", atomically: true, encoding: .utf8)
        try """
        127.0.0.1:\(port) inet n - n - - smtpd
        127.0.0.1:\(tlsPort) inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
        pickup unix n - n 60 1 pickup
        cleanup unix n - n - 0 cleanup
        qmgr unix n - n 300 1 qmgr
        tlsmgr unix - - n 1000? 1 tlsmgr
        rewrite unix - - n - - trivial-rewrite
        bounce unix - - n - 0 bounce
        defer unix - - n - 0 bounce
        trace unix - - n - 0 bounce
        verify unix - - n - 1 verify
        flush unix n - n 1000? 0 flush
        proxymap unix - - n - - proxymap
        proxywrite unix - - n - 1 proxymap
        smtp unix - - n - - smtp
        relay unix - - n - - smtp
        showq unix n - n - - showq
        error unix - - n - - error
        retry unix - - n - - error
        discard unix - - n - - discard
        anvil unix - - n - 1 anvil
        scache unix - - n - 1 scache
        postlog unix-dgram n - n - 1 postlogd

        """.write(toFile: etc + "/master.cf", atomically: true, encoding: .utf8)
    }

    func deliveredMails() throws -> [String] {
        try FileManager.default.contentsOfDirectory(
            at: folder.appending(path: "mails"),
            includingPropertiesForKeys: nil
        )
        .map { String(decoding: try Data(contentsOf: $0), as: UTF8.self) }
        .filter { $0.contains("X-MDC-Reference") }
    }

    /// Tells the master to end, as `postfix abort` does, and gives it the few milliseconds that it takes.
    func stop() {
        let file = folder.appending(path: "queue/pid/master.pid")
        let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
        if let master = pid_t(text.trimmingCharacters(in: .whitespacesAndNewlines)), kill(master, SIGTERM) == 0 {
            for _ in 0..<200 where kill(master, 0) == 0 { usleep(10_000) }
        }
        for sink in sinks { RealServers.kill(sink) }
        if ProcessInfo.processInfo.environment["MDC_KEEP"] == nil { try? FileManager.default.removeItem(at: folder) }
    }
}
