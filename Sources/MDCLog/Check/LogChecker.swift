// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Verifies a data folder offline, every byte of it, and changes nothing.
///
/// The logs are verified batch by batch against their checksums; indexes, snapshots, epochs, footers and checkpoints
/// against the logs.
public struct LogChecker {
    /// The data folder, or the folder of one partition.
    public let directory: String
    /// Whether records are decoded too (and decompressed), not just their batches' checksums verified.
    public var decodesRecords = false
    private let fileSystem: any FileSystem

    /// Makes a checker of a data folder, or of the folder of one partition.
    public init(directory: String, fileSystem: any FileSystem = POSIXFileSystem()) {
        self.directory = directory
        self.fileSystem = fileSystem
    }

    /// Runs the check. `progress` is called now and then. Throws `.locked` where a node is running on the folder, and
    /// `.notFound` where there is none.
    public func run(progress: (CheckProgress) -> Void = { _ in }) throws(LogError) -> CheckReport {
        do throws(FileSystemError) {
            guard try fileSystem.exists(directory) else {
                throw FileSystemError(.notFound, call: "stat", path: directory, reason: "there is no such folder")
            }
        } catch {
            throw LogError(error, while: "checking \(directory)")
        }
        let lock = try lockFolder()
        defer { withExtendedLifetime(lock) {} }
        var report = CheckReport()
        let partitions = try findPartitions()
        let total = try totalSize(partitions.map(\.path))
        let checkpoints = checkFolder(&report)
        for (topicPartition, path) in partitions {
            var check = PartitionCheck(
                path: path,
                fileSystem: fileSystem,
                decodesRecords: decodesRecords,
                checkpoint: checkpoints[topicPartition],
                total: total
            )
            try check.run(&report, progress)
        }
        return report
    }

    /// Keeps a node from starting on the folder; nil where that cannot be (a partition's folder, a read-only disk).
    private func lockFolder() throws(LogError) -> (any StorageFile)? {
        let path = "\(directory)/\(FileName.lock)"
        do throws(FileSystemError) {
            guard try fileSystem.exists(path) else { return nil }
            return try fileSystem.lock(path)
        } catch {
            if error.kind == .busy {
                throw LogError(.locked, "\(directory) is in use by a running node; stop it first", cause: error)
            }
            return nil
        }
    }

    private func findPartitions() throws(LogError) -> [(TopicPartition, path: String)] {
        do throws(FileSystemError) {
            let entries = try fileSystem.list(directory)
            if entries.contains(where: { FileName.offset(in: $0.name, suffix: FileName.log) != nil }) {
                let name = directory.split(separator: "/").last.map(String.init) ?? directory
                let topicPartition =
                    DirectoryLoader.topicPartition(name) ?? TopicPartition(topic: name, partition: 0)
                return [(topicPartition, directory)]
            }
            return entries.filter { $0.isDirectory && !$0.name.hasSuffix("-delete") }
                .compactMap { entry in
                    DirectoryLoader.topicPartition(entry.name).map { ($0, "\(directory)/\(entry.name)") }
                }
                .sorted { $0.0 < $1.0 }
        } catch {
            throw LogError(error, while: "checking \(directory)")
        }
    }

    private func totalSize(_ paths: [String]) throws(LogError) -> Int {
        do throws(FileSystemError) {
            var total = 0
            for path in paths {
                for entry in try fileSystem.list(path) where entry.name.hasSuffix(FileName.log) {
                    total += try fileSystem.attributes("\(path)/\(entry.name)")?.size ?? 0
                }
            }
            return total
        } catch {
            throw LogError(error, while: "checking \(directory)")
        }
    }

    /// Verifies the folder's own files; returns the recovery points.
    private func checkFolder(_ report: inout CheckReport) -> [TopicPartition: Offset] {
        var points: [TopicPartition: Offset] = [:]
        for name in [FileName.recoveryPoints, FileName.logStarts, FileName.cleanerOffsets] {
            guard let bytes = read("\(directory)/\(name)", &report) else { continue }
            if let offsets = OffsetCheckpoint.decode(bytes) {
                if name == FileName.recoveryPoints { points = offsets }
            } else {
                report.problems.append(derived("\(directory)/\(name)", "the checkpoint cannot be read"))
            }
        }
        if let bytes = read("\(directory)/\(FileName.checkpoint)", &report) {
            if let own = NodeCheckpoint.decode(bytes) {
                points = own.mapValues(\.recoveryOffset)
            } else {
                report.problems.append(
                    derived("\(directory)/\(FileName.checkpoint)", "the checkpoint or its checksum is wrong")
                )
            }
        }
        return points
    }

    private func read(_ path: String, _ report: inout CheckReport) -> [UInt8]? {
        do throws(FileSystemError) {
            return try fileSystem.readSmallFile(path)
        } catch {
            report.problems.append(derived(path, "\(error)"))
            return nil
        }
    }

    private func derived(_ path: String, _ message: String) -> CheckReport.Problem {
        CheckReport.Problem(severity: .derived, path: path, position: 0, message: message)
    }
}
