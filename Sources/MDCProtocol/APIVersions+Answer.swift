// SPDX-License-Identifier: Apache-2.0

import MDCModel

extension APIVersions {
    /// What to do with a request, by its API and version alone.
    public enum Verdict: Equatable, Sendable {
        /// Serve it.
        case serve
        /// Answer with UNSUPPORTED_VERSION in the layout of the request's version, which we know.
        case refuse
        /// ApiVersions of a version we do not know: answer with ``unsupportedAnswer`` in version 0 and keep the
        /// connection (KIP-511). The body of the request cannot be read.
        case answerInVersionZero
        /// The API or its layout is not known: no answer can be formed; close the connection.
        case close
    }

    /// Judges a request at a node that has handlers for `implemented`.
    public static func verdict(_ key: APIKey, version: Int16, implemented: Set<APIKey>) -> Verdict {
        guard let entry = entry(for: key), implemented.contains(key) else { return .close }
        if entry.served.contains(version) { return .serve }
        if key == .apiVersions { return .answerInVersionZero }
        return entry.known.contains(version) ? .refuse : .close
    }

    /// The ranges to announce for `implemented`, in the order of their numbers. Always Kafka 4.3's: clients derive the
    /// release of a broker from single ranges, so a mixture of releases would mislead them.
    public static func announced(_ implemented: Set<APIKey>) -> [ApiVersionsResponse.ApiVersion] {
        entries.filter { implemented.contains($0.key) && $0.scope != .retired }.map { entry in
            ApiVersionsResponse.ApiVersion(
                apiKey: entry.key.rawValue,
                minVersion: entry.advertised.lowerBound,
                maxVersion: entry.advertised.upperBound
            )
        }
    }

    /// The answer to ApiVersions.
    ///
    /// Features whose lowest level is 0 are left out up to version 3, because older Java clients cannot read them
    /// (KAFKA-17492).
    /// - Parameters:
    ///   - version: of the request, one that we serve.
    ///   - implemented: the APIs the node has handlers for.
    ///   - supportedFeatures: the levels of features that the software has.
    ///   - finalizedFeatures: the levels in force, with the epoch of that decision (-1 where there is none).
    public static func answer(
        version: Int16,
        implemented: Set<APIKey>,
        supportedFeatures: [ApiVersionsResponse.SupportedFeatureKey] = [],
        finalizedFeatures: [ApiVersionsResponse.FinalizedFeatureKey] = [],
        finalizedFeaturesEpoch: Int64 = -1,
        throttleTimeMs: Int32 = 0
    ) -> ApiVersionsResponse {
        ApiVersionsResponse(
            errorCode: ErrorCode.none.rawValue,
            apiKeys: announced(implemented),
            throttleTimeMs: throttleTimeMs,
            supportedFeatures: supportedFeatures.filter { version > 3 || $0.minVersion > 0 },
            finalizedFeaturesEpoch: finalizedFeaturesEpoch,
            finalizedFeatures: finalizedFeatures.filter { version > 3 || $0.minVersionLevel > 0 }
        )
    }

    /// The answer, to be written in version 0, to ApiVersions of a version that we do not serve: the error and the
    /// range of ApiVersions itself, with which the client tries again.
    public static var unsupportedAnswer: ApiVersionsResponse {
        ApiVersionsResponse(errorCode: ErrorCode.unsupportedVersion.rawValue, apiKeys: announced([.apiVersions]))
    }
}
