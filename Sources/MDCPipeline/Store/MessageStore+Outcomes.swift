// SPDX-License-Identifier: Apache-2.0

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
        try engine.read { db in
            var found: [Outcome] = []
            for channel in Channel.allCases {
                for id in ids {
                    var statement = SQLStatement(dialect)
                    statement.text = """
                        SELECT id, coalesce(lane, '?'), status, attempt, coalesce(created_at, updated_at), final_at
                        FROM \(Self.table(channel)) WHERE id = \(statement.bind(id)) AND final_at IS NOT NULL
                        """
                    guard let row = try db.all(statement).first,
                        let status = row.text(2).flatMap(MessageStatus.init)
                    else { continue }
                    found.append(
                        Outcome(
                            id: row.text(0) ?? id,
                            channel: channel,
                            lane: row.text(1) ?? "?",
                            status: status,
                            attempt: Int(row.integer(3) ?? 1),
                            createdAt: row.time(4) ?? 0,
                            finalAt: row.time(5)
                        )
                    )
                }
            }
            return found
        }
    }
}
