// SPDX-License-Identifier: Apache-2.0

/// What producer, consumer and admin client have in common.
public struct ClientConfiguration: Sendable {
    /// Where to find the cluster first, as `host:port` (an IPv6 address in brackets). One that answers is enough.
    public var bootstrapServers: [String]
    /// Name of this client in the brokers' logs and quotas.
    public var clientID: String
    /// How long an answer may take before the connection counts as broken.
    public var requestTimeout: Duration = .seconds(30)
    /// How long establishing a connection may take.
    public var connectTimeout: Duration = .seconds(10)
    /// How long one call of the admin client or of the consumer's offset functions retries altogether.
    public var apiTimeout: Duration = .seconds(60)
    /// Metadata older than this is asked for again, even where nothing seems wrong.
    public var metadataMaxAge: Duration = .seconds(300)
    /// First pause before a request is sent again; it doubles up to `retryBackoffMax`, with jitter.
    public var retryBackoff: Duration = .milliseconds(100)
    /// Longest pause before a request is sent again.
    public var retryBackoffMax: Duration = .seconds(1)
    /// First pause before a lost connection is opened again; it doubles up to `reconnectBackoffMax`, with jitter.
    public var reconnectBackoff: Duration = .milliseconds(50)
    /// Longest pause before a lost connection is opened again.
    public var reconnectBackoffMax: Duration = .seconds(1)
    /// Largest answer taken from a broker, in bytes; a longer one breaks the connection.
    public var maxResponseBytes: Int = 128 * 1024 * 1024

    /// Settings with defaults.
    public init(bootstrapServers: [String] = ["127.0.0.1:9092"], clientID: String = "mdc") {
        self.bootstrapServers = bootstrapServers
        self.clientID = clientID
    }

    /// The bootstrap servers as addresses. Throws `ClientError` (`configuration`) on what is no `host:port`.
    func bootstrapAddresses() throws -> [BrokerAddress] {
        guard !bootstrapServers.isEmpty else {
            throw ClientError(.configuration, "bootstrapServers is empty: name at least one host:port")
        }
        return try bootstrapServers.map { text in
            guard let address = BrokerAddress(text) else {
                throw ClientError(.configuration, "bootstrap server '\(text)' is not host:port, such as 127.0.0.1:9092")
            }
            return address
        }
    }
}

/// Host and port of a broker.
struct BrokerAddress: Hashable, Sendable, CustomStringConvertible {
    let host: String
    let port: Int

    init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Reads `host:port` or `[v6 address]:port`; nil where the text is neither.
    init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (1...65535).contains(port)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty else { return nil }
        self.init(host: String(host), port: port)
    }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
