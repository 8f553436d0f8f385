// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel

/// Ids that other workers know: their reports may come to this one, because a report without our reference goes to a partition by
/// the provider's id, and its message to one by ours.
extension MessageLedger {
    /// Says whether others can be asked. After a time when they could not, what is held waits its whole time again.
    mutating func setSharing(_ sharing: Sharing, now: Timestamp) {
        if self.sharing == .away, sharing == .up {
            heldOrder = Deque(heldOrder.map { ($0.key, $0.token, now) })
        }
        self.sharing = sharing
    }

    /// Forgets the places in the queue of what waits no more: while nobody can be asked, nothing else does.
    mutating func compactHeld() {
        guard sharing == .away, heldOrder.count > 2 * heldCount + 10_000 else { return }
        let waiting = Set(held.values.lazy.joined().map(\.token))
        heldOrder.removeAll { !waiting.contains($0.token) }
    }

    /// What was learned since the last call, for others to know.
    mutating func takeLearned() -> [(key: ProviderKey, reference: MessageReference)] {
        defer { learned.removeAll() }
        return learned.map { ($0.key, MessageReference(messageID: $0.value.messageID, attempt: $0.value.attempt)) }
    }

    /// All ids that are known here.
    var knownIDs: [(key: ProviderKey, reference: MessageReference)] {
        byProviderID.map { ($0.key, MessageReference(messageID: $0.value.messageID, attempt: $0.value.attempt)) }
    }

    /// Ids whose reports wait to be understood.
    func unknownIDs(most count: Int) -> [ProviderKey] {
        guard heldCount > 0 else { return [] }
        var keys: [ProviderKey] = []
        for case .provider(let key) in held.keys {
            keys.append(key)
            if keys.count == count { break }
        }
        return keys
    }

    /// Deals with what waited for an id: with the reference, a report finds its message here, or its way to who has it.
    mutating func resolve(_ key: ProviderKey, as reference: MessageReference, now: Timestamp) -> [LedgerAction] {
        guard let waiting = held.removeValue(forKey: .provider(key)) else { return [] }
        heldCount -= waiting.count
        let isHere = open[reference.messageID] != nil || ended[reference.messageID] != nil
        var actions: [LedgerAction] = []
        for item in waiting {
            var receipt = item.receipt
            receipt.reference = reference.description
            if isHere {
                actions += receive(receipt, token: item.token, now: now)
            } else {
                // Finished only when its copy is durable.
                actions += [.forward(receipt), .finish(item.token)]
            }
        }
        return actions
    }
}
