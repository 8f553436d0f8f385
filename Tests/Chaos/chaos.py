# SPDX-License-Identifier: Apache-2.0
"""Three nodes, clients that note what they were told, faults by seed, and a checker (docs/testing.md)."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from confluent_kafka.admin import AdminClient, NewTopic

import checker
import faults
from nodes import NODES, Cluster, Timeline
from workload import GroupMember, NumberedWriter, TopicMaker, TransactionalWriter, Watcher, begin_group

PARTITIONS = 4
# How long the cluster may take until everything is in sync and everybody writes again: generous, the machine may be busy.
PATIENCE = 180


class Wrong(Exception):
    """The run cannot go on."""


class Run:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.timeline = Timeline(options.quiet)
        self.say = self.timeline.say
        self.violations = []
        self.folder = tempfile.mkdtemp(prefix="mdc-chaos-")
        self.cluster = Cluster(options.broker, self.folder, options.isolated, options.disk, self.say, options.preload, options.lies)
        self.admin = None
        self.writers, self.members, self.transactions, self.watcher, self.maker = [], {}, [], None, None
        self.topics = {"plain": PARTITIONS}
        if options.transactions:
            self.topics["whole"] = PARTITIONS

    # What faults ask

    def violation(self, text):
        self.say(f"VIOLATION {text}")
        self.violations.append(text)

    def metadata(self):
        return self.admin.list_topics(timeout=5)

    def leader(self):
        """A node that leads one of the partitions written to; any node if none is known."""
        try:
            leaders = [p.leader for p in self.metadata().topics["plain"].partitions.values()]
            return self.random.choice([n for n in leaders if n in self.cluster.processes])
        except Exception:
            return self.random.choice(NODES)

    def controller(self):
        try:
            # The metadata that clients get names any node: each passes on what is for the controller.
            output = subprocess.run(
                [os.environ["MDC_CLI"], "cluster", "status", "-o", "json", "--bootstrap", self.cluster.bootstrap],
                capture_output=True, timeout=10, check=True,
            ).stdout
            node = json.loads(output)["quorum"]["leader"]
            return node if node in NODES else self.random.choice(NODES)
        except Exception:
            return self.random.choice(NODES)

    def mdc(self, *arguments):
        return subprocess.run(
            [os.environ["MDC_CLI"], *arguments, "--bootstrap", self.cluster.bootstrap],
            capture_output=True, timeout=60, text=True,
        )

    def readmit(self, node):
        """Has a node whose disk was emptied vote again, by the command that an operator would use."""

        def votes():
            done = self.mdc("cluster", "add-voter", str(node), "--replace")
            replicas = json.loads(self.mdc("cluster", "status", "-o", "json").stdout)["quorum"]["replicas"]
            voters = [r["node"] for r in replicas if r["isVoter"]]
            return sorted(voters) == list(NODES) and len(replicas) == 3 or done.stderr

        self.until(f"node {node} votes again", votes)
        self.say(f"node {node} votes again")

    def until(self, what, check, seconds=PATIENCE):
        end = time.monotonic() + seconds
        last = None
        while time.monotonic() < end:
            self.cluster.reap()
            if self.cluster.unexpected:
                raise Wrong(self.cluster.unexpected[0])
            for client in self.clients():
                if client.failures:
                    raise Wrong(client.failures[0])
            try:
                last = check()
                if last is True:
                    return
            except Exception as error:  # an election is under way
                last = error
            time.sleep(0.1)
        raise Wrong(f"after {seconds} s still not so: {what}: {last}")

    def out_of_sync(self):
        now = self.metadata()
        if len(now.brokers) != 3:
            return f"brokers {sorted(now.brokers)}"
        late = [
            f"{topic.topic}-{p.id} led by {p.leader}, in sync {p.isrs}"
            for topic in now.topics.values()
            for p in topic.partitions.values()
            if sorted(p.isrs) != list(NODES) or p.leader == -1
        ]
        return True if not late else f"{len(late)} partitions, first {late[0]}"

    def wait_in_sync(self):
        began = time.monotonic()

        def check():
            # Where the machine is too busy for the load, replicas fall behind and come back in turn.
            for writer in self.writers:
                writer.resting = time.monotonic() - began > PATIENCE / 6
            return self.out_of_sync()

        self.until("everything in sync", check)
        for writer in self.writers:
            writer.resting = False

    def wait_for_progress(self):
        first = {w: w.sent for w in self.writers}
        self.until("everybody writes", lambda: all(w.has_written_since(n) for w, n in first.items()))
        done = {w: w.number for w in self.transactions}
        self.until(
            "transactions are committed",
            lambda: all(any(w.outcomes.get(n, ("",))[0] == "committed" for n in range(d, w.number)) for w, d in done.items()),
        )

    # The run

    def clients(self):
        members = [m for group in self.members.values() for m in group]
        return self.writers + members + self.transactions + [c for c in (self.watcher, self.maker) if c]

    def begin(self):
        for node in NODES:
            self.cluster.start(node)
        self.admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})
        self.until("three brokers", lambda: len(self.metadata().brokers) == 3)
        for topic, partitions in self.topics.items():
            new = NewTopic(topic, partitions, 3, config={"segment.bytes": "1048576"})
            self.until(f"topic {topic}", lambda: self.admin.create_topics([new])[topic].result(timeout=20) is None)
        bootstrap = self.cluster.bootstrap
        for index in range(2):
            self.writers.append(
                NumberedWriter(f"writer{index}", bootstrap, "plain", PARTITIONS, self.options.rate).start()
            )
        for protocol in ("classic", "consumer"):
            self.until(
                "the first offsets", lambda: begin_group(bootstrap, f"group-{protocol}", "plain", PARTITIONS)
            )
            self.members[protocol] = [
                GroupMember(f"{protocol}{index}", bootstrap, f"group-{protocol}", "plain", protocol).start()
                for index in range(2)
            ]
        if self.options.transactions:
            for index in range(2):
                self.transactions.append(
                    TransactionalWriter(f"mover{index}", bootstrap, "whole", PARTITIONS, self.options.seed).start()
                )
        groups = {f"group-{protocol}": "plain" for protocol in self.members}
        self.watcher = Watcher("watcher", bootstrap, self.topics, groups).start()
        self.maker = TopicMaker("maker", bootstrap, self.options.seed).start()
        self.wait_in_sync()
        self.wait_for_progress()
        self.say("three nodes in sync, clients at work")

    def plague(self):
        known = faults.EVERYWHERE + (faults.ISOLATED if self.options.isolated else [])
        if self.options.preload:
            known = known + faults.POWER
        if self.options.faults:
            known = [f for f in known if f.__name__ in self.options.faults.split(",")]
        known = [f for f in known if f.__name__ not in self.options.without.split(",")]
        end = time.monotonic() + self.options.minutes * 60
        count, deck = 0, []
        while time.monotonic() < end:
            if not deck:
                deck = self.random.sample(known, len(known))
            fault = deck.pop()
            count += 1
            self.say(f"fault {count}: {fault.__name__}")
            fault(self)
            self.cluster.heal()
            # Now and then the next one comes before the cluster has recovered.
            if self.random.random() < 0.25:
                self.say("healed, the next one at once")
                continue
            began = time.monotonic()
            self.wait_in_sync()
            self.wait_for_progress()
            self.say(f"healed, all in sync after {time.monotonic() - began:.1f} s, {self.progress()}")
        self.cluster.heal()
        self.wait_in_sync()
        self.wait_for_progress()
        return count

    def progress(self):
        parts = [f"{sum(len(w.acknowledged) for w in self.writers)} acknowledged"]
        parts += [f"{sum(m.commits for g in self.members.values() for m in g)} offsets committed"]
        if self.maker:
            parts.append(f"{sum(e is not None for e in self.maker.topics.values())} topics")
        if self.transactions:
            outcomes = [o for w in self.transactions for o, _ in w.outcomes.values()]
            parts.append(", ".join(f"{outcomes.count(o)} {o}" for o in ("committed", "aborted", "unknown")))
        return ", ".join(parts)

    def views(self):
        """What each node says there is; a node may be a moment behind what the others have answered."""
        views = {}
        for node in NODES:
            admin = AdminClient({"bootstrap.servers": self.cluster.listen[node], "log_level": 0})

            def known():
                views[node] = set(admin.list_topics(timeout=5).topics)
                wanted = {topic: exists for topic, exists in self.maker.topics.items() if exists is not None}
                return all(exists == (topic in views[node]) for topic, exists in wanted.items())

            end = time.monotonic() + 30
            while time.monotonic() < end and not known():
                time.sleep(0.2)
        return views

    def settle(self):
        """Everybody comes to an end; groups read and commit all that is there."""
        for client in self.writers + self.transactions + [self.maker]:
            client.finish()
        read = checker.read_all(self.cluster.bootstrap, "plain", PARTITIONS, "read_committed")
        last = {index: records[-1][0] + 1 for index, records in read.items()}
        self.until(
            "groups at the end",
            lambda: all(
                self.watcher.offsets[f"group-{protocol}", index] >= end
                for protocol in self.members
                for index, end in last.items()
            ),
        )
        self.watcher.finish()
        for group in self.members.values():
            for member in group:
                member.finish()

    def check(self):
        found = {}
        for topic, partitions in self.topics.items():
            for isolation in ("read_committed", "read_uncommitted"):
                found[topic, isolation] = checker.read_all(self.cluster.bootstrap, topic, partitions, isolation)
        for writer in self.writers:
            yield from checker.check_writer(writer, found["plain", "read_uncommitted"])
        for protocol, members in self.members.items():
            yield from checker.check_group(
                members, self.watcher, f"group-{protocol}", "plain", found["plain", "read_committed"]
            )
        for writer in self.transactions:
            yield from checker.check_transactions(
                writer, found["whole", "read_committed"], found["whole", "read_uncommitted"]
            )
        yield from checker.check_topics(self.maker, self.views())
        for client in self.clients():
            yield from client.failures
        statuses = self.cluster.kill(*NODES[1:], how=15)
        statuses |= self.cluster.kill(1, how=15)
        for node, status in statuses.items():
            if status != 0:
                yield f"node {node} ended with status {status} at SIGTERM"
        yield from self.cluster.unexpected
        yield from checker.check_replicas(self.folder, self.topics)

    def report(self):
        self.say("THE RUN FAILED")
        if self.options.quiet:
            print("\n".join(self.timeline.lines))
        for node in NODES:
            print(f"--- the last lines of node {node}\n{self.cluster.tail(node)}")
        for text in self.violations[:30]:
            print(f"VIOLATION {text}")
        print(f"seed {self.options.seed}; again: make chaos SEED={self.options.seed} MINUTES={self.options.minutes}")

    def go(self):
        self.say(f"seed {self.options.seed}, {self.options.minutes} minutes, data in {self.folder}")
        count = 0
        try:
            self.begin()
            count = self.plague()
            self.settle()
            for text in self.check():
                self.violation(text)
        except Wrong as wrong:
            self.violation(str(wrong))
        except Exception as error:
            self.violation(f"{type(error).__name__}: {error}")
            raise
        finally:
            for client in self.clients():
                client.stopping.set()
            if self.violations:
                self.report()
            self.keep()
            self.cluster.stop()
        if not self.violations:
            print(f"chaos: {count} faults, {self.progress()}, 0 violations, seed {self.options.seed}")
        return 1 if self.violations else 0

    def keep(self):
        """Data outlives the namespaces only as a copy."""
        if self.violations and self.options.keep:
            shutil.copytree(self.folder, self.options.keep, dirs_exist_ok=True)
        if self.options.isolated:
            for node in NODES:
                os.system(f"umount -l {self.folder}/{node} 2>/dev/null")
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", default=os.environ.get("MDC_BROKER"))
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--faults", help="these alone, by name, with commas")
    parser.add_argument("--without", default="", help="none of these")
    parser.add_argument("--rate", type=int, default=200, help="records a second of each of the two writers")
    parser.add_argument("--disk", type=int, default=700, help="size of each node's disk in megabytes")
    parser.add_argument("--isolated", action="store_true", help="each node in a network of its own")
    parser.add_argument("--preload", help="the library of powerloss.c: the power fails too")
    parser.add_argument("--lies", help="syncs of paths with this text do nothing: something must be missing (a test of the checker)")
    parser.add_argument("--no-transactions", dest="transactions", action="store_false")
    parser.add_argument("--quiet", action="store_true", help="the timeline only if something is wrong")
    parser.add_argument("--keep", help="where the nodes' data go if something is wrong")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    if not options.isolated:
        print("no networks of their own for the nodes (neither root nor user namespaces): nothing is cut, no disk gets full")
    sys.exit(Run(options).go())


if __name__ == "__main__":
    main()
