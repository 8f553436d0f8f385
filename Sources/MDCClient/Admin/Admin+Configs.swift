// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

extension Admin {
    /// Settings of a broker must be asked from that broker; others from any.
    private static func target(_ resource: ConfigResource) -> ClientCore.Target {
        guard resource.kind == .broker || resource.kind == .brokerLogger, let id = Int32(resource.name) else {
            return .any
        }
        return .broker(id)
    }

    /// The settings of resources, sorted by name. Throws `ClientError` for the first that does not exist.
    public func describeConfigs(_ resources: [ConfigResource]) async throws -> [ConfigResource: [ConfigEntry]] {
        var result: [ConfigResource: [ConfigEntry]] = [:]
        for (target, group) in Dictionary(grouping: resources, by: Self.target) {
            let response = try await core.retrying(until: core.apiDeadline) {
                if target != .any { try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get() }
                return try await core.request(DescribeConfigsRequest.self, to: target) { _ in
                    DescribeConfigsRequest(
                        resources: group.map {
                            .init(resourceType: $0.kind.rawValue, resourceName: $0.name, configurationKeys: nil)
                        }
                    )
                }
            }
            for found in response.results {
                try Self.check(found.errorCode, "describing settings of '\(found.resourceName)'", found.errorMessage)
                guard let kind = ConfigResource.Kind(rawValue: found.resourceType) else { continue }
                result[ConfigResource(kind, found.resourceName)] = found.configs.sorted { $0.name < $1.name }.map {
                    // Sources: 1 is set for the topic, 2 for this broker, 3 for all brokers, 8 for the group.
                    ConfigEntry(
                        name: $0.name,
                        value: $0.value,
                        isOverridden: [1, 2, 3, 8].contains($0.configSource),
                        isReadOnly: $0.readOnly,
                        isSensitive: $0.isSensitive
                    )
                }
            }
        }
        return result
    }

    /// Changes settings; those not named stay. Throws `ClientError` for the first resource that refuses.
    public func alterConfigs(
        _ changes: [ConfigResource: [String: ConfigChange]],
        validateOnly: Bool = false
    ) async throws {
        for (target, group) in Dictionary(grouping: changes, by: { Self.target($0.key) }) {
            let response = try await core.retrying(until: core.apiDeadline) {
                if target != .any { try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get() }
                return try await core.request(IncrementalAlterConfigsRequest.self, to: target) { _ in
                    IncrementalAlterConfigsRequest(
                        resources: group.map { resource, settings in
                            .init(
                                resourceType: resource.kind.rawValue,
                                resourceName: resource.name,
                                configs: settings.sorted { $0.key < $1.key }.map { name, change in
                                    switch change {
                                    case .set(let value): .init(name: name, configOperation: 0, value: value)
                                    case .delete: .init(name: name, configOperation: 1, value: nil)
                                    case .append(let value): .init(name: name, configOperation: 2, value: value)
                                    case .subtract(let value): .init(name: name, configOperation: 3, value: value)
                                    }
                                }
                            )
                        },
                        validateOnly: validateOnly
                    )
                }
            }
            for answer in response.responses {
                try Self.check(answer.errorCode, "changing settings of '\(answer.resourceName)'", answer.errorMessage)
            }
        }
    }
}
