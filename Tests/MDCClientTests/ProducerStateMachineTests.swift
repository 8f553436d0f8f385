// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization
import Testing

@testable import MDCClient

/// A producer's machine with a clock, and a script's words for what happens to it.
private struct Script {
    var machine: ProducerStateMachine
    var now = NIODeadline.uptimeNanoseconds(1_000_000_000)
    let results = Results()

    final class Results: Sendable {
        private let state = Mutex<[String: String]>([:])
        func note(_ value: String, _ result: Result<RecordMetadata, ClientError>) {
            state.withLock {
                switch result {
                case .success(let metadata): $0[value] = "\(metadata.partition)@\(metadata.offset)"
                case .failure(let error): $0[value] = error.code.description
                }
            }
        }
        subscript(_ value: String) -> String? { state.withLock { $0[value] } }
    }

    init(
        leaders: [Int32] = [1],
        idempotent: Bool = true,
        _ change: (inout ProducerStateMachine.Configuration) -> Void = { _ in }
    ) {
        var configuration = ProducerStateMachine.Configuration()
        configuration.isIdempotent = idempotent
        change(&configuration)
        machine = ProducerStateMachine(configuration, generator: SeededGenerator(seed: 42))
        machine.updateTopic("t", leaders: leaders)
        if idempotent { machine.producerIDArrived((id: 7, epoch: 0)) }
    }

    @discardableResult
    mutating func append(_ value: String, to partition: Int32? = 0, key: String? = nil)
        -> ProducerStateMachine.AppendResult
    {
        let results = self.results
        let time = now
        return machine.append(
            ProducerRecord(
                topic: "t",
                partition: partition,
                key: key.map { ByteBuffer(string: $0) },
                value: ByteBuffer(string: value)
            ),
            timestamp: 5,
            now: time
        ) { results.note(value, $0) }
    }

    mutating func later(_ amount: TimeAmount) { now = now + amount }

    mutating func drain() -> ProducerStateMachine.DrainResult { machine.drain(now: now) }

    /// Waits out lingering or a pause, and drains.
    mutating func drainLater(_ amount: TimeAmount = .seconds(2)) -> ProducerStateMachine.DrainResult {
        later(amount)
        return drain()
    }

    /// Ends one request, each batch with the same outcome; completes what is done.
    @discardableResult
    mutating func end(
        _ request: ProducerStateMachine.PlannedRequest,
        _ outcome: ProducerStateMachine.BatchOutcome
    ) throws -> [ProducerStateMachine.BatchAction] {
        var actions: [ProducerStateMachine.BatchAction] = []
        for batch in request.batches {
            let action = machine.batchEnded(batch, outcome, now: now)
            actions.append(action)
            switch action {
            case .succeed(let batch, let baseOffset, let time): batch.complete(.success((baseOffset, time)))
            case .fail(let batch, let error): batch.complete(.failure(error))
            case .split(let batch): machine.replace(batch, with: try batch.split(settings: .init()))
            case .repeat: break
            }
        }
        machine.requestEnded(node: request.node)
        return actions
    }

    static func values(_ batch: ProducerBatch) throws -> [String] {
        try RecordBatchReader(batch.encode()).records().map { String(buffer: $0.value ?? ByteBuffer()) }
    }

    static func header(_ batch: ProducerBatch) throws -> RecordBatchHeader {
        try RecordBatchReader(batch.encode()).header
    }
}

private func ok(_ offset: Int64) -> ProducerStateMachine.BatchOutcome {
    .acknowledged(baseOffset: offset, logAppendTime: -1)
}

private let lostConnection = ProducerStateMachine.BatchOutcome.noAnswer(ClientError(.connection, "gone"))

@Suite("What the producer decides")
struct ProducerStateMachineTests {
    @Test("records of a partition share a batch, which goes after lingering and tells every record its offset")
    func batches() throws {
        var script = Script()
        guard case .accepted(let first) = script.append("a"), case .accepted(let second) = script.append("b") else {
            Issue.record("not accepted")
            return
        }
        #expect(first && !second, "the loop is told once")
        let early = script.drain()
        #expect(early.requests.isEmpty)
        #expect(early.nextDrain == script.now + .milliseconds(5))
        script.later(.milliseconds(5))
        let plan = script.drain()
        #expect(plan.requests.count == 1)
        #expect(try Script.values(plan.requests[0].batches[0]) == ["a", "b"])
        try script.end(plan.requests[0], ok(100))
        #expect(script.results["a"] == "0@100")
        #expect(script.results["b"] == "0@101")
        #expect(script.machine.bufferedBytes == 0)
        #expect(script.drain().nextDrain == nil)
    }

    @Test("a full batch goes at once, and its size is bounded")
    func fullBatch() throws {
        var script = Script { $0.batchSize = 1000 }
        let value = String(repeating: "x", count: 300)
        for index in 0..<4 { script.append("\(index)\(value)") }
        let plan = script.drain()
        #expect(plan.requests.count == 1)
        let sent = plan.requests[0].batches[0]
        #expect(sent.recordCount == 2 || sent.recordCount == 3)
        #expect(try sent.encode().readableBytes <= 1000)
    }

    @Test("one request per broker holds one batch of each of its partitions; five may be in flight")
    func requests() throws {
        var script = Script(leaders: [1, 2, 1]) { $0.linger = .zero }
        for partition in 0..<3 { script.append("p\(partition)", to: Int32(partition)) }
        let plan = script.drain()
        #expect(plan.requests.count == 2)
        #expect(plan.requests.first { $0.node == 1 }?.batches.count == 2)
        #expect(plan.requests.first { $0.node == 2 }?.batches.count == 1)
        for index in 0..<9 {
            script.append("more \(index)", to: 0)
            _ = script.drain()
        }
        #expect(script.machine.inFlightByNode[1] == 5)
        #expect(script.machine.inFlightByNode[2] == 1)
    }

    @Test("sequence numbers run on, and a repetition carries the same bytes, in order")
    func repetition() throws {
        var script = Script { $0.linger = .zero }
        script.append("a1")
        script.append("a2")
        let first = script.drain().requests[0]
        script.append("b")
        let second = script.drain().requests[0]
        script.append("c")
        let third = script.drain().requests[0]
        #expect(try Script.header(first.batches[0]).baseSequence == 0)
        #expect(try Script.header(second.batches[0]).baseSequence == 2)
        #expect(try Script.header(third.batches[0]).baseSequence == 3)
        let bytes = try first.batches[0].encode()

        // The connection breaks under all three.
        try script.end(first, lostConnection)
        #expect(script.drainLater().requests.isEmpty, "nothing goes before all answers are known")
        try script.end(second, lostConnection)
        try script.end(third, lostConnection)
        let again = script.drainLater()
        #expect(try again.requests.map { try Script.values($0.batches[0]) } == [["a1", "a2"], ["b"], ["c"]])
        #expect(try again.requests[0].batches[0].encode() == bytes)
        for (index, request) in again.requests.enumerated() { try script.end(request, ok([10, 12, 13][index])) }
        #expect(script.results["c"] == "0@13")
    }

    @Test("batches behind a failed one are refused as out of order, and follow it again")
    func outOfOrderBehindFailure() throws {
        var script = Script { $0.linger = .zero }
        script.append("a")
        let first = script.drain().requests[0]
        script.append("b")
        let second = script.drain().requests[0]
        let action = try script.end(first, .error(.notLeaderOrFollower, nil))
        guard case .repeat(let refresh) = action[0] else {
            Issue.record("not repeated")
            return
        }
        #expect(refresh)
        try script.end(second, .error(.outOfOrderSequenceNumber, nil))
        script.append("c")
        let again = script.drainLater()
        #expect(try again.requests.map { try Script.values($0.batches[0]) } == [["a"], ["b"], ["c"]])
        #expect(try again.requests.map { try Script.header($0.batches[0]).baseSequence } == [0, 1, 2])
        #expect(try again.requests.map { try Script.header($0.batches[0]).producerID } == [7, 7, 7])
    }

    @Test("a batch that the broker had already counts as delivered")
    func duplicate() throws {
        var script = Script { $0.linger = .zero }
        script.append("a")
        let request = script.drain().requests[0]
        try script.end(request, lostConnection)
        let again = script.drainLater().requests[0]
        try script.end(again, .error(.duplicateSequenceNumber, nil))
        #expect(script.results["a"] == "0@-1")
    }

    @Test(
        "a broker that forgot the numbering gets a new producer id from 0 on",
        arguments: [
            ErrorCode.unknownProducerId, .outOfOrderSequenceNumber, .invalidProducerEpoch,
        ]
    )
    func forgottenNumbering(code: ErrorCode) throws {
        var script = Script(leaders: [1, 1]) { $0.linger = .zero }
        script.append("x", to: 1)
        script.append("a")
        try script.end(script.drain().requests[0], ok(0))
        script.append("b")
        let request = script.drain().requests[0]
        #expect(try Script.header(request.batches[0]).baseSequence == 1)
        script.append("c")
        let next = script.drain().requests[0]
        try script.end(request, .error(code, nil))
        try script.end(next, .error(.outOfOrderSequenceNumber, nil))
        let waiting = script.drainLater()
        #expect(waiting.needsProducerID)
        #expect(waiting.requests.isEmpty)
        let repeated = script.drain().needsProducerID
        #expect(!repeated, "asked for once")
        script.machine.producerIDArrived((id: 8, epoch: 0))
        let again = script.drain()
        #expect(try again.requests.map { try Script.values($0.batches[0]) } == [["b"], ["c"]])
        #expect(try again.requests.map { try Script.header($0.batches[0]).producerID } == [8, 8])
        #expect(try again.requests.map { try Script.header($0.batches[0]).baseSequence } == [0, 1])
        // The other partition goes on under its own id.
        script.append("y", to: 1)
        #expect(try Script.header(script.drain().requests[0].batches[0]).producerID == 7)
    }

    @Test("a refused batch fails alone; those behind it are numbered anew and delivered")
    func fatalInTheMiddle() throws {
        var script = Script { $0.linger = .zero }
        script.append("bad")
        let first = script.drain().requests[0]
        script.append("good")
        let second = script.drain().requests[0]
        try script.end(first, .error(.invalidRecord, "no key"))
        #expect(script.results["bad"] == "broker")
        try script.end(second, .error(.outOfOrderSequenceNumber, nil))
        #expect(script.drainLater().needsProducerID)
        script.machine.producerIDArrived((id: 9, epoch: 0))
        let again = script.drain().requests[0]
        #expect(try Script.header(again.batches[0]).baseSequence == 0)
        try script.end(again, ok(3))
        #expect(script.results["good"] == "0@3")
    }

    @Test("a refused last batch gives its sequence numbers back")
    func fatalAtTheEnd() throws {
        var script = Script { $0.linger = .zero }
        script.append("bad")
        try script.end(script.drain().requests[0], .error(.topicAuthorizationFailed, nil))
        script.append("next")
        let request = script.drain().requests[0]
        #expect(try Script.header(request.batches[0]).baseSequence == 0)
        #expect(try Script.header(request.batches[0]).producerID == 7)
    }

    @Test("a batch that is too large is cut in two with the same numbers; a single record fails")
    func tooLarge() throws {
        var script = Script()
        for value in ["a", "b", "c"] { script.append(value) }
        let request = script.drainLater().requests[0]
        try script.end(request, .error(.messageTooLarge, nil))
        let halves = script.drainLater().requests
        #expect(try halves.map { try Script.values($0.batches[0]) } == [["a"], ["b", "c"]])
        #expect(try halves.map { try Script.header($0.batches[0]).baseSequence } == [0, 1])
        try script.end(halves[0], .error(.messageTooLarge, nil))
        #expect(script.results["a"] == "recordTooLarge")
        try script.end(halves[1], .error(.outOfOrderSequenceNumber, nil))
        #expect(script.drainLater().needsProducerID)
        script.machine.producerIDArrived((id: 8, epoch: 0))
        try script.end(script.drain().requests[0], ok(0))
        #expect(script.results["c"] == "0@1")
        #expect(script.machine.bufferedBytes == 0)
    }

    @Test("records expire after the delivery timeout, sent or not")
    func expiry() throws {
        var script = Script { $0.deliveryTimeout = .seconds(10) }
        script.append("sent")
        let request = script.drainLater().requests[0]
        try script.end(request, lostConnection)
        script.later(.seconds(1))
        script.append("young")
        let plan = script.drainLater(.seconds(8))
        #expect(plan.expired.count == 1)
        plan.expired.forEach { $0.batch.complete(.failure($0.error)) }
        #expect(script.results["sent"] == "deliveryTimeout")
        // Whether it was written is not known: the next one must not carry on its numbers.
        #expect(plan.needsProducerID || script.drain().needsProducerID)
        script.machine.producerIDArrived((id: 8, epoch: 0))
        let next = script.drain().requests[0]
        #expect(try Script.header(next.batches[0]).producerID == 8)
    }

    @Test("records without a leader wait, ask for metadata, and expire in time")
    func noLeader() {
        var script = Script(leaders: [-1]) { $0.deliveryTimeout = .seconds(10) }
        script.append("a")
        let plan = script.drainLater(.seconds(1))
        #expect(plan.topicsWithoutLeader == ["t"])
        #expect(plan.nextDrain == NIODeadline.uptimeNanoseconds(11_000_000_000))
        #expect(script.drainLater(.seconds(9)).expired.count == 1)
        script.append("b")
        script.machine.updateTopic("t", leaders: [3])
        #expect(script.drainLater(.seconds(1)).requests.first?.node == 3)
    }

    @Test("the memory limit holds, and room comes back")
    func memory() throws {
        var script = Script {
            $0.bufferMemory = 2048
            $0.maxRequestSize = 2048
        }
        let value = String(repeating: "x", count: 900)
        var accepted = 0
        for _ in 0..<5 { if case .accepted = script.append(value) { accepted += 1 } }
        #expect(accepted == 2)
        guard case .full(let size) = script.append(value) else {
            Issue.record("not full")
            return
        }
        #expect(size > 900)
        try script.end(script.drainLater().requests[0], ok(0))
        guard case .accepted = script.append(value) else {
            Issue.record("still full")
            return
        }
    }

    @Test("what cannot be is refused at once")
    func refusals() {
        var script = Script { $0.maxRequestSize = 2000 }
        guard case .refused(let large) = script.append(String(repeating: "x", count: 3000)) else {
            Issue.record("accepted")
            return
        }
        #expect(large.code == .recordTooLarge)
        guard case .refused(let missing) = script.append("a", to: 4) else {
            Issue.record("accepted")
            return
        }
        #expect(missing.code == .unknownTopicOrPartition)
        script.machine.close()
        guard case .refused(let closed) = script.append("a") else {
            Issue.record("accepted")
            return
        }
        #expect(closed.code == .closed)
    }

    @Test("a flush sends without lingering and waits for what was there before, not for what came after")
    func flush() throws {
        var script = Script { $0.linger = .hours(1) }
        script.append("before")
        let generation = script.machine.startFlush()
        script.append("after")
        let plan = script.drain()
        #expect(try plan.requests.map { try Script.values($0.batches[0]) } == [["before"]])
        #expect(!script.machine.isFlushed(upTo: generation))
        try script.end(plan.requests[0], ok(0))
        #expect(script.machine.isFlushed(upTo: generation))
        #expect(script.drain().requests.isEmpty)
    }

    @Test("keys go where Kafka's producers put them; records without a key stick to a partition for a batch")
    func partitioning() throws {
        var script = Script(leaders: [1, 1, 1, 1]) { $0.batchSize = 1000 }
        script.append("k", to: nil, key: "customer-17")
        let keyed = script.drainLater().requests[0].batches[0]
        #expect(
            keyed.partition
                == Murmur2.partition(of: Array("customer-17".utf8).withUnsafeBytes { $0 }, partitionCount: 4).rawValue
        )

        var counts: [Int32: Int] = [:]
        var partitioner = StickyPartitioner()
        var generator = SeededGenerator(seed: 3)
        var changes = 0
        var last: Int32 = -1
        for _ in 0..<4000 {
            let partition = partitioner.next(
                size: 10,
                count: 4,
                stickyBytes: 100,
                isAvailable: { $0 != 2 },
                using: &generator
            )
            if partition != last { changes += 1 }
            last = partition
            counts[partition, default: 0] += 1
        }
        #expect(counts[2] == nil, "a partition without a leader is left out")
        #expect(counts.count == 3)
        #expect(changes >= 390 && changes <= 400)
    }

    @Test("whatever happens to requests, every record is delivered once and in order", arguments: 1...60)
    func chaos(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var script = Script(leaders: [1, 1]) {
            $0.linger = .zero
            $0.batchSize = 200
        }
        var broker = FakeLog()
        var flying: [ProducerStateMachine.PlannedRequest] = []
        var next = 0
        var rounds = 0
        while next < 300 || script.machine.bufferedBytes > 0 {
            rounds += 1
            try #require(rounds < 50_000, "the producer hangs")
            script.later(.milliseconds(Int64.random(in: 0...40, using: &generator)))
            if next < 300, Bool.random(using: &generator) {
                script.append("\(next)", to: Int32(next % 2))
                next += 1
            }
            let plan = script.drain()
            if plan.needsProducerID { script.machine.producerIDArrived((id: Int64(1000 + rounds), epoch: 0)) }
            flying += plan.requests
            guard !flying.isEmpty, Int.random(in: 0..<3, using: &generator) == 0 else { continue }
            if Int.random(in: 0..<8, using: &generator) == 0 {
                // The connection breaks: the broker has seen some of the requests, none is answered.
                let seen = Int.random(in: 0...flying.count, using: &generator)
                for request in flying.prefix(seen) { _ = try request.batches.map { try broker.append($0) } }
                for request in flying { try script.end(request, lostConnection) }
                flying = []
            } else if Int.random(in: 0..<8, using: &generator) == 0 {
                // The broker refuses for a moment.
                try script.end(flying.removeFirst(), .error(.notEnoughReplicas, nil))
            } else {
                let request = flying.removeFirst()
                for batch in request.batches {
                    let one = ProducerStateMachine.PlannedRequest(node: request.node, batches: [batch], size: 0)
                    script.machine.inFlightByNode[request.node, default: 0] += 1
                    try script.end(one, try broker.append(batch))
                }
                script.machine.requestEnded(node: request.node)
            }
        }
        for partition in 0..<2 {
            #expect(broker.values[Int32(partition)] == (0..<300).filter { $0 % 2 == partition }.map(String.init))
        }
        for value in 0..<300 {
            let result = try #require(script.results["\(value)"])
            #expect(result == "\(value % 2)@\(value / 2)" || result == "\(value % 2)@-1")
        }
    }
}

/// Two partitions of a broker that knows idempotence: five batches remembered for each producer id.
private struct FakeLog {
    var values: [Int32: [String]] = [:]
    private var last: [String: [(sequence: Int32, count: Int32, offset: Int64)]] = [:]

    mutating func append(_ batch: ProducerBatch) throws -> ProducerStateMachine.BatchOutcome {
        let header = try Script.header(batch)
        let key = "\(batch.partition)/\(header.producerID)"
        let known = last[key] ?? []
        if let again = known.first(where: { $0.sequence == header.baseSequence && $0.count == header.recordCount }) {
            return .acknowledged(baseOffset: again.offset, logAppendTime: -1)
        }
        let expected = known.last.map { $0.sequence + $0.count } ?? 0
        guard header.baseSequence == expected else { return .error(.outOfOrderSequenceNumber, nil) }
        let offset = Int64(values[batch.partition]?.count ?? 0)
        values[batch.partition, default: []] += try Script.values(batch)
        last[key] = (known + [(header.baseSequence, header.recordCount, offset)]).suffix(5)
        return .acknowledged(baseOffset: offset, logAppendTime: -1)
    }
}
