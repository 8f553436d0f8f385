// SPDX-License-Identifier: Apache-2.0

public import TOMLKit

/// `[store]` and `[cache]` of a configuration file: servers in place of the file and the memory that are the presets.
public struct StoreSettings: Sendable {
    /// The message store; nil: a SQLite file in the data folder.
    public var location: StoreLocation?
    /// The index of provider ids that response workers share; nil: each has its own, in memory.
    public var sharedIndex: SharedIndexSettings?

    /// The presets.
    public init() {}

    /// Reads the tables of a whole file. - Throws: ``PipelineError`` (`configuration`) that names the key and the fix.
    public init(file: TOMLTable, environment: [String: String]) throws(PipelineError) {
        if let table = file["store"]?.table {
            var keys = SettingsTable(table, place: "store", environment: environment)
            let url = try keys.text("url")
            guard url.hasPrefix("postgresql://") || url.hasPrefix("postgres://") else {
                throw PipelineError(
                    .configuration,
                    "store.url: write \"postgresql://user@host:port/database\", or leave [store] out for a SQLite file"
                )
            }
            location = .postgreSQL(url: url, password: try keys.optionalSecret("password"))
            try keys.finish()
        }
        if let table = file["cache"]?.table {
            var keys = SettingsTable(table, place: "cache", environment: environment)
            sharedIndex = try SharedIndexSettings(
                url: try keys.text("url"),
                password: try keys.optionalSecret("password"),
                retention: try keys.duration("retention", .seconds(7 * 86_400))
            )
            try keys.finish()
        }
    }
}

/// Where response workers share what provider ids mean: `redis://host:port/database`.
public struct SharedIndexSettings: Sendable {
    /// The server.
    public var host: String
    /// Its port.
    public var port: Int
    /// The number of the database.
    public var database: Int
    /// The password, if it wants one.
    public var password: Secret?
    /// How long an id is kept: longer than reports come in.
    public var retention: Duration

    /// Reads an address. - Throws: ``PipelineError`` (`configuration`) that names the fix.
    public init(url: String, password: Secret? = nil, retention: Duration = .seconds(7 * 86_400)) throws(PipelineError)
    {
        let wrong = PipelineError(.configuration, "cache.url: write \"redis://host:port/0\"; it is '\(url)'")
        guard url.hasPrefix("redis://"), !url.contains("@") else { throw wrong }
        let parts = url.dropFirst("redis://".count).split(separator: "/", omittingEmptySubsequences: false)
        guard let address = parts.first, !address.isEmpty, parts.count <= 2 else { throw wrong }
        let pieces = address.split(separator: ":", omittingEmptySubsequences: false)
        guard pieces.count <= 2, let port = pieces.count == 2 ? Int(pieces[1]) : 6_379, (1...65_535).contains(port),
            let database = parts.count == 2 && !parts[1].isEmpty ? Int(parts[1]) : 0, database >= 0
        else { throw wrong }
        host = String(pieces[0])
        self.port = port
        self.database = database
        self.password = password
        self.retention = retention
    }
}
