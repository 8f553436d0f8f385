// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation

/// Keys of an AWS account.
public struct AWSCredentials: Sendable, Hashable {
    public var accessKeyID: String
    public var secretAccessKey: Secret
    /// For temporary keys.
    public var sessionToken: Secret?

    /// Makes a value from its parts.
    public init(accessKeyID: String, secretAccessKey: Secret, sessionToken: Secret? = nil) {
        self.accessKeyID = accessKeyID
        self.secretAccessKey = secretAccessKey
        self.sessionToken = sessionToken
    }
}

/// AWS Signature Version 4 in the `Authorization` header. Pure: the time comes in as a parameter.
struct AWSSignature: Sendable {
    var credentials: AWSCredentials
    var region: String
    /// `ses`, `sns`, `sqs`.
    var service: String

    /// What is added to the request: the headers given, `host`, `x-amz-date` and, if there is one, the token are signed.
    ///
    /// - Parameters:
    ///   - path: As it stands in the request, percent-encoded, without a query.
    ///   - headers: Names in lower case.
    ///   - date: Seconds since 1970.
    func headers(
        method: String,
        host: String,
        path: String,
        headers: [(name: String, value: String)],
        body: some Sequence<UInt8>,
        date: Int64
    ) -> [(name: String, value: String)] {
        let stamp = Self.stamp(date)
        let day = String(stamp.prefix(8))
        var added: [(name: String, value: String)] = [("x-amz-date", stamp)]
        if let token = credentials.sessionToken { added.append(("x-amz-security-token", token.value)) }
        let signed = (headers + added + [("host", host)]).sorted { $0.name < $1.name }
        let names = signed.map(\.name).joined(separator: ";")
        let canonical =
            [method, Self.twiceEncoded(path), ""].joined(separator: "\n") + "\n"
            + signed.map { "\($0.name):\(Self.trimmed($0.value))\n" }.joined() + "\n\(names)\n"
            + Self.hex(Crypto.SHA256.hash(data: Array(body)))
        let scope = "\(day)/\(region)/\(service)/aws4_request"
        let toSign =
            "AWS4-HMAC-SHA256\n\(stamp)\n\(scope)\n" + Self.hex(Crypto.SHA256.hash(data: Array(canonical.utf8)))
        var key = SymmetricKey(data: Array("AWS4\(credentials.secretAccessKey.value)".utf8))
        for part in [day, region, service, "aws4_request"] {
            let code = HMAC<Crypto.SHA256>.authenticationCode(for: Array(part.utf8), using: key)
            key = SymmetricKey(data: Array(code))
        }
        let signature = Self.hex(HMAC<Crypto.SHA256>.authenticationCode(for: Array(toSign.utf8), using: key))
        let authorization =
            "AWS4-HMAC-SHA256 Credential=\(credentials.accessKeyID)/\(scope), SignedHeaders=\(names), "
            + "Signature=\(signature)"
        return added + [("authorization", authorization)]
    }

    /// `YYYYMMDDThhmmssZ`.
    static func stamp(_ seconds: Int64) -> String {
        let (year, month, day) = MIMEDate.civilDate(seconds / 86_400)
        let time = seconds % 86_400
        func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
        return
            "\(year)\(two(Int64(month)))\(two(Int64(day)))T\(two(time / 3_600))\(two(time / 60 % 60))\(two(time % 60))Z"
    }

    /// Every service but S3 signs the path encoded once more.
    private static func twiceEncoded(_ path: String) -> String {
        var text = ""
        for byte in (path.isEmpty ? "/" : path).utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x2F, 0x5F, 0x7E:
                text.unicodeScalars.append(Unicode.Scalar(byte))
            default: text += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return text
    }

    private static func trimmed(_ value: String) -> String {
        value.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
    }

    private static func hex(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
