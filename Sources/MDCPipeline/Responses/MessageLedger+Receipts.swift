// SPDX-License-Identifier: Apache-2.0

public import MDCModel

extension MessageLedger {
    /// Deals with a provider's report: joins it to its message and decides; or holds it until the message is known.
    public mutating func receive(_ receipt: ProviderReceipt, token: ReceiptToken, now: Timestamp) -> [LedgerAction] {
        if let owner = owner(of: receipt) {
            if let entry = open[owner.messageID] {
                // Without the document (its `submitted` event is on its way) there is no policy to decide by, and no final
                // state to publish.
                if entry.state.message == nil, receipt.status != .sent, receipt.status != .other {
                    hold(receipt, token, key: .message(owner.messageID), now: now)
                    return []
                }
                return joined(receipt, owner, now: now) + [.finish(token)]
            }
            if let end = ended[owner.messageID] {
                return [.append(late(receipt, owner, end, now: now), closes: nil), .finish(token)]
            }
        }
        hold(receipt, token, key: holdKey(receipt), now: now)
        return heldCount > configuration.heldMax && sharing != .away ? tick(now: now) : []
    }

    /// The message and attempt that a report speaks of: by our reference, else by the provider's id.
    private func owner(of receipt: ProviderReceipt) -> Owner? {
        if let text = receipt.reference, let reference = MessageReference(text) {
            return Owner(messageID: reference.messageID, attempt: reference.attempt)
        }
        return byProviderID[ProviderKey(provider: receipt.provider, id: receipt.providerMessageID)]
    }

    private mutating func joined(_ receipt: ProviderReceipt, _ owner: Owner, now: Timestamp) -> [LedgerAction] {
        guard let entry = open[owner.messageID] else { return [] }
        var event = TimelineEvent(
            messageID: owner.messageID,
            channel: receipt.channel,
            at: now,
            component: "responses",
            kind: .receipt,
            attempt: owner.attempt,
            provider: receipt.provider,
            providerMessageID: receipt.providerMessageID,
            code: receipt.code,
            detail: receipt.reason
        )
        switch receipt.status {
        case .delivered, .failed, .expired:
            // Only the latest attempt's failure is the message's; proof of delivery counts for every attempt.
            if receipt.status != .delivered, isSuperseded(entry, owner) {
                return [ignored(event, "a later attempt is under way")]
            }
            event.status = receipt.status == .delivered ? .delivered : receipt.status == .failed ? .failed : .expired
            return finish(owner.messageID, entry, event)
        case .undelivered:
            if isSuperseded(entry, owner) { return [ignored(event, "a later attempt is under way")] }
            var current = entry
            if current.state.attempt < owner.attempt {
                // The report overtook the acceptance: the attempt counts all the same.
                current.state.apply(
                    TimelineEvent(
                        messageID: owner.messageID,
                        channel: receipt.channel,
                        at: now,
                        component: "responses",
                        kind: .accepted,
                        attempt: owner.attempt,
                        provider: receipt.provider,
                        providerMessageID: receipt.providerMessageID
                    )
                )
            }
            return afterFailure(owner.messageID, current, .receipt, receipt: receipt, now: now)
        case .sent, .other:
            event.detail = [receipt.status.rawValue, receipt.reason].compactMap { $0 }.joined(separator: ": ")
            return [.append(event, closes: nil)]
        }
    }

    private func isSuperseded(_ entry: Entry, _ owner: Owner) -> Bool {
        owner.attempt < entry.state.attempt
            || owner.attempt == entry.state.attempt && entry.state.phase >= .retryScheduled
    }

    private func ignored(_ event: TimelineEvent, _ why: String) -> LedgerAction {
        var event = event
        event.kind = .receiptIgnored
        event.detail = why + (event.detail.map { "; \($0)" } ?? "")
        return .append(event, closes: nil)
    }

    /// A report about a message that is at its end: repeated, late or contradicting.
    private func late(_ receipt: ProviderReceipt, _ owner: Owner, _ end: Ended, now: Timestamp) -> TimelineEvent {
        let says: MessageStatus? =
            switch receipt.status {
            case .delivered: .delivered
            case .failed, .undelivered: .failed
            case .expired: .expired
            case .sent, .other: nil
            }
        let why: String
        if says == end.status {
            why = "repeated"
        } else if says == nil {
            why = "late"
        } else {
            why = "contradicts the final status \(end.status.rawValue)"
        }
        return TimelineEvent(
            messageID: owner.messageID,
            channel: receipt.channel,
            at: now,
            component: "responses",
            kind: .receiptIgnored,
            attempt: owner.attempt,
            provider: receipt.provider,
            providerMessageID: receipt.providerMessageID,
            code: receipt.code,
            detail: [why, receipt.status.rawValue, receipt.reason].compactMap { $0 }.joined(separator: "; ")
        )
    }

    // MARK: - Receipts before their message

    private func holdKey(_ receipt: ProviderReceipt) -> HoldKey {
        if let text = receipt.reference, let reference = MessageReference(text) {
            return .message(reference.messageID)
        }
        return .provider(ProviderKey(provider: receipt.provider, id: receipt.providerMessageID))
    }

    private mutating func hold(_ receipt: ProviderReceipt, _ token: ReceiptToken, key: HoldKey, now: Timestamp) {
        held[key, default: []].append(Held(receipt: receipt, token: token, since: now))
        heldOrder.append((key, token, now))
        heldCount += 1
    }

    /// Deals with the receipts that waited for this message.
    mutating func releaseHeld(_ messageID: String, now: Timestamp) -> [LedgerAction] {
        guard heldCount > 0 else { return [] }
        var keys: [HoldKey] = [.message(messageID)]
        keys += (open[messageID]?.providerKeys ?? ended[messageID]?.providerKeys ?? []).map(HoldKey.provider)
        var actions: [LedgerAction] = []
        for key in keys {
            guard let waiting = held.removeValue(forKey: key) else { continue }
            heldCount -= waiting.count
            for item in waiting { actions += receive(item.receipt, token: item.token, now: now) }
        }
        return actions
    }

    /// Ends the wait of one receipt.
    mutating func giveUp(_ key: HoldKey, _ token: ReceiptToken) -> [LedgerAction] {
        guard var waiting = held[key], let index = waiting.firstIndex(where: { $0.token == token }) else { return [] }
        let item = waiting.remove(at: index)
        held[key] = waiting.isEmpty ? nil : waiting
        heldCount -= 1
        let reason = "no message is known for provider id '\(item.receipt.providerMessageID)'"
        return [.deadLetter(item.receipt, reason: reason), .finish(token)]
    }
}
