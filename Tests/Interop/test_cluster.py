# SPDX-License-Identifier: Apache-2.0
"""Three processes form a cluster: topics, failover, restart."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

BROKER = os.environ["MDC_BROKER"]
DEADLINE = 60


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

        victim = self.until("a controller", lambda: (self.metadata().controller_id + 1 or 0)) - 1
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
