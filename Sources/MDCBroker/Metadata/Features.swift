// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// A wish for another level of a feature.
struct FeatureUpdate: Equatable, Sendable {
    /// Which way the level may go (KIP-778), with the numbers of the protocol.
    enum Direction: Int8, Sendable {
        case upgrade = 1
        /// Back, where nothing is lost by it.
        case safeDowngrade = 2
        /// Back in any case.
        case unsafeDowngrade = 3
    }

    var name: String
    /// 0 removes the feature.
    var level: Int16
    var direction: Direction
}

/// What nodes of several releases can do together: each node says which levels it has; the level in force is what the
/// cluster has agreed upon, and is in the metadata.
enum Features {
    static let metadataVersion = "metadata.version"
    static let shareVersion = "share.version"
    static let transactionVersion = "transaction.version"

    /// The levels that this release has.
    static let supported: [String: ClosedRange<Int16>] = base
    /// Those of a broker that names none when it registers.
    static let base: [String: ClosedRange<Int16>] = [
        metadataVersion: 7...29, shareVersion: 0...1, transactionVersion: 0...2,
    ]
    /// In force in a cluster where nobody has decided otherwise.
    static let initial: [String: Int16] = [metadataVersion: 29, shareVersion: 1, transactionVersion: 2]
}

extension MetadataImage {
    /// The level of a feature that is in force; 0 where it is not there.
    func level(of feature: String) -> Int16 { features[feature] ?? Features.initial[feature] ?? 0 }

    /// All features with a level above 0.
    var finalizedFeatures: [(name: String, level: Int16)] {
        Features.initial.merging(features) { _, new in new }.filter { $0.value > 0 }
            .sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }
}

extension ControllerState {
    /// The levels that are asked for, all or none.
    func updateFeatures(_ updates: [FeatureUpdate]) throws(Refusal) -> [MetadataRecord] {
        var records: [MetadataRecord] = []
        var seen: Set<String> = []
        for update in updates {
            guard seen.insert(update.name).inserted else {
                throw Refusal(code: .invalidRequest, message: "the feature \(update.name) is named twice")
            }
            try check(update)
            if update.level != image.level(of: update.name) {
                records.append(
                    .featureLevel(name: update.name, level: update.level, epoch: image.featuresEpoch + 1)
                )
            }
        }
        return records
    }

    private func check(_ update: FeatureUpdate) throws(Refusal) {
        func refuse(_ reason: String) -> Refusal {
            Refusal(code: .invalidUpdateVersion, message: "\(update.name): \(reason)")
        }
        guard let known = Features.supported[update.name] else {
            throw refuse(
                "there is no such feature; there are \(Features.supported.keys.sorted().joined(separator: ", "))"
            )
        }
        guard known.contains(update.level) else {
            throw refuse("the level \(update.level) is not one of \(known.lowerBound) to \(known.upperBound)")
        }
        let now = image.level(of: update.name)
        if update.level > now, update.direction != .upgrade {
            throw refuse("the level \(update.level) is above the present one, \(now): that is no downgrade")
        }
        if update.level < now, update.direction == .upgrade {
            throw refuse("the level \(update.level) is below the present one, \(now); ask for a downgrade")
        }
        for broker in image.brokers.values.sorted(by: { $0.id < $1.id }) {
            let levels = (broker.features.isEmpty ? Features.base : broker.features)[update.name] ?? 0...0
            guard levels.contains(update.level) else {
                throw refuse(
                    "node \(broker.id) has the levels \(levels.lowerBound) to \(levels.upperBound), not "
                        + "\(update.level); upgrade or unregister it first"
                )
            }
        }
    }

    /// Whether a broker can do what the cluster has agreed upon.
    func checkFeatures(of broker: BrokerImage) throws(Refusal) {
        let levels = broker.features.isEmpty ? Features.base : broker.features
        for (name, level) in image.finalizedFeatures {
            guard (levels[name] ?? 0...0).contains(level) else {
                throw Refusal(
                    code: .unsupportedVersion,
                    message:
                        "the cluster is at level \(level) of \(name), which the release of node \(broker.id) does not "
                        + "have; run a newer one, or lower the level first"
                )
            }
        }
    }
}

extension FeatureUpdate {
    static func write(_ updates: [FeatureUpdate], _ writer: inout MessageWriter) throws(ProtocolError) {
        try writer.arrayCount("updates", updates.count, flexible: true)
        for update in updates {
            try writer.string("name", update.name, flexible: true)
            writer.integer(update.level)
            writer.integer(update.direction.rawValue)
        }
    }

    static func read(_ reader: inout MessageReader) throws(ProtocolError) -> [FeatureUpdate] {
        var updates: [FeatureUpdate] = []
        for _ in 0..<(try reader.arrayCount("updates", flexible: true, minimumSize: 4) ?? 0) {
            let name = try reader.string("name", flexible: true)
            let level: Int16 = try reader.integer("level")
            let number: Int8 = try reader.integer("direction")
            guard let direction = Direction(rawValue: number) else {
                throw ProtocolError(.malformed, field: "direction", detail: "\(number) is none")
            }
            updates.append(FeatureUpdate(name: name, level: level, direction: direction))
        }
        return updates
    }
}
