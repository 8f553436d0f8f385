// SPDX-License-Identifier: Apache-2.0

extension RaftNode {
    /// The replica needs entries that storage has dropped.
    mutating func startSnapshot(to position: Int) {
        let snapshot = log.storage.snapshot
        precondition(snapshot.index > 0, "the log starts at \(log.firstIndex) without a snapshot before it")
        progress[position].becomeSnapshotting(snapshot)
    }

    mutating func sendSnapshotChunk(to position: Int) {
        guard case .snapshotting(let sending, var at) = progress[position].state, !progress[position].isWaiting else {
            return
        }
        var snapshot = sending
        var chunk = log.storage.snapshotBytes(of: snapshot.index, from: at, maxBytes: options.snapshotChunkBytes)
        if chunk == nil {
            // A newer snapshot has replaced it.
            snapshot = log.storage.snapshot
            at = 0
            progress[position].becomeSnapshotting(snapshot)
            chunk = log.storage.snapshotBytes(of: snapshot.index, from: 0, maxBytes: options.snapshotChunkBytes)
        }
        guard let chunk else { return }
        let body = RaftMessage.SnapshotChunk(
            snapshot: snapshot,
            position: at,
            bytes: chunk.bytes,
            isLast: chunk.isLast
        )
        let peer = progress[position]
        send(.snapshotChunk(body), to: peer.observedDirectory ?? peer.replica, durably: false)
        progress[position].isWaiting = true
        progress[position].heartbeatsSinceChunk = 0
    }

    mutating func handleSnapshotResponse(index: RaftIndex, nextPosition: Int64, from sender: RaftReplica) {
        guard let position = progressPosition(of: sender) else { return }
        progress[position].isRecentlyActive = true
        guard case .snapshotting(let snapshot, let at) = progress[position].state, snapshot.index == index,
            nextPosition != at, nextPosition >= 0
        else { return }
        progress[position].becomeSnapshotting(snapshot, position: nextPosition)
    }

    mutating func handleSnapshotChunk(_ chunk: RaftMessage.SnapshotChunk, from leader: RaftReplica) {
        let snapshot = chunk.snapshot
        if snapshot.index <= log.committed {
            incomingSnapshot = nil
            // What is committed is the same everywhere; that it is durable here is waited for.
            return send(.appendResponse(.matched(log.committed)), to: leader, durably: true)
        }
        // One snapshot at a time is being made current; the leader repeats the chunk.
        guard log.pendingSnapshot == nil else { return }
        if log.matches(snapshot.index, snapshot.epoch) {
            incomingSnapshot = nil
            commit(to: snapshot.index)
            return send(.appendResponse(.matched(snapshot.index)), to: leader, durably: true)
        }
        if incomingSnapshot?.snapshot != snapshot || incomingSnapshot?.epoch != epoch {
            incomingSnapshot = IncomingSnapshot(snapshot: snapshot, epoch: epoch, nextPosition: 0)
        }
        guard let wanted = incomingSnapshot?.nextPosition, wanted == chunk.position else {
            let wanted = incomingSnapshot?.nextPosition ?? 0
            return send(
                .snapshotResponse(index: snapshot.index, nextPosition: wanted),
                to: leader,
                durably: true
            )
        }
        outgoing.snapshotChunks.append(chunk)
        guard chunk.isLast else {
            let next = wanted + Int64(chunk.bytes.count)
            incomingSnapshot?.nextPosition = next
            return send(.snapshotResponse(index: snapshot.index, nextPosition: next), to: leader, durably: true)
        }
        incomingSnapshot = nil
        log.restore(snapshot)
        memberships = [(snapshot.index, snapshot.membership)]
        send(.appendResponse(.matched(snapshot.index)), to: leader, durably: true)
    }
}
