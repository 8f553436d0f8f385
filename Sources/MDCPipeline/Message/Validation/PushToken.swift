// SPDX-License-Identifier: Apache-2.0

/// The shape of a device token.
public enum PushToken: Sendable, Hashable {
    /// Apple: 32 to 100 bytes in hexadecimal.
    case apns
    /// Firebase registration token: instance id and signature, some 140 to 200 characters.
    case fcm
    /// An endpoint of AWS SNS, by its ARN: `arn:aws:sns:<region>:<account>:endpoint/<platform>/<app>/<id>`.
    case snsEndpoint

    /// For people: whose token it is.
    var service: String {
        switch self {
        case .apns: "APNs"
        case .fcm: "FCM"
        case .snsEndpoint: "SNS"
        }
    }

    /// What is wrong with a token.
    public struct Problem: Error, Sendable, Hashable, CustomStringConvertible {
        /// The text form.
        public var description: String
        init(_ description: String) { self.description = description }
    }

    /// Tells what kind of token it is.
    public static func parse(_ token: String) -> Result<PushToken, Problem> {
        let bytes = token.utf8
        guard !bytes.isEmpty else { return .failure(Problem("is empty; give the device token of the app")) }
        guard bytes.count <= 4_096 else { return .failure(Problem("is longer than 4096 characters")) }
        if token.hasPrefix("arn:") { return endpoint(token) }
        if bytes.count >= 64, bytes.count <= 200, bytes.count % 2 == 0, bytes.allSatisfy(isHex) {
            return .success(.apns)
        }
        for byte in bytes where !EmailAddress.isAlphanumeric(byte) && byte != 0x2D && byte != 0x5F && byte != 0x3A {
            return .failure(
                Problem(
                    "has a character that no token has (allowed: letters, digits, '-', '_', ':'); is it truncated or quoted?"
                )
            )
        }
        guard bytes.count >= 100 else {
            if bytes.count % 2 == 0, bytes.count < 64, bytes.allSatisfy(isHex) {
                return .failure(Problem("has \(bytes.count) hexadecimal digits; tokens of APNs have 64: it is cut off"))
            }
            return .failure(Problem("has \(bytes.count) characters; tokens of FCM have over 100, of APNs 64"))
        }
        return .success(.fcm)
    }

    private static func endpoint(_ token: String) -> Result<PushToken, Problem> {
        let parts = token.split(separator: ":", maxSplits: 5, omittingEmptySubsequences: false)
        let path = parts.last.map { $0.split(separator: "/", omittingEmptySubsequences: false) } ?? []
        guard parts.count == 6, parts[1].hasPrefix("aws"), parts[2] == "sns", !parts[3].isEmpty,
            parts[4].utf8.count == 12,
            parts[4].utf8.allSatisfy({ (0x30...0x39).contains($0) }), path.count == 4, path[0] == "endpoint",
            !path.contains(where: \.isEmpty)
        else {
            return .failure(
                Problem("is no endpoint of SNS; write arn:aws:sns:eu-west-1:123456789012:endpoint/GCM/app/id")
            )
        }
        return .success(.snsEndpoint)
    }

    private static func isHex(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x46).contains(byte) || (0x61...0x66).contains(byte)
    }
}
