# SPDX-License-Identifier: Apache-2.0
"""Transactions over partitions of three nodes, whose coordinators and leaders are killed in turn."""

import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from test_cluster import BROKER, DEADLINE, Cluster

PARTITIONS = 12
# More of them make a long run.
KILLS = int(os.environ.get("MDC_CLUSTER_KILLS", "4"))


class ConfiguredCluster(Cluster):
    """Three nodes with settings."""

    def __init__(self, folder, settings_of):
        super().__init__(folder)
        self.settings_of = settings_of

    def start(self, node):
        command = [
            BROKER, "run", "--node-id", str(node), "--data", f"{self.folder}/{node}",
            "--listen", f"127.0.0.1:{self.listen[node]}", "--http", "none",
            "--controller-listen", f"127.0.0.1:{self.controllers[node]}", "--voters", self.voters,
        ]
        for setting in self.settings_of(node):
            command += ["--set", setting]
        with open(f"{self.folder}/{node}.log", "ab") as log:
            self.processes[node] = subprocess.Popen(command, stdout=log, stderr=log)


def home(key, count):
    """The partition of a coordinator's topic that a name lives in: Java's hash."""
    value = 0
    for character in key:
        value = (value * 31 + ord(character)) & 0xFFFFFFFF
    value = value - (1 << 32) if value >= 1 << 31 else value
    return abs(value) % count


class ClusterCase(unittest.TestCase):
    settings = ()

    def settings_of(self, node):
        return self.settings

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.cluster = ConfiguredCluster(self.folder.name, self.settings_of)
        self.addCleanup(self.cluster.stop)
        for node in (1, 2, 3):
            self.cluster.start(node)
        self.admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})
        self.until("three brokers", lambda: len(self.metadata().brokers) == 3)

    def until(self, what, check, deadline=3 * DEADLINE):
        end = time.monotonic() + deadline
        last = None
        while time.monotonic() < end:
            try:
                last = check()
                if last:
                    return last
            except KafkaException as error:  # an election is under way
                last = error
            time.sleep(0.1)
        self.fail(f"{what}: {last}\n{self.cluster.logs()}")

    def metadata(self):
        return self.admin.list_topics(timeout=5)

    def create(self, name, partitions=PARTITIONS, replicas=3):
        def attempt():
            if name not in self.metadata().topics:
                self.admin.create_topics([NewTopic(name, partitions, replicas)])[name].result(timeout=20)
            return all(p.leader != -1 for p in self.metadata().topics[name].partitions.values())

        self.until(f"topic {name}", attempt)

    def leader(self, topic, partition):
        return self.metadata().topics[topic].partitions[partition].leader

    def coordinator(self, topic, key):
        """The node on which a transactional id or a group has its coordinator."""
        partitions = self.metadata().topics[topic].partitions
        return partitions[home(key, len(partitions))].leader

    def all_in_sync(self, *topics):
        now = self.metadata()
        return len(now.brokers) == 3 and all(
            sorted(p.isrs) == [1, 2, 3] and p.leader != -1
            for topic in topics
            for p in now.topics[topic].partitions.values()
        )

    def kill_and_restart(self, victim, topics, meanwhile):
        if victim not in self.cluster.processes:
            victim = 1
        self.cluster.kill(victim)
        meanwhile(f"without node {victim}")
        self.cluster.start(victim)
        self.until(f"node {victim} in sync again", lambda: self.all_in_sync(*topics))

    def read(self, topic, partitions=PARTITIONS, isolation="read_committed"):
        """All values up to the present end of what this isolation level may see, by partition, and these ends."""
        client = Consumer({
            "bootstrap.servers": self.cluster.bootstrap, "group.id": str(uuid.uuid4()),
            "isolation.level": isolation, "enable.auto.commit": False, "enable.partition.eof": True,
            "log_level": 0})
        values = {index: [] for index in range(partitions)}
        ends = {}
        try:
            client.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
            deadline = time.monotonic() + 3 * DEADLINE
            while len(ends) < partitions:
                self.assertLess(time.monotonic(), deadline, "no end of the partitions\n" + self.cluster.logs())
                message = client.poll(1)
                if message is None:
                    continue
                if message.error():
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        ends[message.partition()] = message.offset()
                    continue
                values[message.partition()].append(message.value().decode())
        finally:
            client.close()
        return values, ends


class TransactionWriter:
    """A transactional producer on a thread of its own: each transaction has one record in each partition."""

    def __init__(self, bootstrap, topic, name):
        self.bootstrap, self.topic, self.name = bootstrap, topic, name
        # Number -> "commit" or "abort" as far as that is known.
        self.outcomes = {}
        self.begun = 0
        self.failure = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def make(self):
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "transactional.id": self.name, "linger.ms": 1,
            "transaction.timeout.ms": 60000, "message.timeout.ms": 60000, "retry.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500, "log_level": 0})
        while True:
            try:
                producer.init_transactions(60)
                return producer
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise

    @staticmethod
    def insist(call):
        """Until it is done or certainly not."""
        while True:
            try:
                return call(30)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise

    def run(self):
        try:
            producer = self.make()
            while not self.stopping.is_set():
                number = self.begun
                self.begun += 1
                try:
                    producer.begin_transaction()
                    for partition in range(PARTITIONS):
                        producer.produce(self.topic, f"{self.name} {number}", partition=partition)
                    if number % 4 == 3:
                        producer.flush(60)
                        self.insist(producer.abort_transaction)
                        self.outcomes[number] = "abort"
                    else:
                        self.insist(producer.commit_transaction)
                        self.outcomes[number] = "commit"
                except KafkaException as error:
                    if error.args[0].txn_requires_abort():
                        self.insist(producer.abort_transaction)
                        self.outcomes[number] = "abort"
                    else:
                        # What became of it is not known to this producer; the next one ends it if it was under way.
                        producer = self.make()
        except KafkaException as error:
            self.failure = error

    def stop(self):
        self.stopping.set()
        self.thread.join(3 * DEADLINE)
        return not self.thread.is_alive()


class TransactionsOverNodes(ClusterCase):
    def test_kills(self):
        self.create("t")
        self.assertEqual(
            {p.leader for p in self.metadata().topics["t"].partitions.values()}, {1, 2, 3}, "all nodes lead some")
        writers = [TransactionWriter(self.cluster.bootstrap, "t", f"writer-{index}") for index in range(3)]

        def goes_on(what):
            before = [len(writer.outcomes) for writer in writers]

            def ended():
                self.assertEqual([writer.failure for writer in writers], [None] * len(writers), self.cluster.logs())
                return all(len(writer.outcomes) >= count + 2 for writer, count in zip(writers, before))

            self.until(what, ended)

        goes_on("the first transactions")
        topics = ("t", "__transaction_state")
        self.until("all in sync", lambda: self.all_in_sync(*topics))
        for kill in range(KILLS):
            victim = (
                self.coordinator("__transaction_state", writers[kill % 3].name)
                if kill % 2 == 0 else self.leader("t", kill * 5 % PARTITIONS))
            self.kill_and_restart(victim, topics, goes_on)
            goes_on("with all nodes")
        for writer in writers:
            self.assertTrue(writer.stop(), f"{writer.name} does not end\n{self.cluster.logs()}")
            self.assertIsNone(writer.failure)
        self.check(writers)

    def check(self, writers):
        # Whatever was left open is over: the last stable offset is the end.
        def all_stable():
            _, stable = self.read("t")
            _, ends = self.read("t", isolation="read_uncommitted")
            return stable == ends

        self.until("a transaction hangs", all_stable)
        values, _ = self.read("t")
        for writer in writers:
            seen = [[int(v.split()[1]) for v in values[p] if v.startswith(writer.name + " ")] for p in range(PARTITIONS)]
            for partition in range(1, PARTITIONS):
                self.assertEqual(seen[partition], seen[0], f"a transaction of {writer.name} is torn")
            self.assertEqual(seen[0], sorted(set(seen[0])), "in order, each once")
            committed = {number for number, outcome in writer.outcomes.items() if outcome == "commit"}
            aborted = {number for number, outcome in writer.outcomes.items() if outcome == "abort"}
            self.assertEqual(committed - set(seen[0]), set(), "committed and not there")
            self.assertEqual(aborted & set(seen[0]), set(), "aborted and there")
            self.assertGreater(len(committed), 4)


class CopyOverNodes(ClusterCase):
    """An exactly-once copy, whose coordinators and leaders are killed in turn."""

    RECORDS = 3000
    settings = ("group.min.session.timeout.ms=500",)

    def worker(self):
        process = subprocess.Popen(
            [sys.executable, "copy_process.py", self.cluster.bootstrap, "source", "target", "copiers", "copier"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(self.stop, process)
        return process

    @staticmethod
    def stop(process):
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()

    def test_copy(self):
        self.create("source")
        self.create("target")
        plain = Producer({"bootstrap.servers": self.cluster.bootstrap, "linger.ms": 5, "log_level": 0})
        for index in range(self.RECORDS):
            plain.produce("source", str(index), partition=index % PARTITIONS)
            plain.poll(0)
        self.assertEqual(plain.flush(DEADLINE), 0)
        process = self.worker()
        victims = [
            lambda: self.coordinator("__transaction_state", "copier"),
            lambda: self.coordinator("__consumer_offsets", "copiers"),
            lambda: self.leader("target", 5),
        ]
        copied = 0
        down = None
        said = []
        deadline = time.monotonic() + 5 * DEADLINE
        while True:
            self.assertLess(
                time.monotonic(), deadline, f"the copy is not complete: {said[-5:]}\n{self.cluster.logs()}")
            line = process.stdout.readline()
            if not line:
                # It gave up, as it may after an error that only a new start mends.
                self.stop(process)
                process = self.worker()
                continue
            said.append(line.strip())
            if line.startswith("idle"):
                if down is None and self.done():
                    break
                if down is not None:
                    self.cluster.start(down)
                    down = None
                continue
            if not line.startswith("copied"):
                continue
            copied += 1
            if down is not None and copied >= 4:
                self.cluster.start(down)
                node, down, copied = down, None, 0
                self.until(
                    f"node {node} in sync again",
                    lambda: self.all_in_sync("source", "target", "__transaction_state", "__consumer_offsets"))
            elif down is None and victims and copied >= 2:
                down = victims.pop(0)()
                self.cluster.kill(down)
                copied = 0
        self.stop(process)
        self.assertEqual(victims, [], "not everybody was killed: the copy was too fast")
        values, _ = self.read("target")
        for part in range(PARTITIONS):
            self.assertEqual(values[part], [f"copy of {index}" for index in range(part, self.RECORDS, PARTITIONS)])

    def done(self):
        group = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "copiers", "log_level": 0})
        try:
            places = group.committed([TopicPartition("source", part) for part in range(PARTITIONS)], 30)
            ends = [group.get_watermark_offsets(TopicPartition("source", part), 30)[1] for part in range(PARTITIONS)]
            return [place.offset for place in places] == ends
        except KafkaException:
            return False
        finally:
            group.close()


if __name__ == "__main__":
    unittest.main()
