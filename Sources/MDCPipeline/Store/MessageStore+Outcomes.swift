// SPDX-License-Identifier: Apache-2.0

import GRDB
import MDCModel

extension MessageStore {
    /// What became of one message.
    struct Outcome: Sendable {
        var id: String
        var channel: Channel
        var lane: String
        var status: MessageStatus
        var attempt: Int
        var createdAt: Timestamp
        var finalAt: Timestamp?
    }

    /// The messages among these that are at their end. Asks by id, so its cost does not depend on the size of the store.
    func outcomes(of ids: some Sequence<String>) throws(PipelineError) -> [Outcome] {
        try reading { db in
            var found: [Outcome] = []
            for channel in Channel.allCases {
                let statement = try db.cachedStatement(
                    sql: """
                        SELECT id, coalesce(lane, '?'), status, attempt, coalesce(created_at, updated_at), final_at
                        FROM \(Self.table(channel)) WHERE id = ? AND final_at IS NOT NULL
                        """
                )
                for id in ids {
                    guard let row = try Row.fetchOne(statement, arguments: [id]) else { continue }
                    guard let status = MessageStatus(rawValue: row[2]) else { continue }
                    found.append(
                        Outcome(
                            id: row[0],
                            channel: channel,
                            lane: row[1],
                            status: status,
                            attempt: row[3],
                            createdAt: Timestamp(row[4]),
                            finalAt: Timestamp(row[5])
                        )
                    )
                }
            }
            return found
        }
    }
}
