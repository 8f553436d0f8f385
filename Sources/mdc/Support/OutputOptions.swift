// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// The form of a listing.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case table
    case json
}

/// `-o table|json`. Shared by all commands that list something.
struct OutputOptions: ParsableArguments {
    @Option(name: .shortAndLong, help: "The form of the output.")
    var output = OutputFormat.table

    var isJSON: Bool { output == .json }

    /// Prints `json` or what `table` makes of it, as asked.
    func print(_ json: some Encodable, table: () -> String) throws {
        StandardOutput.write(isJSON ? try JSONOutput.pretty(json) : table())
    }
}

/// `name=value`, as in `--config retention.ms=1000`.
struct KeyValueArgument: ExpressibleByArgument {
    let key: String
    let value: String

    init?(argument: String) {
        guard let equals = argument.firstIndex(of: "="), equals != argument.startIndex else { return nil }
        key = String(argument[..<equals])
        value = String(argument[argument.index(after: equals)...])
    }
}
