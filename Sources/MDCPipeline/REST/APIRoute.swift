// SPDX-License-Identifier: Apache-2.0

import HTTPTypes

/// What the HTTP interface offers. A test compares it with the description that `/openapi.json` gives.
enum APIRoute: Sendable, Hashable {
    case messages
    case message(String)
    case timeline(String)
    case report(ReportKind)
    case events
    case templates
    case template(String)
    case description

    /// The paths as OpenAPI writes them, with their methods.
    static let table: [(path: String, methods: [HTTPRequest.Method])] = [
        ("/v1/messages", [.get, .post]),
        ("/v1/messages/{id}", [.get]),
        ("/v1/messages/{id}/timeline", [.get]),
        ("/v1/reports/{report}", [.get]),
        ("/v1/events", [.get]),
        ("/v1/templates", [.get]),
        ("/v1/templates/{name}", [.get, .put, .delete]),
        ("/openapi.json", [.get]),
    ]

    /// The route of a path; nil if there is none.
    init?(path: String) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst().map(String.init)
        switch parts.count {
        case 1 where parts[0] == "openapi.json": self = .description
        case 2 where parts == ["v1", "messages"]: self = .messages
        case 2 where parts == ["v1", "events"]: self = .events
        case 2 where parts == ["v1", "templates"]: self = .templates
        case 3 where parts[0] == "v1" && parts[1] == "templates" && !parts[2].isEmpty: self = .template(parts[2])
        case 3 where parts[0] == "v1" && parts[1] == "messages" && !parts[2].isEmpty:
            self = .message(parts[2].lowercased())
        case 3 where parts[0] == "v1" && parts[1] == "reports":
            guard let kind = ReportKind(rawValue: parts[2]) else { return nil }
            self = .report(kind)
        case 4 where parts[0] == "v1" && parts[1] == "messages" && parts[3] == "timeline" && !parts[2].isEmpty:
            self = .timeline(parts[2].lowercased())
        default: return nil
        }
    }

    var methods: [HTTPRequest.Method] {
        switch self {
        case .messages: [.get, .post]
        case .template: [.get, .put, .delete]
        default: [.get]
        }
    }

    /// What a key must allow; nil: open to everyone.
    func scope(_ method: HTTPRequest.Method) -> APIScope? {
        switch self {
        case .messages: method == .post ? .send : .read
        case .message, .timeline: .read
        case .report: .reports
        case .events: .events
        case .templates, .template: method == .get ? .readTemplates : .writeTemplates
        case .description: nil
        }
    }
}
