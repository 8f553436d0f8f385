// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

@testable import MDCLog

extension FuzzTarget {
    /// A data folder with any files in it is opened, read, checked, printed, appended to, closed, and opened again.
    static let recovery = FuzzTarget(name: "recovery", run: RecoveryTarget.run, seeds: RecoveryTarget.seeds)
}

/// Input: files, one after the other: a byte for the name, one for choices, four for a base offset where the choices say
/// so, two for the length, the bytes.
private enum RecoveryTarget {
    /// What a file may be called: with the base offset of a segment, or not.
    private static let suffixes = [
        FileName.log, FileName.offsetIndex, FileName.timeIndex, FileName.transactionIndex, FileName.producerSnapshot,
        FileName.footer, FileName.log + FileName.swap, FileName.footer + FileName.swap, FileName.log + FileName.cleaned,
        FileName.log + FileName.deleted, FileName.transactionIndex + FileName.swap,
    ]
    private static let plain = [
        "\(LogFolders.partition)/\(FileName.leaderEpochs)", "\(LogFolders.partition)/\(FileName.partitionMetadata)",
        FileName.cleanShutdown, FileName.recoveryPoints, FileName.logStarts, FileName.cleanerOffsets,
        FileName.checkpoint, "\(LogFolders.partition)/00000000000000000007.log.tmp",
    ]
    /// Base offsets of segments and snapshots.
    private static let bases: [Int64] = [
        0, 8, 16, 24, 32, 40, 48, .max - 1, .max, 5, 1 << 31, 1 << 32, 1, 2, 3, 4,
    ]

    static func run(_ bytes: [UInt8]) {
        let disk = MemoryFileSystem()
        disk.put("\(LogFolders.root)/\(LogFolders.partition)/keep", [])
        var source = ByteSource(bytes)
        var count = 0
        while !source.isEmpty, count < 64 {
            count += 1
            let (name, isRepaired) = name(&source)
            var content = source.take(Int(source.integer(UInt16.self)))
            if isRepaired { repair(name, &content) }
            disk.put("\(LogFolders.root)/\(name)", content)
        }
        exercise(disk)
    }

    private static func name(_ source: inout ByteSource) -> (name: String, isRepaired: Bool) {
        let (kind, choice) = (Int(source.byte()), source.byte())
        if kind & 0x80 != 0 { return (plain[kind & 0x7F % plain.count], choice & 0x80 != 0) }
        let base = Offset(choice & 0x40 != 0 ? Int64(source.integer(UInt32.self)) : bases[Int(choice & 0x0F)])
        let suffix = suffixes[kind % suffixes.count]
        return ("\(LogFolders.partition)/\(FileName.digits(base))\(suffix)", choice & 0x80 != 0)
    }

    private static func repair(_ name: String, _ content: inout [UInt8]) {
        if name.contains(FileName.log) {
            Checksums.repairBatches(&content)
        } else if name.hasSuffix(FileName.producerSnapshot), content.count >= 6 {
            Checksums.put(content.checksum(from: 6), in: &content, at: 2)
        } else if name.contains(FileName.footer), content.count >= 4 {
            Checksums.put([UInt8](content.dropLast(4)).checksum, in: &content, at: content.count - 4)
        } else if name == FileName.checkpoint {
            content.append(contentsOf: "crc \(content.checksum)\n".utf8)
        }
    }

    private static func exercise(_ disk: MemoryFileSystem) {
        inspect(disk)
        guard let manager = try? LogFolders.open(disk), let log = manager.partition(LogFolders.partition) else {
            return
        }
        let (start, end) = (log.logStartOffset, log.logEndOffset)
        require(start <= end, "the log begins at \(start) and ends at \(end)")
        let found = try? LogFolders.readAll(log)
        // What lies below the recovery point is not read at the start: reads may meet damage there, and a check names it.
        if found?.isWhole == false {
            var checker = LogChecker(directory: LogFolders.root, fileSystem: disk)
            checker.decodesRecords = true
            require((try? checker.run())?.isSound != true, "a read ends within a batch, and a check finds nothing")
        }
        let headers = found?.isWhole == true ? found?.headers : nil
        for offset in [start, end, Offset(start.rawValue / 2 + end.rawValue / 2)] {
            _ = try? log.read(from: offset, maxBytes: 100, minOneBatch: true, upTo: end)
            _ = log.epoch(at: offset)
        }
        _ = log.abortedTransactions(in: start..<max(start, end))
        _ = try? log.offset(for: .maxTimestamp)
        for time: Int64 in [0, 1_700_000_000_050, .max] { _ = try? log.offset(for: .timestamp(Timestamp(time))) }
        let appended = append(log)
        manager.runSyncRound()
        manager.runMaintenance()
        manager.runCheckpoint()
        manager.runScrub()
        let (newEnd, damage) = (log.logEndOffset, log.damage.isEmpty)
        let canClose = (try? manager.close()) != nil
        inspect(disk)
        let reopened: PartitionLog
        do throws(LogError) {
            guard let log = try LogFolders.open(disk).partition(LogFolders.partition) else {
                fatalError("a log is gone after reopening")
            }
            reopened = log
        } catch {
            fatalError("a folder was opened once, and not again: \(error)")
        }
        // What was there and sound is there again, exactly; damage stays damage.
        guard damage, canClose else { return }
        require(reopened.damage.isEmpty, "a closed log is damaged: \(reopened.damage)")
        require(
            reopened.logStartOffset >= start && reopened.logEndOffset == newEnd,
            "\(start) to \(newEnd) became \(reopened.logStartOffset) to \(reopened.logEndOffset)"
        )
        if appended { require(newEnd > end, "an append did not move the log's end") }
        if let headers, let now = try? LogFolders.read(reopened) {
            require(now.starts(with: headers), "batches are gone or changed after reopening")
        }
    }

    /// The offline tools, which must not trust anything either.
    private static func inspect(_ disk: MemoryFileSystem) {
        var checker = LogChecker(directory: LogFolders.root, fileSystem: disk)
        checker.decodesRecords = true
        _ = try? checker.run()
        for format in [LogDumper.Format.text, .json] {
            var dumper = LogDumper(path: "\(LogFolders.root)/\(LogFolders.partition)", fileSystem: disk)
            dumper.format = format
            try? dumper.run { _ in }
        }
    }

    private static func append(_ log: PartitionLog) -> Bool {
        var builder = RecordBatchBuilder(.init())
        builder.append(key: nil, value: ByteBuffer(string: "after"), timestamp: 1_700_000_100_000)
        guard let batch = try? builder.build(),
            let result = try? log.append(batch, as: .client, leaderEpoch: log.latestEpoch, now: 1_700_000_100_000)
        else { return false }
        let read = try? log.read(from: result.firstOffset, maxBytes: 1, minOneBatch: true, upTo: log.logEndOffset)
        require(read?.firstOffset == result.firstOffset, "what was appended cannot be read")
        return true
    }

    static func seeds() throws -> [FuzzSeed] {
        var seeds: [FuzzSeed] = []
        for isClean in [true, false] {
            let files = try LogFolders.sample(isClean: isClean)
            var all: [UInt8] = []
            var logs: [UInt8] = []
            for (path, content) in files.sorted(by: { $0.key < $1.key }) {
                guard let head = head(String(path.dropFirst(LogFolders.root.utf8.count + 1))) else { continue }
                let entry = head + [UInt8(content.count >> 8), UInt8(truncatingIfNeeded: content.count)] + content
                all += entry
                if path.hasSuffix(FileName.log) { logs += entry }
            }
            seeds.append(FuzzSeed(name: isClean ? "closed" : "killed", bytes: all))
            seeds.append(FuzzSeed(name: isClean ? "closed-logs" : "killed-logs", bytes: logs))
        }
        return seeds
    }

    /// The bytes that name a file; nil where it has no place in an input.
    private static func head(_ path: String) -> [UInt8]? {
        if let index = plain.firstIndex(of: path) {
            return [0x80 | UInt8(index), path == FileName.checkpoint ? 0 : 0x80]
        }
        let name = String(path.split(separator: "/").last ?? "")
        for (kind, suffix) in suffixes.enumerated() {
            guard let base = FileName.offset(in: name, suffix: suffix) else { continue }
            return [UInt8(kind), 0xC0] + (0..<4).map { UInt8(truncatingIfNeeded: base.rawValue >> Int64((3 - $0) * 8)) }
        }
        return nil
    }
}
