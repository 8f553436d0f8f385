// SPDX-License-Identifier: Apache-2.0

/// What a name in a folder stands for.
enum Node {
    case file(FileContent)
    case directory(Directory)

    func isSame(as other: Node) -> Bool {
        switch (self, other) {
        case (.file(let one), .file(let two)): one === two
        case (.directory(let one), .directory(let two)): one === two
        default: false
        }
    }
}

/// A file: what is on stable storage, and the changes since.
final class FileContent {
    enum Change {
        case write(position: Int, bytes: [UInt8])
        case resize(Int)
    }
    /// The unit that a disk writes whole.
    static let sector = 512

    /// What a reader sees.
    private(set) var current: [UInt8] = []
    /// What a power failure leaves at least.
    private var durable: [UInt8] = []
    private var changes: [Change] = []
    var modified: Int64

    init(modified: Int64) { self.modified = modified }

    func write(_ bytes: [UInt8], at position: Int) {
        if bytes.isEmpty { return }
        Self.apply(.write(position: position, bytes: bytes), to: &current)
        changes.append(.write(position: position, bytes: bytes))
    }

    func resize(_ size: Int) {
        if size == current.count { return }
        Self.apply(.resize(size), to: &current)
        changes.append(.resize(size))
    }

    func sync() {
        for change in changes { Self.apply(change, to: &durable) }
        changes.removeAll(keepingCapacity: true)
    }

    /// The sync fails: some of the changes have got through, and the system believes that there are none left.
    func failSync(_ random: inout SimulationRandom) {
        durable = survivor(&random)
        changes.removeAll()
    }

    /// The power fails.
    func crash(_ random: inout SimulationRandom) {
        current = survivor(&random)
        durable = current
        changes.removeAll()
    }

    /// Flips a bit at rest; false where there is none.
    func flip(_ random: inout SimulationRandom) -> (position: Int, bit: Int)? {
        guard !current.isEmpty else { return nil }
        let position = random.below(current.count)
        let bit = random.below(8)
        current[position] ^= 1 << UInt8(bit)
        durable = current
        changes.removeAll()
        return (position, bit)
    }

    private static func apply(_ change: Change, to bytes: inout [UInt8]) {
        switch change {
        case .write(let position, let new):
            let end = position + new.count
            if bytes.count < end { bytes.append(contentsOf: repeatElement(0, count: end - bytes.count)) }
            bytes.withUnsafeMutableBytes { target in
                new.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(rebasing: target[position..<end]).copyMemory(from: $0)
                }
            }
        case .resize(let size):
            if size < bytes.count {
                bytes.removeLast(bytes.count - size)
            } else {
                bytes.append(contentsOf: repeatElement(0, count: size - bytes.count))
            }
        }
    }

    /// A content that a power failure may leave: nothing of the changes, all, a prefix, or for each sector its content
    /// at some moment, and the size at some moment.
    private func survivor(_ random: inout SimulationRandom) -> [UInt8] {
        if changes.isEmpty { return durable }
        switch random.below(8) {
        case 0: return durable
        case 1: return current
        case 2, 3:
            var bytes = durable
            for change in changes.prefix(random.below(changes.count + 1)) { Self.apply(change, to: &bytes) }
            return bytes
        default: return scattered(&random)
        }
    }

    private func scattered(_ random: inout SimulationRandom) -> [UInt8] {
        let count = changes.count
        // How eagerly the system has written back decides how much of the changes is there.
        let eagerness = random.below(3)
        func moment(_ random: inout SimulationRandom) -> Int {
            switch eagerness {
            case 0: random.below(count + 1)
            case 1: random.once(in: 3) ? random.below(count + 1) : count
            default: random.once(in: 3) ? random.below(count + 1) : 0
            }
        }
        var sizes = [durable.count]
        var largest = durable.count
        for change in changes {
            switch change {
            case .write(let position, let bytes): sizes.append(max(sizes[sizes.count - 1], position + bytes.count))
            case .resize(let size): sizes.append(size)
            }
            largest = max(largest, sizes[sizes.count - 1])
        }
        let sectors = (largest + Self.sector - 1) / Self.sector
        let until = (0..<sectors).map { _ in moment(&random) }
        var bytes = durable
        bytes.append(contentsOf: repeatElement(0, count: largest - durable.count))
        var size = durable.count
        for (index, change) in changes.enumerated() {
            switch change {
            case .write(let position, let new):
                copy(new, to: position, of: &bytes) { index < until[$0] }
                size = max(size, position + new.count)
            case .resize(let newSize):
                if newSize < size {
                    let zeros = [UInt8](repeating: 0, count: size - newSize)
                    copy(zeros, to: newSize, of: &bytes) { index < until[$0] }
                }
                size = newSize
            }
        }
        let final = sizes[random.once(in: 2) ? count : random.below(count + 1)]
        bytes.removeLast(bytes.count - final)
        return bytes
    }

    /// Copies those parts of a write that fall in sectors which `isKept` names.
    private func copy(_ new: [UInt8], to position: Int, of bytes: inout [UInt8], _ isKept: (Int) -> Bool) {
        var at = position
        let end = position + new.count
        while at < end {
            let sector = at / Self.sector
            let next = min((sector + 1) * Self.sector, end)
            if isKept(sector) { bytes.replaceSubrange(at..<next, with: new[(at - position)..<(next - position)]) }
            at = next
        }
    }
}

/// A folder: the entries on stable storage, and the changes since.
final class Directory {
    enum Change {
        case link(String, Node)
        case unlink(String)
        case rename(String, String, Node)
    }
    private(set) var entries: [String: Node] = [:]
    private var durable: [String: Node] = [:]
    private var changes: [Change] = []

    func change(_ change: Change) {
        Self.apply(change, to: &entries)
        changes.append(change)
    }

    func sync() {
        durable = entries
        changes.removeAll(keepingCapacity: true)
    }

    /// The power fails: a prefix of the changes is kept, as by a file system with a journal, or any of them.
    func crash(_ random: inout SimulationRandom) {
        if !changes.isEmpty {
            var kept = durable
            switch random.below(5) {
            case 0: break
            case 1: kept = entries
            case 2, 3:
                for change in changes.prefix(random.below(changes.count + 1)) { Self.apply(change, to: &kept) }
            default:
                let odds = random.number(in: 2...4)
                for change in changes where !random.once(in: odds) { Self.apply(change, to: &kept) }
            }
            entries = kept
            durable = kept
            changes.removeAll()
        }
        for name in entries.keys.sorted() {
            switch entries[name] {
            case .file(let content)?: content.crash(&random)
            case .directory(let directory)?: directory.crash(&random)
            case nil: break
            }
        }
    }

    func collect(_ path: String, _ files: inout [(String, FileContent)]) {
        for name in entries.keys.sorted() {
            switch entries[name] {
            case .file(let content)?: files.append(("\(path)/\(name)", content))
            case .directory(let directory)?: directory.collect("\(path)/\(name)", &files)
            case nil: break
            }
        }
    }

    private static func apply(_ change: Change, to entries: inout [String: Node]) {
        switch change {
        case .link(let name, let node): entries[name] = node
        case .unlink(let name): entries[name] = nil
        case .rename(let name, let newName, let node):
            // Where the file's creation is lost, so is its new name: another one that has the old name is not meant.
            guard let there = entries[name], there.isSame(as: node) else { return }
            entries[name] = nil
            entries[newName] = node
        }
    }
}
