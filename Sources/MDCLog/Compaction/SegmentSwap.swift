// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Puts a compacted segment in the place of those it was made from, so that a crash at any moment leaves either them or
/// it. Source: Kafka's `.cleaned` and `.swap` files.
///
/// 1. The new log is written as `<base>.log.cleaned`, its footer and, if there are aborted transactions, its transaction
///    index likewise, all synced.
/// 2. They are renamed to `.swap`, the log last; the folder is synced. From here on the new log counts.
/// 3. The old segments are renamed to `.deleted`, their indexes too; the new files lose their `.swap`.
struct SegmentSwap {
    let path: String
    let fileSystem: any FileSystem

    private func name(_ base: Offset, _ suffixes: String...) -> String {
        "\(path)/\(FileName.digits(base))\(suffixes.joined())"
    }

    /// Step 2, durably.
    func commit(base: Offset) throws(FileSystemError) {
        for suffix in [FileName.footer, FileName.transactionIndex, FileName.log] {
            let cleaned = name(base, suffix, FileName.cleaned)
            guard try fileSystem.exists(cleaned) else { continue }
            try fileSystem.rename(cleaned, to: name(base, suffix, FileName.swap))
        }
        try fileSystem.syncDirectory(path)
    }

    /// Step 3 for the new files, once the old ones are out of the way.
    func finish(base: Offset) throws(FileSystemError) {
        // The log last: as long as it is a swap file, a crash begins this step again.
        for suffix in [FileName.footer, FileName.transactionIndex, FileName.log] {
            let swapped = name(base, suffix, FileName.swap)
            if try fileSystem.exists(swapped) { try fileSystem.rename(swapped, to: name(base, suffix)) }
        }
        try fileSystem.syncDirectory(path)
    }

    /// Finishes what a crash has interrupted after step 2; `names` are those in the folder and are brought up to date.
    func finishInterrupted(_ names: inout Set<String>) throws(FileSystemError) {
        let swapped = names.compactMap { FileName.offset(in: $0, suffix: FileName.log + FileName.swap) }.sorted()
        for base in swapped {
            let end = try endOffset(base)
            let bases = names.compactMap { FileName.offset(in: $0, suffix: FileName.log) }.sorted()
            for old in bases where old == base || old > base && old < end {
                for suffix in [FileName.log] + FileName.besideLog {
                    let file = FileName.digits(old) + suffix
                    if names.remove(file) != nil { try fileSystem.unlinkIfPresent("\(path)/\(file)") }
                }
            }
            try finish(base: base)
            names.insert(FileName.digits(base) + FileName.log)
        }
        // A footer whose log did not get so far, and Kafka's index files, which are made anew.
        for name in names.sorted() where name.hasSuffix(FileName.swap) {
            try fileSystem.unlinkIfPresent("\(path)/\(name)")
            names.remove(name)
        }
        if !swapped.isEmpty { names = Set(try fileSystem.list(path).filter { !$0.isDirectory }.map(\.name)) }
    }

    /// The offset up to which the swapped segment stands for the old ones: from its footer, else (Kafka's) from its
    /// last batch.
    private func endOffset(_ base: Offset) throws(FileSystemError) -> Offset {
        if let footer = try SegmentFooter.read(name(base, FileName.footer, FileName.swap), fileSystem: fileSystem) {
            return footer.endOffset
        }
        let file = try fileSystem.open(name(base, FileName.log, FileName.swap), [])
        var end = base
        var walker = HeaderWalker(file: file, from: 0, to: try file.size())
        while let (_, header) = try? walker.next() { end = header.nextOffset }
        return end
    }
}
