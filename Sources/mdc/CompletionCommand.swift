// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// `mdc completion`
struct CompletionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completion",
        abstract: "Prints a script that completes commands and options in a shell.",
        discussion: """
            bash: mdc completion bash > /etc/bash_completion.d/mdc
            zsh:  mdc completion zsh > "${fpath[1]}/_mdc"
            fish: mdc completion fish > ~/.config/fish/completions/mdc.fish
            """
    )

    /// The shells that there are scripts for.
    enum Shell: String, ExpressibleByArgument, CaseIterable {
        case bash
        case zsh
        case fish
    }

    @Argument(help: "The shell: bash, zsh or fish.")
    var shell: Shell

    func run() throws {
        let kind: CompletionShell =
            switch shell {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        print(MDCCommand.completionScript(for: kind))
    }
}
