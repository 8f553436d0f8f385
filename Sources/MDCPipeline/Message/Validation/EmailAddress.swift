// SPDX-License-Identifier: Apache-2.0

/// A mail address: the practical part of RFC 5321 and 5322, with UTF-8 in both parts (RFC 6531).
///
/// Quoted local parts, comments and address literals are refused: no one has them, and mistakes look like them.
public struct EmailAddress: Sendable, Hashable, CustomStringConvertible {
    /// Before the `@`.
    public let localPart: String
    /// After the `@`, in lower case.
    public let domain: String
    /// The name shown for it, from `Name <a@b>`.
    public let displayName: String?

    /// The text form.
    public var description: String { "\(localPart)@\(domain)" }

    /// The domain in ASCII (`xn--…`); nil if it has no such form.
    public var asciiDomain: String? { Punycode.asciiDomain(domain) }

    /// What is wrong with an address.
    public struct Problem: Error, Sendable, Hashable, CustomStringConvertible {
        /// The text form.
        public var description: String
        init(_ description: String) { self.description = description }
    }

    /// Reads an address; `Name <a@b>` is allowed where `allowsName` is set.
    public static func parse(_ text: String, allowsName: Bool = false) -> Result<EmailAddress, Problem> {
        var address = Substring(text)
        var name: String?
        if allowsName, text.hasSuffix(">"), let open = text.lastIndex(of: "<") {
            let given = text[..<open].trimming(" \"")
            guard !given.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) else {
                return .failure(Problem("has a control character in the name; remove it"))
            }
            name = given.isEmpty ? nil : String(given)
            address = text[text.index(after: open)...].dropLast()
        }
        guard address.utf8.count <= 254 else { return .failure(Problem("is longer than 254 bytes")) }
        guard let at = address.lastIndex(of: "@") else {
            return .failure(Problem("has no @; use the form name@example.com"))
        }
        let local = address[..<at]
        let domain = address[address.index(after: at)...]
        if let problem = localProblem(local) ?? domainProblem(domain) { return .failure(problem) }
        return .success(EmailAddress(localPart: String(local), domain: domain.lowercased(), displayName: name))
    }

    private static let symbols = Set("!#$%&'*+-/=?^_`{|}~.".utf8)

    private static func localProblem(_ local: Substring) -> Problem? {
        guard !local.isEmpty else { return Problem("has nothing before the @") }
        guard local.utf8.count <= 64 else { return Problem("has more than 64 bytes before the @") }
        if local.hasPrefix(".") || local.hasSuffix(".") || local.contains("..") {
            return Problem("has a dot at the start, at the end or twice before the @")
        }
        for byte in local.utf8 where byte < 0x80 && !isAlphanumeric(byte) && !symbols.contains(byte) {
            return Problem("has '\(Character(UnicodeScalar(byte)))' before the @, which is not allowed there")
        }
        return nil
    }

    private static func domainProblem(_ domain: Substring) -> Problem? {
        guard !domain.isEmpty else { return Problem("has no domain after the @") }
        guard domain.utf8.count <= 253 else { return Problem("has a domain longer than 253 bytes") }
        let labels = domain.split(separator: ".", omittingEmptySubsequences: false)
        guard labels.count >= 2 else { return Problem("has a domain without a dot; is the ending missing?") }
        for label in labels {
            guard !label.isEmpty else {
                return Problem("has an empty part in its domain (two dots, or one at the end)")
            }
            guard label.utf8.count <= 63 else { return Problem("has a part of more than 63 bytes in its domain") }
            guard !label.hasPrefix("-"), !label.hasSuffix("-") else {
                return Problem("has a hyphen at the start or end of a part of its domain")
            }
            for byte in label.utf8 where byte < 0x80 && !isAlphanumeric(byte) && byte != UInt8(ascii: "-") {
                return Problem("has '\(Character(UnicodeScalar(byte)))' in its domain, which is not allowed there")
            }
        }
        if domain.utf8.contains(where: { $0 >= 0x80 }), Punycode.asciiDomain(String(domain)) == nil {
            return Problem("has a domain with signs that names cannot have, or too long a one (IDNA)")
        }
        if labels[labels.count - 1].utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
            return Problem("has a domain that ends in a number; address literals are not accepted")
        }
        return nil
    }

    static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }
}

extension Substring {
    func trimming(_ characters: String) -> Substring {
        var slice = self
        while let first = slice.first, characters.contains(first) { slice.removeFirst() }
        while let last = slice.last, characters.contains(last) { slice.removeLast() }
        return slice
    }
}
