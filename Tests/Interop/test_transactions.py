# SPDX-License-Identifier: Apache-2.0
"""Transactions against a fresh node: librdkafka, the two Python clients, and `mdc txn`."""

import json
import logging
import os
import subprocess
import sys
import time
import unittest
import uuid

import aiokafka
import confluent_kafka
import kafka
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from kafka import KafkaConsumer, KafkaProducer

from broker_process import BrokerProcess
from matrix import shows

# A debugging event loop tells of every slow step.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

WAIT = 90


class Case(unittest.TestCase):
    settings = ()

    def setUp(self):
        self.broker = BrokerProcess(*self.settings).start()
        self.addCleanup(self.broker.close)

    def create(self, name, partitions=1):
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for future in admin.create_topics([NewTopic(name, num_partitions=partitions)]).values():
            future.result(30)

    def producer(self, transactional_id, timeout=60000, init=True):
        client = Producer({
            "bootstrap.servers": self.broker.bootstrap, "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout, "linger.ms": 2})
        if init:
            client.init_transactions(30)
        return client

    def read(self, topic, partitions=1, isolation="read_committed"):
        """All values up to the present end that this isolation level may see, by partition."""
        client = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": str(uuid.uuid4()),
            "isolation.level": isolation, "enable.auto.commit": False, "auto.offset.reset": "earliest",
            "enable.partition.eof": True})
        values = {index: [] for index in range(partitions)}
        client.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        ended = set()
        deadline = time.monotonic() + WAIT
        while len(ended) < partitions:
            self.assertLess(time.monotonic(), deadline, "no end of the partitions\n" + self.broker.tail())
            message = client.poll(1)
            if message is None:
                continue
            if message.error():
                self.assertEqual(message.error().code(), KafkaError._PARTITION_EOF, message.error())
                ended.add(message.partition())
                continue
            values[message.partition()].append(message.value().decode())
        client.close()
        return values

    def until(self, what, condition):
        deadline = time.monotonic() + WAIT
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"{what}\n{self.broker.tail()}")
            time.sleep(0.1)


class Transactions(Case):
    client = f"confluent-kafka {confluent_kafka.__version__}"

    @shows("transactions")
    def test_commit_and_abort(self):
        self.create("t", 3)
        client = self.producer("id")
        wanted = {0: [], 1: [], 2: []}
        for round in range(12):
            client.begin_transaction()
            for index in range(30):
                value = f"{round}.{index}"
                client.produce("t", value, partition=index % 3)
                if round % 3 != 1:
                    wanted[index % 3].append(value)
            if round % 3 == 1:
                client.flush(30)
                client.abort_transaction(30)
            else:
                client.commit_transaction(30)
        self.assertEqual(self.read("t", 3), wanted)
        everything = self.read("t", 3, "read_uncommitted")
        self.assertEqual(sum(map(len, everything.values())), 12 * 30)

    def test_open_transaction_holds_readers_back(self):
        self.create("t")
        client = self.producer("id")
        client.begin_transaction()
        client.produce("t", "held")
        client.flush(30)
        plain = Producer({"bootstrap.servers": self.broker.bootstrap})
        plain.produce("t", "behind")
        self.assertEqual(plain.flush(30), 0)
        self.assertEqual(self.read("t"), {0: []})
        self.assertEqual(self.read("t", isolation="read_uncommitted"), {0: ["held", "behind"]})
        client.commit_transaction(30)
        self.assertEqual(self.read("t"), {0: ["held", "behind"]})

    @shows("transactions")
    def test_second_producer_fences_the_first(self):
        self.create("t")
        zombie = self.producer("id")
        zombie.begin_transaction()
        zombie.produce("t", "zombie")
        zombie.flush(30)
        successor = self.producer("id")
        with self.assertRaises(KafkaException) as caught:
            zombie.produce("t", "late")
            zombie.commit_transaction(30)
        self.assertTrue(caught.exception.args[0].fatal())
        self.assertIn(caught.exception.args[0].code(), (KafkaError._FENCED, KafkaError.PRODUCER_FENCED))
        successor.begin_transaction()
        successor.produce("t", "successor")
        successor.commit_transaction(30)
        self.assertEqual(self.read("t"), {0: ["successor"]})

    def test_timeout_aborts(self):
        self.create("t")
        client = self.producer("id", timeout=1000)
        client.begin_transaction()
        client.produce("t", "too late")
        client.flush(30)
        plain = Producer({"bootstrap.servers": self.broker.bootstrap})
        plain.produce("t", "plain")
        self.assertEqual(plain.flush(30), 0)
        self.until("the transaction was not aborted", lambda: self.read("t") == {0: ["plain"]})
        with self.assertRaises(KafkaException):
            client.commit_transaction(30)
        successor = self.producer("id")
        successor.begin_transaction()
        successor.produce("t", "next")
        successor.commit_transaction(30)
        self.assertEqual(self.read("t"), {0: ["plain", "next"]})

    def test_offsets_in_transactions(self):
        self.create("source")
        self.create("target")
        plain = Producer({"bootstrap.servers": self.broker.bootstrap})
        for index in range(10):
            plain.produce("source", str(index))
        self.assertEqual(plain.flush(30), 0)
        reader = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "g", "enable.auto.commit": False,
            "auto.offset.reset": "earliest"})
        self.addCleanup(reader.close)
        reader.subscribe(["source"])
        seen = []
        self.until("nothing was read", lambda: seen.extend(reader.consume(10, 1)) or len(seen) >= 10)
        client = self.producer("id")
        place = [TopicPartition("source", 0)]
        for offset, commit in ((4, False), (7, True)):
            client.begin_transaction()
            client.produce("target", f"up to {offset}")
            client.send_offsets_to_transaction(
                [TopicPartition("source", 0, offset)], reader.consumer_group_metadata(), 30)
            if commit:
                client.commit_transaction(30)
            else:
                client.abort_transaction(30)
            self.assertEqual(reader.committed(place, 30)[0].offset, 7 if commit else -1001)
        self.assertEqual(self.read("target"), {0: ["up to 7"]})

    def test_broker_killed_in_the_middle(self):
        self.create("t", 2)
        client = self.producer("id")
        client.begin_transaction()
        client.produce("t", "first", partition=0)
        client.commit_transaction(30)
        client.begin_transaction()
        client.produce("t", "second", partition=0)
        client.flush(30)
        self.broker.kill()
        self.broker.start()
        client.produce("t", "third", partition=1)
        client.commit_transaction(60)
        self.assertEqual(self.read("t", 2), {0: ["first", "second"], 1: ["third"]})
        client.begin_transaction()
        client.produce("t", "never", partition=1)
        client.flush(30)
        self.broker.kill()
        self.broker.start()
        client.abort_transaction(60)
        self.assertEqual(self.read("t", 2), {0: ["first", "second"], 1: ["third"]})


class ExactlyOnce(Case):
    """A copy of a topic, whose worker is killed again and again and the broker once: each record once, in order."""

    client = Transactions.client
    RECORDS = 4000
    PARTITIONS = 2
    # A killed worker's partitions go to the next one soon.
    settings = ("group.min.session.timeout.ms=500",)

    def worker(self):
        process = subprocess.Popen(
            [sys.executable, "copy_process.py", self.broker.bootstrap, "source", "target", "copiers", "copier"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(self.stop, process)
        return process

    @staticmethod
    def stop(process):
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()

    @shows("transactions")
    def test_copy_killed_in_the_middle(self):
        self.create("source", self.PARTITIONS)
        self.create("target", self.PARTITIONS)
        plain = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 5})
        for index in range(self.RECORDS):
            plain.produce("source", str(index), partition=index % self.PARTITIONS)
            plain.poll(0)
        self.assertEqual(plain.flush(60), 0)
        # After so many transactions the worker is killed; after one that is negative, the broker, and the worker lives on.
        plan = [3, 2, 5, -4, 1, 4]
        process = self.worker()
        copied = 0
        said = []
        deadline = time.monotonic() + 240
        idle = 0
        while True:
            self.assertLess(time.monotonic(), deadline, f"the copy is not complete: {said[-5:]}")
            line = process.stdout.readline()
            if not line:
                # It gave up, as it may after an error that only a new start mends.
                self.stop(process)
                process = self.worker()
                continue
            if line.startswith("idle"):
                idle += 1
                if idle >= 4 and not plan and self.done():
                    break
                continue
            if not line.startswith("copied"):
                said.append(line.strip())
                continue
            idle = 0
            copied += 1
            if plan and copied >= abs(plan[0]):
                if plan.pop(0) < 0:
                    self.broker.kill()
                    self.broker.start()
                else:
                    # In the middle of whatever it does.
                    time.sleep(0.003 * copied)
                    process.kill()
                    self.stop(process)
                    process = self.worker()
                copied = 0
        self.stop(process)
        wanted = {
            part: [f"copy of {index}" for index in range(part, self.RECORDS, self.PARTITIONS)]
            for part in range(self.PARTITIONS)}
        got = self.read("target", self.PARTITIONS)
        for part in range(self.PARTITIONS):
            self.assertEqual(len(got[part]), len(wanted[part]), f"partition {part}")
            self.assertEqual(got[part], wanted[part])

    def done(self):
        group = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "copiers"})
        places = group.committed([TopicPartition("source", part) for part in range(self.PARTITIONS)], 30)
        ends = [group.get_watermark_offsets(TopicPartition("source", part), 30)[1] for part in range(self.PARTITIONS)]
        group.close()
        return [place.offset for place in places] == ends


class KafkaPythonTransactions(Case):
    client = f"kafka-python {kafka.__version__}"

    def kafka_python(self, transactional_id):
        client = KafkaProducer(
            bootstrap_servers=self.broker.bootstrap, transactional_id=transactional_id, transaction_timeout_ms=30000)
        self.addCleanup(client.close, 5)
        client.init_transactions()
        return client

    @shows("transactions")
    def test_commit_abort_offsets_and_fencing(self):
        self.create("t", 2)
        client = self.kafka_python("id")
        reader = KafkaConsumer(
            "t", bootstrap_servers=self.broker.bootstrap, group_id="g", auto_offset_reset="earliest",
            enable_auto_commit=False, isolation_level="read_committed")
        self.addCleanup(reader.close)
        seen = []
        for round, commit in enumerate([True, False, True]):
            client.begin_transaction()
            for index in range(4):
                client.send("t", f"{round}.{index}".encode(), partition=index % 2)
            if commit:
                client.commit_transaction()
            else:
                client.flush(30)
                client.abort_transaction()
        deadline = time.monotonic() + WAIT
        while len(seen) < 8:
            self.assertLess(time.monotonic(), deadline, f"only {seen}\n{self.broker.tail()}")
            for batch in reader.poll(500).values():
                seen += [record.value.decode() for record in batch]
        self.assertEqual(sorted(seen), sorted(f"{round}.{index}" for round in (0, 2) for index in range(4)))
        place = kafka.TopicPartition("t", 0)
        client.begin_transaction()
        client.send("t", b"with offsets", partition=1)
        client.send_offsets_to_transaction({place: kafka.OffsetAndMetadata(5, "", -1)}, reader.group_metadata())
        client.commit_transaction()
        self.assertEqual(reader.committed(place), 5)
        client.begin_transaction()
        client.send("t", b"zombie", partition=0)
        client.flush(30)
        successor = self.kafka_python("id")
        with self.assertRaises(kafka.errors.KafkaError):
            client.commit_transaction()
        successor.begin_transaction()
        successor.send("t", b"successor", partition=0)
        successor.commit_transaction()
        self.assertEqual(self.read("t", 2)[0][-1:], ["successor"])


class AIOKafkaTransactions(Case, unittest.IsolatedAsyncioTestCase):
    client = f"aiokafka {aiokafka.__version__}"

    async def aiokafka_producer(self, transactional_id):
        client = AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap, transactional_id=transactional_id, transaction_timeout_ms=30000)
        await client.start()
        self.addAsyncCleanup(client.stop)
        return client

    @shows("transactions")
    async def test_commit_abort_offsets_and_fencing(self):
        self.create("t", 2)
        client = await self.aiokafka_producer("id")
        for round, commit in enumerate([True, False, True]):
            await client.begin_transaction()
            for index in range(4):
                await client.send_and_wait("t", f"{round}.{index}".encode(), partition=index % 2)
            if round == 2:
                await client.send_offsets_to_transaction({aiokafka.TopicPartition("t", 0): 3}, "g")
            if commit:
                await client.commit_transaction()
            else:
                await client.abort_transaction()
        self.assertEqual(self.read("t", 2), {0: ["0.0", "0.2", "2.0", "2.2"], 1: ["0.1", "0.3", "2.1", "2.3"]})
        group = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "g"})
        self.assertEqual(group.committed([TopicPartition("t", 0)], 30)[0].offset, 3)
        group.close()
        await client.begin_transaction()
        await client.send_and_wait("t", b"zombie", partition=0)
        successor = await self.aiokafka_producer("id")
        with self.assertRaises(aiokafka.errors.KafkaError):
            await client.commit_transaction()
        await successor.begin_transaction()
        await successor.send_and_wait("t", b"successor", partition=0)
        await successor.commit_transaction()
        self.assertEqual(self.read("t", 2)[0][-1], "successor")


class Commands(Case):
    """`mdc txn`, and `mdc consume --read-committed`."""

    def mdc(self, *arguments, status=0):
        result = subprocess.run(
            [os.environ["MDC_CLI"], *arguments, "--bootstrap", self.broker.bootstrap],
            capture_output=True, text=True, timeout=WAIT)
        self.assertEqual(result.returncode, status, result.stderr + self.broker.tail())
        return result.stdout if status == 0 else result.stderr

    def json(self, *arguments):
        return json.loads(self.mdc(*arguments, "-o", "json"))

    def values(self):
        return self.mdc("consume", "t", "--until-end", "--read-committed").splitlines()

    def test_transactions_are_listed_described_and_aborted(self):
        self.create("t")
        self.assertEqual(self.json("txn", "list"), [])
        idle = self.producer("idle")
        client = self.producer("busy")
        client.begin_transaction()
        client.produce("t", "held")
        client.flush(30)
        self.assertEqual([(row["transactionalID"], row["state"]) for row in self.json("txn", "list")],
                         [("busy", "Ongoing"), ("idle", "Empty")])
        self.assertEqual([row["transactionalID"] for row in self.json("txn", "list", "--state", "Ongoing")], ["busy"])
        self.assertEqual([row["transactionalID"] for row in self.json("txn", "list", "--pattern", "i.*")], ["idle"])
        self.assertIn("Odd", self.mdc("txn", "list", "--state", "Odd", status=1))
        described = self.json("txn", "describe", "busy")[0]
        self.assertEqual((described["state"], described["partitions"]), ("Ongoing", ["t-0"]))
        self.assertIn("mdc txn list", self.mdc("txn", "describe", "nobody", status=1))
        self.assertIn("busy", self.mdc("txn", "list"))
        self.assertIn("t-0", self.mdc("txn", "describe", "busy"))
        producers = self.json("txn", "producers", "t", "--open")
        self.assertEqual([(row["producerID"], row["transactionStart"]) for row in producers],
                         [(described["producerID"], 0)])
        # One that is under way is not ended behind its coordinator's back.
        place = ("--topic", "t", "--partition", "0", "--start-offset", "0")
        self.assertIn("mdc txn abort busy", self.mdc("txn", "abort", *place, status=1))
        self.mdc("txn", "abort", "busy")
        self.assertEqual(self.values(), [])
        self.assertEqual(self.json("txn", "producers", "t", "--open"), [])
        with self.assertRaises(KafkaException):
            client.commit_transaction(30)
        self.assertIn("--topic", self.mdc("txn", "abort", status=64))
        idle.begin_transaction()
        idle.produce("t", "committed")
        idle.commit_transaction(30)
        self.assertEqual(self.values(), ["committed"])


if __name__ == "__main__":
    unittest.main()
