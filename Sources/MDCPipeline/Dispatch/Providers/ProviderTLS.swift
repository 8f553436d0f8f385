// SPDX-License-Identifier: Apache-2.0

import NIOSSL

/// Whom a provider's connection believes that it is the server it means.
public struct ProviderTLS: Sendable, Hashable {
    /// A PEM file of certificates that are trusted instead of the system's.
    public var trustedCertificates: String?
    /// The name that the server's certificate must have; nil: the host that is connected to.
    public var serverName: String?

    /// Makes a value from its parts.
    public init(trustedCertificates: String? = nil, serverName: String? = nil) {
        self.trustedCertificates = trustedCertificates
        self.serverName = serverName
    }

    /// What a client offers and checks: TLS 1.2 or later, the chain and the name.
    func makeConfiguration() throws(PipelineError) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv12
        if let path = trustedCertificates {
            do {
                configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(path))
            } catch {
                throw PipelineError(
                    .configuration,
                    "cannot read certificates from '\(path)'; name a PEM file with at least one",
                    cause: error
                )
            }
        }
        return configuration
    }

    func makeContext() throws(PipelineError) -> NIOSSLContext {
        do {
            return try NIOSSLContext(configuration: makeConfiguration())
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.configuration, "TLS cannot be set up", cause: error)
        }
    }

    /// The name to ask for; nil for an address, which is checked as such.
    func verifiedName(host: String) -> String? {
        let name = serverName ?? host
        let isAddress = name.contains(":") || name.utf8.allSatisfy { ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x2E }
        return isAddress ? nil : name
    }
}
