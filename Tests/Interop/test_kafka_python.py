# SPDX-License-Identifier: Apache-2.0
"""kafka-python 3 (pure Python, from PyPI) against a fresh node."""

import subprocess
import sys
import threading
import time
import unittest

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import TopicAlreadyExistsError
from kafka.protocol.broker_version_data import BROKER_API_VERSIONS

from broker_process import BrokerProcess
from matrix import shows

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
STRATEGIES = {"range": [RangePartitionAssignor], "cooperative": [CooperativeStickyAssignor]}


def drain(consumer, count, timeout=60):
    """Polls until `count` records came or time is up."""
    records = []
    deadline = time.monotonic() + timeout
    while len(records) < count and time.monotonic() < deadline:
        for batch in consumer.poll(timeout_ms=500).values():
            records += batch
    return records


class KafkaPython(unittest.TestCase):
    client = f"kafka-python {kafka.__version__}"

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        self.admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        self.addCleanup(self.admin.close)

    def producer(self, **settings):
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap, **{"acks": "all", **settings})
        self.addCleanup(producer.close, 5)
        return producer

    def consumer(self, *topics, **settings):
        consumer = KafkaConsumer(*topics, bootstrap_servers=self.broker.bootstrap, **{
            "auto_offset_reset": "earliest", "enable_auto_commit": False, "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 500, **settings})
        self.addCleanup(consumer.close)
        return consumer

    def create(self, topic, partitions=1, **configs):
        self.admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])

    def send(self, topic, count, **settings):
        producer = self.producer(**settings)
        futures = [producer.send(topic, b"%d" % number, key=b"%d" % (number % 17)) for number in range(count)]
        producer.flush(60)
        return [future.get(60) for future in futures]

    # Records

    @shows("produce", "consume", "gzip", "snappy", "lz4", "zstd", "headers")
    def test_every_codec_with_keys_and_headers(self):
        for codec in CODECS:
            with self.subTest(codec=codec):
                topic = f"codec-{codec}"
                self.create(topic, 3)
                producer = self.producer(compression_type=codec)
                values = [(f"{codec} {number} " + "y" * (number % 500)).encode() for number in range(600)]
                for number, value in enumerate(values):
                    producer.send(topic, value, key=b"key-%d" % (number % 17), headers=[("n", b"%d" % number)])
                producer.flush(60)
                back = drain(self.consumer(topic, group_id=None), len(values))
                self.assertEqual(sorted(record.value for record in back), sorted(values))
                for record in back:
                    self.assertEqual(values[int(record.headers[0][1])], record.value)

    @shows("idempotence")
    def test_an_idempotent_producer_keeps_order(self):
        self.create("ordered", 1)
        placed = self.send("ordered", 1_000, enable_idempotence=True)
        self.assertEqual([record.offset for record in placed], list(range(1_000)))

    @shows("seek by time")
    def test_offsets_for_times_and_ends(self):
        self.create("times", 1)
        producer = self.producer()
        for number in range(10):
            producer.send("times", b"%d" % number, timestamp_ms=1_700_000_000_000 + number * 1000)
        producer.flush(30)
        partition = TopicPartition("times", 0)
        consumer = self.consumer(group_id=None)
        consumer.assign([partition])
        found = consumer.offsets_for_times({partition: 1_700_000_004_500})
        self.assertEqual((found[partition].offset, found[partition].timestamp), (5, 1_700_000_005_000))
        self.assertEqual(consumer.beginning_offsets([partition]), {partition: 0})
        self.assertEqual(consumer.end_offsets([partition]), {partition: 10})
        consumer.seek(partition, 8)
        self.assertEqual([record.value for record in drain(consumer, 2)], [b"8", b"9"])

    # Groups

    @shows("committed offsets")
    def test_a_committed_position_is_resumed(self):
        self.create("resume", 1)
        self.send("resume", 100)
        first = self.consumer("resume", group_id="resumers", max_poll_records=40)
        head = drain(first, 40)
        first.commit()
        first.close()
        tail = drain(self.consumer("resume", group_id="resumers"), 100 - len(head))
        self.assertEqual([int(r.offset) for r in head + tail], list(range(100)))

    def run_members(self, strategy):
        """Two members here and one in a process of its own, which is killed; one of the others leaves."""
        topic, total = f"members-{strategy}", 1_500
        self.create(topic, 6)
        seen, owned = set(), {}
        lock = threading.Lock()
        stop, leave = threading.Event(), threading.Event()

        def member(name, until):
            consumer = KafkaConsumer(
                bootstrap_servers=self.broker.bootstrap, group_id=f"group-{strategy}", auto_offset_reset="earliest",
                enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500,
                partition_assignment_strategy=STRATEGIES[strategy])
            consumer.subscribe([topic])
            while not until.is_set():
                batches = consumer.poll(timeout_ms=200)
                with lock:
                    owned[name] = {p.partition for p in consumer.assignment()}
                    for batch in batches.values():
                        seen.update(record.value for record in batch)
                if batches:
                    try:
                        consumer.commit()
                    except kafka.errors.KafkaError:
                        pass  # the group is on the move; the next owner reads again
            consumer.close()
            with lock:
                owned.pop(name, None)

        threads = [
            threading.Thread(target=member, args=("stays", stop), daemon=True),
            threading.Thread(target=member, args=("leaves", leave), daemon=True)]
        for thread in threads:
            thread.start()
        victim = subprocess.Popen(
            [sys.executable, "kafka_python_member.py", self.broker.bootstrap, f"group-{strategy}", topic, strategy],
            stdout=subprocess.PIPE, text=True)

        def listen():
            for line in victim.stdout:
                if not line.endswith("\n"):
                    break  # killed in the midst of a line
                kind, _, rest = line.rstrip("\n").partition(" ")
                with lock:
                    if kind == "assigned":
                        owned["victim"] = set(map(int, rest.split(",")))
                    elif kind == "value" and line.endswith("\n"):
                        # A line that the kill cut off names no value.
                        seen.add(rest.encode())
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()

        def wait(condition, what):
            deadline = time.monotonic() + 60
            while True:
                with lock:
                    if condition():
                        return
                self.assertLess(time.monotonic(), deadline, f"{what}: {owned}, {len(seen)} seen\n{self.broker.tail()}")
                time.sleep(0.1)

        wait(lambda: len(owned) == 3 and all(owned.values()), "all three own something")
        producer = self.producer()
        values = [b"%d" % number for number in range(total)]
        for value in values[:total // 3]:
            producer.send(topic, value, key=value)
        producer.flush(30)
        victim.kill()
        victim.wait()
        listener.join()
        victim.stdout.close()
        with lock:
            owned.pop("victim")
        for value in values[total // 3:2 * total // 3]:
            producer.send(topic, value, key=value)
        producer.flush(30)
        wait(lambda: len(owned) == 2 and set.union(*owned.values()) == set(range(6)), "two own everything")
        leave.set()
        for value in values[2 * total // 3:]:
            producer.send(topic, value, key=value)
        producer.flush(30)
        wait(lambda: owned.get("stays") == set(range(6)), "one owns everything")
        wait(lambda: seen.issuperset(values), "every record was read")
        stop.set()
        for thread in threads:
            thread.join(30)

    @shows("group", "eager rebalance", "member killed")
    def test_members_leave_and_are_killed_range(self):
        self.run_members("range")

    @shows("cooperative rebalance")
    def test_members_leave_and_are_killed_cooperative(self):
        self.run_members("cooperative")

    @shows("static member")
    def test_a_static_member_returns_without_a_rebalance(self):
        self.create("static", 2)
        settings = {"group_id": "statics", "session_timeout_ms": 30_000}
        first = self.consumer("static", group_instance_id="instance-1", **settings)
        other = self.consumer("static", group_instance_id="instance-2", **settings)
        for _ in range(60):
            first.poll(200)
            other.poll(200)
            if len(first.assignment()) == 1 and len(other.assignment()) == 1:
                break
        mine = first.assignment()
        self.assertEqual((len(mine), len(other.assignment())), (1, 1))
        described = self.admin.describe_groups(["statics"])["statics"]
        self.assertEqual({member["group_instance_id"] for member in described["members"]}, {"instance-1", "instance-2"})
        first.close()
        self.assertEqual(len(self.admin.describe_groups(["statics"])["statics"]["members"]), 2)
        again = self.consumer("static", group_instance_id="instance-1", **settings)
        for _ in range(60):
            again.poll(200)
            other.poll(200)
            if again.assignment():
                break
        self.assertEqual(again.assignment(), mine)
        self.admin.remove_group_members("statics", [kafka.admin.MemberToRemove(group_instance_id="instance-2")])
        self.assertEqual(len(self.admin.describe_groups(["statics"])["statics"]["members"]), 1)

    # Administration

    @shows("topics", "partitions")
    def test_topics(self):
        self.create("managed", 2)
        with self.assertRaises(TopicAlreadyExistsError):
            self.create("managed", 2)
        self.assertIn("managed", self.admin.list_topics())
        self.admin.create_partitions({"managed": 4})
        described = self.admin.describe_topics(["managed"])
        self.assertEqual(len(described[0]["partitions"]), 4)
        self.admin.delete_topics(["managed"])
        self.assertNotIn("managed", self.admin.list_topics())

    @shows("configs")
    def test_configs(self):
        self.create("configured", 1, **{"retention.ms": "3600000"})
        resource = ConfigResource(ConfigResourceType.TOPIC, "configured")

        def retention():
            return self.admin.describe_configs([resource], config_filter="all")["topic"]["configured"]["retention.ms"]["value"]
        self.assertEqual(retention(), "3600000")
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "configured", {"retention.ms": "7200000"})])
        self.assertEqual(retention(), "7200000")

    @shows("delete records")
    def test_records_are_deleted(self):
        self.create("shrunk", 1)
        self.send("shrunk", 10)
        partition = TopicPartition("shrunk", 0)
        self.admin.delete_records({partition: 4})
        consumer = self.consumer(group_id=None)
        self.assertEqual(consumer.beginning_offsets([partition]), {partition: 4})

    @shows("groups admin", "offsets admin")
    def test_groups_and_their_offsets(self):
        self.create("grouped", 2)
        self.send("grouped", 20)
        member = self.consumer("grouped", group_id="visible")
        drain(member, 20)
        member.commit()
        self.assertIn("visible", [group["group_id"] for group in self.admin.list_groups()])
        described = self.admin.describe_groups(["visible"])["visible"]
        self.assertEqual((described["group_state"], len(described["members"])), ("Stable", 1))
        member.close()
        partition = TopicPartition("grouped", 0)
        self.admin.alter_group_offsets("visible", {partition: OffsetAndMetadata(3, "note", -1)})
        offsets = self.admin.list_group_offsets({"visible": None})["visible"]
        self.assertEqual((offsets[partition].offset, offsets[partition].metadata), (3, "note"))
        self.admin.delete_group_offsets("visible", [partition])
        self.assertNotIn(partition, self.admin.list_group_offsets({"visible": None})["visible"])
        self.admin.delete_groups(["visible"])
        self.assertNotIn("visible", [group["group_id"] for group in self.admin.list_groups()])

    @shows("cluster")
    def test_the_cluster_looks_like_one_release(self):
        cluster = self.admin.describe_cluster()
        self.assertEqual(len(cluster["brokers"]), 1)
        self.create("placed", 1)
        self.assertTrue(self.admin.describe_log_dirs())
        self.assertTrue(self.admin.describe_topic_partitions(["placed"]))

    def test_gotcha_04_what_is_announced_is_one_release(self):
        """The client concludes the broker's version from single APIs; it also knows what a broker of 4.3 announces."""
        found = self.admin.get_broker_version_data(1)
        self.assertEqual(found.broker_version, (4, 3))
        real = BROKER_API_VERSIONS[(4, 3)]
        ours = {key: tuple(versions) for key, versions in found.api_versions.items() if key in real}
        self.assertEqual(ours, {key: tuple(real[key]) for key in ours})
        self.assertGreater(len(ours), 30)

    @shows("broker killed")
    def test_a_killed_broker_loses_nothing_that_was_acknowledged(self):
        self.create("survivors", 2)
        before = self.send("survivors", 200)
        consumer = self.consumer("survivors", group_id="keepers")
        self.assertEqual(len(drain(consumer, 200)), 200)
        consumer.commit()
        self.broker.kill()
        self.broker.start()
        after = self.send("survivors", 200)
        read = drain(consumer, 200)
        self.assertEqual(
            sorted((r.partition, r.offset) for r in read), sorted((r.partition, r.offset) for r in after))
        self.assertFalse({(r.partition, r.offset) for r in before} & {(r.partition, r.offset) for r in after})


if __name__ == "__main__":
    unittest.main()
