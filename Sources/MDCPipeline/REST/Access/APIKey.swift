// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
public import MDCModel

/// What a key may do.
public enum APIScope: String, Codable, Sendable, Hashable, CaseIterable {
    /// Submit messages.
    case send = "messages:write"
    /// See messages and their timelines.
    case read = "messages:read"
    /// See reports.
    case reports = "reports:read"
    /// Follow events.
    case events = "events:read"
    /// See templates.
    case readTemplates = "templates:read"
    /// Put and delete templates.
    case writeTemplates = "templates:write"
}

/// A key of the HTTP interface, as it is kept: the secret itself is nowhere but with the client.
public struct APIKey: Codable, Sendable, Hashable, Identifiable {
    /// The public part of the key.
    public var id: String
    /// For people: who uses it.
    public var name: String
    /// The tenant it acts for; nil: all tenants.
    public var tenant: String?
    /// What it may do.
    public var scopes: Set<APIScope>
    /// Requests per second that each process of the centre takes from it.
    public var ratePerSecond: Double
    /// SHA-256 of the secret, in hexadecimal. The secret has 256 random bits, so no slow hash is needed.
    public var secretHash: String
    /// When it was made.
    public var createdAt: Timestamp
    /// When it lost its rights.
    public var revokedAt: Timestamp?

    /// The text that a client sends: `mdc_<id>_<secret>`.
    static func token(id: String, secret: String) -> String { "mdc_\(id)_\(secret)" }

    /// Makes a key and its token, which is not kept.
    public static func make(
        name: String,
        tenant: String?,
        scopes: Set<APIScope>,
        ratePerSecond: Double,
        now: Timestamp
    ) -> (key: APIKey, token: String) {
        var generator = SystemRandomNumberGenerator()
        let id = hexadecimal((0..<6).map { _ in UInt8.random(in: 0...255, using: &generator) })
        let secret = hexadecimal((0..<32).map { _ in UInt8.random(in: 0...255, using: &generator) })
        let key = APIKey(
            id: id,
            name: name,
            tenant: tenant,
            scopes: scopes,
            ratePerSecond: ratePerSecond,
            secretHash: hash(secret),
            createdAt: now,
            revokedAt: nil
        )
        return (key, token(id: id, secret: secret))
    }

    /// The id and the secret of a token; nil if it does not have the form of one.
    static func parts(of token: some StringProtocol) -> (id: String, secret: String)? {
        let parts = token.split(separator: "_", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "mdc", parts[1].utf8.count == 12, parts[2].utf8.count == 64 else {
            return nil
        }
        return (String(parts[1]), String(parts[2]))
    }

    /// Whether the secret is the key's; takes as long for any wrong one.
    func accepts(_ secret: String) -> Bool {
        let given = Array(Self.hash(secret).utf8)
        let wanted = Array(secretHash.utf8)
        guard given.count == wanted.count else { return false }
        return zip(given, wanted).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0
    }

    static func hash(_ secret: String) -> String { hexadecimal(Crypto.SHA256.hash(data: Data(secret.utf8))) }

    /// Whether it acts for a tenant.
    func covers(_ tenant: String) -> Bool { self.tenant == nil || self.tenant == tenant }
}

/// Lower-case hexadecimal digits.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
