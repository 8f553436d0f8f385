// SPDX-License-Identifier: Apache-2.0

import NIOCore
import Testing

@testable import MDCPipeline

@Suite struct KaleyraMappingTests {
    private func outcome(_ status: UInt, _ body: String, retryAfter: Duration? = nil) -> SendOutcome {
        KaleyraMapping.outcome(.init(status: status, retryAfter: retryAfter, body: ByteBuffer(string: body)))
    }

    @Test func acceptedWithTheRecipientsID() {
        let body = #"{"id":"g","data":[{"message_id":"m:1","recipient":"+1"}],"error":{}}"#
        #expect(outcome(202, body) == .accepted(providerMessageID: "m:1"))
        let withEmptyList = #"{"id":"g","data":[{"message_id":"m:1","recipient":"+1"}],"error":[]}"#
        #expect(outcome(200, withEmptyList) == .accepted(providerMessageID: "m:1"))
        let withState = #"{"data":[{"message_id":"m:1","status":"AWAITED-DLR"}]}"#
        #expect(outcome(200, withState) == .accepted(providerMessageID: "m:1", detail: "AWAITED-DLR"))
    }

    @Test(arguments: KaleyraMapping.permanentCodes.sorted())
    func permanentCodesReject(code: String) {
        #expect(
            outcome(202, #"{"data":[{"recipient":"+1","status":"\#(code)"}]}"#) == .rejected(code: code, reason: code)
        )
        // Even where an id was given.
        #expect(
            outcome(202, #"{"data":[{"message_id":"m","status":"\#(code)"}]}"#) == .rejected(code: code, reason: code)
        )
        #expect(
            outcome(202, #"{"id":"x","error":{"code":"\#(code)","message":"no"}}"#)
                == .rejected(code: code, reason: "no")
        )
        #expect(outcome(400, #"{"code":"\#(code)","message":"no"}"#) == .rejected(code: code, reason: "no"))
        #expect(KaleyraMapping.status("Undelivered", code: code) == .failed)
        #expect(KaleyraMapping.status(code, code: nil) == .failed)
    }

    @Test(arguments: KaleyraMapping.retriableCodes.sorted())
    func retriableCodes(code: String) {
        #expect(
            outcome(202, #"{"error":{"code":"\#(code)","message":"later"}}"#) == .retriable(code: code, reason: "later")
        )
        #expect(KaleyraMapping.status("Failed", code: code) == .undelivered)
    }

    @Test(arguments: KaleyraMapping.operatorCodes.sorted())
    func codesThatSomeoneMustCure(code: String) {
        #expect(
            outcome(200, #"{"code":"\#(code)","message":"call us"}"#)
                == .retriable(code: code, reason: "call us", retryAfter: .seconds(60))
        )
    }

    @Test func unknownCodesReject() {
        #expect(outcome(200, #"{"code":"E999","message":"?"}"#) == .rejected(code: "E999", reason: "?"))
        #expect(outcome(200, #"{"error":"E612"}"#) == .rejected(code: "E612", reason: "E612"))
        #expect(outcome(200, #"{"code":612,"message":"?"}"#) == .rejected(code: "612", reason: "?"))
        #expect(outcome(422, "what?") == .rejected(code: "422", reason: "what?"))
    }

    @Test func unreadableAnswersAreInDoubt() {
        for body in ["", "<html>", "[]", "7", #"{"id":"x"}"#, #"{"data":[]}"#, #"{"data":[{"message_id":""}]}"#] {
            guard case .inDoubt = outcome(200, body) else {
                Issue.record("\(body) is \(outcome(200, body))")
                continue
            }
        }
        #expect(outcome(504, "gateway") == .inDoubt(reason: "504: gateway"))
    }

    @Test func httpCodes() {
        for status in [408, 425, 429, 500, 502, 503, 507] as [UInt] {
            #expect(
                outcome(status, "busy", retryAfter: .seconds(7))
                    == .retriable(code: String(status), reason: "busy", retryAfter: .seconds(7))
            )
        }
        for status in [401, 403] as [UInt] {
            #expect(
                outcome(status, "key")
                    == .retriable(code: String(status), reason: "our key was refused: key", retryAfter: .seconds(60))
            )
        }
    }

    @Test func states() {
        for state in ["DELIVRD", "Delivered", "delivered"] {
            #expect(KaleyraMapping.status(state, code: nil) == .delivered)
        }
        for state in ["SUBMITTED", "Sent", "ENROUTE", "ACCEPTD", "AWAITED-DLR", "SENT - NO DLR"] {
            #expect(KaleyraMapping.status(state, code: nil) == .sent)
        }
        for state in ["Failed", "NOT-SENT", "REJECTD", "DELETED"] {
            #expect(KaleyraMapping.status(state, code: nil) == .failed)
        }
        for state in ["Undelivered", "UNDELIV"] { #expect(KaleyraMapping.status(state, code: "?") == .undelivered) }
        #expect(KaleyraMapping.status("EXPIRED", code: nil) == .expired)
        #expect(KaleyraMapping.status("MOB-OFF", code: nil) == .undelivered)
        #expect(KaleyraMapping.status("whatever", code: nil) == .other)
    }
}

@Suite struct FCMMappingTests {
    private func outcome(_ status: UInt, _ body: String, retryAfter: Duration? = nil) -> SendOutcome {
        FCMMapping.outcome(.init(status: status, retryAfter: retryAfter, body: ByteBuffer(string: body)))
    }

    private func problem(_ status: String, _ errorCode: String?) -> String {
        let details = errorCode.map {
            #"[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"\#($0)"}]"#
        }
        return #"{"error":{"code":1,"status":"\#(status)","message":"m","details":\#(details ?? "[]")}}"#
    }

    @Test func accepted() {
        #expect(
            outcome(200, #"{"name":"projects/p/messages/1"}"#) == .accepted(providerMessageID: "projects/p/messages/1")
        )
    }

    @Test func permanent() {
        #expect(outcome(404, problem("NOT_FOUND", "UNREGISTERED")) == .rejected(code: "UNREGISTERED", reason: "m"))
        #expect(outcome(400, problem("INVALID_ARGUMENT", nil)) == .rejected(code: "INVALID_ARGUMENT", reason: "m"))
        #expect(
            outcome(403, problem("PERMISSION_DENIED", "SENDER_ID_MISMATCH"))
                == .rejected(code: "SENDER_ID_MISMATCH", reason: "m")
        )
        #expect(outcome(418, "tea") == .rejected(code: "418", reason: "tea"))
    }

    @Test func retriable() {
        #expect(
            outcome(429, problem("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"))
                == .retriable(code: "QUOTA_EXCEEDED", reason: "m", retryAfter: .seconds(60))
        )
        #expect(
            outcome(429, problem("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), retryAfter: .seconds(5))
                == .retriable(code: "QUOTA_EXCEEDED", reason: "m", retryAfter: .seconds(5))
        )
        #expect(
            outcome(503, problem("UNAVAILABLE", "UNAVAILABLE"), retryAfter: .seconds(3))
                == .retriable(code: "UNAVAILABLE", reason: "m", retryAfter: .seconds(3))
        )
        #expect(outcome(500, problem("INTERNAL", "INTERNAL")) == .retriable(code: "INTERNAL", reason: "m"))
        #expect(outcome(500, "oops") == .retriable(code: "500", reason: "oops"))
    }

    @Test func credentials() {
        for (status, name, code) in [
            (401, "UNAUTHENTICATED", nil), (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
            (403, "PERMISSION_DENIED", nil),
        ] as [(UInt, String, String?)] {
            #expect(
                outcome(status, problem(name, code))
                    == .retriable(
                        code: code ?? name,
                        reason: "our credentials were refused: m",
                        retryAfter: .seconds(60)
                    )
            )
        }
    }

    @Test func inDoubt() {
        #expect(outcome(504, "x") == .inDoubt(reason: "504: x"))
        guard case .inDoubt = outcome(200, "{}") else { return #expect(Bool(false), "200 without a name is in doubt") }
    }

    @Test func reports() {
        #expect(FCMMapping.status(event: "delivered", code: nil) == .delivered)
        #expect(FCMMapping.status(event: "Displayed", code: nil) == .delivered)
        #expect(FCMMapping.status(event: "dismissed", code: nil) == .other)
        #expect(FCMMapping.status(event: "failed", code: "UNREGISTERED") == .failed)
        #expect(FCMMapping.status(event: "failed", code: "UNAVAILABLE") == .undelivered)
        #expect(FCMMapping.status(event: "failed", code: nil) == .undelivered)
    }
}
