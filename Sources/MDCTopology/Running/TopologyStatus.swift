// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

/// How a worker is.
public struct TopologyStatus: Sendable {
    /// The topology's name.
    public var name: String
    /// Whether it is in its group and works, or waits.
    public var isRunning: Bool
    /// Whether the topology is paused.
    public var isPaused: Bool
    /// Times that it began anew after a failure.
    public var restarts: Int64
    /// Commits of offsets, or transactions.
    public var commits: Int64
    /// Dead letters written.
    public var deadLetters: Int64
    /// Records of sources under way.
    public var inFlight: Int
    /// Records that this worker has not read yet, by partition of its sources.
    public var lag: [TopicPartition: Int64]
    /// The stages, by the order of the flow.
    public var stages: [StageStatus]

    init(_ topology: Topology, _ shared: TopologyShared) {
        let state = shared.state.withLock { $0 }
        name = topology.name
        isRunning = state.isRunning
        isPaused = state.isPaused
        restarts = state.restarts
        commits = state.commits
        deadLetters = state.deadLetters
        inFlight = state.inFlight
        lag = state.lag
        stages = topology.stageNames.map { name in
            state.stages.first { $0.name == name } ?? StageStatus(name: name)
        }
    }

    /// As Prometheus' text.
    public var prometheus: String {
        var text = ""
        let own = "topology=\"\(name)\""
        func metric(_ name: String, _ kind: String, _ help: String, _ values: [(labels: String, value: String)]) {
            text += "# HELP mdc_topology_\(name) \(help)\n# TYPE mdc_topology_\(name) \(kind)\n"
            for (labels, value) in values {
                text += "mdc_topology_\(name){\(own)\(labels.isEmpty ? "" : ",")\(labels)} \(value)\n"
            }
        }
        func perStage(_ name: String, _ kind: String, _ help: String, _ value: (StageStatus) -> String) {
            metric(name, kind, help, stages.map { ("stage=\"\($0.name)\"", value($0)) })
        }
        metric("running", "gauge", "1 while the worker is in its group", [("", isRunning ? "1" : "0")])
        metric("paused", "gauge", "1 while the topology is paused", [("", isPaused ? "1" : "0")])
        metric("restarts_total", "counter", "Times the worker began anew after a failure", [("", "\(restarts)")])
        metric("commits_total", "counter", "Commits of offsets, or transactions", [("", "\(commits)")])
        metric("dead_letters_total", "counter", "Dead letters written", [("", "\(deadLetters)")])
        metric("in_flight_records", "gauge", "Records of sources under way", [("", "\(inFlight)")])
        metric(
            "lag_records",
            "gauge",
            "Records of sources that the worker has not read yet",
            lag.sorted { $0.key < $1.key }.map {
                ("topic=\"\($0.key.topic)\",partition=\"\($0.key.partition)\"", "\($0.value)")
            }
        )
        perStage("stage_executed_total", "counter", "Records worked on") { "\($0.executed)" }
        perStage("stage_emitted_total", "counter", "Records emitted") { "\($0.emitted)" }
        perStage("stage_retried_total", "counter", "Attempts repeated") { "\($0.retried)" }
        perStage("stage_failed_total", "counter", "Records given up") { "\($0.failed)" }
        perStage("stage_execute_seconds_total", "counter", "Time in the processor") { "\($0.executeSeconds)" }
        perStage("stage_process_seconds_total", "counter", "Time from arrival in the queue to the end of the work") {
            "\($0.processSeconds)"
        }
        perStage("stage_capacity", "gauge", "Share of the last 10 s at work, all tasks; 1: no more is possible") {
            "\($0.capacity)"
        }
        perStage("stage_queued_records", "gauge", "Records that wait for the stage") { "\($0.queued)" }
        perStage("stage_tasks", "gauge", "Tasks of the stage in this worker") { "\($0.tasks)" }
        return text
    }
}
