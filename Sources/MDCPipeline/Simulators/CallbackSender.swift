// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import DequeModule
public import Logging
public import NIOCore
import NIOHTTP1
import Synchronization

/// Sends the simulators' receipts over HTTP, and repeats each with back-off until it is taken.
///
/// As real providers do: 2xx ends it, 4xx (but 408 and 429) ends it as refused, everything else is tried again. At most
/// `concurrency` requests are under way; the rest wait in order of their due time.
public final class CallbackSender: Sendable {
    /// How persistent the sender is.
    public struct Configuration: Sendable, Hashable {
        /// Requests under way at once.
        public var concurrency: Int
        /// The most requests for one receipt.
        public var attemptsMax: Int
        /// The pause before the second request; doubled for each further one.
        public var backoff: Duration
        /// The longest pause.
        public var backoffMax: Duration
        /// The limit of one request.
        public var requestTimeout: Duration
        /// Whether what was answered 2xx is kept, for tests that look for it in the log.
        public var keepsDelivered: Bool

        public init(
            concurrency: Int = 32,
            attemptsMax: Int = 30,
            backoff: Duration = .milliseconds(50),
            backoffMax: Duration = .seconds(5),
            requestTimeout: Duration = .seconds(10),
            keepsDelivered: Bool = false
        ) {
            precondition(concurrency > 0 && attemptsMax > 0, "a callback sender needs at least one request")
            self.concurrency = concurrency
            self.attemptsMax = attemptsMax
            self.backoff = backoff
            self.backoffMax = backoffMax
            self.requestTimeout = requestTimeout
            self.keepsDelivered = keepsDelivered
        }
    }

    /// What became of the receipts so far.
    public struct Statistics: Sendable, Hashable {
        /// Answered 2xx.
        public var delivered = 0
        /// Answered 4xx, which no repetition cures.
        public var refused = 0
        /// Given up after `attemptsMax` requests.
        public var abandoned = 0
        /// Requests beyond the first of a receipt.
        public var repeated = 0
        /// Receipts that still wait or are under way.
        public var pending = 0
    }

    struct Callback: Sendable {
        var url: String
        var method: HTTPMethod
        var contentType: String
        var body: String
    }

    private struct Job: Sendable {
        var callback: Callback
        var attempt = 1
        var done: (@Sendable () -> Void)?
    }

    private struct State {
        var waiting: Deque<Job> = []
        var underWay = 0
        var statistics = Statistics()
        var delivered: [Callback] = []
        var isClosed = false
    }

    private let configuration: Configuration
    private let client: HTTPClient
    private let eventLoop: any EventLoop
    private let logger: Logger
    private let state = Mutex(State())

    /// - Parameter group: runs the connections; not shut down by the sender.
    public init(group: any EventLoopGroup, configuration: Configuration = Configuration(), logger: Logger) {
        self.client = HTTPExchange.makeClient(
            group: group,
            connections: configuration.concurrency,
            connectTimeout: configuration.requestTimeout
        )
        self.configuration = configuration
        self.eventLoop = group.next()
        self.logger = logger
    }

    /// What became of the receipts so far.
    public var statistics: Statistics { state.withLock { $0.statistics } }

    /// What was answered 2xx, if that is kept.
    var delivered: [Callback] { state.withLock { $0.delivered } }

    /// Drops what still waits, sends nothing more, and closes the connections.
    public func shutdown() async {
        dropWaiting()
        try? await client.shutdown()
    }

    private func dropWaiting() {
        let dropped = state.withLock { state in
            state.isClosed = true
            defer { state.waiting.removeAll() }
            return state.waiting
        }
        for job in dropped { job.done?() }
    }

    /// Sends a callback after a pause. `done` is called once it is taken, refused or given up.
    func send(_ callback: Callback, after delay: Duration = .zero, done: (@Sendable () -> Void)? = nil) {
        state.withLock { $0.statistics.pending += 1 }
        enqueue(Job(callback: callback, done: done), after: delay)
    }

    private func enqueue(_ job: Job, after delay: Duration) {
        guard delay > .zero else { return admit(job) }
        eventLoop.scheduleTask(in: TimeAmount(delay)) { self.admit(job) }
    }

    private func admit(_ job: Job) {
        let mayStart: Bool? = state.withLock { state in
            guard !state.isClosed else { return nil }
            guard state.underWay < configuration.concurrency else {
                state.waiting.append(job)
                return false
            }
            state.underWay += 1
            return true
        }
        switch mayStart {
        case true?: Task { await self.work(from: job) }
        case false?: break
        case nil: job.done?()
        }
    }

    /// Works off jobs until none waits.
    private func work(from first: Job) async {
        var next: Job? = first
        while let job = next {
            await request(job)
            next = state.withLock { state in
                if let waiting = state.waiting.popFirst() { return waiting }
                state.underWay -= 1
                return nil
            }
        }
    }

    private func request(_ job: Job) async {
        var request = HTTPClientRequest(url: job.callback.url)
        request.method = job.callback.method
        if !job.callback.body.isEmpty {
            request.headers.add(name: "content-type", value: job.callback.contentType)
            request.body = .bytes(ByteBuffer(string: job.callback.body))
        }
        var status: UInt?
        var problem = ""
        do {
            let response = try await client.execute(request, timeout: TimeAmount(configuration.requestTimeout))
            status = response.status.code
            problem = "HTTP \(response.status.code)"
            for try await _ in response.body {}
        } catch {
            problem = "\(error)"
        }
        finish(job, status: status, problem: problem)
    }

    private func finish(_ job: Job, status: UInt?, problem: String) {
        switch status {
        case .some(200..<300):
            if configuration.keepsDelivered { state.withLock { $0.delivered.append(job.callback) } }
            settle(job) { $0.delivered += 1 }
        case .some(400..<500) where status != 408 && status != 429:
            logger.warning("callback refused", metadata: ["answer": "\(problem)", "body": "\(job.callback.body)"])
            settle(job) { $0.refused += 1 }
        default:
            guard job.attempt < configuration.attemptsMax else {
                logger.warning(
                    "callback given up",
                    metadata: ["requests": "\(job.attempt)", "last": "\(problem)"]
                )
                return settle(job) { $0.abandoned += 1 }
            }
            state.withLock { $0.statistics.repeated += 1 }
            let pause = min(configuration.backoff * (1 << min(job.attempt - 1, 20)), configuration.backoffMax)
            var again = job
            again.attempt += 1
            enqueue(again, after: pause)
        }
    }

    private func settle(_ job: Job, _ count: (inout Statistics) -> Void) {
        state.withLock { state in
            state.statistics.pending -= 1
            count(&state.statistics)
        }
        job.done?()
    }
}
