// SPDX-License-Identifier: Apache-2.0

import Glibc
import MDCLog

/// `mdc-fuzz TARGET [libFuzzer's options and corpus folders]`, or `mdc-fuzz seeds TARGET FOLDER` to write the inputs to begin
/// with. Only built with `MDC_FUZZ=1` and `-sanitize=fuzzer`.
///
/// To merge corpora libFuzzer starts this command again, with its own arguments alone: those processes find the target in
/// the environment.
@main struct FuzzCommand {
    nonisolated(unsafe) private static var target = FuzzTarget.batch
    private static let variable = "MDC_FUZZ_TARGET"

    static func main() {
        let arguments = CommandLine.arguments
        if arguments.count == 4, arguments[1] == "seeds" {
            writeSeeds(find(arguments[2]), to: arguments[3])
            return
        }
        let own: [String]
        if arguments.dropFirst().first?.hasPrefix("-") == true, let inherited = getenv(variable) {
            target = find(String(cString: inherited))
            own = arguments
        } else {
            target = find(arguments.count > 1 ? arguments[1] : "")
            setenv(variable, target.name, 1)
            own = [arguments[0]] + arguments.dropFirst(2)
        }
        // libFuzzer sees its own arguments only.
        var pointers: [UnsafeMutablePointer<CChar>?] = own.map { strdup($0) }
        var count = Int32(pointers.count)
        pointers.append(nil)
        let status = pointers.withUnsafeMutableBufferPointer { buffer in
            var base = buffer.baseAddress
            return runDriver(&count, &base) { bytes, count in
                FuzzCommand.target.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
                return 0
            }
        }
        exit(status)
    }

    private static func find(_ name: String) -> FuzzTarget {
        if let target = FuzzTarget.all.first(where: { $0.name == name }) { return target }
        let names = FuzzTarget.all.map(\.name).joined(separator: ", ")
        print("there is no target \"\(name)\"; name one of \(names)")
        exit(2)
    }

    private static func writeSeeds(_ target: FuzzTarget, to folder: String) {
        do {
            for seed in try target.seeds() {
                guard let file = fopen("\(folder)/\(seed.name)", "w") else { fatalError("cannot write to \(folder)") }
                fwrite(seed.bytes, 1, seed.bytes.count, file)
                fclose(file)
            }
        } catch {
            fatalError("the seeds cannot be made: \(error)")
        }
    }
}

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<Int32>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
) -> Int32
