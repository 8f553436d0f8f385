// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// The identity of a data folder: `meta.properties`, in Kafka's format.
struct DataFolder {
    var clusterID: String
    var nodeID: Int32
    var directoryID: KafkaUUID
    /// Ids of the node's other folders; in the first one alone.
    var otherIDs: [KafkaUUID] = []

    static let fileName = "meta.properties"
    /// A line that Kafka passes over.
    static let otherIDsKey = "mdc.other.directories"

    /// Reads the identity of `path`; nil where the folder is not formatted. Makes the folder if need be.
    /// - Throws: `.dataFolder` where it belongs to another node or cannot be used.
    static func read(_ path: String, nodeID: Int32, fileSystem: any FileSystem) throws(BrokerError) -> DataFolder? {
        do {
            if try fileSystem.attributes(path) == nil {
                try fileSystem.makeDirectory(path)
                // The folder's own name must survive a power failure too: without it the node would be another one.
                try fileSystem.syncDirectory(parent(of: path))
            }
            guard let bytes = try content("\(path)/\(fileName)", fileSystem) else { return nil }
            let folder = try parse(String(decoding: bytes, as: UTF8.self), path)
            if folder.nodeID != nodeID {
                throw BrokerError(
                    .dataFolder,
                    "the data folder \(path) belongs to node \(folder.nodeID), but this is node \(nodeID); "
                        + "start with --node-id \(folder.nodeID), or choose another folder with --data"
                )
            }
            return folder
        } catch let error as BrokerError {
            throw error
        } catch {
            throw BrokerError(.dataFolder, "the data folder \(path) cannot be used", cause: error)
        }
    }

    private static func parent(of path: String) -> String {
        var end = path[...]
        while end.count > 1, end.last == "/" { end.removeLast() }
        guard let slash = end.lastIndex(of: "/") else { return "." }
        return slash == end.startIndex ? "/" : String(end[..<slash])
    }

    private static func content(_ path: String, _ fileSystem: any FileSystem) throws -> [UInt8]? {
        guard try fileSystem.attributes(path) != nil else { return nil }
        let file = try fileSystem.open(path, [])
        var bytes = [UInt8](repeating: 0, count: min(try file.size(), 1 << 16))
        let count = try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
        return Array(bytes[..<count])
    }

    private static func parse(_ text: String, _ path: String) throws(BrokerError) -> DataFolder {
        // The cluster's id is empty until the node has first heard of it.
        var values: [Substring: Substring] = [:]
        for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
            guard let equals = line.firstIndex(of: "=") else { continue }
            values[line[..<equals]] = line[line.index(after: equals)...]
        }
        guard values["version"] == "1", let cluster = values["cluster.id"],
            let node = values["node.id"].flatMap({ Int32($0) })
        else {
            throw BrokerError(
                .dataFolder,
                "\(path)/\(fileName) is not of version 1 with cluster.id and node.id; restore it from a backup"
            )
        }
        let directory = values["directory.id"].flatMap { KafkaUUID(String($0)) } ?? .zero
        let others = values[Substring(otherIDsKey)].map {
            $0.split(separator: ",").compactMap { KafkaUUID(String($0)) }
        }
        return DataFolder(
            clusterID: String(cluster),
            nodeID: node,
            directoryID: directory,
            otherIDs: others ?? []
        )
    }

    /// Writes the identity, durably.
    func write(_ path: String, fileSystem: any FileSystem) throws(BrokerError) {
        var text = """
            version=1
            cluster.id=\(clusterID)
            node.id=\(nodeID)
            directory.id=\(directoryID)

            """
        if !otherIDs.isEmpty {
            text += "\(Self.otherIDsKey)=\(otherIDs.map(\.description).joined(separator: ","))\n"
        }
        do {
            // Either the old or the new content is there after any crash.
            let temporary = "\(path)/\(Self.fileName).tmp"
            let file = try fileSystem.open(temporary, [.write, .create])
            try file.truncate(to: 0)
            let bytes = Array(text.utf8)
            let count = try bytes.withUnsafeBytes { bytes in
                try withUnsafePointer(to: WritePiece(bytes)) { piece in
                    try file.write(UnsafeBufferPointer(start: piece, count: 1), at: 0)
                }
            }
            precondition(count == bytes.count, "a short file is written as a whole")
            try file.sync()
            try fileSystem.rename(temporary, to: "\(path)/\(Self.fileName)")
            try fileSystem.syncDirectory(path)
        } catch {
            throw BrokerError(.dataFolder, "the data folder \(path) cannot be formatted", cause: error)
        }
    }
}

/// The identity of the folders in use: the first one's directory id from the start, the cluster as soon as that is known.
final class DataIdentity: Sendable {
    private let state: Mutex<[(folder: DataFolder, path: String)]>
    private let fileSystem: any FileSystem
    /// Of the first folder.
    let directoryID: KafkaUUID

    init(_ folders: [(folder: DataFolder, path: String)], fileSystem: any FileSystem) {
        directoryID = folders[0].folder.directoryID
        state = Mutex(folders)
        self.fileSystem = fileSystem
    }

    var clusterID: String { state.withLock { $0[0].folder.clusterID } }

    /// Notes the cluster in every folder. Throws `.dataFolder` where the first belongs to another, or cannot be written.
    func settle(_ clusterID: String) throws(BrokerError) {
        try state.withLock { folders throws(BrokerError) in
            for (index, entry) in folders.enumerated() where entry.folder.clusterID != clusterID {
                guard entry.folder.clusterID.isEmpty else {
                    throw BrokerError(
                        .dataFolder,
                        "the data folder \(entry.path) says cluster \(entry.folder.clusterID), its metadata "
                            + "\(clusterID); parts of two folders were mixed"
                    )
                }
                var settled = entry.folder
                settled.clusterID = clusterID
                do throws(BrokerError) {
                    try settled.write(entry.path, fileSystem: fileSystem)
                } catch {
                    // Another folder than the first may have failed by now; the next start tries again.
                    guard index > 0 else { throw error }
                    continue
                }
                folders[index].folder = settled
            }
        }
    }
}
