// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

@testable import MDCLog

extension FuzzTarget {
    /// Offset and time indexes with any content beside a sound log: reads by offset find what they would without an index.
    static let index = FuzzTarget(name: "index", run: IndexTarget.run, seeds: IndexTarget.seeds)
}

/// Input: which segment, then the offset index (a length in two bytes and the bytes), then the time index.
private enum IndexTarget {
    private struct Sample {
        var files: [String: [UInt8]]
        var headers: [RecordBatchHeader]
        var bases: [Offset]
    }

    private static let sample: Sample = {
        do {
            var files = try LogFolders.sample(isClean: true)
            // Footers would vouch for the indexes.
            files = files.filter { !$0.key.hasSuffix(FileName.footer) }
            let disk = MemoryFileSystem()
            for (path, bytes) in files { disk.put(path, bytes) }
            let manager = try LogFolders.open(disk)
            guard let log = manager.partition(LogFolders.partition) else { fatalError("the sample log is missing") }
            let headers = try LogFolders.read(log)
            let bases = files.keys.compactMap {
                FileName.offset(in: String($0.split(separator: "/").last ?? ""), suffix: FileName.log)
            }
            return Sample(files: files, headers: headers, bases: bases.sorted())
        } catch {
            fatalError("the sample log cannot be made: \(error)")
        }
    }()

    static func run(_ bytes: [UInt8]) {
        var source = ByteSource(bytes)
        let choice = source.byte()
        let base = sample.bases[Int(choice & 0x0F) % sample.bases.count]
        let offsets = source.take(Int(source.integer(UInt16.self)))
        let times = source.rest()
        let disk = MemoryFileSystem()
        for (path, bytes) in sample.files { disk.put(path, bytes) }
        let stem = "\(LogFolders.root)/\(LogFolders.partition)/\(FileName.digits(base))"
        disk.put(stem + FileName.offsetIndex, offsets)
        disk.put(stem + FileName.timeIndex, times)
        do {
            let manager = try LogFolders.open(disk)
            guard let log = manager.partition(LogFolders.partition) else { fatalError("the log is missing") }
            if choice & 0x10 != 0 { lookUp(log) }
            try readEverywhere(log)
            if choice & 0x10 == 0 { lookUp(log) }
            try manager.close()
            _ = try LogChecker(directory: LogFolders.root, fileSystem: disk).run()
        } catch {
            fatalError("an index made a sound log fail: \(error)")
        }
    }

    /// A read from any offset begins with the batch that holds it.
    private static func readEverywhere(_ log: PartitionLog) throws {
        require(log.logEndOffset == sample.headers.last?.nextOffset, "an index moved the log's end")
        for header in sample.headers {
            for offset in Set([header.baseOffset, header.lastOffset]) {
                let read = try log.read(from: offset, maxBytes: 1, minOneBatch: true, upTo: log.logEndOffset)
                require(
                    read.firstOffset == header.baseOffset && read.nextOffset == header.nextOffset,
                    "offset \(offset) was looked for at \(String(describing: read.firstOffset))"
                )
            }
        }
        require(try LogFolders.read(log) == sample.headers, "an index changed what is read")
    }

    /// A time index that lies may lead to another record, but to one that matches, or to an error.
    private static func lookUp(_ log: PartitionLog) {
        for header in sample.headers {
            if let found = try? log.offset(for: .timestamp(header.maxTimestamp)) {
                require(found.timestamp >= header.maxTimestamp, "a record that is too old was found")
            }
        }
        _ = try? log.offset(for: .maxTimestamp)
    }

    static func seeds() throws -> [FuzzSeed] {
        var seeds: [FuzzSeed] = []
        for (number, base) in sample.bases.enumerated() {
            let stem = "\(LogFolders.root)/\(LogFolders.partition)/\(FileName.digits(base))"
            let offsets = sample.files[stem + FileName.offsetIndex] ?? []
            let times = sample.files[stem + FileName.timeIndex] ?? []
            let size = [UInt8(offsets.count >> 8), UInt8(truncatingIfNeeded: offsets.count)]
            seeds.append(FuzzSeed(name: "segment-\(number)", bytes: [UInt8(number)] + size + offsets + times))
            seeds.append(
                FuzzSeed(name: "times-first-\(number)", bytes: [UInt8(number) | 0x10] + size + offsets + times)
            )
        }
        return seeds
    }
}
