// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Which quotas DescribeClientQuotas asks for.
struct QuotaFilter: Equatable, Sendable {
    /// What the part of one type must be.
    enum Match: Equatable, Sendable {
        case name(QuotaName)
        /// The part is there, whatever it says.
        case any
    }

    private var matches: [String: Match] = [:]
    /// Whether entities with parts that are not named are left out.
    private var isStrict = false

    init(_ request: DescribeClientQuotasRequest) throws(Refusal) {
        isStrict = request.strict
        for component in request.components {
            let type = component.entityType
            if type.isEmpty { throw Refusal(code: .invalidRequest, message: "a component has no entity type") }
            guard QuotaEntity.types.contains(type) else {
                throw Refusal(
                    code: .unsupportedVersion,
                    message: "there are no quotas for \(type); use user, client-id or ip"
                )
            }
            guard matches[type] == nil else {
                throw Refusal(code: .invalidRequest, message: "the filter names \(type) twice")
            }
            switch (component.matchType, component.match) {
            case (0, let name?): matches[type] = .name(.named(name))
            case (1, nil): matches[type] = .name(.everyone)
            case (2, nil): matches[type] = .any
            default:
                throw Refusal(
                    code: .invalidRequest,
                    message: "match type \(component.matchType) with \(component.match ?? "no name") has no meaning"
                )
            }
        }
        if matches["ip"] != nil && matches.count > 1 {
            throw Refusal(code: .invalidRequest, message: "an ip stands alone, without user and client-id")
        }
    }

    /// Whether the filter lets an entity through.
    func accepts(_ entity: QuotaEntity) -> Bool {
        for type in QuotaEntity.types {
            switch (matches[type], entity[type]) {
            case (nil, nil): continue
            case (nil, .some): if isStrict { return false }
            case (.some, nil): return false
            case (.any, .some): continue
            case (.name(let wanted), .some(let name)): if wanted != name { return false }
            }
        }
        return true
    }
}

/// DescribeClientQuotas, versions 0–1.
struct DescribeClientQuotasHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeClientQuotasRequest, _ context: RequestContext) {
        do throws(Refusal) {
            let filter = try QuotaFilter(request)
            let entries = services.metadata.image.quotas.entries.filter { filter.accepts($0.key) }
            context.respond(
                DescribeClientQuotasResponse(
                    errorMessage: nil,
                    entries: entries.map { entity, values in
                        .init(
                            entity: entity.parts.map { .init(entityType: $0.type, entityName: $0.name) },
                            values: values.sorted { $0.key.rawValue < $1.key.rawValue }.map {
                                .init(key: $0.key.rawValue, value: $0.value)
                            }
                        )
                    }.sorted { "\($0.entity)" < "\($1.entity)" }
                )
            )
        } catch {
            context.connection.worker.metrics.failed(.describeClientQuotas, error.code)
            context.respond(
                DescribeClientQuotasResponse(errorCode: error.code.rawValue, errorMessage: error.message, entries: nil)
            )
        }
    }
}

/// AlterClientQuotas, versions 0–1. Each entity is changed as a whole or not at all.
struct AlterClientQuotasHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: AlterClientQuotasRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = AlterClientQuotasResponse()
            for entry in request.entries {
                var result = AlterClientQuotasResponse.EntryData(
                    errorMessage: nil,
                    entity: entry.entity.map { .init(entityType: $0.entityType, entityName: $0.entityName) }
                )
                do throws(Refusal) {
                    let entity = try QuotaEntity(parts: entry.entity.map { ($0.entityType, $0.entityName) })
                    try controller.alterQuotas(
                        entity,
                        entry.ops.map { ($0.key, $0.remove ? nil : $0.value) },
                        validateOnly: request.validateOnly
                    )
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                    context.connection.worker.metrics.failed(.alterClientQuotas, error.code)
                }
                response.entries.append(result)
            }
            context.respond(response)
        }
    }
}
