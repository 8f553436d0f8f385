// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel

/// The identities of a node's data folders, of which the first holds the metadata and knows the ids of the others.
struct DataFolders {
    private struct Other {
        let path: String
        /// Nil where the folder is not formatted, or cannot be read.
        var folder: DataFolder?
        let problem: BrokerError?
    }

    private let path: String
    private let first: DataFolder?
    private let others: [Other]
    private let nodeID: Int32
    private let fileSystem: any FileSystem

    /// Reads all of them, before anything in them is touched. Makes those that are not there.
    /// - Throws: `.dataFolder` where one belongs to another node or cluster, or the first cannot be used. Another one may be
    ///   unreadable.
    init(reading paths: [String], nodeID: Int32, fileSystem: any FileSystem) throws(BrokerError) {
        path = paths[0]
        self.nodeID = nodeID
        self.fileSystem = fileSystem
        first = try DataFolder.read(path, nodeID: nodeID, fileSystem: fileSystem)
        var others: [Other] = []
        for path in paths.dropFirst() {
            do throws(BrokerError) {
                let folder = try DataFolder.read(path, nodeID: nodeID, fileSystem: fileSystem)
                let cluster = first?.clusterID ?? ""
                if let folder, !folder.clusterID.isEmpty, folder.clusterID != cluster {
                    throw BrokerError(
                        .dataFolder,
                        "the data folder \(path) is of cluster \(folder.clusterID), but \(paths[0]) "
                            + (cluster.isEmpty ? "is new" : "of \(cluster)")
                            + "; choose other folders with --data"
                    )
                }
                others.append(Other(path: path, folder: folder, problem: nil))
            } catch {
                guard error.cause != nil else { throw error }
                others.append(Other(path: path, folder: nil, problem: error))
            }
        }
        self.others = others
    }

    /// Gives new folders their ids, before anything is promised in their name.
    /// - Parameters:
    ///   - environment: draws the ids.
    ///   - isFailed: whether the log engine goes on without the folder.
    /// - Throws: `.dataFolder` where one of those that were there is missing: with an empty one in its place, what it holds
    ///   would begin anew.
    func format(
        environment: NodeEnvironment = .system,
        isFailed: (String) -> Bool
    ) throws(BrokerError) -> DataIdentity {
        var known = first ?? DataFolder(clusterID: "", nodeID: nodeID, directoryID: .zero)
        for other in others { if let problem = other.problem, !isFailed(other.path) { throw problem } }
        let missing = Set(known.otherIDs).subtracting(others.compactMap { $0.folder?.directoryID })
        let failed = others.filter { isFailed($0.path) }
        let new = others.filter { !isFailed($0.path) && ($0.folder?.directoryID ?? .zero) == .zero }
        if let id = missing.first, missing.count > failed.count || !new.isEmpty {
            throw BrokerError(
                .dataFolder,
                "a data folder is missing: \(path)/\(DataFolder.fileName) knows one with directory.id=\(id)"
                    + (new.first.map { ", but \($0.path) is empty" } ?? "")
                    + ". Mount it, and name it with --data; if what it held is lost, take its id from "
                    + "\(DataFolder.otherIDsKey) there, and its partitions begin anew"
            )
        }
        var random = environment.generator
        var members: [(folder: DataFolder, path: String)] = []
        for other in others where !isFailed(other.path) {
            var folder = other.folder ?? DataFolder(clusterID: known.clusterID, nodeID: nodeID, directoryID: .zero)
            if folder.directoryID == .zero {
                folder.directoryID = KafkaUUID.random(using: &random)
                try folder.write(other.path, fileSystem: fileSystem)
            }
            if !known.otherIDs.contains(folder.directoryID) { known.otherIDs.append(folder.directoryID) }
            members.append((folder, other.path))
        }
        if known.directoryID == .zero { known.directoryID = KafkaUUID.random(using: &random) }
        if first?.directoryID != known.directoryID || first?.otherIDs != known.otherIDs {
            try known.write(path, fileSystem: fileSystem)
        }
        return DataIdentity([(known, path)] + members, fileSystem: fileSystem)
    }
}
