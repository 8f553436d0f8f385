// SPDX-License-Identifier: Apache-2.0

public import Logging
public import NIOCore

/// The providers of a configuration file at work, with what brings their reports beside the callback listener.
public final class ConfiguredProviders: Sendable {
    /// To be given to a ``MessageCenter``, which closes them.
    public let providers: [any Provider]
    /// Where mail reports are taken, by provider.
    public let reportPorts: [String: Int]

    private let sources: [any ReceiptSource]
    private let running: [Task<Void, Never>]
    private let tokens: [ServiceAccountToken]

    /// Makes the providers and begins to poll and listen for reports.
    ///
    /// - Parameters:
    ///   - publicURL: Scheme, host and port under which providers see the callback listener; no slash at the end.
    ///   - receipts: Where reports are made durable.
    ///   - group: Runs the connections; not shut down by this.
    /// - Throws: ``PipelineError`` for a key or certificate that cannot be read, or what makes an address impossible to bind.
    public init(
        _ settings: [ProviderSettings],
        publicURL: String,
        receipts: any ReceiptSink,
        group: any EventLoopGroup,
        logger: Logger
    ) async throws {
        var providers: [any Provider] = []
        var sources: [any ReceiptSource] = []
        var tokens: [ServiceAccountToken] = []
        var ports: [String: Int] = [:]
        do {
            for setting in settings {
                let callback = setting.callbackURL(publicURL: publicURL)
                switch setting.kind {
                case .smtp(let configuration, let reports):
                    providers.append(try SMTPProvider(validating: configuration, group: group))
                    if let reports {
                        let receiver = try await MailReportReceiver(
                            reports,
                            sink: receipts,
                            group: group,
                            logger: logger
                        )
                        ports[setting.name] = receiver.port
                        sources.append(receiver)
                    }
                case .smpp(let configuration):
                    providers.append(
                        try SMPPProvider(configuration, receipts: receipts, group: group, logger: logger)
                    )
                case .kannel(var configuration):
                    configuration.callbackURL = callback
                    providers.append(try KannelProvider(configuration, group: group))
                case .twilio(var configuration):
                    configuration.callbackURL = callback
                    providers.append(try TwilioProvider(configuration, group: group))
                case .kaleyra(var configuration):
                    configuration.callbackURL = callback
                    providers.append(KaleyraProvider(configuration, group: group))
                case .kaleyraLegacy(var configuration):
                    configuration.callbackURL = callback
                    providers.append(try KaleyraLegacyProvider(configuration, group: group))
                case .ses(let configuration, let events):
                    providers.append(try SESProvider(configuration, group: group))
                    if let events {
                        sources.append(try SQSPoller(events, sink: receipts, group: group, logger: logger))
                    }
                case .sns(let configuration):
                    providers.append(try SNSPushProvider(configuration, group: group))
                case .fcm(let configuration, let account, let tls):
                    let source = try ServiceAccountToken(json: account, tls: tls, group: group)
                    tokens.append(source)
                    providers.append(
                        try FCMProvider(configuration, tokens: source, trusting: tls, group: group)
                    )
                case .apns(let configuration): providers.append(try APNsProvider(configuration, group: group))
                }
            }
        } catch {
            for provider in providers { await provider.shutdown() }
            for token in tokens { await token.shutdown() }
            // A source closes what it holds when it ends, and one that is cancelled ends at once.
            for source in sources {
                let ending = Task { try await source.run() }
                ending.cancel()
                _ = try? await ending.value
            }
            throw error
        }
        self.providers = providers
        self.sources = sources
        self.tokens = tokens
        reportPorts = ports
        running = sources.map { source in
            Task {
                do {
                    try await source.run()
                } catch is CancellationError {
                } catch {
                    logger.error(
                        "a source of reports ended",
                        metadata: ["source": "\(source.name)", "error": "\(error)"]
                    )
                }
            }
        }
    }

    /// Ends the sources. The centre closes the providers.
    public func shutdown() async {
        for task in running { task.cancel() }
        for task in running { await task.value }
        for token in tokens { await token.shutdown() }
    }
}
