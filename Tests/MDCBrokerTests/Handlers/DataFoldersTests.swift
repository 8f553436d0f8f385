// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import Testing

@testable import MDCBroker

/// A node with several data folders, of which one fails.
@Suite("Several data folders") struct DataFoldersTests {
    private static let partitions: [Int32] = [0, 1, 2, 3]

    private static func node(_ fileSystem: any FileSystem = POSIXFileSystem()) -> BrokerFixture {
        // The folders lie where the fixture's own folder is removed with them.
        final class Place { var path = "" }
        let place = Place()
        let fixture = BrokerFixture(fileSystem: fileSystem) { configuration in
            configuration.dataDirectories = ["\(place.path)/a", "\(place.path)/b"]
        }
        place.path = fixture.directory
        return fixture
    }

    /// Partitions by the folder that DescribeLogDirs says they are in, and what it says of the folder.
    private static func describe(
        _ client: RawKafkaConnection,
        _ fixture: BrokerFixture
    ) throws -> [String: (partitions: Set<Int32>, code: ErrorCode)] {
        var found: [String: (partitions: Set<Int32>, code: ErrorCode)] = [:]
        for directory in try client.call(DescribeLogDirsRequest(topics: nil), version: 4).results {
            let own = directory.topics.filter { $0.name == "t" }.flatMap { $0.partitions.map(\.partitionIndex) }
            let name = String(directory.logDir.dropFirst(fixture.directory.count + 1))
            found[name] = (Set(own), ErrorCode(rawValue: directory.errorCode))
        }
        return found
    }

    private static func produce(_ client: RawKafkaConnection, _ partition: Int32, _ value: String) throws -> ErrorCode {
        let answer = try client.produce("t", try RawKafkaConnection.batch([value]), partition: partition)
        return ErrorCode(rawValue: answer.errorCode)
    }

    /// Starts a node with a topic whose partitions are in both folders, each with one record.
    private static func start(_ fixture: BrokerFixture) async throws -> (a: Set<Int32>, b: Set<Int32>) {
        try await fixture.start()
        let client = try fixture.connect()
        #expect(try client.createTopic("t", partitions: 4).errorCode == 0)
        for partition in partitions { #expect(try produce(client, partition, "p\(partition)") == .none) }
        let found = try describe(client, fixture)
        return (try #require(found["a"]).partitions, try #require(found["b"]).partitions)
    }

    @Test func partitionsAreSpreadAndFoundAgain() async throws {
        let fixture = Self.node()
        let (a, b) = try await Self.start(fixture)
        #expect(a.count == 2 && b.count == 2 && a.union(b) == Set(Self.partitions))
        try await fixture.stop()
        try await fixture.start()
        let client = try fixture.connect()
        let found = try Self.describe(client, fixture)
        #expect(found["a"]?.partitions == a && found["b"]?.partitions == b)
        for partition in Self.partitions {
            #expect(
                try RawKafkaConnection.values(client.fetch("t", from: 0, partition: partition)) == ["p\(partition)"]
            )
        }
        let logs = try #require(fixture.broker.services).logs
        #expect(logs.partition(MetadataStore.topicPartition)?.dataDirectory == "\(fixture.directory)/a")
        try await fixture.stop()
    }

    @Test func aFolderThatFailsTakesOnlyItsPartitions() async throws {
        let disk = FailingFolder()
        let fixture = Self.node(disk)
        let (a, b) = try await Self.start(fixture)
        disk.fail("\(fixture.directory)/b", .writes)
        let client = try fixture.connect()
        for partition in b {
            #expect(try Self.produce(client, partition, "lost") == .kafkaStorageError)
            #expect(
                try RawKafkaConnection.values(client.fetch("t", from: 0, partition: partition)) == ["p\(partition)"]
            )
        }
        for partition in a { #expect(try Self.produce(client, partition, "more") == .none) }
        let found = try Self.describe(client, fixture)
        #expect(found["a"]?.code == ErrorCode.none && found["b"]?.code == .kafkaStorageError)
        // What is new goes where it can be written.
        #expect(try client.createTopic("u", partitions: 2).errorCode == 0)
        let page = fixture.broker.metrics()
        #expect(page.contains("mdc_data_folder_offline{directory=\"\(fixture.directory)/a\"} 0\n"))
        #expect(page.contains("mdc_data_folder_offline{directory=\"\(fixture.directory)/b\"} 1\n"))
        #expect(page.contains("mdc_partitions_offline 2\n"))
        try await fixture.stop()
        // With another disk in its place everything is served again.
        disk.repair()
        try await fixture.start()
        let later = try fixture.connect()
        for partition in Self.partitions { #expect(try Self.produce(later, partition, "again") == .none) }
        try await fixture.stop()
    }

    @Test func aFolderThatCannotBeOpenedTakesOnlyItsPartitions() async throws {
        let disk = FailingFolder()
        let fixture = Self.node(disk)
        let (a, b) = try await Self.start(fixture)
        try await fixture.stop()
        disk.fail("\(fixture.directory)/b", .everything)
        try await fixture.start()
        let client = try fixture.connect()
        for partition in b {
            #expect(try Self.produce(client, partition, "lost") == .kafkaStorageError)
            let data = try client.fetch("t", from: 0, partition: partition)
            #expect(data.errorCode == ErrorCode.kafkaStorageError.rawValue)
        }
        for partition in a {
            #expect(try Self.produce(client, partition, "more") == .none)
            let values = try RawKafkaConnection.values(client.fetch("t", from: 0, partition: partition))
            #expect(values == ["p\(partition)", "more"])
        }
        #expect(try Self.describe(client, fixture)["b"]?.code == .kafkaStorageError)
        // A topic of this run cannot be in the folder, though nobody can see what is.
        #expect(try client.createTopic("u", partitions: 1).errorCode == 0)
        #expect(try client.produce("u", try RawKafkaConnection.batch(["u"])).errorCode == 0)
        #expect(fixture.broker.metrics().contains("mdc_partitions_offline 2\n"))
        try await fixture.stop()
        disk.repair()
        try await fixture.start()
        let later = try fixture.connect()
        for partition in b {
            #expect(try RawKafkaConnection.values(later.fetch("t", from: 0, partition: partition)) == ["p\(partition)"])
        }
        try await fixture.stop()
    }

    @Test func anEmptyFolderDoesNotTakeTheFormerOnesPlace() async throws {
        let fixture = Self.node()
        _ = try await Self.start(fixture)
        try await fixture.stop()
        let real = POSIXFileSystem()
        try real.rename("\(fixture.directory)/b", to: "\(fixture.directory)/unmounted")
        let error = await #expect(throws: BrokerError.self) { try await fixture.start() }
        #expect(error?.message.contains("a data folder is missing") == true, "\(error.map { "\($0)" } ?? "")")
        BrokerFixture.remove("\(fixture.directory)/b")
        try real.rename("\(fixture.directory)/unmounted", to: "\(fixture.directory)/b")
        try await fixture.start()
        try await fixture.stop()
    }

    @Test func settingsNameFolders() throws {
        var configuration = BrokerConfiguration()
        try configuration.set("log.dirs", to: "/a, /b")
        #expect(configuration.dataDirectories == ["/a", "/b"] && configuration.dataDirectory == "/a")
        #expect(throws: BrokerError.self) { try configuration.set("log.dirs", to: "/a,,/b") }
        try configuration.set("log.dirs", to: "/a,/a")
        #expect(configuration.problem?.contains("twice") == true)
    }
}
