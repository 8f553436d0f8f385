// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel

/// What a command tells on standard error before it exits with 1: what is wrong, and what helps.
struct CommandError: Error, CustomStringConvertible {
    let description: String

    init(_ message: String) {
        description = message
    }

    static func noBroker(_ bootstrap: String) -> CommandError {
        CommandError(
            "no broker answers at \(bootstrap): start one with `mdc-broker run`, or name another with --bootstrap"
        )
    }

    static func noTopic(_ name: String) -> CommandError {
        CommandError(
            "topic '\(name)' does not exist: create it with `mdc topic create \(name)`, or see `mdc topic list`"
        )
    }

    static func noGroup(_ name: String) -> CommandError {
        CommandError("group '\(name)' does not exist: see `mdc group list` for those that do")
    }

    /// The client's error, with what helps where it is known.
    init(_ error: ClientError, bootstrap: String) {
        switch error.code {
        case .connection:
            self.init("the broker at \(bootstrap) cannot be reached any more: \(error.message). Is it still running?")
        case .timeout:
            self.init(
                "the broker at \(bootstrap) took the connection and did not answer in time: \(error.message). "
                    + "Raise --timeout, or check that a Kafka broker listens there"
            )
        case .protocolViolation:
            self.init("what answers at \(bootstrap) does not speak the Kafka protocol: \(error.message)")
        case .recordTooLarge:
            self.init("\(error.message). Raise the topic's `max.message.bytes`, or send smaller records")
        default:
            self.init(error.message + (Self.hint(error.errorCode).map { ". \($0)" } ?? ""))
        }
    }

    private static func hint(_ code: ErrorCode?) -> String? {
        switch code {
        case .unknownTopicOrPartition: "`mdc topic list` shows the topics that exist"
        case .topicAlreadyExists: "Use another name, delete it first, or pass --if-not-exists"
        case .invalidReplicationFactor: "`mdc cluster` shows how many brokers there are"
        case .groupIdNotFound: "`mdc group list` shows the groups that exist"
        case .transactionalIdNotFound: "`mdc txn list` shows the transactional ids that exist"
        case .nonEmptyGroup: "Stop its members first; `mdc group describe` shows them"
        default: nil
        }
    }
}
