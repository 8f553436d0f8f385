// SPDX-License-Identifier: Apache-2.0

/// An error code of the Kafka protocol. A struct rather than an enum: a peer may send a code that is newer than we are.
public struct ErrorCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// The number on the wire.
    public let rawValue: Int16

    /// Wraps a number from the wire.
    @inlinable public init(rawValue: Int16) { self.rawValue = rawValue }

    /// The protocol's name of the code, such as `NOT_LEADER_OR_FOLLOWER`.
    public var description: String { Self.names[rawValue]?.name ?? "ERROR_\(rawValue)" }

    /// Whether a client may send the same request again and hope for better.
    public var isRetriable: Bool { Self.names[rawValue]?.retriable ?? false }

    /// The code of a name such as `NOT_LEADER_OR_FOLLOWER`; nil where there is none.
    public init?(name: String) {
        guard let entry = Self.names.first(where: { $0.value.name == name }) else { return nil }
        self.init(rawValue: entry.key)
    }

    /// No error.
    public static let none = ErrorCode(rawValue: 0)
    /// `UNKNOWN_SERVER_ERROR`.
    public static let unknownServerError = ErrorCode(rawValue: -1)
    /// `OFFSET_OUT_OF_RANGE`.
    public static let offsetOutOfRange = ErrorCode(rawValue: 1)
    /// `CORRUPT_MESSAGE`.
    public static let corruptMessage = ErrorCode(rawValue: 2)
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    public static let unknownTopicOrPartition = ErrorCode(rawValue: 3)
    /// `INVALID_FETCH_SIZE`.
    public static let invalidFetchSize = ErrorCode(rawValue: 4)
    /// `LEADER_NOT_AVAILABLE`.
    public static let leaderNotAvailable = ErrorCode(rawValue: 5)
    /// `NOT_LEADER_OR_FOLLOWER`.
    public static let notLeaderOrFollower = ErrorCode(rawValue: 6)
    /// `REQUEST_TIMED_OUT`.
    public static let requestTimedOut = ErrorCode(rawValue: 7)
    /// `BROKER_NOT_AVAILABLE`.
    public static let brokerNotAvailable = ErrorCode(rawValue: 8)
    /// `REPLICA_NOT_AVAILABLE`.
    public static let replicaNotAvailable = ErrorCode(rawValue: 9)
    /// `MESSAGE_TOO_LARGE`.
    public static let messageTooLarge = ErrorCode(rawValue: 10)
    /// `STALE_CONTROLLER_EPOCH`.
    public static let staleControllerEpoch = ErrorCode(rawValue: 11)
    /// `OFFSET_METADATA_TOO_LARGE`.
    public static let offsetMetadataTooLarge = ErrorCode(rawValue: 12)
    /// `NETWORK_EXCEPTION`.
    public static let networkException = ErrorCode(rawValue: 13)
    /// `COORDINATOR_LOAD_IN_PROGRESS`.
    public static let coordinatorLoadInProgress = ErrorCode(rawValue: 14)
    /// `COORDINATOR_NOT_AVAILABLE`.
    public static let coordinatorNotAvailable = ErrorCode(rawValue: 15)
    /// `NOT_COORDINATOR`.
    public static let notCoordinator = ErrorCode(rawValue: 16)
    /// `INVALID_TOPIC_EXCEPTION`.
    public static let invalidTopicException = ErrorCode(rawValue: 17)
    /// `RECORD_LIST_TOO_LARGE`.
    public static let recordListTooLarge = ErrorCode(rawValue: 18)
    /// `NOT_ENOUGH_REPLICAS`.
    public static let notEnoughReplicas = ErrorCode(rawValue: 19)
    /// `NOT_ENOUGH_REPLICAS_AFTER_APPEND`.
    public static let notEnoughReplicasAfterAppend = ErrorCode(rawValue: 20)
    /// `INVALID_REQUIRED_ACKS`.
    public static let invalidRequiredAcks = ErrorCode(rawValue: 21)
    /// `ILLEGAL_GENERATION`.
    public static let illegalGeneration = ErrorCode(rawValue: 22)
    /// `INCONSISTENT_GROUP_PROTOCOL`.
    public static let inconsistentGroupProtocol = ErrorCode(rawValue: 23)
    /// `INVALID_GROUP_ID`.
    public static let invalidGroupId = ErrorCode(rawValue: 24)
    /// `UNKNOWN_MEMBER_ID`.
    public static let unknownMemberId = ErrorCode(rawValue: 25)
    /// `INVALID_SESSION_TIMEOUT`.
    public static let invalidSessionTimeout = ErrorCode(rawValue: 26)
    /// `REBALANCE_IN_PROGRESS`.
    public static let rebalanceInProgress = ErrorCode(rawValue: 27)
    /// `INVALID_COMMIT_OFFSET_SIZE`.
    public static let invalidCommitOffsetSize = ErrorCode(rawValue: 28)
    /// `TOPIC_AUTHORIZATION_FAILED`.
    public static let topicAuthorizationFailed = ErrorCode(rawValue: 29)
    /// `GROUP_AUTHORIZATION_FAILED`.
    public static let groupAuthorizationFailed = ErrorCode(rawValue: 30)
    /// `CLUSTER_AUTHORIZATION_FAILED`.
    public static let clusterAuthorizationFailed = ErrorCode(rawValue: 31)
    /// `INVALID_TIMESTAMP`.
    public static let invalidTimestamp = ErrorCode(rawValue: 32)
    /// `UNSUPPORTED_SASL_MECHANISM`.
    public static let unsupportedSaslMechanism = ErrorCode(rawValue: 33)
    /// `ILLEGAL_SASL_STATE`.
    public static let illegalSaslState = ErrorCode(rawValue: 34)
    /// `UNSUPPORTED_VERSION`.
    public static let unsupportedVersion = ErrorCode(rawValue: 35)
    /// `TOPIC_ALREADY_EXISTS`.
    public static let topicAlreadyExists = ErrorCode(rawValue: 36)
    /// `INVALID_PARTITIONS`.
    public static let invalidPartitions = ErrorCode(rawValue: 37)
    /// `INVALID_REPLICATION_FACTOR`.
    public static let invalidReplicationFactor = ErrorCode(rawValue: 38)
    /// `INVALID_REPLICA_ASSIGNMENT`.
    public static let invalidReplicaAssignment = ErrorCode(rawValue: 39)
    /// `INVALID_CONFIG`.
    public static let invalidConfig = ErrorCode(rawValue: 40)
    /// `NOT_CONTROLLER`.
    public static let notController = ErrorCode(rawValue: 41)
    /// `INVALID_REQUEST`.
    public static let invalidRequest = ErrorCode(rawValue: 42)
    /// `UNSUPPORTED_FOR_MESSAGE_FORMAT`.
    public static let unsupportedForMessageFormat = ErrorCode(rawValue: 43)
    /// `POLICY_VIOLATION`.
    public static let policyViolation = ErrorCode(rawValue: 44)
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    public static let outOfOrderSequenceNumber = ErrorCode(rawValue: 45)
    /// `DUPLICATE_SEQUENCE_NUMBER`.
    public static let duplicateSequenceNumber = ErrorCode(rawValue: 46)
    /// `INVALID_PRODUCER_EPOCH`.
    public static let invalidProducerEpoch = ErrorCode(rawValue: 47)
    /// `INVALID_TXN_STATE`.
    public static let invalidTxnState = ErrorCode(rawValue: 48)
    /// `INVALID_PRODUCER_ID_MAPPING`.
    public static let invalidProducerIdMapping = ErrorCode(rawValue: 49)
    /// `INVALID_TRANSACTION_TIMEOUT`.
    public static let invalidTransactionTimeout = ErrorCode(rawValue: 50)
    /// `CONCURRENT_TRANSACTIONS`.
    public static let concurrentTransactions = ErrorCode(rawValue: 51)
    /// `TRANSACTION_COORDINATOR_FENCED`.
    public static let transactionCoordinatorFenced = ErrorCode(rawValue: 52)
    /// `TRANSACTIONAL_ID_AUTHORIZATION_FAILED`.
    public static let transactionalIdAuthorizationFailed = ErrorCode(rawValue: 53)
    /// `SECURITY_DISABLED`.
    public static let securityDisabled = ErrorCode(rawValue: 54)
    /// `OPERATION_NOT_ATTEMPTED`.
    public static let operationNotAttempted = ErrorCode(rawValue: 55)
    /// `KAFKA_STORAGE_ERROR`.
    public static let kafkaStorageError = ErrorCode(rawValue: 56)
    /// `LOG_DIR_NOT_FOUND`.
    public static let logDirNotFound = ErrorCode(rawValue: 57)
    /// `SASL_AUTHENTICATION_FAILED`.
    public static let saslAuthenticationFailed = ErrorCode(rawValue: 58)
    /// `UNKNOWN_PRODUCER_ID`.
    public static let unknownProducerId = ErrorCode(rawValue: 59)
    /// `REASSIGNMENT_IN_PROGRESS`.
    public static let reassignmentInProgress = ErrorCode(rawValue: 60)
    /// `DELEGATION_TOKEN_AUTH_DISABLED`.
    public static let delegationTokenAuthDisabled = ErrorCode(rawValue: 61)
    /// `DELEGATION_TOKEN_NOT_FOUND`.
    public static let delegationTokenNotFound = ErrorCode(rawValue: 62)
    /// `DELEGATION_TOKEN_OWNER_MISMATCH`.
    public static let delegationTokenOwnerMismatch = ErrorCode(rawValue: 63)
    /// `DELEGATION_TOKEN_REQUEST_NOT_ALLOWED`.
    public static let delegationTokenRequestNotAllowed = ErrorCode(rawValue: 64)
    /// `DELEGATION_TOKEN_AUTHORIZATION_FAILED`.
    public static let delegationTokenAuthorizationFailed = ErrorCode(rawValue: 65)
    /// `DELEGATION_TOKEN_EXPIRED`.
    public static let delegationTokenExpired = ErrorCode(rawValue: 66)
    /// `INVALID_PRINCIPAL_TYPE`.
    public static let invalidPrincipalType = ErrorCode(rawValue: 67)
    /// `NON_EMPTY_GROUP`.
    public static let nonEmptyGroup = ErrorCode(rawValue: 68)
    /// `GROUP_ID_NOT_FOUND`.
    public static let groupIdNotFound = ErrorCode(rawValue: 69)
    /// `FETCH_SESSION_ID_NOT_FOUND`.
    public static let fetchSessionIdNotFound = ErrorCode(rawValue: 70)
    /// `INVALID_FETCH_SESSION_EPOCH`.
    public static let invalidFetchSessionEpoch = ErrorCode(rawValue: 71)
    /// `LISTENER_NOT_FOUND`.
    public static let listenerNotFound = ErrorCode(rawValue: 72)
    /// `TOPIC_DELETION_DISABLED`.
    public static let topicDeletionDisabled = ErrorCode(rawValue: 73)
    /// `FENCED_LEADER_EPOCH`.
    public static let fencedLeaderEpoch = ErrorCode(rawValue: 74)
    /// `UNKNOWN_LEADER_EPOCH`.
    public static let unknownLeaderEpoch = ErrorCode(rawValue: 75)
    /// `UNSUPPORTED_COMPRESSION_TYPE`.
    public static let unsupportedCompressionType = ErrorCode(rawValue: 76)
    /// `STALE_BROKER_EPOCH`.
    public static let staleBrokerEpoch = ErrorCode(rawValue: 77)
    /// `OFFSET_NOT_AVAILABLE`.
    public static let offsetNotAvailable = ErrorCode(rawValue: 78)
    /// `MEMBER_ID_REQUIRED`.
    public static let memberIdRequired = ErrorCode(rawValue: 79)
    /// `PREFERRED_LEADER_NOT_AVAILABLE`.
    public static let preferredLeaderNotAvailable = ErrorCode(rawValue: 80)
    /// `GROUP_MAX_SIZE_REACHED`.
    public static let groupMaxSizeReached = ErrorCode(rawValue: 81)
    /// `FENCED_INSTANCE_ID`.
    public static let fencedInstanceId = ErrorCode(rawValue: 82)
    /// `ELIGIBLE_LEADERS_NOT_AVAILABLE`.
    public static let eligibleLeadersNotAvailable = ErrorCode(rawValue: 83)
    /// `ELECTION_NOT_NEEDED`.
    public static let electionNotNeeded = ErrorCode(rawValue: 84)
    /// `NO_REASSIGNMENT_IN_PROGRESS`.
    public static let noReassignmentInProgress = ErrorCode(rawValue: 85)
    /// `GROUP_SUBSCRIBED_TO_TOPIC`.
    public static let groupSubscribedToTopic = ErrorCode(rawValue: 86)
    /// `INVALID_RECORD`.
    public static let invalidRecord = ErrorCode(rawValue: 87)
    /// `UNSTABLE_OFFSET_COMMIT`.
    public static let unstableOffsetCommit = ErrorCode(rawValue: 88)
    /// `THROTTLING_QUOTA_EXCEEDED`.
    public static let throttlingQuotaExceeded = ErrorCode(rawValue: 89)
    /// `PRODUCER_FENCED`.
    public static let producerFenced = ErrorCode(rawValue: 90)
    /// `RESOURCE_NOT_FOUND`.
    public static let resourceNotFound = ErrorCode(rawValue: 91)
    /// `DUPLICATE_RESOURCE`.
    public static let duplicateResource = ErrorCode(rawValue: 92)
    /// `UNACCEPTABLE_CREDENTIAL`.
    public static let unacceptableCredential = ErrorCode(rawValue: 93)
    /// `INCONSISTENT_VOTER_SET`.
    public static let inconsistentVoterSet = ErrorCode(rawValue: 94)
    /// `INVALID_UPDATE_VERSION`.
    public static let invalidUpdateVersion = ErrorCode(rawValue: 95)
    /// `FEATURE_UPDATE_FAILED`.
    public static let featureUpdateFailed = ErrorCode(rawValue: 96)
    /// `PRINCIPAL_DESERIALIZATION_FAILURE`.
    public static let principalDeserializationFailure = ErrorCode(rawValue: 97)
    /// `SNAPSHOT_NOT_FOUND`.
    public static let snapshotNotFound = ErrorCode(rawValue: 98)
    /// `UNKNOWN_TOPIC_ID`.
    public static let unknownTopicId = ErrorCode(rawValue: 100)
    /// `DUPLICATE_BROKER_REGISTRATION`.
    public static let duplicateBrokerRegistration = ErrorCode(rawValue: 101)
    /// `BROKER_ID_NOT_REGISTERED`.
    public static let brokerIdNotRegistered = ErrorCode(rawValue: 102)
    /// `INCONSISTENT_TOPIC_ID`.
    public static let inconsistentTopicId = ErrorCode(rawValue: 103)
    /// `INCONSISTENT_CLUSTER_ID`.
    public static let inconsistentClusterId = ErrorCode(rawValue: 104)
    /// `TRANSACTIONAL_ID_NOT_FOUND`.
    public static let transactionalIdNotFound = ErrorCode(rawValue: 105)
    /// `FETCH_SESSION_TOPIC_ID_ERROR`.
    public static let fetchSessionTopicIdError = ErrorCode(rawValue: 106)
    /// `INELIGIBLE_REPLICA`.
    public static let ineligibleReplica = ErrorCode(rawValue: 107)
    /// `NEW_LEADER_ELECTED`.
    public static let newLeaderElected = ErrorCode(rawValue: 108)
    /// `OFFSET_MOVED_TO_TIERED_STORAGE`.
    public static let offsetMovedToTieredStorage = ErrorCode(rawValue: 109)
    /// `FENCED_MEMBER_EPOCH`.
    public static let fencedMemberEpoch = ErrorCode(rawValue: 110)
    /// `UNRELEASED_INSTANCE_ID`.
    public static let unreleasedInstanceId = ErrorCode(rawValue: 111)
    /// `UNSUPPORTED_ASSIGNOR`.
    public static let unsupportedAssignor = ErrorCode(rawValue: 112)
    /// `STALE_MEMBER_EPOCH`.
    public static let staleMemberEpoch = ErrorCode(rawValue: 113)
    /// `MISMATCHED_ENDPOINT_TYPE`.
    public static let mismatchedEndpointType = ErrorCode(rawValue: 114)
    /// `UNSUPPORTED_ENDPOINT_TYPE`.
    public static let unsupportedEndpointType = ErrorCode(rawValue: 115)
    /// `UNKNOWN_CONTROLLER_ID`.
    public static let unknownControllerId = ErrorCode(rawValue: 116)
    /// `UNKNOWN_SUBSCRIPTION_ID`.
    public static let unknownSubscriptionId = ErrorCode(rawValue: 117)
    /// `TELEMETRY_TOO_LARGE`.
    public static let telemetryTooLarge = ErrorCode(rawValue: 118)
    /// `INVALID_REGISTRATION`.
    public static let invalidRegistration = ErrorCode(rawValue: 119)
    /// `TRANSACTION_ABORTABLE`.
    public static let transactionAbortable = ErrorCode(rawValue: 120)
    /// `INVALID_RECORD_STATE`.
    public static let invalidRecordState = ErrorCode(rawValue: 121)
    /// `SHARE_SESSION_NOT_FOUND`.
    public static let shareSessionNotFound = ErrorCode(rawValue: 122)
    /// `INVALID_SHARE_SESSION_EPOCH`.
    public static let invalidShareSessionEpoch = ErrorCode(rawValue: 123)
    /// `FENCED_STATE_EPOCH`.
    public static let fencedStateEpoch = ErrorCode(rawValue: 124)
    /// `INVALID_VOTER_KEY`.
    public static let invalidVoterKey = ErrorCode(rawValue: 125)
    /// `DUPLICATE_VOTER`.
    public static let duplicateVoter = ErrorCode(rawValue: 126)
    /// `VOTER_NOT_FOUND`.
    public static let voterNotFound = ErrorCode(rawValue: 127)
    /// `INVALID_REGULAR_EXPRESSION`.
    public static let invalidRegularExpression = ErrorCode(rawValue: 128)
    /// `SHARE_SESSION_LIMIT_REACHED`.
    public static let shareSessionLimitReached = ErrorCode(rawValue: 133)

    private static let names: [Int16: (name: String, retriable: Bool)] = [
        0: ("NONE", false),
        -1: ("UNKNOWN_SERVER_ERROR", false),
        1: ("OFFSET_OUT_OF_RANGE", false),
        2: ("CORRUPT_MESSAGE", true),
        3: ("UNKNOWN_TOPIC_OR_PARTITION", true),
        4: ("INVALID_FETCH_SIZE", false),
        5: ("LEADER_NOT_AVAILABLE", true),
        6: ("NOT_LEADER_OR_FOLLOWER", true),
        7: ("REQUEST_TIMED_OUT", true),
        8: ("BROKER_NOT_AVAILABLE", false),
        9: ("REPLICA_NOT_AVAILABLE", true),
        10: ("MESSAGE_TOO_LARGE", false),
        11: ("STALE_CONTROLLER_EPOCH", false),
        12: ("OFFSET_METADATA_TOO_LARGE", false),
        13: ("NETWORK_EXCEPTION", true),
        14: ("COORDINATOR_LOAD_IN_PROGRESS", true),
        15: ("COORDINATOR_NOT_AVAILABLE", true),
        16: ("NOT_COORDINATOR", true),
        17: ("INVALID_TOPIC_EXCEPTION", false),
        18: ("RECORD_LIST_TOO_LARGE", false),
        19: ("NOT_ENOUGH_REPLICAS", true),
        20: ("NOT_ENOUGH_REPLICAS_AFTER_APPEND", true),
        21: ("INVALID_REQUIRED_ACKS", false),
        22: ("ILLEGAL_GENERATION", false),
        23: ("INCONSISTENT_GROUP_PROTOCOL", false),
        24: ("INVALID_GROUP_ID", false),
        25: ("UNKNOWN_MEMBER_ID", false),
        26: ("INVALID_SESSION_TIMEOUT", false),
        27: ("REBALANCE_IN_PROGRESS", false),
        28: ("INVALID_COMMIT_OFFSET_SIZE", false),
        29: ("TOPIC_AUTHORIZATION_FAILED", false),
        30: ("GROUP_AUTHORIZATION_FAILED", false),
        31: ("CLUSTER_AUTHORIZATION_FAILED", false),
        32: ("INVALID_TIMESTAMP", false),
        33: ("UNSUPPORTED_SASL_MECHANISM", false),
        34: ("ILLEGAL_SASL_STATE", false),
        35: ("UNSUPPORTED_VERSION", false),
        36: ("TOPIC_ALREADY_EXISTS", false),
        37: ("INVALID_PARTITIONS", false),
        38: ("INVALID_REPLICATION_FACTOR", false),
        39: ("INVALID_REPLICA_ASSIGNMENT", false),
        40: ("INVALID_CONFIG", false),
        41: ("NOT_CONTROLLER", true),
        42: ("INVALID_REQUEST", false),
        43: ("UNSUPPORTED_FOR_MESSAGE_FORMAT", false),
        44: ("POLICY_VIOLATION", false),
        45: ("OUT_OF_ORDER_SEQUENCE_NUMBER", false),
        46: ("DUPLICATE_SEQUENCE_NUMBER", false),
        47: ("INVALID_PRODUCER_EPOCH", false),
        48: ("INVALID_TXN_STATE", false),
        49: ("INVALID_PRODUCER_ID_MAPPING", false),
        50: ("INVALID_TRANSACTION_TIMEOUT", false),
        51: ("CONCURRENT_TRANSACTIONS", true),
        52: ("TRANSACTION_COORDINATOR_FENCED", false),
        53: ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", false),
        54: ("SECURITY_DISABLED", false),
        55: ("OPERATION_NOT_ATTEMPTED", false),
        56: ("KAFKA_STORAGE_ERROR", true),
        57: ("LOG_DIR_NOT_FOUND", false),
        58: ("SASL_AUTHENTICATION_FAILED", false),
        59: ("UNKNOWN_PRODUCER_ID", false),
        60: ("REASSIGNMENT_IN_PROGRESS", false),
        61: ("DELEGATION_TOKEN_AUTH_DISABLED", false),
        62: ("DELEGATION_TOKEN_NOT_FOUND", false),
        63: ("DELEGATION_TOKEN_OWNER_MISMATCH", false),
        64: ("DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", false),
        65: ("DELEGATION_TOKEN_AUTHORIZATION_FAILED", false),
        66: ("DELEGATION_TOKEN_EXPIRED", false),
        67: ("INVALID_PRINCIPAL_TYPE", false),
        68: ("NON_EMPTY_GROUP", false),
        69: ("GROUP_ID_NOT_FOUND", false),
        70: ("FETCH_SESSION_ID_NOT_FOUND", true),
        71: ("INVALID_FETCH_SESSION_EPOCH", true),
        72: ("LISTENER_NOT_FOUND", true),
        73: ("TOPIC_DELETION_DISABLED", false),
        74: ("FENCED_LEADER_EPOCH", true),
        75: ("UNKNOWN_LEADER_EPOCH", true),
        76: ("UNSUPPORTED_COMPRESSION_TYPE", false),
        77: ("STALE_BROKER_EPOCH", false),
        78: ("OFFSET_NOT_AVAILABLE", true),
        79: ("MEMBER_ID_REQUIRED", false),
        80: ("PREFERRED_LEADER_NOT_AVAILABLE", true),
        81: ("GROUP_MAX_SIZE_REACHED", false),
        82: ("FENCED_INSTANCE_ID", false),
        83: ("ELIGIBLE_LEADERS_NOT_AVAILABLE", true),
        84: ("ELECTION_NOT_NEEDED", true),
        85: ("NO_REASSIGNMENT_IN_PROGRESS", false),
        86: ("GROUP_SUBSCRIBED_TO_TOPIC", false),
        87: ("INVALID_RECORD", false),
        88: ("UNSTABLE_OFFSET_COMMIT", true),
        89: ("THROTTLING_QUOTA_EXCEEDED", true),
        90: ("PRODUCER_FENCED", false),
        91: ("RESOURCE_NOT_FOUND", false),
        92: ("DUPLICATE_RESOURCE", false),
        93: ("UNACCEPTABLE_CREDENTIAL", false),
        94: ("INCONSISTENT_VOTER_SET", false),
        95: ("INVALID_UPDATE_VERSION", false),
        96: ("FEATURE_UPDATE_FAILED", false),
        97: ("PRINCIPAL_DESERIALIZATION_FAILURE", false),
        98: ("SNAPSHOT_NOT_FOUND", false),
        100: ("UNKNOWN_TOPIC_ID", true),
        101: ("DUPLICATE_BROKER_REGISTRATION", false),
        102: ("BROKER_ID_NOT_REGISTERED", false),
        103: ("INCONSISTENT_TOPIC_ID", true),
        104: ("INCONSISTENT_CLUSTER_ID", false),
        105: ("TRANSACTIONAL_ID_NOT_FOUND", false),
        106: ("FETCH_SESSION_TOPIC_ID_ERROR", true),
        107: ("INELIGIBLE_REPLICA", false),
        108: ("NEW_LEADER_ELECTED", false),
        109: ("OFFSET_MOVED_TO_TIERED_STORAGE", false),
        110: ("FENCED_MEMBER_EPOCH", false),
        111: ("UNRELEASED_INSTANCE_ID", false),
        112: ("UNSUPPORTED_ASSIGNOR", false),
        113: ("STALE_MEMBER_EPOCH", false),
        114: ("MISMATCHED_ENDPOINT_TYPE", false),
        115: ("UNSUPPORTED_ENDPOINT_TYPE", false),
        116: ("UNKNOWN_CONTROLLER_ID", false),
        117: ("UNKNOWN_SUBSCRIPTION_ID", false),
        118: ("TELEMETRY_TOO_LARGE", false),
        119: ("INVALID_REGISTRATION", false),
        120: ("TRANSACTION_ABORTABLE", false),
        121: ("INVALID_RECORD_STATE", false),
        122: ("SHARE_SESSION_NOT_FOUND", true),
        123: ("INVALID_SHARE_SESSION_EPOCH", true),
        124: ("FENCED_STATE_EPOCH", false),
        125: ("INVALID_VOTER_KEY", false),
        126: ("DUPLICATE_VOTER", false),
        127: ("VOTER_NOT_FOUND", false),
        128: ("INVALID_REGULAR_EXPRESSION", false),
        133: ("SHARE_SESSION_LIMIT_REACHED", true),
    ]
}
