// SPDX-License-Identifier: Apache-2.0

#if Redis
    import CHiredis
    import Foundation
    import NIOConcurrencyHelpers
    import NIOPosix

    /// What a Redis server, or the way to it, answered.
    struct RedisFailure: Error, CustomStringConvertible {
        var description: String
    }

    /// An index of provider ids in Redis: `mdc:pid:<provider>:<id>` is a message's reference, kept for a while.
    ///
    /// One connection on a thread of its own; it is made anew after any failure. Commands are sent in batches.
    final class RedisIndex: SharedIndex {
        private static let batch = 1_000
        private static let patience = 2

        private let settings: SharedIndexSettings
        private let thread = NIOThreadPool(numberOfThreads: 1)
        private let connection = NIOLockedValueBox<RedisConnection?>(nil)

        init(_ settings: SharedIndexSettings) {
            self.settings = settings
            thread.start()
        }

        private var seconds: String { "\(max(1, settings.retention.components.seconds))" }

        private static func name(_ key: ProviderKey) -> String { "mdc:pid:\(key.provider):\(key.id)" }
        private static func mark(_ worker: String) -> String { "mdc:worker:\(worker)" }

        func write(_ entries: [(key: ProviderKey, reference: MessageReference)]) async throws {
            _ = try await run(
                entries.map { ["SET", Self.name($0.key), $0.reference.description, "EX", seconds] }
            )
        }

        func find(_ keys: [ProviderKey]) async throws -> [ProviderKey: MessageReference] {
            let answers = try await run(keys.map { ["GET", Self.name($0)] })
            var found: [ProviderKey: MessageReference] = [:]
            for (key, answer) in zip(keys, answers) {
                if case .text(let text) = answer { found[key] = MessageReference(text) }
            }
            return found
        }

        func mark(_ worker: String) async throws {
            _ = try await run([["SET", Self.mark(worker), "1", "EX", seconds]])
        }

        func hasMark(_ worker: String) async throws -> Bool {
            // It lives on while its worker asks for it.
            try await run([["EXPIRE", Self.mark(worker), seconds]]) == [.integer(1)]
        }

        func close() async {
            try? await thread.shutdownGracefully()
            connection.withLockedValue { $0 = nil }
        }

        private func run(_ commands: [[String]]) async throws -> [RedisConnection.Answer] {
            guard !commands.isEmpty else { return [] }
            return try await thread.runIfActive { [self] in
                // There is one thread: nobody else takes it meanwhile.
                let connection = try self.connection.withLockedValue { $0 } ?? connect()
                self.connection.withLockedValue { $0 = nil }
                var answers: [RedisConnection.Answer] = []
                answers.reserveCapacity(commands.count)
                for start in stride(from: 0, to: commands.count, by: Self.batch) {
                    answers += try connection.run(commands[start..<min(commands.count, start + Self.batch)])
                }
                self.connection.withLockedValue { $0 = connection }
                return answers
            }
        }

        private func connect() throws -> RedisConnection {
            let connection = try RedisConnection(settings.host, settings.port, seconds: Self.patience)
            if let password = settings.password { _ = try connection.run([["AUTH", password.value]]) }
            if settings.database != 0 { _ = try connection.run([["SELECT", "\(settings.database)"]]) }
            return connection
        }
    }

    /// One connection. Calls wait on the caller's thread; after a failure it is of no use any more.
    final class RedisConnection: @unchecked Sendable {
        /// What a command gave.
        enum Answer: Equatable, Sendable {
            case none
            case text(String)
            case integer(Int64)
        }

        private let raw: UnsafeMutablePointer<redisContext>

        init(_ host: String, _ port: Int, seconds: Int) throws {
            let patience = timeval(tv_sec: seconds, tv_usec: 0)
            guard let raw = redisConnectWithTimeout(host, Int32(port), patience) else {
                throw RedisFailure(description: "no memory for a connection")
            }
            self.raw = raw
            guard raw.pointee.err == 0 else { throw failure() }
            redisSetTimeout(raw, patience)
        }

        deinit { redisFree(raw) }

        private func failure() -> RedisFailure {
            let text = withUnsafePointer(to: &raw.pointee.errstr) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 128) { String(cString: $0) }
            }
            return RedisFailure(description: "Redis: \(text.isEmpty ? "no answer" : text)")
        }

        /// Sends all commands, then reads all answers.
        func run(_ commands: some Collection<[String]>) throws -> [Answer] {
            for command in commands {
                let words = command.map { strdup($0) }
                defer { for word in words { free(word) } }
                var pointers = words.map { UnsafePointer($0) }
                var lengths = command.map(\.utf8.count)
                guard redisAppendCommandArgv(raw, Int32(words.count), &pointers, &lengths) == REDIS_OK else {
                    throw failure()
                }
            }
            var answers: [Answer] = []
            answers.reserveCapacity(commands.count)
            for _ in commands {
                var pointer: UnsafeMutableRawPointer?
                guard redisGetReply(raw, &pointer) == REDIS_OK, let pointer else { throw failure() }
                defer { freeReplyObject(pointer) }
                let reply = pointer.assumingMemoryBound(to: redisReply.self).pointee
                switch reply.type {
                case REDIS_REPLY_ERROR: throw RedisFailure(description: "Redis: \(Self.text(reply))")
                case REDIS_REPLY_INTEGER: answers.append(.integer(reply.integer))
                case REDIS_REPLY_STRING, REDIS_REPLY_STATUS: answers.append(.text(Self.text(reply)))
                default: answers.append(.none)
                }
            }
            return answers
        }

        private static func text(_ reply: redisReply) -> String {
            guard let bytes = reply.str else { return "" }
            let raw = UnsafeRawBufferPointer(start: UnsafeRawPointer(bytes), count: Int(reply.len))
            return String(decoding: raw, as: UTF8.self)
        }
    }
#endif
