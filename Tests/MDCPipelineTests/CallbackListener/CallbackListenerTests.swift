// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Logging
import MDCModel
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// A sink that tests steer.
final class TestSink: ReceiptSink {
    struct Refusal: Error {}

    private struct State {
        var receipts: [ProviderReceipt] = []
        var refusals = 0
        var isHeld = false
        var waiting: [CheckedContinuation<Void, Never>] = []
        var entered = 0
    }

    private let state = Mutex(State())

    var receipts: [ProviderReceipt] { state.withLock { $0.receipts } }
    var entered: Int { state.withLock { $0.entered } }

    /// The next appends fail.
    func refuse(_ count: Int) { state.withLock { $0.refusals = count } }

    /// Appends wait until `release`.
    func hold() { state.withLock { $0.isHeld = true } }

    func release() {
        let waiting = state.withLock { state in
            state.isHeld = false
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    func append(_ receipts: [ProviderReceipt]) async throws {
        await withCheckedContinuation { continuation in
            let mustWait = state.withLock { state in
                state.entered += 1
                if state.isHeld { state.waiting.append(continuation) }
                return state.isHeld
            }
            if !mustWait { continuation.resume() }
        }
        let isRefused = state.withLock { state in
            guard state.refusals == 0 else {
                state.refusals -= 1
                return true
            }
            state.receipts += receipts
            return false
        }
        if isRefused { throw Refusal() }
    }
}

/// Waits for a condition, at most 20 seconds.
func eventually(_ condition: () -> Bool) async throws -> Bool {
    for _ in 0..<2_000 {
        if condition() { return true }
        try await Task.sleep(for: .milliseconds(10))
    }
    return condition()
}

func quietLogger() -> Logger {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    return logger
}

/// Runs a listener on a free port for the time of a test.
func withListener(
    _ sink: TestSink,
    inFlightMax: Int = 64,
    bodyBytesMax: Int = 4_096,
    _ body: (CallbackListener, String) async throws -> Void
) async throws {
    let routes: [CallbackListener.Route] = [
        .init(provider: "kaleyra", secret: "s3cret", format: .kaleyra),
        .init(provider: "email", secret: "m4il", format: .email), .init(provider: "fcm", secret: "fcm", format: .fcm),
    ]
    let listener = CallbackListener(
        .init(routes: routes, bodyBytesMax: bodyBytesMax, inFlightMax: inFlightMax),
        sink: sink,
        group: MultiThreadedEventLoopGroup.singleton,
        logger: quietLogger()
    )
    let running = Task { try await listener.run() }
    let port = try await listener.boundPort()
    do {
        try await body(listener, "http://127.0.0.1:\(port)")
    } catch {
        running.cancel()
        throw error
    }
    running.cancel()
    _ = await running.result
}

@Suite struct CallbackListenerTests {
    private func post(
        _ url: String,
        _ body: String,
        type: String = "application/json",
        method: HTTPMethod = .POST
    ) async throws -> (status: Int, text: String, headers: HTTPHeaders) {
        var request = HTTPClientRequest(url: url)
        request.method = method
        request.headers.add(name: "content-type", value: type)
        if !body.isEmpty { request.body = .bytes(ByteBuffer(string: body)) }
        let response = try await HTTPClient.shared.execute(request, timeout: .seconds(30))
        let text = String(buffer: try await response.body.collect(upTo: 1 << 20))
        return (Int(response.status.code), text, response.headers)
    }

    private let delivered = #"{"event":"delivered","message_id":"m@x"}"#

    @Test func takesReceiptsOfEveryProvider() async throws {
        let sink = TestSink()
        try await withListener(sink) { listener, base async throws in
            #expect(
                try await post(base + "/callbacks/kaleyra/s3cret?id=1&status=Delivered", "", method: .GET).status == 200
            )
            let form = try await post(
                base + "/callbacks/kaleyra/s3cret",
                "id=2&status=Failed",
                type: "application/x-www-form-urlencoded"
            )
            #expect(form.status == 200)
            #expect(try await post(base + "/callbacks/email/m4il", delivered).status == 200)
            #expect(try await post(base + "/callbacks/fcm/fcm", #"{"event":"delivered","name":"n"}"#).status == 200)
            #expect(sink.receipts.map(\.provider) == ["kaleyra", "kaleyra", "email", "fcm"])
            #expect(sink.receipts.map(\.status) == [.delivered, .failed, .delivered, .delivered])
            #expect(listener.statistics.byStatus == [200: 4])
            #expect(listener.statistics.receipts == 4)
            #expect(listener.statistics.inFlight == 0)
        }
    }

    /// G8: no answer before the sink returned, and then 200.
    @Test func answersOnlyOnceDurable() async throws {
        let sink = TestSink()
        sink.hold()
        try await withListener(sink) { listener, base async throws in
            let isAnswered = Mutex(false)
            let answer = Task {
                let status = try await post(base + "/callbacks/email/m4il", delivered).status
                isAnswered.withLock { $0 = true }
                return status
            }
            #expect(try await eventually { sink.entered == 1 })
            try await Task.sleep(for: .milliseconds(200))
            #expect(!isAnswered.withLock { $0 })
            #expect(listener.statistics.inFlight == 1)
            #expect(sink.receipts.isEmpty)
            sink.release()
            #expect(try await answer.value == 200)
            #expect(sink.receipts.count == 1)
        }
    }

    @Test func whatIsNotDurableIsAskedForAgain() async throws {
        let sink = TestSink()
        sink.refuse(1)
        try await withListener(sink) { listener, base async throws in
            let refused = try await post(base + "/callbacks/email/m4il", delivered)
            #expect(refused.status == 503)
            #expect(refused.headers.first(name: "retry-after") == "1")
            #expect(sink.receipts.isEmpty)
            #expect(listener.statistics.receipts == 0)
            #expect(try await post(base + "/callbacks/email/m4il", delivered).status == 200)
            #expect(sink.receipts.count == 1)
        }
    }

    @Test func strangersLearnNothing() async throws {
        let sink = TestSink()
        try await withListener(sink) { _, base async throws in
            for path in [
                "/callbacks/kaleyra/wrong", "/callbacks/kaleyra/s3cre", "/callbacks/kaleyra/s3cretx",
                "/callbacks/kaleyra/",
                "/callbacks/kaleyra", "/callbacks/nobody/s3cret", "/callbacks/nobody/no%20such%20provider", "/",
                "/callbacks/kaleyra/s3cret/more", "//callbacks/kaleyra/s3cret",
            ] {
                let answer = try await post(base + path, delivered)
                #expect(answer.status == 404, "\(path)")
                #expect(answer.text == "not found\n")
            }
            #expect(sink.entered == 0)
        }
    }

    @Test func garbageIsRefusedWithAReason() async throws {
        let sink = TestSink()
        try await withListener(sink) { _, base async throws in
            let garbage = try await post(base + "/callbacks/email/m4il", "{nonsense")
            #expect(garbage.status == 400)
            #expect(garbage.text.contains("not valid JSON"))
            #expect(try await post(base + "/callbacks/email/m4il", "", method: .GET).status == 400)
            #expect(try await post(base + "/callbacks/email/m4il", delivered, method: .PUT).status == 405)
            #expect(try await post(base + "/callbacks/email/m4il", String(repeating: " ", count: 5_000)).status == 413)
            #expect(sink.entered == 0)
            // The connection and the listener are none the worse.
            #expect(try await post(base + "/callbacks/email/m4il", delivered).status == 200)
        }
    }

    @Test func requestsUnderWayAreBounded() async throws {
        let sink = TestSink()
        sink.hold()
        try await withListener(sink, inFlightMax: 4) { listener, base async throws in
            let held = (0..<4).map { _ in Task { try await post(base + "/callbacks/email/m4il", delivered).status } }
            #expect(try await eventually { sink.entered == 4 })
            #expect(try await post(base + "/callbacks/email/m4il", delivered).status == 503)
            sink.release()
            for task in held { #expect(try await task.value == 200) }
            #expect(try await post(base + "/callbacks/email/m4il", delivered).status == 200)
            #expect(listener.statistics.byStatus == [200: 5, 503: 1])
        }
    }

    @Test func sendersRepeatUntilTaken() async throws {
        let sink = TestSink()
        sink.refuse(3)
        try await withListener(sink) { _, base async throws in
            let sender = CallbackSender(
                group: MultiThreadedEventLoopGroup.singleton,
                configuration: .init(backoff: .milliseconds(1)),
                logger: quietLogger()
            )
            sender.send(
                .init(
                    url: base + "/callbacks/email/m4il",
                    method: .POST,
                    contentType: "application/json",
                    body: delivered
                )
            )
            sender.send(
                .init(url: base + "/callbacks/email/m4il", method: .POST, contentType: "application/json", body: "{")
            )
            #expect(try await eventually { sender.statistics.pending == 0 })
            #expect(sender.statistics == .init(delivered: 1, refused: 1, abandoned: 0, repeated: 3, pending: 0))
            #expect(sink.receipts.count == 1)
            await sender.shutdown()
        }
    }

    @Test func sendersGiveUpInTheEnd() async throws {
        let sender = CallbackSender(
            group: MultiThreadedEventLoopGroup.singleton,
            configuration: .init(attemptsMax: 2, backoff: .milliseconds(1)),
            logger: quietLogger()
        )
        sender.send(.init(url: "http://127.0.0.1:1/x", method: .POST, contentType: "text/plain", body: "x"))
        #expect(try await eventually { sender.statistics.pending == 0 })
        #expect(sender.statistics.abandoned == 1)
        #expect(sender.statistics.repeated == 1)
        await sender.shutdown()
    }

    @Test func portThatIsTakenIsAnError() async throws {
        try await withListener(TestSink()) { listener, _ async throws in
            let port = try await listener.boundPort()
            let second = CallbackListener(
                .init(port: port, routes: []),
                sink: TestSink(),
                group: MultiThreadedEventLoopGroup.singleton,
                logger: quietLogger()
            )
            await #expect(throws: (any Error).self) { try await second.run() }
            await #expect(throws: (any Error).self) { try await second.boundPort() }
        }
    }
}
