// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCProtocol
import NIOCore

/// Performs what `ConnectionStateMachine` decides, on the channel. Confined to the channel's event loop, hence
/// unchecked: it is made there, and every call comes from there.
final class ConnectionHandler: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var machine: ConnectionStateMachine<any ClientRequest>
    private var decoder: FrameDecoder
    private var context: ChannelHandlerContext?
    private let clientID: String
    private let queryVersion: Int16
    private let ready: EventLoopPromise<Void>
    private let logger: Logger
    private var readyIsDone = false
    private var timer: (deadline: NIODeadline, task: Scheduled<Void>)?
    /// Called once when the connection is gone.
    var onClose: ((ClientError) -> Void)?

    /// `ready` succeeds once the broker told its versions.
    init(
        clientID: String,
        queryVersion: Int16,
        negotiationTimeout: TimeAmount,
        maxResponseBytes: Int,
        ready: EventLoopPromise<Void>,
        logger: Logger
    ) {
        self.clientID = clientID
        self.queryVersion = queryVersion
        self.ready = ready
        self.logger = logger
        machine = ConnectionStateMachine(negotiationTimeout: negotiationTimeout)
        decoder = FrameDecoder(maximumFrameSize: maxResponseBytes)
    }

    /// Requests without an answer yet.
    var inFlightCount: Int { machine.inFlightCount }
    /// What the broker serves.
    var versions: BrokerVersions? { machine.versions }
    /// The level of the feature `transaction.version` that the broker announced.
    private(set) var transactionVersion: Int16 = 0

    // MARK: Requests

    func send(_ request: any ClientRequest) {
        guard let context else {
            request.fail(ClientError(.connection, "the connection is closed"))
            return
        }
        let deadline = NIODeadline.now() + request.timeout
        switch machine.send(
            request,
            key: request.apiKey,
            versions: request.versions,
            expectsAnswer: request.expectsAnswer,
            deadline: deadline
        )
        {
        case .fail(let error):
            request.fail(error)
        case .write(let correlationID, let version):
            do {
                try write(context) { buffer in
                    try request.write(to: &buffer, version: version, correlationID: correlationID, clientID: clientID)
                }
                watch(context)
            } catch {
                // The number is taken, so the order of answers is lost: this connection cannot go on.
                let failure = ClientError(
                    .invalidState,
                    "API \(request.apiKey.rawValue) version \(version) cannot be encoded",
                    cause: error
                )
                if !request.expectsAnswer { request.fail(failure) }
                close(failure)
            }
        }
    }

    private func write(_ context: ChannelHandlerContext, _ body: (inout ByteBuffer) throws -> Void) throws {
        var buffer = context.channel.allocator.buffer(capacity: 512)
        buffer.writeInteger(Int32(0))
        try body(&buffer)
        buffer.setInteger(Int32(buffer.readableBytes - 4), at: buffer.readerIndex)
        context.writeAndFlush(wrapOutboundOut(buffer), promise: nil)
    }

    private func query(
        _ query: ConnectionStateMachine<any ClientRequest>.VersionQuery,
        _ context: ChannelHandlerContext
    ) {
        let request = ApiVersionsRequest(clientSoftwareName: "mdc", clientSoftwareVersion: "1")
        do {
            try write(context) { buffer in
                try RequestWriter.write(
                    query.version < 3 ? ApiVersionsRequest() : request,
                    version: query.version,
                    correlationID: query.correlationID,
                    clientID: clientID,
                    to: &buffer
                )
            }
            watch(context)
        } catch {
            close(ClientError(.invalidState, "ApiVersions cannot be encoded", cause: error))
        }
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { start(context) }
    }

    func channelActive(context: ChannelHandlerContext) {
        start(context)
        context.fireChannelActive()
    }

    private var isStarted = false
    private func start(_ context: ChannelHandlerContext) {
        guard !isStarted else { return }
        isStarted = true
        query(machine.connected(queryVersion: queryVersion, now: .now()), context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        decoder.append(unwrapInboundIn(data))
        do {
            while self.context != nil, let frame = try decoder.next() {
                try received(frame, context)
            }
        } catch let error as ClientError {
            close(error)
        } catch {
            close(ClientError(.protocolViolation, "the broker sent a frame that cannot be", cause: error))
        }
    }

    private func received(_ frame: ByteBuffer, _ context: ChannelHandlerContext) throws {
        var body = frame
        guard let correlationID = body.getInteger(at: body.readerIndex, as: Int32.self) else {
            throw ClientError(.protocolViolation, "the broker sent an answer without a number")
        }
        switch machine.received(correlationID: correlationID) {
        case .violation(let error):
            throw error
        case .versionAnswer(let version):
            body.moveReaderIndex(forwardBy: 4)
            try versionsArrived(body, version: version, context)
        case .answer(let answered):
            var reader = MessageReader(body)
            let headerVersion = HeaderVersions.response(answered.key, version: answered.version)
            _ = try ResponseHeader(from: &reader, version: headerVersion)
            answered.request.succeed(body: reader.rest, version: answered.version)
        }
    }

    private func versionsArrived(_ body: ByteBuffer, version: Int16, _ context: ChannelHandlerContext) throws {
        var reader = MessageReader(body)
        let response: ApiVersionsResponse
        // A broker that does not know the version of the query answers in version 0.
        if body.getInteger(at: body.readerIndex, as: Int16.self) == 35 {
            response = (try? ApiVersionsResponse(from: &reader, version: 0)) ?? ApiVersionsResponse(errorCode: 35)
        } else {
            response = try ApiVersionsResponse(from: &reader, version: version)
        }
        var ranges: [Int16: ClosedRange<Int16>] = [:]
        for key in response.apiKeys where key.minVersion <= key.maxVersion {
            ranges[key.apiKey] = key.minVersion...key.maxVersion
        }
        transactionVersion =
            response.finalizedFeatures.first { $0.name == "transaction.version" }?.maxVersionLevel ?? 0
        switch machine.versionsArrived(errorCode: response.errorCode, ranges: ranges, now: .now()) {
        case .query(let next):
            query(next, context)
        case .becomeReady:
            readyIsDone = true
            ready.succeed(())
        case .fail(let message):
            throw ClientError(.protocolViolation, message)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        close(ClientError(.connection, "the connection broke", cause: error))
    }

    func channelInactive(context: ChannelHandlerContext) {
        ended(ClientError(.connection, "the broker closed the connection"))
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        guard isStarted else {
            // Never connected: whoever connects knows why.
            self.context = nil
            return
        }
        ended(ClientError(.connection, "the connection is closed"))
    }

    /// Closes; every request without an answer fails with `error`.
    func close(_ error: ClientError) {
        let context = self.context
        ended(error)
        context?.close(promise: nil)
    }

    private func ended(_ error: ClientError) {
        guard context != nil else { return }
        context = nil
        timer?.task.cancel()
        timer = nil
        let pending = machine.closed(error)
        let notify = onClose
        onClose = nil
        if !readyIsDone {
            readyIsDone = true
            ready.fail(error)
        }
        notify?(error)
        for request in pending { request.fail(error) }
    }

    // MARK: Deadlines

    /// Makes sure that the next deadline is watched.
    private func watch(_ context: ChannelHandlerContext) {
        guard let deadline = machine.nextDeadline else { return }
        if let timer {
            if timer.deadline <= deadline { return }
            timer.task.cancel()
        }
        timer = (
            deadline,
            context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
                self?.deadlinePassed()
            }
        )
    }

    private func deadlinePassed() {
        timer = nil
        guard let context else { return }
        if let error = machine.expire(now: .now()) {
            logger.debug("closing a connection", metadata: [LogKey.error: "\(error)"])
            close(error)
        } else {
            watch(context)
        }
    }
}

/// Keys of log metadata, in one place.
enum LogKey {
    static let error = "mdc.error"
    static let broker = "mdc.broker"
    static let topic = "mdc.topic"
    static let partition = "mdc.partition"
    static let group = "mdc.group"
    static let generation = "mdc.generation"
    static let member = "mdc.member"
    static let offset = "mdc.offset"
}
