// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCLog

/// `mdc-broker check`.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Verifies every byte of a data folder whose node is stopped; changes nothing.",
        discussion: "Exits with 0 where nothing is wrong, else with 1 and a list of what is."
    )

    @Option(help: "The data folder, or the folder of one partition.")
    var data = "./mdc-data"
    @Flag(help: "Decompress and decode every record too.")
    var records = false

    func run() throws {
        var checker = LogChecker(directory: data)
        checker.decodesRecords = records
        let report: CheckReport
        do throws(LogError) {
            report = try checker.run()
        } catch {
            Console.error("mdc-broker: \(error.message)")
            throw ExitCode(1)
        }
        print(report)
        if !report.isSound { throw ExitCode(1) }
    }
}

/// `mdc-broker dump-log`.
struct DumpLogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump-log",
        abstract: "Prints the files of a partition: batches, records, indexes, snapshots, checkpoints."
    )

    @Argument(help: "A file, or a partition's folder.")
    var path: String
    @Flag(help: "One JSON object a line.")
    var json = false
    @Flag(help: "Print batches alone, not their records.")
    var batchesOnly = false

    func run() throws {
        var dumper = LogDumper(path: path)
        dumper.format = json ? .json : .text
        dumper.printsRecords = !batchesOnly
        do throws(LogError) {
            try dumper.run { print($0) }
        } catch {
            Console.error("mdc-broker: \(error.message)")
            throw ExitCode(1)
        }
    }
}
