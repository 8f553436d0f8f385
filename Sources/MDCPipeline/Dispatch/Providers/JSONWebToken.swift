// SPDX-License-Identifier: Apache-2.0

import Crypto
import CryptoExtras
import Foundation

/// Makes signed tokens (RFC 7519 in the compact form of RFC 7515).
struct JSONWebToken: Sendable {
    /// A private key with its algorithm.
    enum Key: Sendable {
        case rs256(_RSA.Signing.PrivateKey)
        case es256(P256.Signing.PrivateKey)

        var algorithm: String {
            switch self {
            case .rs256: "RS256"
            case .es256: "ES256"
            }
        }

        /// - Throws: ``PipelineError`` (`configuration`), which does not repeat the key.
        static func rsa(pem: Secret) throws(PipelineError) -> Key {
            do {
                return .rs256(try _RSA.Signing.PrivateKey(pemRepresentation: pem.value))
            } catch {
                throw PipelineError(.configuration, "the private key is no RSA key in PEM form (2048 bits or more)")
            }
        }

        /// - Throws: ``PipelineError`` (`configuration`), which does not repeat the key.
        static func p256(pem: Secret) throws(PipelineError) -> Key {
            do {
                return .es256(try P256.Signing.PrivateKey(pemRepresentation: pem.value))
            } catch {
                throw PipelineError(.configuration, "the private key is no P-256 key in PEM form (Apple's .p8 file)")
            }
        }

        func sign(_ bytes: Data) throws -> Data {
            switch self {
            case .rs256(let key): try key.signature(for: bytes, padding: .insecurePKCS1v1_5).rawRepresentation
            case .es256(let key): try key.signature(for: bytes).rawRepresentation
            }
        }
    }

    var key: Key
    /// `kid`.
    var keyID: String?

    private struct Header: Encodable {
        var alg: String
        var kid: String?
        var typ = "JWT"
    }

    func signed(_ claims: some Encodable) throws -> String {
        let header = Self.encode(Data(encodeJSON(Header(alg: key.algorithm, kid: keyID)).utf8))
        let text = header + "." + Self.encode(Data(encodeJSON(claims).utf8))
        return text + "." + Self.encode(try key.sign(Data(text.utf8)))
    }

    private static func encode(_ bytes: Data) -> String {
        Base64.encode(bytes).replacingOccurrences(of: "+", with: "-").replacingOccurrences(of: "/", with: "_")
            .replacingOccurrences(of: "=", with: "")
    }
}
