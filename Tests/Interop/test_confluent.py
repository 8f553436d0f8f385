# SPDX-License-Identifier: Apache-2.0
"""confluent-kafka (librdkafka 2.16, from PyPI) against a fresh node."""

import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import unittest

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType)

from broker_process import BrokerProcess
from matrix import shows

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def produce(broker, topic, values, key=None, **settings):
    """Sends the values in order and returns the (partition, offset) each was acknowledged at."""
    placed = [None] * len(values)
    failures = []

    def delivered(index):
        def callback(error, message):
            if error is not None:
                failures.append(error)
            else:
                placed[index] = (message.partition(), message.offset())
        return callback

    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5, **settings})
    for index, value in enumerate(values):
        while True:
            try:
                producer.produce(topic, value, key=key(index) if key else None, callback=delivered(index))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(60)
    assert left == 0 and not failures, f"{left} not sent, failures {failures[:3]}\n{broker.tail()}"
    return placed


def consumer(broker, group, **settings):
    return Consumer({
        "bootstrap.servers": broker.bootstrap, "group.id": group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, **settings})


def drain(client, count, timeout=60):
    """Polls until `count` messages came or time is up."""
    messages = []
    deadline = time.monotonic() + timeout
    while len(messages) < count and time.monotonic() < deadline:
        message = client.poll(0.5)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                continue
            raise KafkaException(message.error())
        messages.append(message)
    return messages


class WithBroker(unittest.TestCase):
    client = f"confluent-kafka {confluent_kafka.__version__}"
    settings = ()

    def setUp(self):
        self.broker = BrokerProcess(*self.settings).start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})

    def create(self, topic, partitions=1, config=None):
        futures = self.admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})])
        futures[topic].result(30)


class ProduceAndConsume(WithBroker):
    @shows("produce", "consume", "gzip", "snappy", "lz4", "zstd")
    def test_every_codec_with_keys_and_headers(self):
        for codec in CODECS:
            with self.subTest(codec=codec):
                topic = f"codec-{codec}"
                self.create(topic, 3)
                values = [(f"{codec} {number} " + "y" * (number % 500)).encode() for number in range(3_000)]
                produce(self.broker, topic, values, key=lambda n: f"key-{n % 17}", **{"compression.type": codec})
                reader = consumer(self.broker, f"group-{codec}")
                reader.subscribe([topic])
                back = drain(reader, len(values))
                reader.close()
                self.assertEqual(sorted(m.value() for m in back), sorted(values))

    def test_a_topic_with_a_codec_of_its_own_stores_that_whatever_comes(self):
        """`compression.type` of a topic: the node compresses again what comes with another codec; clients notice nothing."""
        for number, target in enumerate(["uncompressed", *CODECS[1:]]):
            with self.subTest(target=target):
                topic = f"stored-{target}"
                levels = {f"compression.{target}.level": "5"} if target in ("gzip", "lz4", "zstd") else {}
                self.create(topic, 1, {"compression.type": target, **levels})
                values = []
                for codec in CODECS:
                    some = [f"{codec} {index} {'z' * 200}".encode() for index in range(300)]
                    # Every other codec is sent by an idempotent producer, whose sequences must stay.
                    placed = produce(
                        self.broker, topic, some,
                        **{"compression.type": codec, "enable.idempotence": CODECS.index(codec) % 2 == 0})
                    self.assertEqual([(0, len(values) + index) for index in range(300)], placed)
                    values += some
                client = Producer({
                    "bootstrap.servers": self.broker.bootstrap, "transactional.id": topic,
                    "compression.type": CODECS[number - 1]})
                client.init_transactions(30)
                client.begin_transaction()
                client.produce(topic, b"in a transaction")
                client.commit_transaction(30)
                values.append(b"in a transaction")
                # The client looks at every checksum.
                reader = consumer(self.broker, topic, **{"check.crcs": True, "isolation.level": "read_committed"})
                reader.assign([TopicPartition(topic, 0, 0)])
                self.assertEqual(values, [message.value() for message in drain(reader, len(values))])
                reader.close()
                self.assertEqual({number}, self.stored_codecs(topic))
        described = self.admin.describe_configs([ConfigResource(ResourceType.TOPIC, "stored-zstd")])
        [settings] = [future.result(30) for future in described.values()]
        self.assertEqual(
            ("zstd", "5"), (settings["compression.type"].value, settings["compression.zstd.level"].value))
        for wrong in ({"compression.type": "none"}, {"compression.type": "lzma"}, {"compression.gzip.level": "10"}):
            with self.assertRaises(KafkaException) as caught:
                self.create("wrong", 1, wrong)
            self.assertEqual(KafkaError.INVALID_CONFIG, caught.exception.args[0].code())

    def stored_codecs(self, topic):
        """The codecs in the headers of the batches that a partition's first segment holds, markers aside."""
        with open(os.path.join(self.broker.data, f"{topic}-0", f"{0:020}.log"), "rb") as file:
            log = file.read()
        codecs, position = set(), 0
        while position + 61 <= len(log):
            length, _, magic, _, attributes = struct.unpack_from(">iibIh", log, position + 8)
            if magic != 2:
                break
            if not attributes & 0x20:
                codecs.add(attributes & 7)
            position += 12 + length
        return codecs

    @shows("committed offsets")
    def test_a_committed_position_is_resumed(self):
        self.create("resume", 2)
        values = [str(number).encode() for number in range(1_000)]
        produce(self.broker, "resume", values)
        first = consumer(self.broker, "resumers")
        first.subscribe(["resume"])
        head = drain(first, 400)
        first.commit(asynchronous=False)
        first.close()
        second = consumer(self.broker, "resumers")
        second.subscribe(["resume"])
        tail = drain(second, 600)
        second.close()
        self.assertEqual(sorted(int(m.value()) for m in head + tail), list(range(1_000)))

    @shows("idempotence")
    def test_idempotent_producer_keeps_order(self):
        self.create("ordered", 1)
        values = [str(number).encode() for number in range(5_000)]
        placed = produce(self.broker, "ordered", values, **{"enable.idempotence": True})
        self.assertEqual(placed, [(0, number) for number in range(5_000)])

    @shows("seek by time")
    def test_seek_and_offsets_for_times(self):
        self.create("seek", 1)
        produce(self.broker, "seek", [b"a", b"b", b"c", b"d"])
        reader = consumer(self.broker, "seekers")
        reader.assign([TopicPartition("seek", 0, 2)])
        self.assertEqual([m.value() for m in drain(reader, 2)], [b"c", b"d"])
        self.assertEqual(reader.get_watermark_offsets(TopicPartition("seek", 0), timeout=10), (0, 4))
        found = reader.offsets_for_times([TopicPartition("seek", 0, 1)], timeout=10)
        self.assertEqual(found[0].offset, 0)
        reader.close()


class Groups(WithBroker):
    def run_members(self, strategy):
        """Three members share six partitions while messages flow; one leaves, one is killed without a word."""
        topic, group, total = f"rebalance-{strategy}", f"group-{strategy}", 6_000
        self.create(topic, 6)
        seen, owners = {}, {}
        lock = threading.Lock()
        stop = threading.Event()

        def member(name, lifetime):
            client = consumer(self.broker, group, **{"partition.assignment.strategy": strategy, "client.id": name})

            def assigned(_, partitions):
                with lock:
                    owners.setdefault(name, set()).update(p.partition for p in partitions)
            client.subscribe([topic], on_assign=assigned)
            began = time.monotonic()
            while not stop.is_set() and (lifetime is None or time.monotonic() - began < lifetime):
                message = client.poll(0.2)
                if message is None or message.error():
                    continue
                with lock:
                    seen[message.value()] = seen.get(message.value(), 0) + 1
                client.commit(message, asynchronous=True)
            client.close()

        def victim(lifetime):
            process = subprocess.Popen(
                [sys.executable, "member_process.py", self.broker.bootstrap, group, topic, strategy],
                stdout=subprocess.PIPE, text=True)
            timer = threading.Timer(lifetime, process.kill)
            timer.start()
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # killed in the midst of a line
                kind, _, rest = line.rstrip("\n").partition(" ")
                with lock:
                    if kind == "assigned":
                        owners.setdefault("victim", set()).add(rest)
                    else:
                        seen[rest.encode()] = seen.get(rest.encode(), 0) + 1
            process.stdout.close()
            process.wait()

        threads = [
            threading.Thread(target=member, args=("stays", None), daemon=True),
            threading.Thread(target=member, args=("leaves", 4), daemon=True),
            threading.Thread(target=victim, args=(6,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        values = [f"{strategy} {number}".encode() for number in range(total)]
        for start in range(0, total, 500):
            produce(self.broker, topic, values[start:start + 500], key=str)
            time.sleep(0.5)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with lock:
                if len(seen) == total:
                    break
            time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(30)
        missing = [value for value in values if value not in seen]
        self.assertEqual(missing, [], f"{len(missing)} messages reached no member\n{self.broker.tail()}")
        self.assertEqual(set(owners), {"stays", "leaves", "victim"}, "a member never owned a partition")

    @shows("group", "eager rebalance", "member killed")
    def test_three_members_rebalance_without_loss_range(self):
        self.run_members("range")

    @shows("cooperative rebalance", "member killed")
    def test_three_members_rebalance_without_loss_cooperative(self):
        self.run_members("cooperative-sticky")

    @shows("static member")
    def test_static_member_returns_to_its_partitions(self):
        self.create("static", 2)
        produce(self.broker, "static", [b"x"] * 10, key=str)
        first = consumer(self.broker, "statics", **{"group.instance.id": "instance-1"})
        first.subscribe(["static"])
        self.assertEqual(len(drain(first, 10)), 10)
        before = sorted(p.partition for p in first.assignment())
        first.commit(asynchronous=False)
        first.close()
        again = consumer(self.broker, "statics", **{"group.instance.id": "instance-1"})
        again.subscribe(["static"])
        produce(self.broker, "static", [b"y"] * 4, key=str)
        self.assertEqual([m.value() for m in drain(again, 4)], [b"y"] * 4)
        self.assertEqual(sorted(p.partition for p in again.assignment()), before)
        again.close()

    @shows("groups admin")
    def test_groups_are_listed_described_and_deleted(self):
        self.create("described", 2)
        produce(self.broker, "described", [b"x"] * 4)
        member = consumer(self.broker, "visible")
        member.subscribe(["described"])
        drain(member, 4)
        member.commit(asynchronous=False)
        listed = self.admin.list_consumer_groups().result(30)
        self.assertIn("visible", [group.group_id for group in listed.valid])
        described = self.admin.describe_consumer_groups(["visible"])["visible"].result(30)
        self.assertEqual(len(described.members), 1)
        member.close()
        self.admin.delete_consumer_groups(["visible"])["visible"].result(30)
        listed = self.admin.list_consumer_groups().result(30)
        self.assertNotIn("visible", [group.group_id for group in listed.valid])


class Administration(WithBroker):
    @shows("topics", "partitions")
    def test_topics_are_created_grown_and_deleted(self):
        self.create("managed", 2, {"retention.ms": "3600000"})
        self.admin.create_partitions([NewPartitions("managed", 4)])["managed"].result(30)
        topics = self.admin.list_topics("managed", timeout=30).topics
        self.assertEqual(len(topics["managed"].partitions), 4)
        with self.assertRaises(KafkaException) as raised:
            self.create("managed", 2)
        self.assertEqual(raised.exception.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS)
        self.admin.delete_topics(["managed"])["managed"].result(30)
        self.assertNotIn("managed", self.admin.list_topics(timeout=30).topics)

    @shows("configs")
    def test_configs_are_read_and_changed(self):
        self.create("configured", 1, {"retention.ms": "3600000"})
        resource = ConfigResource(ResourceType.TOPIC, "configured")
        entries = self.admin.describe_configs([resource])[resource].result(30)
        self.assertEqual(entries["retention.ms"].value, "3600000")
        change = ConfigResource(ResourceType.TOPIC, "configured", incremental_configs=[
            ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)])
        self.admin.incremental_alter_configs([change])[change].result(30)
        entries = self.admin.describe_configs([resource])[resource].result(30)
        self.assertEqual(entries["retention.ms"].value, "7200000")

    def test_bad_names_are_refused(self):
        for name in ["", "a/b", "x" * 250, ".."]:
            with self.subTest(name=name[:10]), self.assertRaises((KafkaException, ValueError)):
                self.create(name, 1)


class Crashes(WithBroker):
    @shows("broker killed")
    def test_every_acknowledged_record_survives_kill_9_under_load(self):
        self.create("survivors", 3)
        acknowledged = []
        lock = threading.Lock()
        stop = threading.Event()

        def delivered(error, message):
            if error is None:
                with lock:
                    acknowledged.append((message.partition(), message.offset(), message.value()))

        producer = Producer({
            "bootstrap.servers": self.broker.bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
            "message.timeout.ms": 120_000, "reconnect.backoff.max.ms": 500})

        def load():
            number = 0
            while not stop.is_set():
                try:
                    producer.produce("survivors", f"record {number}".encode(), callback=delivered)
                    number += 1
                except BufferError:
                    producer.poll(0.05)
                if number % 200 == 0:
                    producer.poll(0.01)

        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        for _ in range(3):
            time.sleep(1.0)
            self.broker.kill()
            self.broker.start()
        time.sleep(1.0)
        stop.set()
        thread.join()
        self.assertEqual(producer.flush(120), 0, self.broker.tail())
        self.broker.kill()
        self.broker.start()

        reader = consumer(self.broker, "auditors")
        highs = {}
        for partition in range(3):
            _, high = reader.get_watermark_offsets(TopicPartition("survivors", partition), timeout=30)
            highs[partition] = high
        reader.assign([TopicPartition("survivors", partition, 0) for partition in range(3)])
        stored = {(m.partition(), m.offset()): m.value() for m in drain(reader, sum(highs.values()), timeout=120)}
        reader.close()
        self.assertGreater(len(acknowledged), 1_000)
        lost = [entry for entry in acknowledged if stored.get(entry[:2]) != entry[2]]
        self.assertEqual(lost, [], f"{len(lost)} of {len(acknowledged)} acknowledged records are gone")
        self.assertEqual(len(set(stored.values())), len(stored), "an idempotent producer's record stands twice")

    def test_committed_offsets_survive_kill_9(self):
        self.create("positions", 1)
        produce(self.broker, "positions", [b"x"] * 100)
        reader = consumer(self.broker, "keepers")
        reader.subscribe(["positions"])
        drain(reader, 60)
        reader.commit(asynchronous=False)
        self.broker.kill()
        self.broker.start()
        reader.close()
        again = consumer(self.broker, "keepers")
        committed = again.committed([TopicPartition("positions", 0)], timeout=30)
        self.assertEqual(committed[0].offset, 60)
        again.close()

    def test_a_topic_whose_creation_was_cut_off_is_finished_at_the_next_start(self):
        """The metadata has the topic, but SIGKILL came before its folders had their ids, or before there were folders."""
        self.create("cut", 3)
        self.broker.kill()
        os.remove(os.path.join(self.broker.data, "cut-0", "partition.metadata"))
        for name in os.listdir(os.path.join(self.broker.data, "cut-1")):
            os.remove(os.path.join(self.broker.data, "cut-1", name))
        shutil.rmtree(os.path.join(self.broker.data, "cut-2"))
        for _ in range(2):
            self.broker.start()
            values = [str(number).encode() for number in range(30)]
            placed = produce(self.broker, "cut", values, key=str)
            self.assertEqual({partition for partition, _ in placed}, {0, 1, 2})
            self.broker.kill()

    def test_a_folder_with_records_and_no_topic_id_is_refused_not_emptied(self):
        self.create("kept", 1)
        produce(self.broker, "kept", [b"x"])
        self.broker.kill()
        os.remove(os.path.join(self.broker.data, "kept-0", "partition.metadata"))
        with self.assertRaises(AssertionError):
            self.broker.start()
        log = os.path.join(self.broker.data, "kept-0", "00000000000000000000.log")
        self.assertGreater(os.path.getsize(log), 61)

    def test_sigterm_stops_cleanly_and_restart_needs_no_recovery(self):
        self.create("clean", 1)
        produce(self.broker, "clean", [b"x"] * 100)
        self.assertEqual(self.broker.terminate(), 0)
        self.broker.start()
        reader = consumer(self.broker, "cleaners")
        reader.assign([TopicPartition("clean", 0, 0)])
        self.assertEqual(len(drain(reader, 100)), 100)
        reader.close()


if __name__ == "__main__":
    unittest.main()
