// SPDX-License-Identifier: Apache-2.0

import MDCLog

/// `mdc-broker check`.
struct CheckCommand {
    static let description = CommandDescription(
        name: "check",
        abstract: "Verifies every byte of a data folder whose node is stopped; changes nothing.",
        discussion: "Exits with 0 where nothing is wrong, else with 1 and a list of what is.",
        options: [
            OptionDescription(
                name: "data",
                value: "folder",
                help: "The data folder, or the folder of one partition (default: ./mdc-data).",
                repeats: true
            ),
            OptionDescription(name: "records", help: "Decompress and decode every record too."),
        ]
    )

    private let options: Options

    init(_ options: Options) { self.options = options }

    /// Returns the exit status.
    func run() -> Int32 {
        let folders = options.all("data").flatMap { $0.split(separator: ",").map(String.init) }
        var status: Int32 = 0
        for folder in folders.isEmpty ? ["./mdc-data"] : folders {
            if folders.count > 1 { print("\(folder):") }
            var checker = LogChecker(directory: folder)
            checker.decodesRecords = options.has("records")
            do throws(LogError) {
                let report = try checker.run()
                print(report)
                if !report.isSound { status = 1 }
            } catch {
                Console.error("mdc-broker: \(error.message)")
                status = 1
            }
        }
        return status
    }
}

/// `mdc-broker dump-log`.
struct DumpLogCommand {
    static let description = CommandDescription(
        name: "dump-log",
        abstract: "Prints the files of a partition: batches, records, indexes, snapshots, checkpoints.",
        argument: ("path", "A file, or a partition's folder."),
        options: [
            OptionDescription(name: "json", help: "One JSON object a line."),
            OptionDescription(name: "batches-only", help: "Print batches alone, not their records."),
        ]
    )

    private let options: Options

    init(_ options: Options) { self.options = options }

    /// Returns the exit status.
    func run() -> Int32 {
        var dumper = LogDumper(path: options.argument ?? "")
        dumper.format = options.has("json") ? .json : .text
        dumper.printsRecords = !options.has("batches-only")
        do throws(LogError) {
            try dumper.run { print($0) }
            return 0
        } catch {
            Console.error("mdc-broker: \(error.message)")
            return 1
        }
    }
}
