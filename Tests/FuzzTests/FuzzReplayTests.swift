// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCProtocol
import Testing

/// The committed corpus and a fixed number of seeded mutations through the same entrances that libFuzzer uses in long runs
/// (`make fuzz`). An input that breaks something ends the test process; it is left in the file that the last line names.
@Suite("Fuzzing", .serialized) struct FuzzReplayTests {
    private static let fixtures =
        "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Fixtures/fuzz"

    private func corpus(_ target: FuzzTarget) throws -> [FuzzSeed] {
        let fileSystem = POSIXFileSystem()
        let folder = "\(Self.fixtures)/\(target.name)"
        guard try fileSystem.attributes(folder) != nil else { return [] }
        return try fileSystem.list(folder).map(\.name).sorted().map { name in
            let file = try fileSystem.open("\(folder)/\(name)", [])
            var bytes = [UInt8](repeating: 0, count: try file.size())
            let count = try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
            #expect(count == bytes.count)
            return FuzzSeed(name: name, bytes: bytes)
        }
    }

    @Test("Inputs that once broke something, and what long runs found worth keeping", arguments: FuzzTarget.all)
    func committed(_ target: FuzzTarget) throws {
        let runner = FuzzRunner(target)
        for seed in try corpus(target) { runner.run(seed.bytes) }
        runner.finish()
    }

    @Test("Seeds and their mutations", arguments: zip(FuzzTarget.all, [3000, 4000, 150, 4000, 250, 200]))
    func mutated(_ target: FuzzTarget, count: Int) throws {
        let runner = FuzzRunner(target)
        let seeds = try target.seeds() + corpus(target)
        #expect(!seeds.isEmpty)
        // Long lists of examples are covered by their own tests; here they are what mutations begin with.
        for seed in seeds where target.name != FuzzTarget.request.name { runner.run(seed.bytes) }
        var random = FuzzMutator(seed: 20_260_101)
        for _ in 0..<count {
            let seed = seeds.randomElement(using: &random)!
            runner.run(random.mutate(seed.bytes, with: seeds.randomElement(using: &random)!.bytes))
        }
        runner.finish()
    }

    @Test("The request target has a seed for each API that a node announces, and gets an answer to it")
    func everyAPI() throws {
        var chosen: [UInt8: [FuzzSeed]] = [:]
        for seed in try FuzzTarget.request.seeds() {
            // Those of the golden vectors are one request each; a script begins with a topic.
            let key = seed.name.hasPrefix("script") ? .max : seed.bytes[0]
            let versions = APIVersions.entry(for: APIKey(rawValue: Int16(key)))?.advertised
            if key == .max || versions?.contains(Int16(seed.bytes[1])) == true { chosen[key, default: []].append(seed) }
        }
        let runner = FuzzRunner(.request)
        // A busy machine may take longer for an answer than the target waits.
        for round in 0..<100 {
            let (announced, answered) = FuzzTarget.reachedAPIs
            if !announced.isEmpty && answered.isSuperset(of: announced) { break }
            for (key, seeds) in chosen where round == 0 || !answered.contains(Int16(key)) {
                for seed in key == .max ? seeds[...] : seeds.suffix(2) { runner.run(seed.bytes) }
            }
        }
        runner.finish()
        let (announced, answered) = FuzzTarget.reachedAPIs
        #expect(announced.count >= 58)
        #expect(announced.subtracting(answered).isEmpty, "never answered: \(announced.subtracting(answered).sorted())")
    }

    @Test("The mutator changes its inputs, the same for the same seed")
    func mutator() {
        let input = [UInt8](0..<100)
        var (first, second) = (FuzzMutator(seed: 1), FuzzMutator(seed: 1))
        var changed = 0
        for _ in 0..<100 {
            let mutation = first.mutate(input, with: [200, 201])
            #expect(mutation == second.mutate(input, with: [200, 201]))
            if mutation != input { changed += 1 }
        }
        #expect(changed > 80)
    }
}

/// Runs inputs and leaves the last one in a file, for when the process does not survive it.
private final class FuzzRunner {
    private let target: FuzzTarget
    private let file: (any StorageFile)?
    private let path: String

    init(_ target: FuzzTarget) {
        self.target = target
        path = "/tmp/mdc-fuzz-last-\(target.name)-\(UInt64.random(in: 0...(.max)))"
        file = try? POSIXFileSystem().open(path, [.write, .create])
    }

    func run(_ bytes: [UInt8]) {
        try? file?.truncate(to: 0)
        bytes.withUnsafeBytes { buffer in
            let piece = WritePiece(buffer)
            _ = withUnsafePointer(to: piece) { try? file?.write(UnsafeBufferPointer(start: $0, count: 1), at: 0) }
        }
        target.run(bytes)
    }

    func finish() { try? POSIXFileSystem().unlink(path) }
}
