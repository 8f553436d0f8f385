// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCJSON
import MDCModel
import NIOCore
import NIOPosix
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// One life of a child process: the handshake, tuples to it, what it says, and its end. What it says is worked on on its event loop.
final class MultilangChild: Sendable {
    private struct Pending {
        let context: ProcessorContext
        let done: EventLoopPromise<Void>
        let since: NIODeadline
        var bytes = 0
    }

    private struct State {
        var framing: MultilangFraming
        var watch: MultilangWatch
        var pending: [String: Pending] = [:]
        /// The order in which tuples were sent.
        var order: [String] = []
        var nextID = 0
        var emittedBytes = 0
        /// The last error that the child told, for the tuple that it fails then.
        var lastError: String?
        /// The last error that it told at all.
        var toldError: String?
        var isReady = false
        var endReason: TopologyError?
        var timer: RepeatedTask?
    }

    private let configuration: MultilangConfiguration
    private let task: TaskInfo
    private let processID: Int32
    private let channel: any Channel
    private let ready: EventLoopPromise<Void>
    private let began = ContinuousClock.now
    private let state: Mutex<State>

    private init(_ configuration: MultilangConfiguration, _ task: TaskInfo, processID: Int32, channel: any Channel) {
        self.configuration = configuration
        self.task = task
        self.processID = processID
        self.channel = channel
        ready = channel.eventLoop.makePromise()
        state = Mutex(
            State(
                framing: MultilangFraming(maxBytes: configuration.messageBytesMax),
                watch: MultilangWatch(
                    interval: TimeAmount(configuration.heartbeatInterval),
                    timeout: TimeAmount(configuration.timeout),
                    tupleTimeout: TimeAmount(configuration.tupleTimeout),
                    now: .now()
                )
            )
        )
    }

    var isEnded: Bool { state.withLock { $0.endReason != nil } }
    var age: Duration { .now - began }

    // MARK: Beginning

    /// Starts the program and waits until it has answered the handshake.
    static func started(
        _ configuration: MultilangConfiguration,
        _ task: TaskInfo,
        pidFolder: String,
        eventLoop: any EventLoop
    ) async throws -> MultilangChild {
        let (processID, input, output) = try spawn(configuration)
        let channel: any Channel
        do {
            channel = try await NIOPipeBootstrap(group: eventLoop)
                .channelOption(.autoRead, value: false)
                .takingOwnershipOfDescriptors(input: input, output: output).get()
        } catch {
            _ = kill(processID, SIGKILL)
            throw TopologyError(.child, "the child's pipes cannot be used", cause: error)
        }
        let child = MultilangChild(configuration, task, processID: processID, channel: channel)
        try await channel.eventLoop.submit { try channel.pipeline.syncOperations.addHandler(Handler(child)) }.get()
        try await channel.setOption(.autoRead, value: true).get()
        // Importing its libraries may take a child a while.
        let patience = TimeAmount(max(configuration.timeout, .seconds(60)))
        let limit = channel.eventLoop.scheduleTask(in: patience) {
            child.end(TopologyError(.child, "\(child.name) did not answer the handshake"))
        }
        defer { limit.cancel() }
        do {
            try await channel.writeAndFlush(try MultilangFraming.frame(child.handshake(pidFolder))).get()
        } catch {
            child.end(TopologyError(.child, "\(child.name) ended before the handshake", cause: error))
        }
        try await child.ready.futureResult.get()
        child.watch()
        return child
    }

    /// Starts the program; gives its id, and our ends of its output and its input.
    private static func spawn(_ configuration: MultilangConfiguration) throws -> (Int32, CInt, CInt) {
        guard !configuration.command.isEmpty else { throw TopologyError(.configuration, "the command is empty") }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = configuration.command
        if let folder = configuration.folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
        process.environment = ProcessInfo.processInfo.environment.merging(configuration.environment) { $1 }
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        do {
            try process.run()
        } catch {
            throw TopologyError(
                .child,
                "'\(configuration.command.joined(separator: " "))' cannot be started",
                cause: error
            )
        }
        // Not for other children: one that holds our end of another's input open would keep that one from its end.
        let reading = fcntl(output.fileHandleForReading.fileDescriptor, F_DUPFD_CLOEXEC, 3)
        let writing = fcntl(input.fileHandleForWriting.fileDescriptor, F_DUPFD_CLOEXEC, 3)
        try? output.fileHandleForReading.close()
        try? input.fileHandleForWriting.close()
        return (process.processIdentifier, reading, writing)
    }

    private func handshake(_ pidFolder: String) -> JSONValue {
        var conf = configuration.conf
        conf["topology.name"] = .text(task.topology)
        conf["topology.message.timeout.secs"] = .integer(configuration.tupleTimeout.components.seconds)
        var components: [String: JSONValue] = [:]
        for (id, stage) in task.tasks { components[String(id)] = .text(stage) }
        let fields = JSONValue.array([.text("key"), .text("value")])
        var inputs: [String: JSONValue] = [:]
        for (stage, streams) in task.inputs {
            inputs[stage] = .object(Dictionary(uniqueKeysWithValues: streams.map { ($0, fields) }))
        }
        return .object([
            "pidDir": .text(pidFolder),
            "conf": .object(conf),
            "context": .object([
                "taskid": .integer(Int64(task.taskID)),
                "componentid": .text(task.stage),
                "task->component": .object(components),
                "source->stream->fields": .object(inputs),
            ]),
        ])
    }

    private func watch() {
        let interval = min(TimeAmount(configuration.heartbeatInterval), .milliseconds(500))
        let timer = channel.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in self.check()
        }
        let isOver = state.withLock { state in
            state.timer = timer
            return state.endReason != nil
        }
        if isOver { timer.cancel() }
    }

    private func check() {
        let verdict = state.withLock { state in
            state.watch.check(now: .now(), oldest: state.order.first.flatMap { state.pending[$0]?.since })
        }
        switch verdict {
        case .fine: break
        case .hung(let reason): end(TopologyError(.child, "\(name) hangs: \(reason)"))
        case .sendHeartbeat:
            write(
                .object([
                    "id": .text("-1"), "comp": .text("__system"), "stream": .text("__heartbeat"),
                    "task": .integer(-1), "tuple": .array([]),
                ])
            )
        }
    }

    var name: String { "the child \(processID) of stage '\(task.stage)'" }

    // MARK: Tuples

    /// Gives the child a tuple. What is returned waits until the child is done with it; it throws where the child failed it, or ended.
    func send(_ values: JSONValue, _ context: ProcessorContext) async throws -> @Sendable () async throws -> Void {
        let done = channel.eventLoop.makePromise(of: Void.self)
        let id = state.withLock { state -> Result<String, TopologyError> in
            if let reason = state.endReason { return .failure(TopologyError(.interrupted, reason.message)) }
            state.nextID += 1
            let id = String(state.nextID)
            state.pending[id] = Pending(context: context, done: done, since: .now())
            state.order.append(id)
            return .success(id)
        }
        switch id {
        case .failure(let error):
            done.fail(error)
            throw error
        case .success(let id):
            let message = JSONValue.object([
                "id": .text(id), "comp": .text(context.origin.stage), "stream": .text(context.origin.stream),
                "task": .integer(Int64(context.origin.taskID)), "tuple": values,
            ])
            // What cannot be written ends the child, and with it the tuple.
            do {
                try await channel.writeAndFlush(try MultilangFraming.frame(message)).get()
            } catch {
                end(TopologyError(.child, "\(name) takes no input", cause: error))
            }
        }
        return { try await done.futureResult.get() }
    }

    private func write(_ message: JSONValue) {
        guard let bytes = try? MultilangFraming.frame(message) else { return }
        channel.writeAndFlush(bytes).whenFailure { error in
            self.end(TopologyError(.child, "\(self.name) takes no input", cause: error))
        }
    }

    // MARK: What the child says

    private func received(_ bytes: ByteBuffer) {
        state.withLock { state in
            state.framing.append(bytes)
            state.watch.heard()
        }
        do {
            while let message = try next() { try perform(MultilangCommand(message)) }
        } catch let error as TopologyError {
            end(error)
        } catch {
            end(TopologyError(.child, "\(name) sent what is not JSON", cause: error))
        }
    }

    private func next() throws -> JSONValue? {
        let result = state.withLock { state in
            Result { () throws(TopologyError) -> ByteBuffer? in try state.framing.next() }
        }
        return try result.get().map { try JSONValue(parsing: $0.readableBytesView) }
    }

    private func perform(_ command: MultilangCommand) throws {
        switch command {
        case .pid:
            let isFirst = state.withLock { state in
                defer { state.isReady = true }
                return !state.isReady
            }
            if isFirst { ready.succeed() }
        case .emit(let emit): try self.emit(emit)
        case .ack(let id): take(id)?.done.succeed()
        case .fail(let id):
            let reason = state.withLock { state in
                defer { state.lastError = nil }
                return state.lastError
            }
            take(id)?.done.fail(TopologyError(.processor, reason ?? "the child failed the tuple"))
        case .error(let message):
            state.withLock { state in
                state.lastError = message
                state.toldError = message
            }
            log(message, .error)
        case .log(let message, let level): log(message, Self.levels[Int(clamping: level), default: .info])
        case .sync, .metrics: break
        }
    }

    private static let levels: [Int: Logger.Level] = [0: .trace, 1: .debug, 2: .info, 3: .warning, 4: .error]

    private func log(_ message: String, _ level: Logger.Level) {
        task.logger.log(
            level: level,
            "\(message)",
            metadata: ["stage": "\(task.stage)", "task": "\(task.taskID)"]
        )
    }

    private func take(_ id: String) -> Pending? {
        state.withLock { state in
            guard let pending = state.pending.removeValue(forKey: id) else { return nil }
            state.emittedBytes -= pending.bytes
            if let index = state.order.firstIndex(of: id) { state.order.remove(at: index) }
            return pending
        }
    }

    private func emit(_ emit: MultilangCommand.Emit) throws {
        let (key, value) = try MultilangTuple.keyAndValue(emit.values)
        let size = (key?.readableBytes ?? 0) + (value?.readableBytes ?? 0) + 64
        // What is anchored to nothing goes with the oldest tuple that the child has.
        let (contexts, bytes) = state.withLock { state -> ([ProcessorContext], Int) in
            var ids = emit.anchors.filter { state.pending[$0] != nil }
            if ids.isEmpty, let oldest = state.order.first { ids = [oldest] }
            if let first = ids.first {
                state.pending[first]?.bytes += size
                state.emittedBytes += size
            }
            return (ids.compactMap { state.pending[$0]?.context }, state.emittedBytes)
        }
        guard bytes <= configuration.emittedBytesMax else {
            throw TopologyError(
                .child,
                "\(name) emitted more than \(configuration.emittedBytesMax) bytes for tuples that it did not acknowledge"
            )
        }
        guard let context = contexts.first else {
            task.logger.warning(
                "a child emitted while it had no tuple; nothing can be done again for it, so it is dropped",
                metadata: ["stage": "\(task.stage)"]
            )
            if emit.needsTaskIDs { write(.array([])) }
            return
        }
        let others = contexts.dropFirst().flatMap(\.trees)
        let record = StreamRecord(
            key: key,
            value: value,
            timestamp: context.record?.timestamp ?? WallClock.now()
        )
        let tasks = context.emit(record, stream: emit.stream, anchors: others, directTask: emit.task)
        if emit.needsTaskIDs { write(.array(tasks.map { .integer(Int64($0)) })) }
    }

    // MARK: End

    /// Kills the child. The oldest tuple that it had fails for this reason; the others were only interrupted.
    private func end(_ cause: TopologyError) {
        let ended = state.withLock {
            state -> (oldest: Pending?, others: [Pending], timer: RepeatedTask?, told: String?)? in
            guard state.endReason == nil else { return nil }
            state.endReason = cause
            let oldest = state.order.first.flatMap { state.pending.removeValue(forKey: $0) }
            defer {
                state.pending = [:]
                state.order = []
                state.timer = nil
            }
            return (oldest, Array(state.pending.values), state.timer, state.toldError)
        }
        guard let ended else { return }
        var reason = cause
        if let told = ended.told { reason.message += "; the last error it told: \(told)" }
        ended.timer?.cancel()
        _ = kill(processID, SIGKILL)
        channel.close(promise: nil)
        ready.fail(reason)
        ended.oldest?.done.fail(reason)
        let interrupted = TopologyError(.interrupted, reason.message, cause: reason.cause)
        for tuple in ended.others { tuple.done.fail(interrupted) }
    }

    /// Closes the child's input, which asks it to end, and gives it a second.
    func end() async {
        guard !isEnded else { return }
        state.withLock { $0.timer }?.cancel()
        try? await channel.close(mode: .output).get()
        for _ in 0..<50 where !isEnded { try? await Task.sleep(for: .milliseconds(20)) }
        end(TopologyError(.child, "\(name) was ended"))
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let child: MultilangChild
        init(_ child: MultilangChild) { self.child = child }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { child.received(unwrapInboundIn(data)) }
        func channelInactive(context: ChannelHandlerContext) {
            child.end(TopologyError(.child, "\(child.name) ended"))
            context.fireChannelInactive()
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            child.end(TopologyError(.child, "\(child.name) cannot be talked to", cause: error))
        }
    }
}
