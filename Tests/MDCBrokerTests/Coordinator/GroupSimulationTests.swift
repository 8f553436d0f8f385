// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// Many clients against one shard, with lost answers, silence, and restarts from the log; after each step what must hold is
/// checked against a model that knows nothing of the shard's insides.
@Suite struct GroupSimulationTests {
    // MARK: Classic

    private struct Client {
        var name: String
        var instance: String?
        var memberID = ""
        var generation: Int32 = -1
        var joinToken: RequestToken?
        var syncToken: RequestToken?
        var leads: [String] = []
    }

    private struct ClassicWorld {
        var group: GroupHarness
        var random: SplitMix64
        var clients: [Client]
        /// What the coordinator acknowledged.
        var committed: [Int32: Int64] = [:]
        /// Generation → partition → member that was told that it owns it.
        var owners: [Int32: [Int32: String]] = [:]
        var leaders: [Int32: String] = [:]
        var lastGeneration: Int32 = 0
        var stableSteps = 0

        init(seed: UInt64) {
            random = SplitMix64(seed: seed)
            group = GroupHarness(seed: seed)
            clients = (0..<5).map { Client(name: "c\($0)", instance: $0 < 2 ? "i\($0)" : nil) }
        }

        mutating func step() {
            let index = Int.random(in: clients.indices, using: &random)
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<35: advance(client: index)
            case 35..<60: heartbeat(index)
            case 60..<75: commit(index)
            case 75..<80: leave(index)
            case 80..<84: clients[index] = Client(name: clients[index].name, instance: clients[index].instance)
            case 84..<86: restart()
            default: group.advance(Int64.random(in: 1...4_000, using: &random))
            }
            collect()
            check()
        }

        /// Joins, or fetches the assignment, whichever comes next.
        private mutating func advance(client index: Int) {
            let client = clients[index]
            if client.joinToken != nil || client.syncToken != nil { return }
            if client.generation < 0 {
                let version: Int16 = client.instance == nil ? 9 : Int16.random(in: 5...9, using: &random)
                clients[index].joinToken = group.join(
                    member: client.memberID,
                    instance: client.instance,
                    client: client.name,
                    session: 8_000,
                    rebalance: 12_000,
                    version: version
                )
            } else {
                var assignments: [String: String] = [:]
                for (position, member) in client.leads.enumerated() {
                    assignments[member] = (0..<6).filter { $0 % client.leads.count == position }
                        .map(String.init).joined(separator: ",")
                }
                clients[index].syncToken = group.sync(
                    member: client.memberID,
                    generation: client.generation,
                    instance: client.instance,
                    assignments: assignments
                )
            }
        }

        private mutating func heartbeat(_ index: Int) {
            let client = clients[index]
            guard client.generation >= 0, client.joinToken == nil else { return }
            let code = group.heartbeat(
                member: client.memberID,
                generation: client.generation,
                instance: client.instance
            )
            if code == .none { stableSteps += 1 } else { rejoin(index, code) }
        }

        private mutating func rejoin(_ index: Int, _ code: ErrorCode) {
            clients[index].generation = -1
            clients[index].leads = []
            clients[index].syncToken = nil
            if code == .unknownMemberId || code == .fencedInstanceId { clients[index].memberID = "" }
        }

        private mutating func commit(_ index: Int) {
            let client = clients[index]
            let partition = Int32.random(in: 0..<3, using: &random)
            let offset = Int64.random(in: 0..<1_000, using: &random)
            let code = group.commit(
                partition: partition,
                offset: offset,
                member: client.memberID,
                generation: client.generation,
                instance: client.generation < 0 ? nil : client.instance
            )
            guard code == .none else { return }
            committed[partition] = offset
            if client.generation >= 0 { #expect(client.generation == lastGeneration, "an old generation committed") }
        }

        private mutating func leave(_ index: Int) {
            let client = clients[index]
            guard !client.memberID.isEmpty else { return }
            _ = group.leave([(client.memberID, client.instance)])
            clients[index] = Client(name: client.name, instance: client.instance)
        }

        private mutating func restart() {
            group.crash()
            // Generations that never reached the log may be counted again.
            lastGeneration = group.shard.classicGroups["g"]?.generation ?? 0
            owners = owners.filter { $0.key <= lastGeneration }
            leaders = leaders.filter { $0.key <= lastGeneration }
            for index in clients.indices {
                if clients[index].joinToken != nil { rejoin(index, .notCoordinator) }
                clients[index].joinToken = nil
                clients[index].syncToken = nil
            }
        }

        /// Gives the clients their answers.
        private mutating func collect() {
            for index in clients.indices {
                if let token = clients[index].joinToken, let response = group.joined(token) {
                    clients[index].joinToken = nil
                    take(response, index)
                }
                if let token = clients[index].syncToken, let response = group.synced(token) {
                    clients[index].syncToken = nil
                    take(response, index)
                }
            }
        }

        private mutating func take(_ response: JoinGroupResponse, _ index: Int) {
            let code = ErrorCode(rawValue: response.errorCode)
            guard code == .none else {
                rejoin(index, code)
                if code == .memberIdRequired { clients[index].memberID = response.memberId }
                return
            }
            clients[index].memberID = response.memberId
            clients[index].generation = response.generationId
            #expect(response.generationId >= lastGeneration, "a generation went back")
            lastGeneration = response.generationId
            let isLeader = response.leader == response.memberId
            clients[index].leads = isLeader && !response.skipAssignment ? response.members.map(\.memberId) : []
            if isLeader && !response.skipAssignment {
                #expect(response.members.contains { $0.memberId == response.memberId })
                #expect(Set(response.members.map(\.memberId)).count == response.members.count)
            }
            let known = leaders.updateValue(response.leader, forKey: response.generationId)
            // A static leader may come back under a new id; nobody else takes its place within a generation.
            if let known, known != response.leader {
                #expect(clients.contains { $0.instance.map { response.leader.hasPrefix($0 + "-") } ?? false })
            }
        }

        private mutating func take(_ response: SyncGroupResponse, _ index: Int) {
            let code = ErrorCode(rawValue: response.errorCode)
            guard code == .none else { return rejoin(index, code) }
            let client = clients[index]
            for text in String(buffer: response.assignment).split(separator: ",") {
                let partition = Int32(text) ?? -1
                let name = client.instance ?? client.memberID
                let other = owners[client.generation, default: [:]].updateValue(name, forKey: partition)
                #expect(other == nil || other == name, "partition \(partition) has two owners")
            }
        }

        private func check() {
            for (partition, offset) in committed {
                #expect(group.shard.offsets["g", "t", partition]?.offset == offset, "a committed offset changed")
            }
            #expect((group.shard.offsets.groups["g"]?["t"]?.count ?? 0) == committed.count)
        }
    }

    @Test(arguments: UInt64(1)...24) func classicGroupsKeepTheirPromises(seed: UInt64) { runClassic(seed: seed) }

    /// One run; it ends early once a planted bug `isFound`.
    func runClassic(seed: UInt64, isFound: () -> Bool = { false }) {
        var world = ClassicWorld(seed: seed)
        for _ in 0..<400 {
            if isFound() { return }
            world.step()
        }
        // Whatever waits is answered in the end, although everyone has fallen silent.
        world.group.advance(3_600_000)
        #expect(world.group.parked.isEmpty)
        #expect(world.group.shard.classicGroups["g"]?.members.isEmpty ?? true)
        #expect(world.stableSteps > 0)
    }

    // MARK: Consumer protocol

    @Test(arguments: UInt64(1)...24) func consumerGroupsKeepTheirPromises(seed: UInt64) { runConsumer(seed: seed) }

    /// One run; it ends early once a planted bug `isFound`.
    func runConsumer(seed: UInt64, isFound: () -> Bool = { false }) {
        var random = SplitMix64(seed: seed)
        var partitions: Int32 = 4
        var group = GroupHarness(seed: seed, topics: topicImage(1, t: partitions))
        var clients: [ConsumerClient] = []
        var nextID = 0
        for round in 0..<400 {
            if isFound() { return }
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<6 where clients.count < 6:
                nextID += 1
                clients.append(ConsumerClient(id: "m\(nextID)"))
            case 6..<8 where !clients.isEmpty: clients.removeLast()
            case 8..<12 where !clients.isEmpty:
                let index = Int.random(in: clients.indices, using: &random)
                if clients[index].epoch > 0 { clients[index].beat(&group, epoch: -1) }
                clients.remove(at: index)
            case 12..<14: group.crash()
            case 14..<16 where partitions < 12:
                partitions += 1
                group.shard.topics = topicImage(UInt64(round + 2), t: partitions)
            case 16..<26: group.advance(Int64.random(in: 1...6_000, using: &random))
            default:
                guard !clients.isEmpty else { continue }
                let index = Int.random(in: clients.indices, using: &random)
                let isJoin = clients[index].epoch == 0
                clients[index].beat(
                    &group,
                    topics: isJoin ? ["t"] : nil,
                    assignor: Bool.random(using: &random) && isJoin ? "range" : nil
                )
                if clients[index].error != .none {
                    // Fenced: it gives up everything and starts over.
                    clients[index].epoch = 0
                    clients[index].owned = PartitionSet()
                }
            }
            checkOwners(clients, group)
        }
        settle(&clients, &group, partitions)
    }

    /// Nobody that the coordinator counts as a member owns what another owns.
    private func checkOwners(_ clients: [ConsumerClient], _ group: GroupHarness) {
        var owners: [Int32: String] = [:]
        for client in clients where group.shard.consumerGroups["g"]?.members[client.id] != nil && client.epoch > 0 {
            for (_, partition) in client.owned.all {
                let other = owners.updateValue(client.id, forKey: partition)
                #expect(other == nil, "partition \(partition) belongs to \(client.id) and \(other ?? "")")
            }
        }
    }

    /// With everyone heartbeating and the silent ones expired, the group comes to rest with every partition owned.
    private func settle(_ clients: inout [ConsumerClient], _ group: inout GroupHarness, _ partitions: Int32) {
        if clients.isEmpty { clients.append(ConsumerClient(id: "last")) }
        for _ in 0..<30 {
            group.advance(3_000)
            for index in clients.indices {
                clients[index].beat(&group, topics: clients[index].epoch == 0 ? ["t"] : nil)
                if clients[index].error != .none {
                    clients[index].epoch = 0
                    clients[index].owned = PartitionSet()
                }
            }
        }
        #expect(clients.reduce(0) { $0 + $1.owned.count } == Int(partitions))
        #expect(group.shard.consumerGroups["g"]?.state == .stable)
        checkOwners(clients, group)
    }
}
