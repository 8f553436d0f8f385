# SPDX-License-Identifier: Apache-2.0
"""Administration of a cluster of real nodes: leaders, moves, the quorum, features, nodes that join and go."""

import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from kafka import KafkaAdminClient
from kafka.structs import TopicPartition

from test_cluster import BROKER, DEADLINE, Cluster, free_ports

MDC = os.environ["MDC_CLI"]
PREFERRED, UNCLEAN = 0, 1
UNKNOWN, NO_PREFERRED, ELECTION_NOT_NEEDED = 3, 80, 84


class AdminCluster(Cluster):
    """Three nodes that vote, and places for two that join later. Each node shows its metrics."""

    def __init__(self, folder, settings=()):
        super().__init__(folder)
        self.settings = settings
        ports = free_ports(15)[6:]
        self.http = dict(zip((1, 2, 3, 4, 5), ports[:5]))
        for node, listen, controller in zip((4, 5), ports[5:7], ports[7:9]):
            self.controllers[node] = controller
            self.listen_later = getattr(self, "listen_later", {}) | {node: listen}

    def start(self, node, voters=None):
        self.listen.setdefault(node, self.listen_later.get(node))
        log = open(f"{self.folder}/{node}.log", "ab")
        command = [
            BROKER, "run", "--node-id", str(node), "--data", f"{self.folder}/{node}",
            "--listen", f"127.0.0.1:{self.listen[node]}", "--http", f"127.0.0.1:{self.http[node]}",
            "--controller-listen", f"127.0.0.1:{self.controllers[node]}", "--voters", voters or self.voters,
        ]
        for setting in self.settings:
            command += ["--set", setting]
        self.processes[node] = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()


class ClusterAdminCase(unittest.TestCase):
    settings = ()

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cluster = AdminCluster(self.folder.name, self.settings)
        for node in (1, 2, 3):
            self.cluster.start(node)
        self.admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})
        self.until("three brokers", lambda: len(self.metadata().brokers) == 3)

    def tearDown(self):
        self.cluster.stop()
        self.folder.cleanup()

    def until(self, what, check):
        end = time.monotonic() + DEADLINE
        last = None
        while time.monotonic() < end:
            try:
                last = check()
                if last:
                    return last
            except Exception as error:  # an election is under way
                last = error
            time.sleep(0.1)
        self.fail(f"{what}: {last}\n{self.cluster.logs()}")

    def metadata(self):
        return self.admin.list_topics(timeout=5)

    def partitions(self, topic):
        return self.metadata().topics[topic].partitions

    def create(self, name, partitions, replicas):
        def attempt():
            self.admin.create_topics([NewTopic(name, partitions, replicas)])[name].result(timeout=20)
            return True

        self.until(f"topic {name}", attempt)

    def fill(self, topic, partitions, count=200):
        failures = []
        producer = Producer(
            {"bootstrap.servers": self.cluster.bootstrap, "acks": "all", "message.timeout.ms": DEADLINE * 1000}
        )
        for index in range(count):
            producer.produce(
                topic, b"%d" % index, partition=index % partitions,
                on_delivery=lambda error, _: failures.append(str(error)) if error else None,
            )
        self.assertEqual((producer.flush(DEADLINE), failures), (0, []), self.cluster.logs())

    def kafka_admin(self):
        return KafkaAdminClient(bootstrap_servers=self.cluster.bootstrap.split(","), request_timeout_ms=30000)

    def mdc(self, *arguments):
        return subprocess.run(
            [MDC, *arguments, "--bootstrap", self.cluster.bootstrap, "--timeout", "30"],
            capture_output=True, text=True, timeout=DEADLINE * 3,
        )

    def done(self, *arguments):
        result = self.mdc(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr + self.cluster.logs())
        return result.stdout

    def json(self, *arguments):
        return json.loads(self.done(*arguments, "-o", "json"))

    def refused(self, *arguments):
        result = self.mdc(*arguments)
        self.assertEqual(result.returncode, 1, result.stdout)
        return result.stderr


class LeadersAndMoves(ClusterAdminCase):
    def codes(self, kind, *partitions):
        """The error numbers of an election, by partition."""
        asked = {}
        for topic, index in partitions:
            asked.setdefault(topic, []).append(index)
        # confluent-kafka 2.16.1 cannot be used for this: its call fails before anything is sent.
        admin = self.kafka_admin()
        try:
            answer = admin.elect_leaders(kind, asked, raise_errors=False)
        finally:
            admin.close()
        self.assertEqual(answer.error_code, 0)
        return {
            (topic.topic, partition.partition_id): partition.error_code
            for topic in answer.replica_election_results
            for partition in topic.partition_result
        }

    def test_leaders_are_elected(self):
        self.create("t", 3, 3)
        self.assertEqual(
            self.codes(PREFERRED, ("t", 0), ("t", 9)), {("t", 0): ELECTION_NOT_NEEDED, ("t", 9): UNKNOWN}
        )
        topic = NewTopic("u", num_partitions=1, replica_assignment=[[1, 2]], config={"min.insync.replicas": "1"})
        self.admin.create_topics([topic])["u"].result(timeout=30)
        self.fill("u", 1, 20)
        self.cluster.kill(2)
        self.until("one in sync", lambda: self.partitions("u")[0].isrs == [1])
        self.fill("u", 1, 20)
        # The last in sync is gone as well; the other one comes back, and is told nothing of what it lacks.
        self.cluster.kill(1)
        self.cluster.start(2)
        self.until(
            "nobody leads", lambda: set(self.metadata().brokers) == {2, 3} and self.partitions("u")[0].leader == -1
        )
        self.assertEqual(self.codes(PREFERRED, ("u", 0)), {("u", 0): NO_PREFERRED})
        status = self.json("cluster", "status")
        self.assertEqual((status["partitions"]["offline"], status["nodes"][0]["isFenced"]), (1, True))
        self.assertEqual(self.codes(UNCLEAN, ("u", 0)), {("u", 0): 0})
        self.until("the other leads", lambda: self.partitions("u")[0].leader == 2)
        self.assertEqual(self.codes(UNCLEAN, ("u", 0)), {("u", 0): ELECTION_NOT_NEEDED})
        self.fill("u", 1, 20)
        self.cluster.start(1)
        self.until("both in sync", lambda: sorted(self.partitions("u")[0].isrs) == [1, 2])
        self.done("cluster", "elect", "--topic", "u")
        self.assertEqual(len(self.done("consume", "u", "--from", "earliest", "--until-end").split()), 40)

    def test_partitions_move(self):
        self.create("m", 4, 2)
        self.fill("m", 4)
        admin = self.kafka_admin()
        spread = {index: p.replicas for index, p in self.partitions("m").items()}
        targets = {}
        for index, replicas in spread.items():
            new = next(node for node in (1, 2, 3) if node not in replicas)
            targets[index] = [new, replicas[0]]
        answer = admin.alter_partition_reassignments(
            {TopicPartition("m", index): nodes for index, nodes in targets.items()}
        )
        self.assertNotIn("error", str(answer).lower().replace("'error_code': 0", "").replace("error_message", ""))

        def arrived():
            now = self.partitions("m")
            return all(
                now[index].replicas == nodes and sorted(now[index].isrs) == sorted(nodes) and now[index].leader == nodes[0]
                for index, nodes in targets.items()
            )

        self.until("moved, and led by the preferred", arrived)
        self.assertFalse(admin.list_partition_reassignments())
        for index, nodes in targets.items():
            for node in (1, 2, 3):
                self.until(
                    f"the folder of m-{index} on node {node}",
                    lambda: os.path.isdir(f"{self.folder.name}/{node}/m-{index}") == (node in nodes),
                )
        # Everything is still there.
        output = self.done("consume", "m", "--from", "earliest", "--until-end")
        self.assertEqual(sorted(output.split()), sorted(str(n) for n in range(200)))

        # To a node that is down the move waits, is listed, and can be taken back. What was there leaves no folder behind.
        new = next(node for node in (1, 2, 3) if node not in targets[0])
        self.cluster.kill(new)
        self.until("fenced", lambda: new not in self.metadata().brokers)
        admin.close()
        admin = self.kafka_admin()
        admin.alter_partition_reassignments({TopicPartition("m", 0): [new, targets[0][0]]})
        moving = self.until("on its way", admin.list_partition_reassignments)
        self.assertIn(str(new), str(moving))
        admin.alter_partition_reassignments({TopicPartition("m", 0): None})
        self.assertFalse(admin.list_partition_reassignments())
        self.assertEqual(sorted(self.partitions("m")[0].replicas), sorted(targets[0]))
        # A replica that is taken away from a node that is down is removed when it returns.
        there = next(index for index, nodes in targets.items() if new in nodes)
        left = next(node for node in targets[there] if node != new)
        admin.alter_partition_reassignments({TopicPartition("m", there): [left]})
        self.until("gone from there", lambda: self.partitions("m")[there].replicas == [left])
        self.assertTrue(os.path.isdir(f"{self.folder.name}/{new}/m-{there}"))
        self.cluster.start(new)
        self.until("its folder is gone", lambda: not os.path.isdir(f"{self.folder.name}/{new}/m-{there}"))
        admin.close()


class Throttles(ClusterAdminCase):
    MEGABYTE = 1 << 20

    def fill_bytes(self, topic, megabytes):
        failures = []
        producer = Producer(
            {"bootstrap.servers": self.cluster.bootstrap, "acks": "all", "message.timeout.ms": DEADLINE * 1000}
        )
        for index in range(megabytes * 16):
            producer.produce(
                topic, os.urandom(self.MEGABYTE // 16), partition=0,
                on_delivery=lambda error, _: failures.append(str(error)) if error else None,
            )
            producer.poll(0)
        self.assertEqual((producer.flush(DEADLINE), failures), (0, []), self.cluster.logs())

    def rates(self):
        resource = ConfigResource(ConfigResource.Type.BROKER, "1")
        found = self.admin.describe_configs([resource])[resource].result(timeout=30)
        return [int(found[f"{side}.replication.throttled.rate"].value) for side in ("leader", "follower")]

    def lists(self, topic):
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        found = self.admin.describe_configs([resource])[resource].result(timeout=30)
        return [found[f"{side}.replication.throttled.replicas"].value for side in ("leader", "follower")]

    def copied(self):
        moves = self.json("cluster", "reassign")
        return {move["partition"]: (move["copiedBytes"], move["totalBytes"]) for move in moves}

    def test_a_move_is_throttled(self):
        for name in ("slow", "fast"):
            new = NewTopic(name, num_partitions=1, replica_assignment=[[1, 2]])
            self.admin.create_topics([new])[name].result(timeout=30)
            self.fill_bytes(name, 8)
        rate = 400_000
        began = time.monotonic()
        self.done(
            "cluster", "reassign", "--topic", "slow", "--replicas", "1,3", "--throttle", str(rate), "--no-wait"
        )
        self.assertEqual(self.lists("slow"), ["0:1,0:2", "0:3"])
        self.until("the rates", lambda: self.rates() == [rate, rate])
        # Who is not named goes on as fast as it can.
        self.done("cluster", "reassign", "--topic", "fast", "--replicas", "1,3")
        self.assertEqual(self.partitions("fast")[0].replicas, [1, 3])

        def progress():
            copied, total = self.copied()["slow-0"]
            passed = time.monotonic() - began
            self.assertGreater(total, 8 * self.MEGABYTE)
            # A second's worth may be used at once, and a piece more than there is: time is only ever too much.
            self.assertLessEqual(copied, 2 * rate * passed + 3 * self.MEGABYTE)
            return copied

        seen = set()
        self.until("some of it", lambda: seen.add(progress()) or len(seen) >= 3)
        self.assertIn("%", self.done("cluster", "reassign"))
        # The ones that are in sync stay so, and clients write.
        self.fill_bytes("slow", 1)
        self.assertEqual(sorted(self.partitions("slow")[0].isrs), [1, 2])
        # The rate is taken away: the rest comes at once.
        self.assertIn("slow", self.done("cluster", "reassign", "--unthrottle"))
        self.until("arrived", lambda: self.partitions("slow")[0].replicas == [1, 3])
        self.until("in sync", lambda: sorted(self.partitions("slow")[0].isrs) == [1, 3])
        self.assertEqual(self.lists("slow"), ["", ""])

        # Taken back, nothing is left of it; nor after a move that was waited for.
        self.done("cluster", "reassign", "--topic", "slow", "--replicas", "1,2", "--throttle", "1", "--no-wait")
        self.until("it is under way", lambda: "slow-0" in self.copied())
        self.assertIn("cancelled slow-0", self.done("cluster", "reassign", "--cancel"))
        self.assertEqual((self.partitions("slow")[0].replicas, self.copied()), ([1, 3], {}))
        self.assertEqual(self.lists("slow"), ["", ""])
        self.until("no rates", lambda: min(self.rates()) > 1 << 60)
        self.done("cluster", "reassign", "--topic", "slow", "--replicas", "2,3", "--throttle", "100000000")
        self.assertEqual((self.partitions("slow")[0].replicas, self.lists("slow")), ([2, 3], ["", ""]))
        self.assertIn(
            "partition:node", self.refused("config", "set", "--topic", "slow", "leader.replication.throttled.replicas=x")
        )


class TheQuorum(ClusterAdminCase):
    # Snapshots of the metadata are due often.
    settings = ("metadata.log.max.record.bytes.between.snapshots=16384",)

    def quorum(self):
        admin = self.kafka_admin()
        try:
            return admin.describe_metadata_quorum()
        finally:
            admin.close()

    def test_the_quorum_is_described(self):
        quorum = self.json("cluster", "status")["quorum"]
        self.assertIn(quorum["leader"], (1, 2, 3))
        self.assertGreater(quorum["highWatermark"], 0)
        self.assertEqual([r["node"] for r in quorum["replicas"] if r["isVoter"]], [1, 2, 3])
        self.until(
            "all caught up",
            lambda: all(
                r["lag"] == 0 and r["secondsSinceCaughtUp"] < 30
                for r in self.json("cluster", "status")["quorum"]["replicas"]
            ),
        )
        foreign = str(self.quorum())
        self.assertIn("__cluster_metadata", foreign)
        victim = next(node for node in (1, 2, 3) if node != quorum["leader"])
        self.cluster.kill(victim)
        self.create("later", 3, 2)
        replicas = self.json("cluster", "status")["quorum"]["replicas"]
        lags = {r["node"]: r["lag"] for r in replicas}
        self.assertGreater(lags[victim], 0)
        status = self.json("cluster", "status")
        self.assertEqual([n["id"] for n in status["nodes"] if n["isFenced"]], [victim])

    def test_features(self):
        self.assertIn("metadata.version", self.done("cluster", "features"))
        levels = {f["name"]: f["level"] for f in self.json("cluster", "features")}
        self.assertEqual(levels["transaction.version"], 2)
        self.assertIn("downgrade", self.refused("cluster", "features", "transaction.version=1"))
        self.assertIn("no such feature", self.refused("cluster", "features", "bogus.version=1"))
        self.assertIn("not one of", self.refused("cluster", "features", "transaction.version=9"))
        self.done("cluster", "features", "transaction.version=1", "--downgrade", "--dry-run")
        self.assertEqual({f["name"]: f["level"] for f in self.json("cluster", "features")}, levels)
        self.done("cluster", "features", "transaction.version=1", "--downgrade")
        for node in (1, 2, 3):
            admin = KafkaAdminClient(bootstrap_servers=[f"127.0.0.1:{self.cluster.listen[node]}"])
            try:
                self.until(f"node {node} knows", lambda: "'transaction.version'" in str(admin.describe_features()))
            finally:
                admin.close()
        for node in (1, 2, 3):
            self.cluster.kill(node)
        for node in (1, 2, 3):
            self.cluster.start(node)
        self.until(
            "the level is kept",
            lambda: {f["name"]: f["level"] for f in self.json("cluster", "features")}["transaction.version"] == 1,
        )
        self.done("cluster", "features", "transaction.version=2")

    def snapshots(self, node):
        names = os.listdir(f"{self.folder.name}/{node}/__cluster_metadata-0")
        return [int(name[:20]) for name in names if name.endswith(".checkpoint")]

    def test_a_node_that_was_away_gets_a_snapshot(self):
        self.create("before", 2, 3)
        self.cluster.kill(3)
        known = self.json("cluster", "status")["quorum"]["highWatermark"]
        self.until("fenced", lambda: 3 not in self.metadata().brokers)
        # Changes until both others have dropped what the third one lacks.
        for number in range(2000):
            if all(max(self.snapshots(node), default=0) > known for node in (1, 2)):
                break
            entry = ConfigEntry(
                "retention.ms", str(1_000_000 + number), incremental_operation=AlterConfigOpType.SET
            )
            resource = ConfigResource(ConfigResource.Type.TOPIC, "before", incremental_configs=[entry])
            self.admin.incremental_alter_configs([resource])[resource].result(timeout=30)
        self.assertTrue(all(max(self.snapshots(node), default=0) > known for node in (1, 2)))
        self.create("while-away", 2, 2)
        self.cluster.start(3)
        self.until("three brokers", lambda: len(self.metadata().brokers) == 3)
        own = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.cluster.listen[3]}", "log_level": 0})
        self.until("it knows", lambda: "while-away" in own.list_topics(timeout=5).topics)
        self.assertGreater(max(self.snapshots(3), default=0), known)
        self.until("in sync", lambda: all(len(p.isrs) == 3 for p in self.partitions("before").values()))

    def test_nodes_join_and_go(self):
        self.create("old", 6, 3)
        self.fill("old", 6)
        self.cluster.start(4)
        self.until("four brokers", lambda: 4 in self.metadata().brokers)
        replicas = {r["node"]: r["isVoter"] for r in self.json("cluster", "status")["quorum"]["replicas"]}
        self.assertEqual(replicas, {1: True, 2: True, 3: True, 4: False})
        self.create("on-four", 4, 3)
        self.assertTrue(any(4 in p.replicas for p in self.partitions("on-four").values()))
        plan = self.json("cluster", "rebalance")
        self.assertTrue(any(4 in move["to"] for move in plan["moves"]))
        self.assertFalse(any(4 in p.replicas for p in self.partitions("old").values()), "a plan is only shown")
        self.done("cluster", "rebalance", "--execute")
        self.assertTrue(any(4 in p.replicas for p in self.partitions("old").values()))
        self.fill("old", 6)

        # It votes, and its vote counts: two of the others may go.
        self.done("cluster", "add-voter", "4")
        self.assertIn("votes already", self.refused("cluster", "add-voter", "4"))
        self.done("cluster", "remove-voter", "1")
        self.assertIn("not a voter", self.refused("cluster", "remove-voter", "1"))
        self.until(
            "1 observes",
            lambda: {r["node"]: r["isVoter"] for r in self.json("cluster", "status")["quorum"]["replicas"]}
            == {1: False, 2: True, 3: True, 4: True},
        )
        # With the old settings all start again, and find one another.
        for node in (1, 2, 3, 4):
            self.cluster.kill(node)
        for node in (1, 2, 3, 4):
            self.cluster.start(node)
        self.until("four brokers again", lambda: len(self.metadata().brokers) == 4)
        self.cluster.kill(2)
        self.create("without-two", 3, 2)
        self.cluster.start(2)
        self.until("four brokers once more", lambda: len(self.metadata().brokers) == 4)

        # Node 1 retires.
        self.assertIn("runs", self.refused("cluster", "unregister", "1"))
        self.assertTrue(self.json("cluster", "drain", "1")["moves"])
        self.done("cluster", "drain", "1", "--execute")
        self.assertFalse(
            any(1 in p.replicas for t in self.metadata().topics.values() for p in t.partitions.values())
        )
        self.assertEqual(self.cluster.kill(1, signal.SIGTERM), 0)
        self.until("unregistered", lambda: self.mdc("cluster", "unregister", "1").returncode == 0)
        self.until(
            "forgotten",
            lambda: [n["id"] for n in self.json("cluster", "status")["nodes"]] == [2, 3, 4]
            and [r["node"] for r in self.json("cluster", "status")["quorum"]["replicas"]] == [2, 3, 4],
        )
        self.assertEqual(len(self.done("consume", "old", "--from", "earliest", "--until-end").split()), 400)


if __name__ == "__main__":
    unittest.main()
