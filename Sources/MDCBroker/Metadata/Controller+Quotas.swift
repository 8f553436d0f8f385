// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel

extension Controller {
    /// Sets or (nil) removes quotas of an entity; on the control thread.
    func alterQuotas(
        _ entity: QuotaEntity,
        _ changes: [(key: String, value: Double?)],
        validateOnly: Bool
    ) throws(Refusal) {
        var wanted: [QuotaKey: Double?] = [:]
        var seen: Set<String> = []
        for (name, value) in changes {
            guard seen.insert(name).inserted else {
                throw Refusal(code: .invalidRequest, message: "\(name) is changed twice")
            }
            if let problem = QuotaTable.problem(entity, name, value) {
                throw Refusal(code: .invalidRequest, message: problem)
            }
            guard let key = QuotaKey(rawValue: name) else { continue }
            // What is removed and was not there changes nothing.
            if value == nil && metadata.image.quotas.entries[entity]?[key] == nil { continue }
            wanted[key] = .some(value)
        }
        if validateOnly { return }
        if !wanted.isEmpty { try perform(.alterQuotas(entity, wanted)) }
    }

    /// Asks the quota of changes of topics for `count` partitions; from any thread. Versions that know the error are refused
    /// while they owe (KIP-599); older ones are served and told to wait.
    func admitMutations(_ count: Int, strictFrom version: Int16, _ context: RequestContext) throws(Refusal) {
        guard count > 0, quotas.limits(.controllerMutationRate) else { return }
        let now = mdc_monotonic_ns()
        if context.version >= version {
            let owed = quotas.delay(.controllerMutationRate, clientID: context.clientID, now: now)
            if owed > 0 {
                context.throttle(owed)
                throw Refusal(
                    code: .throttlingQuotaExceeded,
                    message: "the quota controller_mutation_rate is used up; try again in \(owed) ms"
                )
            }
            _ = quotas.record(.controllerMutationRate, clientID: context.clientID, Double(count), now: now)
        } else {
            context.throttle(
                quotas.record(.controllerMutationRate, clientID: context.clientID, Double(count), now: now)
            )
        }
    }
}
