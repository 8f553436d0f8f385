// SPDX-License-Identifier: Apache-2.0

public import MDCClient
import MDCModel

extension Topics {
    /// All topics of the centre, with their partition counts and settings.
    public static func all(
        lanes: LaneConfiguration,
        idempotencyWindow: Duration = IdempotencyKeys.defaultWindow
    ) -> [NewTopic] {
        // The truth is kept: the store can be rebuilt from offset 0. Who wants less sets a retention.
        let kept = ["retention.ms": "-1"]
        let compacted = ["cleanup.policy": "compact"]
        // Whole segments are dropped, so what is in the topic reaches back a little further than the window.
        let window = ["retention.ms": "\(idempotencyWindow.milliseconds)"]
        var topics: [NewTopic] = [
            NewTopic(keys, partitions: Int32(keyedPartitions), configuration: window),
            NewTopic(inbox, partitions: Int32(otherPartitions)),
            NewTopic(timers, partitions: Int32(otherPartitions), configuration: compacted),
            NewTopic(events, partitions: Int32(keyedPartitions), configuration: kept),
            NewTopic(messages, partitions: Int32(keyedPartitions), configuration: compacted),
            NewTopic(providers, partitions: 1, configuration: compacted),
            NewTopic(suppressions, partitions: 1, configuration: compacted),
            NewTopic(templates, partitions: 1, configuration: compacted),
            NewTopic(feedback, partitions: Int32(keyedPartitions)),
            NewTopic(deadLetter, partitions: 1, configuration: kept),
            NewTopic(apiKeys, partitions: 1, configuration: compacted),
            NewTopic(webhooks, partitions: 1, configuration: compacted),
            NewTopic(audit, partitions: 1, configuration: ["retention.ms": "7776000000"]),
        ]
        for channel in Channel.allCases {
            topics.append(NewTopic(responses(channel), partitions: Int32(keyedPartitions)))
            for lane in lanes[channel].lanes {
                topics.append(NewTopic(dispatch(channel, lane.name), partitions: Int32(lane.partitions)))
            }
        }
        return topics
    }

    /// Makes the topics that are not there.
    ///
    /// - Throws: ``PipelineError`` with code `log` if the cluster cannot be asked, `configuration` if a topic that must have a
    ///   certain number of partitions has another.
    public static func create(
        lanes: LaneConfiguration,
        idempotencyWindow: Duration = IdempotencyKeys.defaultWindow,
        admin: Admin
    ) async throws(PipelineError) {
        let wanted = all(lanes: lanes, idempotencyWindow: idempotencyWindow)
        do {
            let existing = Set(try await admin.listTopics())
            let missing = wanted.filter { !existing.contains($0.name) }
            if !missing.isEmpty {
                do {
                    try await admin.createTopics(missing)
                } catch let error as ClientError where error.errorCode == .topicAlreadyExists {
                    // Another process of the centre starts at the same time.
                }
            }
            let names = [events, messages, feedback] + Channel.allCases.map(responses)
            for topic in try await admin.describeTopics(names) where topic.partitions.count != keyedPartitions {
                throw PipelineError(
                    .configuration,
                    "topic \(topic.name) has \(topic.partitions.count) partitions; the centre needs \(keyedPartitions):"
                        + " delete it, or add partitions"
                )
            }
        } catch let error as PipelineError {
            throw error
        } catch {
            throw PipelineError(.log, "cannot make the topics of the centre", cause: error)
        }
    }
}
