# SPDX-License-Identifier: Apache-2.0
"""Three processes form a cluster: topics, failover, restart."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BROKER = os.environ["MDC_BROKER"]
DEADLINE = 60
# More of them make a long run of the test that kills nodes.
KILLS = int(os.environ.get("MDC_CLUSTER_KILLS", "5"))


def free_ports(count):
    """Ports below the range that the system gives to outgoing connections."""
    found = []
    candidate = 15000 + os.getpid() % 7000 * 2
    while len(found) < count:
        candidate = candidate + 1 if candidate < 31900 else 15000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        found.append(candidate)
    return found


class Cluster:
    def __init__(self, folder):
        ports = free_ports(6)
        self.folder = folder
        self.listen = dict(zip((1, 2, 3), ports[:3]))
        controllers = dict(zip((1, 2, 3), ports[3:]))
        self.controllers = controllers
        self.voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in controllers.items())
        self.processes = {}

    @property
    def bootstrap(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.listen.values())

    def start(self, node):
        log = open(f"{self.folder}/{node}.log", "ab")
        self.processes[node] = subprocess.Popen(
            [
                BROKER, "run", "--node-id", str(node), "--data", f"{self.folder}/{node}",
                "--listen", f"127.0.0.1:{self.listen[node]}", "--http", "none",
                "--controller-listen", f"127.0.0.1:{self.controllers[node]}", "--voters", self.voters,
            ],
            stdout=log,
            stderr=log,
        )
        log.close()

    def kill(self, node, how=signal.SIGKILL):
        process = self.processes.pop(node)
        process.send_signal(how)
        return process.wait(timeout=DEADLINE)

    def stop(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(timeout=DEADLINE)

    def logs(self):
        text = ""
        for node in self.listen:
            with open(f"{self.folder}/{node}.log", encoding="utf-8", errors="replace") as file:
                text += f"--- node {node}\n" + file.read()[-4000:]
        return text


class NumberedWriter:
    """An idempotent producer on a thread of its own: the numbers 0, 1, 2, …, in turn to all partitions."""

    def __init__(self, bootstrap, topic, partitions):
        self.topic, self.partitions = topic, partitions
        # Number -> (partition, offset) of what is acknowledged.
        self.acknowledged = {}
        self.failures = []
        self.sent = 0
        self.stopping = threading.Event()
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "message.timeout.ms": DEADLINE * 5000,
                "retry.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "error_cb": lambda error: self.failures.append(str(error)) if error.fatal() else None,
                "log_level": 0,
            }
        )
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stopping.is_set():
            # What is not acknowledged is bounded: a node that is down does not make the end of the test longer.
            if self.sent - len(self.acknowledged) < 2000:
                for _ in range(20):
                    self.producer.produce(
                        self.topic,
                        b"%d" % self.sent,
                        partition=self.sent % self.partitions,
                        on_delivery=self.delivered,
                    )
                    self.sent += 1
            self.producer.poll(0.02)

    def delivered(self, error, message):
        if error is not None:
            self.failures.append(f"{message.value()}: {error}")
        else:
            self.acknowledged[int(message.value())] = (message.partition(), message.offset())

    def stop(self):
        self.stopping.set()
        self.thread.join(DEADLINE)
        return self.producer.flush(DEADLINE)


class ClusterTests(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cluster = Cluster(self.folder.name)
        for node in (1, 2, 3):
            self.cluster.start(node)
        self.admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})

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

    def controller(self):
        """The active controller: the metadata that clients get name any node, for each passes on what is for it."""
        output = subprocess.run(
            [os.environ["MDC_CLI"], "cluster", "status", "-o", "json", "--bootstrap", self.cluster.bootstrap],
            capture_output=True, timeout=60, check=True,
        ).stdout
        leader = json.loads(output)["quorum"]["leader"]
        return leader if leader is not None and leader >= 0 else None

    def create(self, name, partitions, replicas):
        def attempt():
            self.admin.create_topics([NewTopic(name, partitions, replicas)])[name].result(timeout=20)
            return True

        self.until("three brokers", lambda: len(self.metadata().brokers) == 3)
        self.until(f"topic {name}", attempt)

    def produce(self, topic, partitions, acks):
        failures = []
        producer = Producer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "acks": acks,
                "message.timeout.ms": DEADLINE * 1000,
                "log_level": 0,
            }
        )
        for index in range(60):
            producer.produce(
                topic,
                b"value-%d" % index,
                partition=index % partitions,
                on_delivery=lambda error, _: failures.append(str(error)) if error else None,
            )
        self.assertEqual(producer.flush(DEADLINE), 0, self.cluster.logs())
        self.assertEqual(failures, [], self.cluster.logs())

    def consume(self, topic, count):
        """Reads with a group, whose coordinator is one of the nodes, and commits."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": "readers",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([topic])
        seen = 0
        end = time.monotonic() + DEADLINE
        while seen < count and time.monotonic() < end:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                seen += 1
        self.assertEqual(seen, count, self.cluster.logs())
        consumer.commit(asynchronous=False)
        consumer.close()

    def test_controller_and_leaders_fail_over(self):
        self.create("spread", 6, 3)
        before = self.metadata()
        partitions = before.topics["spread"].partitions
        self.assertEqual({p.leader for p in partitions.values()}, {1, 2, 3}, "leaders take turns")
        self.assertTrue(all(sorted(p.replicas) == [1, 2, 3] for p in partitions.values()))
        self.produce("spread", 6, acks="all")

        victim = self.until("a controller", self.controller)
        self.cluster.kill(victim)

        def led_by_others():
            now = self.metadata()
            return victim not in now.brokers and all(
                p.leader not in (-1, victim) and victim not in p.isrs
                for p in now.topics["spread"].partitions.values()
            )

        self.until("other leaders", led_by_others)
        self.produce("spread", 6, acks="all")
        # The quorum of two takes changes.
        self.admin.create_topics([NewTopic("later", 2, 2)])["later"].result(timeout=DEADLINE)

        self.cluster.start(victim)
        self.until("three brokers again", lambda: len(self.metadata().brokers) == 3)
        own = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.cluster.listen[victim]}", "log_level": 0})
        self.until("the returned node knows", lambda: "later" in own.list_topics(timeout=5).topics)

        def in_sync_and_preferred():
            return all(
                sorted(p.isrs) == [1, 2, 3] and p.leader == p.replicas[0]
                for p in self.metadata().topics["spread"].partitions.values()
            )

        self.until("everybody in sync, preferred leaders lead", in_sync_and_preferred)
        self.produce("spread", 6, acks="all")
        self.consume("spread", 180)

    def read_all(self, topic, partitions, bootstrap):
        """Offsets and numbers of every record, by partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "checker",
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                "log_level": 0,
            }
        )
        try:
            ends = {}
            for index in range(partitions):
                self.until(
                    f"the end of {index}",
                    lambda: ends.update(
                        {index: consumer.get_watermark_offsets(TopicPartition(topic, index), timeout=5)[1]}
                    )
                    or True,
                )
            consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
            found = {index: [] for index in range(partitions)}
            end = time.monotonic() + DEADLINE
            while time.monotonic() < end and any(
                not found[index] or found[index][-1][0] < ends[index] - 1 for index in range(partitions)
            ):
                for message in consumer.consume(1000, 0.5):
                    if message.error() is None:
                        found[message.partition()].append((message.offset(), int(message.value())))
            return found
        finally:
            consumer.close()

    def check_numbers(self, writer, found):
        for index, records in found.items():
            numbers = [number for _, number in records]
            self.assertEqual(len(set(numbers)), len(numbers), f"partition {index} has a number twice")
            self.assertEqual(numbers, sorted(numbers), f"partition {index} is out of order")
            places = {number: offset for offset, number in records}
            for number, (partition, offset) in writer.acknowledged.items():
                if partition != index:
                    continue
                self.assertIn(number, places, f"partition {index} lost a number acknowledged at {offset}")
                # A repeated request may be acknowledged without the place.
                if offset >= 0:
                    self.assertEqual(places[number], offset, f"partition {index}: {number} is elsewhere")

    def test_acknowledged_survives_kills(self):
        partitions = 4
        self.create("numbered", partitions, 3)

        def all_in_sync():
            now = self.metadata()
            return len(now.brokers) == 3 and all(
                sorted(p.isrs) == [1, 2, 3] and p.leader != -1 for p in now.topics["numbered"].partitions.values()
            )

        writer = NumberedWriter(self.cluster.bootstrap, "numbered", partitions)

        def goes_on(what):
            # Each partition takes what was sent after this moment.
            first = writer.sent

            def acknowledged():
                if writer.failures:
                    return True
                return all(
                    any(n in writer.acknowledged for n in range(first + index, writer.sent, partitions))
                    for index in range(partitions)
                )

            self.until(what, acknowledged)
            self.assertEqual(writer.failures, [], self.cluster.logs())

        try:
            goes_on("the first records")
            for kill in range(KILLS):
                # The controller, then the leader of one partition after the other.
                victim = (
                    self.until("a controller", self.controller)
                    if kill % 2 == 0
                    else self.metadata().topics["numbered"].partitions[kill // 2 % partitions].leader
                )
                if victim not in self.cluster.processes:
                    victim = kill % 3 + 1
                self.cluster.kill(victim)
                goes_on(f"records without node {victim}")
                self.cluster.start(victim)
                self.until(f"node {victim} in sync again", all_in_sync)
            for node in (1, 2, 3):
                self.cluster.processes[node].send_signal(signal.SIGKILL)
            for node in (1, 2, 3):
                self.cluster.kill(node)
            for node in (1, 2, 3):
                self.cluster.start(node)
            self.until("all in sync after all were killed", all_in_sync)
            goes_on("records after all were killed")
        finally:
            left = writer.stop()
        self.assertEqual((left, writer.failures), (0, []), self.cluster.logs())
        self.assertEqual(len(writer.acknowledged), writer.sent)
        for port in self.cluster.listen.values():
            found = self.read_all("numbered", partitions, f"127.0.0.1:{port}")
            self.check_numbers(writer, found)
            self.assertEqual(sum(len(records) for records in found.values()), writer.sent)

    def test_majority_lost_and_all_killed(self):
        self.create("kept", 3, 3)
        for node in (1, 2, 3):
            self.cluster.kill(node)
        self.cluster.start(1)
        time.sleep(1)
        self.assertIsNone(self.cluster.processes[1].poll(), "a node alone waits for the others")
        self.cluster.start(2)
        self.cluster.start(3)

        def led():
            now = self.metadata()
            return len(now.brokers) == 3 and all(p.leader != -1 for p in now.topics["kept"].partitions.values())

        self.until("all back", led)

    def test_stop_in_order_moves_leaders(self):
        self.create("moved", 3, 3)
        self.assertEqual(self.cluster.kill(2, signal.SIGTERM), 0, self.cluster.logs())

        def moved():
            now = self.metadata()
            return all(p.leader in (1, 3) for p in now.topics["moved"].partitions.values())

        self.until("leaders elsewhere", moved)
        self.create_on_two()

    def create_on_two(self):
        self.admin.create_topics([NewTopic("more", 1, 2)])["more"].result(timeout=DEADLINE)


if __name__ == "__main__":
    unittest.main()
