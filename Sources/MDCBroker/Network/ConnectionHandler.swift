// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix

/// Performs on a channel what ``ConnectionStateMachine`` decides: cuts frames, hands requests to their handlers, writes answers.
/// Lives on its event loop alone.
final class ConnectionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = Never
    typealias OutboundOut = IOData

    private let server: ServerContext
    let connection: Connection
    private var worker: LoopWorker { connection.worker }
    private var decoder: FrameDecoder
    private var machine: ConnectionStateMachine<RequestContext.Response>
    private var context: ChannelHandlerContext?
    private var receiver: FrameReceiver?
    private var isReading = false
    private var isTaking = false
    private var hasUnflushed = false
    /// The pipeline asked to read while we must not.
    private var wantsRead = false
    private var isPausedForMemory = false
    private var countedBytes = 0
    private var hasTakenRequest = false
    private var lastActivity: NIODeadline
    private var idleTimer: Scheduled<Void>?
    private let initialMute: Int32

    /// - Parameter mutedFor: milliseconds before the first request is taken.
    init(server: ServerContext, connection: Connection, mutedFor initialMute: Int32 = 0) {
        self.initialMute = initialMute
        self.server = server
        self.connection = connection
        let configuration = server.live.started
        decoder = FrameDecoder(maximumFrameSize: configuration.requestMaxBytes)
        machine = ConnectionStateMachine(
            limits: .init(
                inFlightRequests: configuration.maxInFlightRequests,
                pendingResponseBytes: configuration.maxPendingResponseBytes
            )
        )
        lastActivity = .now()
    }

    // MARK: Life

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        connection.handler = self
        let receiver = FrameReceiver(self)
        self.receiver = receiver
        try? context.channel.syncOptions?.setOption(.recvAllocator, value: receiver)
        scheduleIdleCheck()
        if initialMute > 0 { mute(milliseconds: initialMute) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { detach() }

    func channelInactive(context: ChannelHandlerContext) {
        detach()
        context.fireChannelInactive()
    }

    private func detach() {
        guard context != nil else { return }
        context = nil
        idleTimer?.cancel()
        machine.close()
        decoder = FrameDecoder(maximumFrameSize: 1)
        if countedBytes > 0 {
            countedBytes = 0
            _ = server.memory.update(connection, bytes: 0, now: 0)
        }
        server.connectionClosed(connection)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { close("\(error)") }

    /// Closes the connection at once.
    func close(_ reason: String) {
        guard let context else { return }
        server.logger.debug(
            "closing a connection",
            metadata: ["client": "\(connection.clientHost)", "reason": "\(reason)"]
        )
        machine.close()
        context.close(promise: nil)
    }

    /// Takes no more requests; closes when what is in service is answered.
    func drain() {
        machine.drain()
        closeIfFinished()
    }

    private func closeIfFinished() {
        if machine.isFinished, let context { context.close(promise: nil) }
    }

    private func scheduleIdleCheck() {
        let limit = server.live.current.connectionsMaxIdleMilliseconds
        guard limit >= 0, let context else { return }
        let deadline = lastActivity + .milliseconds(Swift.min(limit, 1 << 40))
        idleTimer = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
            guard let self, self.context != nil else { return }
            if self.machine.inFlight > 0 { self.lastActivity = .now() }
            if NIODeadline.now() >= self.lastActivity + .milliseconds(Swift.min(limit, 1 << 40)) {
                self.close("silent for longer than connections.max.idle.ms")
            } else {
                self.scheduleIdleCheck()
            }
        }
    }

    // MARK: Reading

    func read(context: ChannelHandlerContext) {
        if machine.mayTakeRequest && !isPausedForMemory {
            context.read()
        } else {
            wantsRead = true
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data)
        isReading = true
        lastActivity = .now()
        worker.metrics.received(bytes.readableBytes - decoder.lentBytes)
        decoder.append(bytes)
        takeRequests()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        isReading = false
        flushAnswers()
        context.fireChannelReadComplete()
    }

    /// Handles the whole requests that were received, as far as they may be taken.
    private func takeRequests() {
        // A handler may answer at once, which leads back here.
        guard !isTaking else { return }
        isTaking = true
        defer { isTaking = false }
        do throws(ProtocolError) {
            while context != nil, machine.mayTakeRequest {
                guard let frame = try decoder.next() else { break }
                receiver?.sawFrame(frame.readableBytes + 4)
                worker.metrics.measureWork { take(frame) }
            }
        } catch {
            close("\(error)")
            return
        }
        countPartial()
    }

    /// Whether a frame has begun and not ended.
    var hasPartialFrame: Bool { decoder.bufferedBytes > 0 || decoder.lentBytes > 0 }

    /// The memory of the frame that has begun, to read its rest into.
    func lendFrame() -> ByteBuffer? { decoder.lend() }

    private func countPartial() {
        guard context != nil else { return }
        let bytes = decoder.bufferedBytes
        if bytes > RequestMemory.smallRequestBytes {
            countedBytes = bytes
            isPausedForMemory = server.memory.update(connection, bytes: bytes, now: mdc_monotonic_ns()) == .pause
        } else if countedBytes > 0 {
            countedBytes = 0
            isPausedForMemory = false
            _ = server.memory.update(connection, bytes: 0, now: 0)
        }
    }

    /// There is room again, or answers have left.
    func resumeReading() {
        isPausedForMemory = false
        takeRequests()
        guard wantsRead, machine.mayTakeRequest, !isPausedForMemory, let context else { return }
        wantsRead = false
        context.read()
    }

    private func take(_ frame: ByteBuffer) {
        var body = frame
        let header: RequestHeader
        do throws(ProtocolError) {
            header = try RequestHeader(readingHeadOf: &body)
        } catch {
            // Of an API or a version that we do not know, the first eight bytes are all that can be read.
            guard let known = Self.bareHeader(frame), known.apiKey == .apiVersions else { return close("\(error)") }
            header = known
        }
        let request = RequestContext(
            header: header,
            body: body,
            connection: connection,
            slot: machine.begin(),
            receivedAt: mdc_monotonic_ns()
        )
        body = ByteBuffer()
        let quotas = server.quotas
        guard quotas.limits(.requestPercentage) else { return server.handlers.handle(request) }
        // What earlier requests took is told with this one: the time of this one is not known before it is done.
        request.throttle(quotas.delay(.requestPercentage, clientID: header.clientId, now: request.receivedAt))
        server.handlers.handle(request)
        let done = mdc_monotonic_ns()
        _ = quotas.record(
            .requestPercentage,
            clientID: header.clientId,
            Double(done &- request.receivedAt),
            now: done
        )
    }

    private static func bareHeader(_ frame: ByteBuffer) -> RequestHeader? {
        guard let key = frame.getInteger(at: frame.readerIndex, as: Int16.self),
            let version = frame.getInteger(at: frame.readerIndex + 2, as: Int16.self),
            let correlation = frame.getInteger(at: frame.readerIndex + 4, as: Int32.self)
        else { return nil }
        return RequestHeader(requestApiKey: key, requestApiVersion: version, correlationId: correlation)
    }

    // MARK: Writing

    /// A request is done.
    func finish(_ slot: UInt64, _ response: RequestContext.Response?, bytes: Int, key: APIKey, receivedAt: UInt64) {
        guard context != nil else { return }
        worker.metrics.answered(key, nanoseconds: mdc_monotonic_ns() &- receivedAt)
        machine.finish(slot, response, bytes: bytes)
        while let answer = machine.nextToWrite() { write(answer) }
        if hasUnflushed && !isReading {
            if worker.isDraining { worker.flushLater(self) } else { flushAnswers() }
        } else if !isReading {
            resumeReading()
            closeIfFinished()
        }
    }

    private func write(_ response: RequestContext.Response) {
        guard let context else { return }
        hasUnflushed = true
        let promise = context.eventLoop.makePromise(of: Void.self)
        let bytes: Int
        var held: HeldCopies?
        switch response {
        case .frame(let frame):
            bytes = frame.readableBytes
            context.write(wrapOutboundOut(.byteBuffer(frame)), promise: promise)
        case .pieces(let pieces, let copies):
            bytes = pieces.reduce(0) { $0 + $1.length }
            held = copies
            writePieces(pieces, context, promise)
        }
        worker.metrics.sent(bytes)
        promise.futureResult.assumeIsolated().whenComplete { [weak self] _ in
            held?.release()
            self?.wrote(bytes)
        }
    }

    private func writePieces(
        _ pieces: [ResponsePiece],
        _ context: ChannelHandlerContext,
        _ promise: EventLoopPromise<Void>
    ) {
        var files: [NIOFileHandle] = []
        for (index, piece) in pieces.enumerated() {
            let last = index == pieces.count - 1 ? promise : nil
            switch piece {
            case .bytes(let buffer): context.write(wrapOutboundOut(.byteBuffer(buffer)), promise: last)
            case .file(let slice):
                guard let handle = Self.duplicate(slice.descriptor) else {
                    close("a segment's descriptor cannot be duplicated; raise the limit of open files")
                    if last == nil { promise.fail(ChannelError.ioOnClosedChannel) }
                    break
                }
                files.append(handle)
                let region = FileRegion(
                    fileHandle: handle,
                    readerIndex: slice.position,
                    endIndex: slice.position + slice.length
                )
                context.write(wrapOutboundOut(.fileRegion(region)), promise: last)
            }
        }
        let opened = files
        promise.futureResult.assumeIsolated().whenComplete { _ in for file in opened { try? file.close() } }
    }

    private static func duplicate(_ descriptor: Int32) -> NIOFileHandle? {
        let copy = mdc_duplicate(descriptor)
        return copy < 0 ? nil : NIOFileHandle(_deprecatedTakingOwnershipOfDescriptor: copy)
    }

    private func wrote(_ bytes: Int) {
        guard context != nil else { return }
        machine.wrote(bytes)
        lastActivity = .now()
        if machine.isFinished { return closeIfFinished() }
        if !isReading && (wantsRead || decoder.bufferedBytes > 0) { resumeReading() }
    }

    /// Sends what was written since the last flush.
    func flushAnswers() {
        if hasUnflushed {
            hasUnflushed = false
            context?.flush()
        }
        closeIfFinished()
    }

    /// Takes nothing from the client for a while (KIP-219).
    func mute(milliseconds: Int32) {
        guard context != nil, milliseconds > 0 else { return }
        machine.mute(until: mdc_monotonic_ns() + UInt64(milliseconds) * 1_000_000)
        scheduleUnmute()
    }

    private func scheduleUnmute() {
        guard let context else { return }
        let now = mdc_monotonic_ns()
        let left = machine.mutedUntil > now ? machine.mutedUntil - now : 0
        context.eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(Int64(left))) { [weak self] in
            guard let self, self.context != nil, self.machine.mutedUntil > 0 else { return }
            if self.machine.unmute(now: mdc_monotonic_ns()) { self.resumeReading() } else { self.scheduleUnmute() }
        }
    }
}
