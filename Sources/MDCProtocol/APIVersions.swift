// SPDX-License-Identifier: Apache-2.0

/// The table of APIs: which versions have a known layout, which we announce and which we serve. Its rows are generated
/// from the schemas.
public enum APIVersions {
    /// Who answers an API in a Kafka cluster.
    public enum Scope: String, Sendable {
        /// Every broker.
        case broker
        /// A broker takes it and passes it to the controller.
        case forwarded
        /// Only a controller.
        case controller
        /// Nobody since Kafka 4.0.
        case retired
    }

    /// A row of the table.
    public struct Entry: Sendable {
        /// The number of the API.
        public let key: APIKey
        /// Its name, such as `Produce`.
        public let name: String
        /// The versions whose layout we know.
        public let known: ClosedRange<Int16>
        /// The versions a node that has the API announces: those of Kafka 4.3.
        public let advertised: ClosedRange<Int16>
        /// The versions it serves; others in ``advertised`` are refused on use with UNSUPPORTED_VERSION.
        public let served: ClosedRange<Int16>
        /// The first version in the flexible encoding; `Int16.max` where there is none.
        public let flexibleFrom: Int16
        /// Who answers it.
        public let scope: Scope
    }

    private static let index: [Int16: Int] = Dictionary(
        uniqueKeysWithValues: entries.indices.map { (entries[$0].key.rawValue, $0) }
    )

    /// The row of an API; nil where we do not know it.
    public static func entry(for key: APIKey) -> Entry? {
        index[key.rawValue].map { entries[$0] }
    }
}
