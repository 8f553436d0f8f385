// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Testing

    @testable import MDCRaft

    /// Scenarios of `Scripts/` once more, each with the one rule switched off that makes it come out right: the checker, or the
    /// trace, must show it.
    @Suite struct ScriptedFaultTests {
        private func run(_ name: String, _ fault: RaftPlantedFault) -> (trace: String, violation: String) {
            let (trace, violation) = Script.run(ScriptFile.read(name), fault: fault)
            print("planted fault \(fault.rawValue): \(name).txt: \(violation ?? "seen in the trace")")
            return (trace, violation ?? "none, but this trace:\n\(trace)")
        }

        @Test func answerBeforePersistLosesAnEntry() {
            #expect(run("persistence", .answerBeforePersist).violation.hasPrefix("leader completeness"))
        }

        @Test func aForgottenVoteElectsTwoLeaders() {
            #expect(run("vote-remembered", .forgetVote).violation.hasPrefix("election safety"))
        }

        @Test func commitByCountingAnOldEpochIsTakenBack() {
            #expect(run("old-epoch", .commitOldEpochByCounting).violation.hasPrefix("leader completeness"))
        }
        @Test func aVoteForAStaleLogLosesAnEntry() {
            #expect(run("stale-log", .voteForStaleLog).violation.hasPrefix("leader completeness"))
        }

        @Test func aVoteOfAnEarlierEpochElectsTwoLeaders() {
            #expect(run("stale-vote", .countStaleVotes).violation.hasPrefix("election safety"))
        }

        @Test func twoChangesAtOnceSplitTheQuorum() {
            #expect(run("one-change-at-a-time", .concurrentChanges).violation.hasPrefix("leader completeness"))
        }

        @Test func anObserverInTheQuorumLosesAnEntry() {
            #expect(run("observers-do-not-count", .countObservers).violation.hasPrefix("leader completeness"))
        }

        @Test func aChangeBeforeTheLeadersEntrySplitsTheQuorum() {
            #expect(
                run("change-before-leader-entry", .changeBeforeLeaderEntry).violation.hasPrefix("leader completeness")
            )
        }

        @Test func anEmptiedDiskThatVotesLosesAnEntry() {
            #expect(run("identity", .ignoreDirectory).violation.hasPrefix("leader completeness"))
        }

        @Test func aLeaseWithoutCheckQuorumReadsTheStale() {
            #expect(run("reads-lease", .leaseWithoutCheckQuorum).violation.hasPrefix("linearizable reads"))
        }

        @Test func aReadWithoutARoundIsStale() {
            #expect(run("reads-safe", .readWithoutRound).violation.hasPrefix("linearizable reads"))
        }

        @Test func withoutPreVoteANodeThatComesBackUnseatsTheLeader() {
            let (good, _) = Script.run(ScriptFile.read("pre-vote"))
            #expect(good.hasSuffix("n3 follower epoch 1 last 1 commit 1 applied 1 voters n1,n2,n3\n"))
            #expect(good.contains("\nn1 leader epoch 1 "))
            #expect(!run("pre-vote", .skipPreVote).trace.contains("\nn1 leader epoch 1 "))
        }

        @Test func withoutLeasesANodeThatComesBackUnseatsTheLeader() {
            let (good, _) = Script.run(ScriptFile.read("pre-vote"))
            #expect(good.contains("\nn1 leader epoch 1 "))
            #expect(!run("pre-vote", .ignoreLease).trace.contains("\nn1 leader epoch 1 "))
        }

        @Test func withoutCheckQuorumADeafLeaderStays() {
            let (good, _) = Script.run(ScriptFile.read("check-quorum"))
            #expect(!good.contains("\nn1 leader epoch 1 "))
            #expect(run("check-quorum", .noCheckQuorum).trace.contains("\nn1 leader epoch 1 "))
        }
    }
#endif
