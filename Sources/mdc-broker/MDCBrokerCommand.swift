// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// The node.
@main
enum MDCBrokerCommand {
    private static let abstract = "A durable broker that speaks the Kafka protocol."
    private static let commands = [RunCommand.description, CheckCommand.description, DumpLogCommand.description]
    /// EX_USAGE of sysexits.h.
    private static let usageStatus: Int32 = 64

    static func main() async {
        var words = CommandLine.arguments.dropFirst()
        guard var name = words.popFirst() else {
            Console.line(overview)
            exit(0)
        }
        var wantsHelp = false
        if name == "help" || name == "-h" || name == "--help" {
            guard let asked = words.popFirst() else {
                Console.line(overview)
                exit(0)
            }
            name = asked
            wantsHelp = true
        }
        guard let command = commands.first(where: { $0.name == name }) else {
            fail(
                "unknown command '\(name)'; there are \(commands.map(\.name).joined(separator: ", "))",
                "mdc-broker --help"
            )
        }
        do throws(UsageError) {
            if wantsHelp { return Console.line(command.help) }
            let options = try Options(words, for: command)
            if options.wantsHelp { return Console.line(command.help) }
            exit(try await run(name, options))
        } catch {
            fail(error.message, "mdc-broker \(name) --help")
        }
    }

    private static func run(_ name: String, _ options: Options) async throws(UsageError) -> Int32 {
        switch name {
        case "run": try await RunCommand(options).run()
        case "check": CheckCommand(options).run()
        default: DumpLogCommand(options).run()
        }
    }

    private static func fail(_ message: String, _ help: String) -> Never {
        Console.error("mdc-broker: \(message)\nsee '\(help)'")
        exit(usageStatus)
    }

    private static var overview: String {
        var text = "OVERVIEW: \(abstract)\n\nUSAGE: mdc-broker <command> [options]\n\nCOMMANDS:\n"
        for command in commands {
            text +=
                "  \(command.name)" + String(repeating: " ", count: 24 - command.name.count) + command.abstract + "\n"
        }
        return text + "\n'mdc-broker <command> --help' lists the options of a command."
    }
}
