// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// Where a log's start was moved shortly before the machine went down.
extension PartitionLoader {
    /// Whether our checkpoint, which has a checksum, vouches for the log's start.
    func isKnown(_ start: Offset) -> Bool { checkpoint?.logStartOffset == start }

    /// Takes the segments wholly before the log's start out of the folder: they were being removed, and some of them may be
    /// gone, so that what they say of producers and epochs has holes. Until the producers' state at the first segment that
    /// stays is on disk, all of them are there, and needed.
    func finishRemoval(_ progress: inout Progress, start: Offset) throws(LogError) {
        guard isKnown(start), !environment.has(.removalIsNotFinished),
            let index = progress.segments.lastIndex(where: { $0.baseOffset <= start }), index > 0
        else { return }
        do throws(FileSystemError) {
            let name = "\(path)/\(FileName.digits(progress.segments[index].baseOffset))\(FileName.producerSnapshot)"
            guard let bytes = try fileSystem.readSmallFile(name), ProducerSnapshot.decode(bytes, now: 0) != nil else {
                return
            }
            // After a killed process it may be in memory only.
            try fileSystem.open(name, [.write]).sync()
            try fileSystem.syncDirectory(path)
            for segment in progress.segments[..<index] { try remove(segment) }
        } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
        let first = progress.segments[index].baseOffset
        progress.segments.removeSubrange(..<index)
        progress.scanned.removeAll { $0.baseOffset < first }
        progress.unsure.removeAll { $0.segment.baseOffset < first }
        progress.directoryChanged = true
    }

    /// Lets the log begin at its start where it ends before that: records were deleted that had not reached the disk, and
    /// offsets must not be given twice. Nothing is known of producers then, as after a long time.
    ///
    /// The file of starts may be newer than our checkpoint, which alone is trusted with this: the log begins where that
    /// says.
    func beginAnew(_ progress: inout Progress, start: Offset) throws(LogError) {
        let start = min(start, checkpoint?.logStartOffset ?? 0)
        guard progress.end < start, progress.report.damage.isEmpty else { return }
        do throws(FileSystemError) {
            for segment in progress.segments { try remove(segment) }
            for entry in try fileSystem.list(path)
            where FileName.offset(in: entry.name, suffix: FileName.producerSnapshot) != nil {
                try fileSystem.unlinkIfPresent("\(path)/\(entry.name)")
            }
            let segment = try Segment.create(
                baseOffset: start,
                directory: path,
                fileSystem: fileSystem,
                openFiles: environment.openFiles
            )
            progress.segments = [segment]
        } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
        progress.scanned = []
        progress.unsure = []
        progress.table = ProducerTable()
        progress.snapshotOffset = nil
        progress.aborted = []
        progress.scannedFrom = start
        _ = progress.epochs.removeBefore(start)
        progress.epochsChanged = true
        progress.end = start
        progress.report.logEndOffset = start
        progress.directoryChanged = true
    }

    private func remove(_ segment: Segment) throws(FileSystemError) {
        segment.close()
        for suffix in [FileName.log] + FileName.besideLog { try fileSystem.unlinkIfPresent(segment.path(suffix)) }
    }
}
