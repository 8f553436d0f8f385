// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// What every operation of the client throws (beside `CancellationError`).
public struct ClientError: Error, Sendable, CustomStringConvertible {
    /// The kind of an error. More kinds may come; compare with `==`.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Value: String {
            case configuration, connection, timeout, protocolViolation, unsupportedVersion, broker, closed
            case unknownTopicOrPartition, recordTooLarge, deliveryTimeout, partitionNotAssigned, noOffset, groupLost
            case invalidState, corruptRecords, fenced, transactionFailed
        }

        private let value: Value
        private init(_ value: Value) { self.value = value }

        /// A setting is missing or cannot be.
        public static let configuration = Code(.configuration)
        /// No broker could be reached, or the connection broke.
        public static let connection = Code(.connection)
        /// No answer came in time.
        public static let timeout = Code(.timeout)
        /// A broker sent bytes that are no valid answer.
        public static let protocolViolation = Code(.protocolViolation)
        /// Broker and client have no version of a request in common.
        public static let unsupportedVersion = Code(.unsupportedVersion)
        /// A broker answered with an error; see `ClientError.errorCode`.
        public static let broker = Code(.broker)
        /// The producer, consumer or admin client was closed.
        public static let closed = Code(.closed)
        /// The topic or the partition does not exist.
        public static let unknownTopicOrPartition = Code(.unknownTopicOrPartition)
        /// A record is larger than what the client or the broker takes.
        public static let recordTooLarge = Code(.recordTooLarge)
        /// A record could not be delivered within `ProducerConfiguration.deliveryTimeout`.
        public static let deliveryTimeout = Code(.deliveryTimeout)
        /// The partition belongs to another member of the group by now.
        public static let partitionNotAssigned = Code(.partitionNotAssigned)
        /// There is no committed offset, and `ConsumerConfiguration.autoOffsetReset` is `none`.
        public static let noOffset = Code(.noOffset)
        /// The member was put out of its group, and cannot come back by itself.
        public static let groupLost = Code(.groupLost)
        /// The call does not fit what was called before.
        public static let invalidState = Code(.invalidState)
        /// Fetched records fail their checksum or do not parse.
        public static let corruptRecords = Code(.corruptRecords)

        /// Another producer with the same transactional id has taken over: close this one.
        public static let fenced = Code(.fenced)
        /// Something of the transaction failed: abort it, and begin again.
        public static let transactionFailed = Code(.transactionFailed)

        public var description: String { value.rawValue }
    }

    // One allocation, so that throwing stays cheap.
    private final class Storage: Sendable {
        let code: Code
        let message: String
        let errorCode: ErrorCode?
        let cause: (any Error)?
        init(code: Code, message: String, errorCode: ErrorCode?, cause: (any Error)?) {
            self.code = code
            self.message = message
            self.errorCode = errorCode
            self.cause = cause
        }
    }

    private let storage: Storage

    /// Makes an error.
    public init(_ code: Code, _ message: String, errorCode: ErrorCode? = nil, cause: (any Error)? = nil) {
        storage = Storage(code: code, message: message, errorCode: errorCode, cause: cause)
    }

    /// An error that a broker answered with, and during what.
    static func broker(_ errorCode: ErrorCode, _ doing: String, detail: String? = nil) -> ClientError {
        let kind: Code
        switch errorCode {
        case .unknownTopicOrPartition, .unknownTopicId: kind = .unknownTopicOrPartition
        case .messageTooLarge, .recordListTooLarge: kind = .recordTooLarge
        case .unsupportedVersion: kind = .unsupportedVersion
        default: kind = .broker
        }
        let text = detail.map { ": \($0)" } ?? ""
        return ClientError(kind, "\(doing): the broker answered \(errorCode)\(text)", errorCode: errorCode)
    }

    /// The kind of the error.
    public var code: Code { storage.code }
    /// What happened, and what helps.
    public var message: String { storage.message }
    /// The broker's error code, where a broker answered.
    public var errorCode: ErrorCode? { storage.errorCode }
    /// The error below this one.
    public var cause: (any Error)? { storage.cause }

    /// Whether the same call may succeed later without any change.
    public var isRetriable: Bool {
        if let errorCode { return errorCode.isRetriable }
        return code == .connection || code == .timeout
    }

    public var description: String {
        "\(code): \(message)" + (cause.map { " (\($0))" } ?? "")
    }
}
