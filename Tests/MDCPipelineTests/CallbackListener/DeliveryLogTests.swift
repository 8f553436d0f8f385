// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCJSON
import MDCModel
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import MDCPipeline

@Suite("Delivery logs of SNS")
struct DeliveryLogTests {
    private static func log(_ id: String, status: String = "SUCCESS", code: Int = 200, response: String = "ok")
        -> String
    {
        #"{"notification":{"messageMD5Sum":"x","messageId":"\#(id)","timestamp":"2026-05-01 10:00:00.123"},"delivery":{"#
            + #""deliveryId":"d","destination":"arn:aws:sns:eu-west-1:123456789012:endpoint/GCM/app/1","#
            + #""providerResponse":"\#(response)","dwellTimeMs":65,"attempts":1,"token":"t","statusCode":\#(code)},"status":"\#(status)"}"#
    }

    private static func document(_ messages: [String], type: String = "DATA_MESSAGE") -> String {
        let events = messages.enumerated().map { index, message in
            JSONValue.object([
                "id": .text("\(index)"), "timestamp": .integer(1_777_000_000_000 + Int64(index)),
                "message": .text(message),
            ])
        }
        return encodeJSON(
            JSONValue.object([
                "messageType": .text(type), "owner": .text("123456789012"),
                "logGroup": .text("sns/eu-west-1/1/app/GCM/app"),
                "logStream": .text("s"), "subscriptionFilters": .array([.text("all")]), "logEvents": .array(events),
            ])
        )
    }

    private static func packed(_ text: String) throws -> String {
        var out = ByteBuffer()
        try Array(text.utf8).withUnsafeBytes { try CompressionCodec.gzip.compress($0, into: &out) }
        return Data(out.readableBytesView).base64EncodedString()
    }

    private static func shapes(_ packed: [String]) -> [String] {
        [
            packed.map { #"{"awslogs":{"data":"\#($0)"}}"# }[0],
            #"{"Records":[\#(packed.map { #"{"eventSource":"aws:kinesis","kinesis":{"partitionKey":"1","data":"\#($0)"}}"# }.joined(separator: ","))]}"#,
            #"{"requestId":"r-1","timestamp":1,"records":[\#(packed.map { #"{"data":"\#($0)"}"# }.joined(separator: ","))]}"#,
        ]
    }

    @Test("all shapes give the same receipts; what is no delivery is passed over and counted")
    func shapes() throws {
        let packed = try Self.packed(
            Self.document([
                Self.log("a"), "no JSON", Self.log("b", status: "FAILURE", code: 410, response: "Unregistered"), "{}",
                Self.log("c", status: "FAILURE", code: 503, response: "busy"),
            ])
        )
        for body in Self.shapes([packed]) {
            let batch = try DeliveryLog.batch(ByteBuffer(string: body), provider: "sns")
            #expect(batch.receipts.map(\.providerMessageID) == ["a", "b", "c"])
            #expect(batch.receipts.map(\.status) == [.delivered, .failed, .undelivered])
            #expect(batch.receipts.map(\.code) == ["200", "410", "503"])
            #expect(batch.receipts[0].at == 1_777_000_000_000 && batch.receipts[0].channel == .push)
            #expect(batch.foreign == 2 && (batch.requestID == "r-1") == body.contains("requestId"))
        }
        let control = try Self.packed(Self.document(["x"], type: "CONTROL_MESSAGE"))
        #expect(try DeliveryLog.batch(ByteBuffer(string: Self.shapes([control])[0]), provider: "sns") == .init())
    }

    @Test("what cannot be read is refused with a reason, with bounded memory")
    func refuses() throws {
        let bomb = try Self.packed(String(repeating: " ", count: 40 << 20))
        let half = try Self.packed(Self.document([Self.log("a")])).prefix(40)
        for (body, reason) in [
            ("", "no JSON"), ("[]", "no JSON"), ("{}", "neither"), (#"{"awslogs":{}}"#, "missing"),
            (#"{"awslogs":{"data":"%"}}"#, "base64"), (#"{"awslogs":{"data":"\#(half)"}}"#, "unpacked"),
            (#"{"awslogs":{"data":"\#(bomb)"}}"#, "unpacked"), (#"{"Records":[{}]}"#, "missing"),
            (#"{"records":[{"data":"e30="}]}"#, "logEvents"), (#"{"records":[{"data":"eA=="}]}"#, "no JSON"),
        ] {
            let problem = #expect(throws: CallbackProblem.self) {
                try DeliveryLog.batch(ByteBuffer(string: body), provider: "sns")
            }
            #expect(problem?.reason.contains(reason) == true, "\(problem?.reason ?? "none") \(reason)")
        }
    }

    @Test("the listener answers once they are durable, and as a Firehose wants it", .timeLimit(.minutes(4)))
    func listener() async throws {
        let sink = TestSink()
        let listener = CallbackListener(
            .init(routes: [.init(provider: "sns", secret: "s3cret", format: .deliveryLog)]),
            sink: sink,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: quietLogger()
        )
        let running = Task { try await listener.run() }
        defer { running.cancel() }
        let url = "http://127.0.0.1:\(try await listener.boundPort())/callbacks/sns/s3cret"
        func post(_ body: ByteBuffer, _ headers: [(String, String)] = []) async throws -> (Int, String) {
            var request = HTTPClientRequest(url: url)
            request.method = .POST
            request.headers.add(contentsOf: HTTPHeaders(headers + [("content-type", "application/json")]))
            request.body = .bytes(body)
            let response = try await HTTPClient.shared.execute(request, timeout: .seconds(60))
            return (Int(response.status.code), String(buffer: try await response.body.collect(upTo: 1 << 20)))
        }
        let bodies = Self.shapes([try Self.packed(Self.document((0..<500).map { Self.log("m\($0)") }))])
        sink.refuse(1)
        #expect(try await post(ByteBuffer(string: bodies[0])).0 == 503)
        #expect(sink.receipts.isEmpty)
        for body in bodies {
            let (status, text) = try await post(ByteBuffer(string: body))
            #expect(status == 200)
            #expect(text.contains(#""requestId":"r-1""#) == body.contains("requestId"), "\(text)")
        }
        var zipped = ByteBuffer()
        try Array(bodies[2].utf8).withUnsafeBytes { try CompressionCodec.gzip.compress($0, into: &zipped) }
        #expect(try await post(zipped, [("content-encoding", "gzip")]).0 == 200)
        #expect(sink.receipts.count == 2_000)
        #expect(try await post(ByteBuffer(string: "{}")).0 == 400)
        #expect(try await post(ByteBuffer(repeating: 0x20, count: DeliveryLog.bodyBytesMax + 1)).0 == 413)
    }
}
