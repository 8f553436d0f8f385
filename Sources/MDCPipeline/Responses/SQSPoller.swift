// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
public import Logging
public import NIOCore

/// Brings SES events from an SQS queue, to which SNS delivers them. A message is deleted only after its receipts are durable;
/// one that cannot be read stays in the queue, whose redrive policy decides about it.
public final class SQSPoller: ReceiptSource {
    /// The queue, and how it is polled.
    public struct Configuration: Sendable {
        /// The provider's name in receipts.
        public var provider: String
        public var endpoint: AWSEndpoint
        /// As AWS shows it.
        public var queueURL: String
        /// Polls at once.
        public var pollers: Int
        /// How long an empty poll waits, in seconds, up to 20.
        public var wait: Int
        /// How long a message that is being stored is hidden from others, in seconds.
        public var visibility: Int

        /// Makes a value from its parts.
        public init(
            provider: String,
            endpoint: AWSEndpoint,
            queueURL: String,
            pollers: Int = 2,
            wait: Int = 20,
            visibility: Int = 60
        ) {
            self.provider = provider
            self.endpoint = endpoint
            self.queueURL = queueURL
            self.pollers = pollers
            self.wait = wait
            self.visibility = visibility
        }
    }

    public var name: String { "sqs/\(configuration.provider)" }

    private let configuration: Configuration
    private let client: AWSClient
    private let sink: any ReceiptSink
    private let logger: Logger

    /// - Parameter group: runs the connections; not shut down by the poller.
    /// - Throws: ``PipelineError`` (`configuration`).
    public init(_ configuration: Configuration, sink: any ReceiptSink, group: any EventLoopGroup, logger: Logger) throws
    {
        self.configuration = configuration
        self.sink = sink
        var logger = logger
        logger[metadataKey: "source"] = "sqs/\(configuration.provider)"
        self.logger = logger
        client = try AWSClient(
            configuration.endpoint,
            service: "sqs",
            hostPrefix: "sqs",
            connections: configuration.pollers + 1,
            connectTimeout: .seconds(5),
            group: group
        )
    }

    public func run() async throws {
        await withTaskGroup(of: Void.self) { tasks in
            for _ in 0..<max(1, configuration.pollers) {
                tasks.addTask { await self.poll() }
            }
        }
        try? await client.client.shutdown()
    }

    private func poll() async {
        var pause = Duration.milliseconds(200)
        while !Task.isCancelled {
            do {
                try await receive()
                pause = .milliseconds(200)
            } catch is CancellationError {
                return
            } catch {
                logger.warning("polling the queue failed; trying again", metadata: ["error": "\(error)"])
                try? await Task.sleep(for: pause)
                pause = min(pause * 2, .seconds(30))
            }
        }
    }

    private struct Received: Decodable {
        struct Message: Decodable {
            var MessageId: String
            var ReceiptHandle: String
            var Body: String
        }
        var Messages: [Message]?
    }
    private struct ReceiveRequest: Encodable {
        var QueueUrl: String
        var MaxNumberOfMessages = 10
        var WaitTimeSeconds: Int
        var VisibilityTimeout: Int
    }
    private struct DeleteRequest: Encodable {
        struct Entry: Encodable {
            var Id: String
            var ReceiptHandle: String
        }
        var QueueUrl: String
        var Entries: [Entry]
    }

    private func receive() async throws {
        let request = ReceiveRequest(
            QueueUrl: configuration.queueURL,
            WaitTimeSeconds: configuration.wait,
            VisibilityTimeout: configuration.visibility
        )
        let answer = try await call("ReceiveMessage", encodeJSON(request), timeout: .seconds(configuration.wait + 15))
        let messages = try JSONDecoder().decode(Received.self, from: Data(answer.body.readableBytesView)).Messages ?? []
        var receipts: [ProviderReceipt] = []
        var readable: [Received.Message] = []
        for message in messages {
            let now = wallClockMilliseconds()
            guard let found = SESEvent.receipts(message.Body, provider: configuration.provider, now: now) else {
                logger.warning("a message of the queue is no SES event", metadata: ["id": "\(message.MessageId)"])
                continue
            }
            receipts += found
            readable.append(message)
        }
        guard !readable.isEmpty else { return }
        try await sink.append(receipts)
        let deletion = DeleteRequest(
            QueueUrl: configuration.queueURL,
            Entries: readable.enumerated().map { .init(Id: "m\($0.offset)", ReceiptHandle: $0.element.ReceiptHandle) }
        )
        // What is not deleted comes again; its receipts are then repeated ones.
        _ = try await call("DeleteMessageBatch", encodeJSON(deletion), timeout: .seconds(15))
    }

    private func call(_ action: String, _ body: String, timeout: Duration) async throws -> HTTPExchange.Answer {
        let result = await client.post(
            "/",
            headers: [
                ("content-type", "application/x-amz-json-1.0"), ("x-amz-target", "AmazonSQS.\(action)"),
            ],
            body: body,
            timeout: timeout
        )
        try Task.checkCancellation()
        switch result {
        case .answered(let answer) where answer.status == 200: return answer
        case .answered(let answer):
            let (code, reason) = AWSMapping.jsonProblem(answer)
            throw PipelineError(.log, "\(action): \(code): \(reason)")
        case .notSent(let reason), .unanswered(let reason): throw PipelineError(.log, "\(action): \(reason)")
        }
    }
}
