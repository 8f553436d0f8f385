// SPDX-License-Identifier: Apache-2.0

#if PostgreSQL
    import Foundation
    import MDCModel
    import Testing

    @testable import MDCPipeline

    /// What only a server can do: go away and come back.
    @Suite("PostgreSQL store")
    struct PostgresStoreTests {
        private func projected(_ numbers: Range<Int>) -> [MessageStore.ProjectedEvent] {
            numbers.map { number in
                let event = Make.submitted(Make.message("m\(number)", createdAt: Timestamp(Int64(number))))
                return MessageStore.ProjectedEvent(
                    position: EventPosition(partition: 0, offset: Int64(number)),
                    event: event,
                    json: event.json()
                )
            }
        }

        @Test(
            "while the server is down callers are told to wait; afterwards it goes on, nothing missing, nothing twice"
        )
        func restart() async throws {
            let server = try await PostgresServer.start()
            defer { server.end() }
            let store = try MessageStore(.postgreSQL(url: server.url(try server.makeDatabase()), password: nil))
            defer { store.close() }
            try await store.apply(projected(0..<50), next: [0: 50])
            #expect(try await store.counted(nil) == 50)

            try server.stop()
            #expect(await waitUntil { !server.isUp })
            let writing = await #expect(throws: PipelineError.self) {
                try await store.apply(projected(50..<60), next: [0: 60])
            }
            #expect(writing?.code == .unavailable, "\(String(describing: writing))")
            let reading = await #expect(throws: PipelineError.self) { try await store.counted(nil) }
            #expect(reading?.code == .unavailable, "\(String(describing: reading))")

            try await server.start()
            // The last transaction may have been cut off, as with any power cut: then its offsets were, too.
            let kept = try store.consumedOffsets()[0] ?? 0
            #expect(try await store.counted(nil) == Int(kept))
            try await store.apply(projected(Int(kept)..<60), next: [0: 60])
            #expect(try await store.counted(nil) == 60)
            #expect(try store.consumedOffsets() == [0: 60])
        }

        @Test("two projections into one database apply each event once")
        func twoProjections() async throws {
            try await StoreKind.postgreSQL.with { first, location in
                let second = try MessageStore(location)
                defer { second.close() }
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for store in [first, second] {
                        tasks.addTask {
                            for start in stride(from: 0, to: 200, by: 20) {
                                try await store.apply(self.projected(start..<start + 20), next: [0: Int64(start + 20)])
                            }
                        }
                    }
                    try await tasks.waitForAll()
                }
                #expect(try first.count() == 200 && second.consumedOffsets() == [0: 200])
                #expect(try first.get("m150")?.timeline?.count == 1)
            }
        }

        @Test("one who only reads cannot write")
        func readOnly() async throws {
            try await StoreKind.postgreSQL.with { store, location in
                try await store.apply(projected(0..<3), next: [0: 3])
                let reader = try MessageStore(reading: location)
                defer { reader.close() }
                #expect(try reader.count() == 3)
                #expect(throws: PipelineError.self) {
                    try reader.engine.read { db in
                        var statement = SQLStatement(.postgreSQL)
                        statement.text = "DELETE FROM timeline"
                        return try db.all(statement)
                    }
                }
            }
        }

        @Test("a server that is not there is named; a password is not")
        func unreachable() throws {
            let location = StoreLocation.postgreSQL(url: "postgresql://mdc:hidden@127.0.0.1:1/x?a=b", password: nil)
            #expect(location.summary == "postgresql://mdc@127.0.0.1:1/x")
            let error = try #require(throws: PipelineError.self) { try MessageStore(location) }
            #expect(error.code == .unavailable && error.description.contains("127.0.0.1"))
            #expect(!error.description.contains("hidden"), "\(error)")
        }
    }
#endif
