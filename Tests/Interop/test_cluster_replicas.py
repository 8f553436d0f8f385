# SPDX-License-Identifier: Apache-2.0
"""What replicas know and tell: committed records after a restart, leaders for who asks elsewhere, followers in a consumer's rack."""

import json
import socket
import struct
import threading
import time
import unittest
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from test_cluster import DEADLINE
from test_cluster_transactions import ClusterCase


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def produce_without_records(address, topic, partition):
    """A Produce 10 to whoever listens there; returns the error, the leader's node and epoch, and the nodes' ports."""
    name = topic.encode()
    body = struct.pack(">BhiB", 0, -1, 5000, 2) + bytes([len(name) + 1]) + name
    body += struct.pack(">BiBBBB", 2, partition, 0, 0, 0, 0)
    request = struct.pack(">hhihB", 0, 10, 77, -1, 0) + body
    with socket.create_connection(address, timeout=DEADLINE) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        length = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
        data = connection.recv(length, socket.MSG_WAITALL)
    at = 4 + 1 + 1
    skip, at = varint(data, at)
    at += skip - 1 + 1
    _, error, _, _, _ = struct.unpack_from(">ihqqq", data, at)
    at += 30
    _, at = varint(data, at)
    message, at = varint(data, at)
    at += max(message - 1, 0)
    leader = None
    tags, at = varint(data, at)
    for _ in range(tags):
        _, at = varint(data, at)
        size, at = varint(data, at)
        leader = struct.unpack_from(">ii", data, at)
        at += size
    at += 1 + 4
    ports = {}
    tags, at = varint(data, at)
    for _ in range(tags):
        _, at = varint(data, at)
        _, at = varint(data, at)
        count, at = varint(data, at)
        for _ in range(count - 1):
            node = struct.unpack_from(">i", data, at)[0]
            host, at = varint(data, at + 4)
            at += host - 1
            ports[node] = struct.unpack_from(">i", data, at)[0]
            rack, at = varint(data, at + 4)
            at += max(rack - 1, 0) + 1
    return error, leader, ports


class ReplicaCase(ClusterCase):
    def create_on(self, name, *assignment, **config):
        def attempt():
            if name not in self.metadata().topics:
                topic = NewTopic(name, len(assignment), replica_assignment=list(assignment), config=config)
                self.admin.create_topics([topic])[name].result(timeout=20)
            return all(p.leader != -1 for p in self.metadata().topics[name].partitions.values())

        self.until(f"topic {name}", attempt)

    def produce(self, topic, first, count):
        failures = []
        producer = Producer({"bootstrap.servers": self.cluster.bootstrap, "acks": "all", "log_level": 0})
        for number in range(first, first + count):
            producer.produce(
                topic, str(number), partition=0, on_delivery=lambda error, _: failures.append(error) if error else None)
        self.assertEqual(producer.flush(DEADLINE), 0)
        self.assertEqual(failures, [])


class Replicas(ReplicaCase):
    def test_committed_is_shown_by_a_restarted_leader_alone(self):
        self.create_on("kept", [1, 2], **{"min.insync.replicas": "2"})
        self.produce("kept", 0, 100)

        def checkpointed():
            with open(f"{self.folder.name}/1/replication-offset-checkpoint", encoding="utf-8") as file:
                return "kept 0 100\n" in file.read()

        def exists_and_says():
            try:
                return checkpointed()
            except FileNotFoundError:
                return False

        self.until("the high watermark on disk", exists_and_says)
        self.cluster.kill(2)
        partition = lambda: self.metadata().topics["kept"].partitions[0]
        self.until("node 1 alone in sync", lambda: partition().isrs == [1] and partition().leader == 1)
        self.cluster.kill(1)
        self.cluster.start(1)
        self.until("node 1 leads again", lambda: len(self.metadata().brokers) == 2 and partition().leader == 1)
        # Fewer are in sync than the minimum, so that nothing new is committed: what was is read.
        values = []

        def read():
            client = Consumer({
                "bootstrap.servers": self.cluster.bootstrap, "group.id": str(uuid.uuid4()),
                "enable.auto.commit": False, "log_level": 0})
            try:
                client.assign([TopicPartition("kept", 0, 0)])
                found = []
                while True:
                    messages = client.consume(100, 2)
                    found += [int(message.value()) for message in messages if not message.error()]
                    if not messages or len(found) >= 100:
                        break
                values[:] = found
                return len(found) >= 100
            finally:
                client.close()

        self.until("what was committed", read)
        self.assertEqual(values, list(range(100)))
        self.assertEqual(partition().isrs, [1])
        # With the other one back, it goes on behind.
        self.cluster.start(2)
        self.until("both in sync", lambda: sorted(partition().isrs) == [1, 2])
        self.produce("kept", 100, 10)

    def test_produce_elsewhere_names_the_leader(self):
        self.create_on("led", [2, 1, 3])
        self.until("the preferred leader", lambda: self.leader("led", 0) == 2)

        def told():
            error, leader, ports = produce_without_records(("127.0.0.1", self.cluster.listen[3]), "led", 0)
            return error == 6 and leader is not None and leader[0] == 2 and ports == {2: self.cluster.listen[2]}

        self.until("the leader's name", told)


class Racks(ReplicaCase):
    """Node N is in rack rN."""

    def settings_of(self, node):
        return (f"broker.rack=r{node}",)

    def test_a_consumer_reads_in_its_rack(self):
        self.create_on("near", [1, 2, 3])
        self.until("in sync", lambda: self.all_in_sync("near") and self.leader("near", 0) == 1)
        fetches = {}
        lock = threading.Lock()

        def note(text):
            with lock:
                for broker in json.loads(text)["brokers"].values():
                    if broker["nodeid"] > 0:
                        fetches[broker["nodeid"]] = broker["req"].get("Fetch", 0)

        client = Consumer({
            "bootstrap.servers": self.cluster.bootstrap, "group.id": str(uuid.uuid4()), "client.rack": "r3",
            "enable.auto.commit": False, "log_level": 0, "statistics.interval.ms": 200, "stats_cb": note})
        self.addCleanup(client.close)
        client.assign([TopicPartition("near", 0, 0)])
        seen = []

        def consumed(count):
            def check():
                seen.extend(int(m.value()) for m in client.consume(500, 0.2) if not m.error())
                return len(seen) >= count

            return check

        self.produce("near", 0, 200)
        self.until("the first records", consumed(200))
        self.until("fetches from the follower", lambda: consumed(200)() and fetches.get(3, 0) > 3)
        before = dict(fetches)
        for first in range(200, 1200, 200):
            self.produce("near", first, 200)
            self.until("more records", consumed(first + 200))
        self.until("more fetches", lambda: consumed(1200)() and fetches.get(3, 0) > before.get(3, 0) + 3)
        self.assertEqual(seen, list(range(1200)))
        # The leader was asked at first only.
        self.assertLessEqual(fetches.get(1, 0), before.get(1, 0) + 2, fetches)
        # Where the follower is gone, the leader serves.
        self.cluster.kill(3)
        self.produce("near", 1200, 100)
        self.until("records without the follower", consumed(1300))
        self.assertEqual(seen, list(range(1300)))


class Comparison(ReplicaCase):
    """Replicas are compared with their leaders; a bit turns over on one disk."""

    settings = ("replica.compare.interval.ms=1000",)

    def segment(self, node, topic):
        return f"{self.folder.name}/{node}/{topic}-0/00000000000000000000.log"

    def content(self, node, topic):
        with open(self.segment(node, topic), "rb") as file:
            # Space is reserved ahead.
            return file.read().rstrip(b"\0")

    def flip(self, node, topic):
        with open(self.segment(node, topic), "r+b") as file:
            place = len(self.content(node, topic)) // 2
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0x10]))

    def says(self, node, text):
        with open(f"{self.folder.name}/{node}.log", encoding="utf-8", errors="replace") as file:
            return text in file.read()

    def prepare(self, topic):
        self.create_on(topic, [1, 2, 3])
        self.produce(topic, 0, 3000)
        self.until("in sync", lambda: self.all_in_sync(topic) and self.leader(topic, 0) == 1)
        self.until("the same on all", lambda: len({self.content(node, topic) for node in (1, 2, 3)}) == 1)

    def test_a_replica_that_differs_is_copied_anew(self):
        self.prepare("flipped")
        before = self.content(1, "flipped")
        self.flip(3, "flipped")
        self.assertNotEqual(self.content(3, "flipped"), before)
        self.until("it is noticed", lambda: self.says(3, "a replica differs from its leader and is copied anew"))
        self.until(
            "it is copied anew", lambda: self.content(3, "flipped") == before and self.all_in_sync("flipped"))
        self.assertFalse(self.says(2, "a replica differs from its leader"), "the other one is sound")
        self.produce("flipped", 3000, 100)
        self.cluster.kill(1)
        self.until("another leader", lambda: self.leader("flipped", 0) in (2, 3))
        values, _ = self.read("flipped", 1)
        self.assertEqual(values[0], [str(number) for number in range(3100)])

    def test_nothing_is_thrown_away_for_a_damaged_leader(self):
        self.prepare("led")
        before = self.content(2, "led")
        self.flip(1, "led")
        for node in (2, 3):
            self.until("it is noticed", lambda: self.says(node, "the leader's copy of a partition is damaged"))
            self.assertEqual(self.content(node, "led"), before)
            self.assertFalse(self.says(node, "copied anew"))


if __name__ == "__main__":
    unittest.main()
