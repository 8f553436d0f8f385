// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import MDCTesting
import NIOCore
import Testing

struct MessageVectorTests {
    @Test("every recorded message decodes to its value and encodes to its bytes")
    func allVectors() throws {
        let result = try MessageVectors.run(directory: MessageVectors.defaultDirectory)
        #expect(result.failures == [])
        #expect(result.passed == 2022)
        #expect(result.failed == 0)
    }

    @Test("each version of each API that has examples is known")
    func versionsAreKnown() throws {
        for vector in try MessageVectors.load(directory: MessageVectors.defaultDirectory) {
            #expect(vector.type.validVersions.contains(vector.version), "\(vector.name)")
        }
    }

    @Test("versions outside the table are refused, both ways")
    func unknownVersions() throws {
        for type in MessageTypes.all {
            for version in [type.validVersions.lowerBound - 1, type.validVersions.upperBound + 1] {
                expectRefused(type, version: version)
            }
        }
    }

    private func expectRefused<Message: ProtocolMessage>(_ type: Message.Type, version: Int16) {
        let error = #expect(throws: ProtocolError.self) {
            var empty = ByteBuffer()
            _ = try Message(reading: &empty, version: version)
        }
        #expect(error?.code == .unsupportedVersion)
    }
}
