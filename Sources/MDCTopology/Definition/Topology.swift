// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Sources, processors and sinks, and how records flow between them. A value; ``TopologyRunner`` makes it work.
///
///     var words = Topology("words", guarantee: .exactlyOnce)
///     words.source("lines", topics: ["lines"])
///     words.processor("split", from: ["lines"], parallelism: 2) { record, context in
///         for word in record.text.split(separator: " ") { context.emit(key: String(word), value: "1") }
///     }
///     words.sink("words", topic: "words", from: ["split"])
///
/// A stage names what it reads with `from`: the name of a stage, or `stage:stream` for a named stream of it.
public struct Topology: Sendable {
    /// What a crash may do to the effect of a record.
    public enum Guarantee: String, Sendable, CaseIterable {
        /// Offsets are committed before the work: what a crash interrupts is lost. No retries.
        case atMostOnce = "at-most-once"
        /// Offsets are committed after the work: what a crash interrupts is done again.
        case atLeastOnce = "at-least-once"
        /// Outputs, state and offsets are one transaction: readers of committed records see each effect once.
        case exactlyOnce = "exactly-once"
    }

    /// What a processor stage is run with.
    public struct ProcessorOptions: Sendable {
        /// How records are shared out between its tasks.
        public var grouping: Grouping
        /// Its tasks in each worker.
        public var parallelism: Int
        /// How often ``Processor/tick(_:)`` is called; nil: never.
        public var tickInterval: Duration?
        /// Whether it keeps state (``ProcessorContext/state``). Needs grouping by key, or global.
        public var isStateful: Bool

        /// Makes a value.
        public init(
            grouping: Grouping = .shuffle,
            parallelism: Int = 1,
            tickInterval: Duration? = nil,
            isStateful: Bool = false
        ) {
            self.grouping = grouping
            self.parallelism = parallelism
            self.tickInterval = tickInterval
            self.isStateful = isStateful
        }
    }

    struct Source: Sendable {
        let name: String
        let topics: [String]
    }

    struct Stage: Sendable {
        enum Work: Sendable {
            case processor(@Sendable (Int) -> any Processor)
            case sink(topic: String)
        }
        let name: String
        let inputs: [Input]
        let options: ProcessorOptions
        let work: Work
    }

    /// One entry of a `from` list.
    struct Input: Sendable, Hashable {
        let stage: String
        let stream: String

        init(_ text: String) {
            let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            stage = String(parts[0])
            stream = parts.count > 1 ? String(parts[1]) : ProcessorContext.defaultStream
        }
    }

    /// The stream of records that came behind their window's end and grace; see ``window(_:from:parallelism:size:grace:reduce:)``.
    public static let lateStream = "late"

    /// The name: part of the names of its group and topics.
    public let name: String
    /// What a crash may do.
    public var guarantee: Guarantee
    /// How often a processor is called again with a record that it threw at, before the record becomes a dead letter.
    public var retries = 3
    /// Where to begin in partitions that are new to this worker, for those whose offsets lie in a store of the application: a store that
    /// takes results and ``ProcessorContext/source`` in one database transaction is exact by itself. A partition that is left out
    /// begins at the group's committed offset.
    public var startOffsets: (@Sendable ([TopicPartition]) async throws -> [TopicPartition: Offset])?

    private(set) var sources: [Source] = []
    private(set) var stages: [Stage] = []

    /// Begins a topology.
    public init(_ name: String, guarantee: Guarantee = .atLeastOnce) {
        self.name = name
        self.guarantee = guarantee
    }

    /// Adds a source: records of topics.
    public mutating func source(_ name: String, topics: [String]) {
        sources.append(Source(name: name, topics: topics))
    }

    /// Adds a processor stage. `make` is called for each task, with its index.
    public mutating func processor(
        _ name: String,
        from inputs: [String],
        options: ProcessorOptions = ProcessorOptions(),
        make: @escaping @Sendable (Int) -> any Processor
    ) {
        stages.append(Stage(name: name, inputs: inputs.map(Input.init), options: options, work: .processor(make)))
    }

    /// Adds a processor stage that is a closure; `tick` is called every `options.tickInterval`.
    public mutating func processor(
        _ name: String,
        from inputs: [String],
        options: ProcessorOptions = ProcessorOptions(),
        tick: (@Sendable (ProcessorContext) async throws -> Void)? = nil,
        process: @escaping @Sendable (StreamRecord, ProcessorContext) async throws -> Void
    ) {
        processor(name, from: inputs, options: options) { _ in ClosureProcessor(body: process, ticking: tick) }
    }

    /// Adds a sink: what comes in is written to a topic.
    public mutating func sink(_ name: String, topic: String, from inputs: [String]) {
        stages.append(
            Stage(
                name: name,
                inputs: inputs.map(Input.init),
                options: ProcessorOptions(grouping: .global),
                work: .sink(topic: topic)
            )
        )
    }

    /// All topics that are read.
    public var sourceTopics: [String] { Set(sources.flatMap(\.topics)).sorted() }

    /// The names of its stages, in the order in which records pass them.
    public var stageNames: [String] { sources.map(\.name) + stages.map(\.name) }

    /// Checks what cannot be. Throws ``TopologyError`` (`configuration`).
    public func validate() throws(TopologyError) {
        func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(TopologyError) {
            if !condition { throw TopologyError(.configuration, message()) }
        }
        try require(
            Self.isName(name),
            "the topology's name '\(name)' must be 1 to 100 letters, digits, '.', '_' or '-'"
        )
        try require(!sources.isEmpty, "topology '\(name)' has no source: add one")
        try require(retries >= 0, "retries is \(retries); it must not be negative")
        var names: Set<String> = []
        for name in stageNames {
            try require(Self.isName(name), "the stage name '\(name)' must be 1 to 100 letters, digits, '.', '_' or '-'")
            try require(names.insert(name).inserted, "two stages are called '\(name)': rename one")
        }
        for source in sources {
            try require(!source.topics.isEmpty, "source '\(source.name)' has no topics: name at least one")
        }
        for stage in stages {
            try require(!stage.inputs.isEmpty, "stage '\(stage.name)' reads nothing: name a stage in its `from`")
            for input in stage.inputs {
                try require(
                    names.contains(input.stage),
                    "stage '\(stage.name)' reads from '\(input.stage)', which does not exist; there are "
                        + names.sorted().joined(separator: ", ")
                )
                try require(
                    !stages.contains { $0.name == input.stage && $0.isSink },
                    "stage '\(stage.name)' reads from the sink '\(input.stage)': add a source for its topic instead"
                )
            }
            let options = stage.options
            try require(
                (1...256).contains(options.parallelism),
                "stage '\(stage.name)' has parallelism \(options.parallelism); it must be 1 to 256"
            )
            if let interval = options.tickInterval {
                try require(interval > .zero, "stage '\(stage.name)' has a tick interval that is not positive")
            }
            try require(
                !options.isStateful || options.grouping != .shuffle || options.parallelism == 1,
                "stage '\(stage.name)' keeps state and shuffles: group it by key, or globally"
            )
        }
        _ = try ordered()
    }

    /// The stages so that each comes behind those it reads from. Throws where they go round in a circle.
    func ordered() throws(TopologyError) -> [Stage] {
        var known = Set(sources.map(\.name))
        var left = stages
        var result: [Stage] = []
        while !left.isEmpty {
            let ready = left.filter { stage in stage.inputs.allSatisfy { known.contains($0.stage) } }
            if ready.isEmpty {
                throw TopologyError(
                    .configuration,
                    "the stages \(left.map { "'\($0.name)'" }.joined(separator: ", ")) read from each other in a circle: go through a topic "
                        + "instead"
                )
            }
            result += ready
            known.formUnion(ready.map(\.name))
            left.removeAll { stage in ready.contains { $0.name == stage.name } }
        }
        return result
    }

    private static func isName(_ text: String) -> Bool {
        (1...100).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }
}

extension Topology.Stage {
    var isSink: Bool {
        if case .sink = work { return true }
        return false
    }
}

/// The names of what a topology keeps in the cluster.
public enum TopologyNames {
    /// The consumer group.
    public static func group(of name: String) -> String { "mdc-topology.\(name)" }
    /// Where records go that could not be worked on.
    public static func deadLetters(of name: String) -> String { "mdc-topology.\(name).dead-letter" }
    /// The group that remembers which dead letters were put back.
    public static func redriveGroup(of name: String) -> String { "mdc-topology.\(name).redrive" }
    /// The changelog of a stage's state.
    public static func state(of name: String, stage: String) -> String { "mdc-topology.\(name).state.\(stage)" }
    /// Which topologies are paused; compacted.
    public static let control = "mdc-topology-control"
}
