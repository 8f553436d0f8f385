// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

struct APIVersionsTests {
    private let implemented: Set<APIKey> = [.produce, .fetch, .apiVersions, .metadata, .joinGroup]

    @Test("the table is in order, and its ranges lie within one another")
    func table() {
        #expect(APIVersions.entries.map(\.key) == APIVersions.entries.map(\.key).sorted())
        for entry in APIVersions.entries {
            #expect(entry.known.lowerBound <= entry.advertised.lowerBound, "\(entry.name)")
            #expect(entry.known.upperBound >= entry.advertised.upperBound, "\(entry.name)")
            #expect(entry.advertised.lowerBound <= entry.served.lowerBound, "\(entry.name)")
            #expect(entry.advertised.upperBound >= entry.served.upperBound, "\(entry.name)")
            #expect(APIVersions.entry(for: entry.key)?.name == entry.name)
            #expect(entry.key.description == entry.name)
        }
        #expect(APIVersions.entry(for: APIKey(rawValue: 999)) == nil)
        #expect(APIKey(rawValue: 999).description == "API 999")
    }

    @Test("messages and table agree")
    func messagesAgree() throws {
        for type in MessageTypes.all {
            guard let request = type as? any RequestMessage.Type else { continue }
            let entry = try #require(APIVersions.entry(for: request.apiKey))
            #expect(entry.known == request.validVersions, "\(entry.name)")
            #expect(entry.flexibleFrom == request.flexibleFrom, "\(entry.name)")
        }
    }

    @Test("the ranges that clients rely on")
    func ranges() throws {
        let expected: [APIKey: ClosedRange<Int16>] = [
            .produce: 0...13, .fetch: 4...18, .listOffsets: 1...11, .metadata: 0...13, .offsetCommit: 2...10,
            .offsetFetch: 1...10, .findCoordinator: 0...6, .joinGroup: 0...9, .heartbeat: 0...4, .leaveGroup: 0...5,
            .syncGroup: 0...5, .saslHandshake: 0...1, .saslAuthenticate: 0...2, .apiVersions: 0...4,
            .createTopics: 2...7, .deleteTopics: 1...6, .createPartitions: 0...3, .deleteRecords: 0...2,
            .offsetForLeaderEpoch: 2...4, .initProducerId: 0...5, .addPartitionsToTxn: 0...5,
            .addOffsetsToTxn: 0...4, .endTxn: 0...5, .txnOffsetCommit: 0...5, .describeConfigs: 1...4,
            .alterConfigs: 0...2, .incrementalAlterConfigs: 0...1, .deleteGroups: 0...2, .offsetDelete: 0...0,
            .describeCluster: 0...2, .describeTopicPartitions: 0...0, .consumerGroupHeartbeat: 0...1,
            .consumerGroupDescribe: 0...1, .describeLogDirs: 1...5, .shareFetch: 1...2, .listGroups: 0...5,
        ]
        for (key, range) in expected {
            #expect(try #require(APIVersions.entry(for: key)).advertised == range, "\(key)")
        }
    }

    @Test("versions 0 to 2 of Produce are announced, but refused on use")
    func produceFloor() throws {
        let entry = try #require(APIVersions.announced(implemented).first { $0.apiKey == 0 })
        #expect(entry.minVersion == 0)
        #expect(entry.maxVersion == 13)
        for version in Int16(0)...2 {
            #expect(APIVersions.verdict(.produce, version: version, implemented: implemented) == .refuse)
        }
        for version in Int16(3)...13 {
            #expect(APIVersions.verdict(.produce, version: version, implemented: implemented) == .serve)
        }
        #expect(APIVersions.verdict(.produce, version: 14, implemented: implemented) == .close)
    }

    @Test("ApiVersions of an unknown version is answered in version 0 with the error and the range")
    func unknownApiVersions() throws {
        for version in [5, 99, Int16.max, -1] as [Int16] {
            #expect(
                APIVersions.verdict(.apiVersions, version: version, implemented: implemented) == .answerInVersionZero
            )
        }
        var frame = try Frame.response(APIVersions.unsupportedAnswer, version: 0, correlationId: 3)
        frame.moveReaderIndex(forwardBy: 8)
        let answer = try ApiVersionsResponse(reading: &frame, version: 0)
        #expect(answer.errorCode == 35)
        #expect(answer.apiKeys == [.init(apiKey: 18, minVersion: 0, maxVersion: 4)])
    }

    @Test("what is not implemented is neither announced nor served")
    func onlyImplemented() {
        #expect(APIVersions.announced(implemented).map(\.apiKey) == [0, 1, 3, 11, 18])
        #expect(APIVersions.verdict(.offsetFetch, version: 5, implemented: implemented) == .close)
        #expect(APIVersions.verdict(APIKey(rawValue: 999), version: 0, implemented: implemented) == .close)
        #expect(APIVersions.verdict(.fetch, version: 3, implemented: implemented) == .refuse)
        // gone since Kafka 4.0: never announced
        #expect(APIVersions.announced([.leaderAndIsr]) == [])
    }

    @Test("features whose lowest level is 0 are left out up to version 3")
    func features() {
        let features: [ApiVersionsResponse.SupportedFeatureKey] = [
            .init(name: "kraft.version", minVersion: 0, maxVersion: 1),
            .init(name: "metadata.version", minVersion: 1, maxVersion: 25),
        ]
        let old = APIVersions.answer(version: 3, implemented: implemented, supportedFeatures: features)
        #expect(old.supportedFeatures.map(\.name) == ["metadata.version"])
        let new = APIVersions.answer(version: 4, implemented: implemented, supportedFeatures: features)
        #expect(new.supportedFeatures.map(\.name) == ["kraft.version", "metadata.version"])
    }
}
