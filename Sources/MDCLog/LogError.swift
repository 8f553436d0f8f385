// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// What went wrong in the storage engine: a code to act on, a message that says what to do, and where it happened.
public struct LogError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure. A struct over a private enum: a new kind breaks no caller's `switch`.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String, Hashable, Sendable {
            case corruptBatch, invalidRecord, outOfOrderSequence, duplicateSequence, invalidProducerEpoch
            case unknownProducer, invalidTransactionState, coordinatorFenced, offsetOutOfRange, messageTooLarge
            case invalidTimestamp, unsupportedCompression, noSpace, readOnly, inputOutput, offline, damaged, notFound
            case alreadyExists, inconsistentTopicID, locked, closed, invalidConfiguration, unexpectedOffset
            case notLeader, notEnoughReplicas
        }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }
        public var description: String { kind.rawValue }

        /// The bytes of a batch contradict each other or their checksum.
        public static let corruptBatch = Code(.corruptBatch)
        /// A batch is well-formed but not allowed here (a missing key, a control batch from a client, …).
        public static let invalidRecord = Code(.invalidRecord)
        /// An idempotent producer's sequence numbers left a gap.
        public static let outOfOrderSequence = Code(.outOfOrderSequence)
        /// A sequence number that was appended long ago.
        public static let duplicateSequence = Code(.duplicateSequence)
        /// A newer epoch of the producer has written already.
        public static let invalidProducerEpoch = Code(.invalidProducerEpoch)
        /// Nothing is known of the producer.
        public static let unknownProducer = Code(.unknownProducer)
        /// A batch outside a transaction while the producer has one open.
        public static let invalidTransactionState = Code(.invalidTransactionState)
        /// A marker of a transaction coordinator that has been replaced.
        public static let coordinatorFenced = Code(.coordinatorFenced)
        /// The offset lies before the log's start or after its end.
        public static let offsetOutOfRange = Code(.offsetOutOfRange)
        /// A batch exceeds `max.message.bytes`, or a segment.
        public static let messageTooLarge = Code(.messageTooLarge)
        /// A timestamp outside the bounds that the topic sets.
        public static let invalidTimestamp = Code(.invalidTimestamp)
        /// A codec that this broker does not know.
        public static let unsupportedCompression = Code(.unsupportedCompression)
        /// The disk is full, or nearly so. Appends work again once there is room.
        public static let noSpace = Code(.noSpace)
        /// The file system is mounted read-only.
        public static let readOnly = Code(.readOnly)
        /// The disk reported an error.
        public static let inputOutput = Code(.inputOutput)
        /// The data folder has failed; its partitions accept no appends.
        public static let offline = Code(.offline)
        /// The bytes asked for are damaged below the durable point, and are left as they are.
        public static let damaged = Code(.damaged)
        /// There is no such partition or file.
        public static let notFound = Code(.notFound)
        /// The partition is there already.
        public static let alreadyExists = Code(.alreadyExists)
        /// The folder belongs to another topic of the same name.
        public static let inconsistentTopicID = Code(.inconsistentTopicID)
        /// Another process has the data folder open.
        public static let locked = Code(.locked)
        /// The log is closed or its partition deleted.
        public static let closed = Code(.closed)
        /// A setting is out of range.
        public static let invalidConfiguration = Code(.invalidConfiguration)
        /// A replicated batch does not continue the log.
        public static let unexpectedOffset = Code(.unexpectedOffset)
        /// Another node leads the partition by now, or this one in a later epoch.
        public static let notLeader = Code(.notLeader)
        /// The record is in the log, but too few replicas are in sync to commit it.
        public static let notEnoughReplicas = Code(.notEnoughReplicas)
    }

    /// The kind of failure.
    public var code: Code
    /// What happened and how to get out of it.
    public var message: String
    /// The system call and file that failed, where one did.
    public var cause: FileSystemError?

    /// Makes an error.
    public init(_ code: Code, _ message: String, cause: FileSystemError? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    /// Wraps a failed system call; the code follows from its error number.
    public init(_ cause: FileSystemError, while doing: String) {
        let code: Code
        switch cause.kind {
        case .noSpace: code = .noSpace
        case .readOnly: code = .readOnly
        case .notFound: code = .notFound
        case .exists: code = .alreadyExists
        case .busy: code = .locked
        default: code = .inputOutput
        }
        self.init(code, "\(doing): \(cause)", cause: cause)
    }

    public var description: String { "\(code): \(message)" }

    /// What a Kafka client is told.
    public var kafkaError: ErrorCode {
        switch code {
        case .corruptBatch: .corruptMessage
        case .invalidRecord: .invalidRecord
        case .outOfOrderSequence: .outOfOrderSequenceNumber
        case .duplicateSequence: .duplicateSequenceNumber
        case .invalidProducerEpoch: .invalidProducerEpoch
        case .unknownProducer: .unknownProducerId
        case .invalidTransactionState: .invalidTxnState
        case .coordinatorFenced: .transactionCoordinatorFenced
        case .offsetOutOfRange: .offsetOutOfRange
        case .messageTooLarge: .messageTooLarge
        case .invalidTimestamp: .invalidTimestamp
        case .unsupportedCompression: .unsupportedCompressionType
        case .notFound, .closed: .unknownTopicOrPartition
        case .alreadyExists: .topicAlreadyExists
        case .inconsistentTopicID: .inconsistentTopicId
        case .invalidConfiguration: .invalidConfig
        case .notLeader: .notLeaderOrFollower
        case .notEnoughReplicas: .notEnoughReplicasAfterAppend
        // A full, read-only, failed or damaged disk: the client is to try again, here or elsewhere.
        default: .kafkaStorageError
        }
    }
}
