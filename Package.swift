// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// One array of settings for every target of ours. Each upcoming feature is linked from CONTRIBUTING.md.
// `MDC_STRICT=1` (set by `make test` and CI) turns warnings into errors.
let strict = Context.environment["MDC_STRICT"] == "1"

// `MDC_SANITIZE=1` (set by `dev/sanitize`) takes locks that the thread sanitizer sees instead of `Mutex`.
let sanitizing = Context.environment["MDC_SANITIZE"] == "1"

let settings: [SwiftSetting] =
    [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableExperimentalFeature("Lifetimes"),
    ] + (strict ? [.treatAllWarnings(as: .error)] : []) + (sanitizing ? [.define("MDC_SANITIZE")] : [])

let cSettings: [CSetting] = strict ? [.treatAllWarnings(as: .error)] : []

// Options that need a library of their own, off by default: `swift build --traits PostgreSQL,Redis`.
// `MDC_TRAITS=PostgreSQL,Redis` makes them the default, which is how the tests are built.
let chosenTraits = Set((Context.environment["MDC_TRAITS"] ?? "").split(separator: ",").map(String.init))

func nio(_ name: String) -> Target.Dependency { .product(name: name, package: "swift-nio") }

let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let metrics = Target.Dependency.product(name: "Metrics", package: "swift-metrics")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let signals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")

let fuzzDependencies: [Target.Dependency] = [
    "MDCBroker", "MDCLog", "MDCProtocol", "MDCModel", "MDCTesting", "CMDCSystem", nio("NIOCore"), logging,
]

let package = Package(
    name: "mdc",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "MDCClient", targets: ["MDCClient"]),
        .library(name: "MDCPipeline", targets: ["MDCPipeline"]),
        .library(name: "MDCTopology", targets: ["MDCTopology"]),
        .executable(name: "mdc-broker", targets: ["mdc-broker"]),
        .executable(name: "mdc", targets: ["mdc"]),
    ],
    traits: [
        .trait(name: "PostgreSQL", description: "The message store in a PostgreSQL database (needs libpq)."),
        .trait(name: "Redis", description: "An index of provider ids that response workers share (needs hiredis)."),
        .default(enabledTraits: chosenTraits),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.6"),
        .package(url: "https://github.com/apple/swift-nio-http2.git", from: "1.46.0"),
        .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-http-types.git", from: "1.8.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
        .package(url: "https://github.com/hummingbird-project/swift-mustache", from: "2.1.1"),
    ],
    targets: [
        // C: checksums, system calls, system compression libraries. No Swift, no dependencies.
        .target(name: "CMDCChecksum", cSettings: cSettings),
        .target(name: "CMDCSystem", cSettings: cSettings),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CSnappy", providers: [.apt(["libsnappy-dev"])]),
        .systemLibrary(name: "CPostgres", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        .systemLibrary(name: "CHiredis", pkgConfig: "hiredis", providers: [.apt(["libhiredis-dev"])]),

        // Arrows point upwards only: a target may use what stands above it and is named, nothing else.
        .target(
            name: "MDCModel",
            dependencies: ["CMDCChecksum", "CZlib", "CLZ4", "CZstd", "CSnappy", nio("NIOCore")],
            swiftSettings: settings
        ),
        .target(
            name: "MDCLog",
            dependencies: ["MDCModel", "CMDCSystem", nio("NIOCore"), logging],
            swiftSettings: settings
        ),
        .target(name: "MDCRaft", dependencies: ["MDCModel"], swiftSettings: settings),
        .target(
            name: "MDCProtocol",
            dependencies: ["MDCModel", nio("NIOCore")],
            exclude: ["Schemas"],
            swiftSettings: settings
        ),
        .target(
            name: "MDCClient",
            dependencies: [
                "MDCModel", "MDCProtocol", nio("NIOCore"), nio("NIOPosix"), nio("NIOConcurrencyHelpers"),
                logging, metrics, lifecycle, deque,
            ],
            swiftSettings: settings
        ),
        .target(
            name: "MDCMirror",
            dependencies: ["MDCModel", "MDCClient", nio("NIOCore"), logging, lifecycle],
            swiftSettings: settings
        ),
        // Values whose shape is known only when they are read; with Foundation, so not for the broker.
        .target(name: "MDCJSON", swiftSettings: settings),
        .target(
            name: "MDCTopology",
            dependencies: [
                "MDCJSON", "MDCModel", "MDCClient", nio("NIOCore"), nio("NIOPosix"), logging, lifecycle, deque,
            ],
            swiftSettings: settings
        ),
        .target(
            name: "MDCBroker",
            dependencies: [
                "MDCModel", "MDCRaft", "MDCLog", "MDCProtocol", "CMDCSystem", nio("NIOCore"), nio("NIOPosix"),
                nio("NIOHTTP1"),
                nio("NIOConcurrencyHelpers"), logging, lifecycle, deque,
            ],
            swiftSettings: settings
        ),
        .target(
            name: "MDCPipeline",
            dependencies: [
                .target(name: "CPostgres", condition: .when(traits: ["PostgreSQL"])),
                .target(name: "CHiredis", condition: .when(traits: ["Redis"])),
                "MDCJSON", "MDCModel", "MDCClient", nio("NIOCore"), nio("NIOPosix"), nio("NIOHTTP1"), nio("NIOTLS"),
                nio("NIOConcurrencyHelpers"), logging, metrics, lifecycle, deque, "TOMLKit",
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "AsyncHTTPClient", package: "async-http-client"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "CryptoExtras", package: "swift-crypto"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "Mustache", package: "swift-mustache"),
            ],
            swiftSettings: settings
        ),

        // Commands: wiring only.
        .executableTarget(
            name: "mdc-broker",
            dependencies: ["CMDCSystem", "MDCBroker", "MDCLog", "MDCModel", logging, lifecycle, signals],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "mdc",
            dependencies: [
                "MDCJSON", "MDCModel", "MDCProtocol", "MDCClient", "MDCMirror", "MDCPipeline", "MDCTopology",
                "MDCBroker",
                nio("NIOHTTP1"), arguments, logging, lifecycle,
                signals, metrics, nio("NIOCore"), nio("NIOPosix"), "TOMLKit",
            ],
            swiftSettings: settings
        ),
        .executableTarget(name: "mdc-generate-messages", swiftSettings: settings),

        // Shared by tests and benchmarks: seeded randomness, simulated disk, spawned processes, free ports.
        .target(
            name: "MDCTesting",
            dependencies: [
                "MDCModel", "MDCLog", "MDCProtocol", "CMDCSystem", nio("NIOCore"), nio("NIOPosix"), logging,
            ],
            swiftSettings: settings
        ),

        // A disk in memory that loses power, and the simulations that run on it.
        .target(
            name: "MDCSimulation",
            dependencies: [
                "MDCBroker", "MDCRaft", "MDCProtocol", "MDCLog", "MDCModel", nio("NIOCore"), nio("NIOPosix"),
                nio("NIOConcurrencyHelpers"), logging,
            ],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "mdc-simulate",
            dependencies: ["MDCSimulation", arguments],
            swiftSettings: settings
        ),

        .executableTarget(name: "mdc-vectors", dependencies: ["MDCTesting"], swiftSettings: settings),
        .executableTarget(
            name: "mdc-log-bench",
            dependencies: ["MDCLog", "MDCModel", "CMDCSystem", nio("NIOCore"), logging],
            swiftSettings: settings
        ),

        .executableTarget(
            name: "mdc-pipeline-bench",
            dependencies: [
                "MDCPipeline", "MDCClient", "MDCModel", nio("NIOCore"), nio("NIOPosix"), logging,
            ],
            swiftSettings: settings
        ),

        .testTarget(
            name: "MDCModelTests",
            dependencies: ["MDCModel", "MDCTesting", "CMDCChecksum", nio("NIOCore")],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCProtocolTests",
            dependencies: ["MDCProtocol", "MDCModel", "MDCTesting", "mdc-generate-messages", nio("NIOCore")],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCLogTests",
            dependencies: ["MDCLog", "MDCModel", "MDCTesting", "CMDCSystem", nio("NIOCore"), logging],
            swiftSettings: settings
        ),
        // Its sources are also those of `mdc-fuzz`, see below.
        .testTarget(
            name: "FuzzTests",
            dependencies: fuzzDependencies,
            exclude: ["LibFuzzer"],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCRaftTests",
            dependencies: ["MDCRaft", "MDCModel"],
            exclude: ["Scripts"],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCSimulationTests",
            dependencies: ["MDCSimulation", "MDCLog", "MDCModel", nio("NIOCore"), logging],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCClientTests",
            dependencies: ["MDCClient", "MDCProtocol", "MDCModel", "MDCTesting", nio("NIOCore"), nio("NIOEmbedded")],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCMirrorTests",
            dependencies: ["MDCMirror", "MDCModel", nio("NIOCore")],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCTopologyTests",
            dependencies: [
                "MDCTopology", "MDCClient", "MDCJSON", "MDCModel", "MDCTesting", nio("NIOCore"), nio("NIOPosix"),
                logging,
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCBrokerTests",
            dependencies: [
                "MDCBroker", "MDCRaft", "MDCLog", "MDCProtocol", "MDCModel", "MDCTesting", "CMDCSystem", nio("NIOCore"),
                nio("NIOPosix"), nio("NIOConcurrencyHelpers"),
                nio("NIOEmbedded"), logging,
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MDCPipelineTests",
            dependencies: [
                "MDCPipeline", "MDCClient", "MDCJSON", "MDCModel", "MDCTesting", nio("NIOCore"), nio("NIOPosix"),
                nio("NIOHTTP1"),
                logging, "TOMLKit",
                .product(name: "AsyncHTTPClient", package: "async-http-client"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "NIOHTTP2", package: "swift-nio-http2"),
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "CryptoExtras", package: "swift-crypto"),
            ],
            exclude: ["Servers"],
            swiftSettings: settings
        ),
        .testTarget(
            name: "IntegrationTests",
            dependencies: [
                "MDCClient", "MDCProtocol", "MDCModel", "MDCTesting", nio("NIOCore"), nio("NIOPosix"), logging,
            ],
            swiftSettings: settings
        ),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

// `MDC_FUZZ=1` makes the fuzzer of the same sources that `swift test` runs briefly; `make fuzz` builds it with libFuzzer.
let isFuzzing = Context.environment["MDC_FUZZ"] == "1"
if isFuzzing {
    package.targets.removeAll { $0.name == "FuzzTests" }
    package.targets.append(
        .executableTarget(
            name: "mdc-fuzz",
            dependencies: fuzzDependencies,
            path: "Tests/FuzzTests",
            sources: ["Targets", "LibFuzzer"],
            swiftSettings: settings,
            // gold, the default, does not survive this link: libFuzzer's archive also has a `main`.
            linkerSettings: [.unsafeFlags(["-use-ld=lld"])]
        )
    )
}

// `MDC_ONLY=MDCLogTests` keeps just that target and what it needs (several: separated by commas), so that working on one
// module does not build them all.
if let only = isFuzzing ? "mdc-fuzz" : Context.environment["MDC_ONLY"] {
    var kept: Set<String> = []
    var wanted = only.split(separator: ",").map(String.init)
    while let name = wanted.popLast() {
        guard kept.insert(name).inserted, let target = package.targets.first(where: { $0.name == name }) else {
            continue
        }
        for dependency in target.dependencies {
            if case .byNameItem(let needed, _) = dependency { wanted.append(needed) }
            if case .targetItem(let needed, _) = dependency { wanted.append(needed) }
        }
    }
    package.targets.removeAll { !kept.contains($0.name) }
    package.products.removeAll()
}
