// SPDX-License-Identifier: Apache-2.0

import HTTPTypes
import Hummingbird
import NIOCore

/// What the HTTP interface answers when it cannot do what was asked, in the form of RFC 9457.
struct APIProblem: Error, Sendable, Encodable {
    /// One thing to be fixed.
    struct Detail: Sendable, Hashable, Encodable {
        var field: String
        var message: String
    }

    var status: Int
    var title: String
    var detail: String
    var errors: [Detail]?
    /// Seconds after which it may be tried again.
    var retryAfter: Int?

    private enum CodingKeys: String, CodingKey { case type, status, title, detail, errors }

    init(_ status: Int, _ title: String, _ detail: String, errors: [Detail]? = nil, retryAfter: Int? = nil) {
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retryAfter = retryAfter
    }

    /// What an error of the centre means to a client.
    init(_ error: PipelineError) {
        switch error.code {
        case .invalidMessage:
            self.init(422, "The message cannot be sent", error.message, errors: Self.details(error.issues))
        case .conflict:
            self.init(422, "The key was used for another message", error.message, errors: Self.details(error.issues))
        case .invalidDocument: self.init(400, "Not understood", error.message)
        case .invalidQuery: self.init(400, "The query cannot be answered", error.message)
        default:
            // What lies below is for the operators' log, not for clients.
            self.init(503, "Not possible now", error.message + "; try again", retryAfter: 1)
        }
    }

    static func details(_ issues: [ValidationIssue]) -> [Detail] {
        issues.filter { $0.severity == .error }.map { Detail(field: $0.field, message: $0.message) }
    }

    static func parameter(_ name: String, _ words: String) -> APIProblem {
        APIProblem(400, "The query cannot be answered", "\(name): \(words)")
    }

    static let notFound = APIProblem(404, "Not found", "there is nothing here; /openapi.json lists what there is")

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode("about:blank", forKey: .type)
        try container.encode(status, forKey: .status)
        try container.encode(title, forKey: .title)
        try container.encode(detail, forKey: .detail)
        try container.encodeIfPresent(errors, forKey: .errors)
    }

    var response: Response {
        var headers: HTTPFields = [.contentType: "application/problem+json"]
        if let retryAfter { headers[.retryAfter] = String(retryAfter) }
        if status == 401 { headers[.wwwAuthenticate] = "Bearer realm=\"mdc\"" }
        return Response(
            status: HTTPResponse.Status(code: status),
            headers: headers,
            body: .init(byteBuffer: ByteBuffer(string: encodeJSON(self)))
        )
    }
}
