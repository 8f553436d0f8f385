# SPDX-License-Identifier: Apache-2.0
"""The consumer group protocol (KIP-848) of librdkafka against a fresh node: the broker assigns."""

import threading
import time
import unittest

import confluent_kafka
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from broker_process import BrokerProcess
from matrix import shows
from test_confluent import produce


def member(broker, group, **settings):
    return Consumer({
        "bootstrap.servers": broker.bootstrap, "group.id": group, "group.protocol": "consumer",
        "auto.offset.reset": "earliest", "enable.auto.commit": False, "topic.metadata.refresh.interval.ms": 1000,
        **settings})


class Reader(threading.Thread):
    """A member that reads and commits until it is stopped; `crash` makes it fall silent instead of leaving."""

    def __init__(self, broker, group, topics, seen, **settings):
        super().__init__(daemon=True)
        self.client = member(broker, group, **settings)
        self.client.subscribe(topics)
        self.seen = seen
        self.stopped = threading.Event()
        self.assigned = set()
        self.errors = []
        self.start()

    def run(self):
        while not self.stopped.is_set():
            message = self.client.poll(0.2)
            try:
                self.assigned = {(p.topic, p.partition) for p in self.client.assignment()}
            except RuntimeError:
                return
            if message is None:
                continue
            if message.error():
                self.errors.append(message.error())
                continue
            self.seen.append((message.topic(), message.partition(), message.offset()))
            try:
                self.client.commit(message=message, asynchronous=False)
            except KafkaException as error:
                # A partition that has just moved; its next owner reads the record again. A classic member is told by
                # ILLEGAL_GENERATION.
                if error.args[0].code() not in (
                        KafkaError.STALE_MEMBER_EPOCH, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS,
                        KafkaError.FENCED_MEMBER_EPOCH, KafkaError._NO_OFFSET, KafkaError._ASSIGNMENT_LOST,
                        KafkaError.ILLEGAL_GENERATION):
                    self.errors.append(error)

    def stop(self):
        self.stopped.set()
        self.join()
        self.client.close()


def wait_until(condition, timeout, what):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what()}")
        time.sleep(0.1)


class ConsumerProtocolTest(unittest.TestCase):
    client = f"confluent-kafka {confluent_kafka.__version__}"

    def setUp(self):
        self.broker = BrokerProcess("group.consumer.heartbeat.interval.ms=500").start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})

    def create(self, topic, partitions):
        self.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)

    def balanced(self, readers, partitions):
        parts = [reader.assigned for reader in readers]
        return sum(map(len, parts)) == partitions == len(set().union(*parts)) \
            and max(map(len, parts)) - min(map(len, parts)) <= 1

    @shows("consumer protocol")
    def test_members_come_and_go_and_every_record_is_read(self):
        self.create("moves", 6)
        seen = []
        readers = [Reader(self.broker, "g", ["moves"], seen)]
        for count in (1, 2, 3):
            produce(self.broker, "moves", [b"x"] * 300, key=lambda i: str(i).encode())
            if count > 1:
                readers.append(Reader(self.broker, "g", ["moves"], seen))
            wait_until(
                lambda: self.balanced(readers, 6), 30,
                lambda: f"{[reader.assigned for reader in readers]}\n{self.broker.tail()}")
        readers.pop(0).stop()
        wait_until(lambda: self.balanced(readers, 6), 30, lambda: [reader.assigned for reader in readers])
        wait_until(lambda: len(set(seen)) == 900, 30, lambda: len(set(seen)))
        self.assertEqual(sum((reader.errors for reader in readers), []), [])
        for reader in readers:
            reader.stop()

    def test_grown_topics_and_patterns_are_noticed(self):
        self.create("logs.a", 1)
        seen = []
        reader = Reader(self.broker, "g", ["^logs\\..*"], seen)
        wait_until(lambda: reader.assigned == {("logs.a", 0)}, 30, lambda: reader.assigned)
        self.create("logs.b", 1)
        self.admin.create_partitions([NewPartitions("logs.a", 2)])["logs.a"].result(30)
        wait_until(
            lambda: reader.assigned == {("logs.a", 0), ("logs.a", 1), ("logs.b", 0)}, 30, lambda: reader.assigned)
        reader.stop()

    @shows("consumer protocol")
    def test_a_classic_group_goes_over_with_its_offsets(self):
        self.create("over", 1)
        produce(self.broker, "over", [b"x"] * 10)
        classic = member(self.broker, "g", **{"group.protocol": "classic", "session.timeout.ms": 6000})
        classic.subscribe(["over"])
        wait_until(lambda: classic.poll(0.5) is not None, 30, self.broker.tail)
        classic.commit(offsets=[TopicPartition("over", 0, 7)], asynchronous=False)
        classic.close()
        seen = []
        reader = Reader(self.broker, "g", ["over"], seen)
        wait_until(lambda: len(seen) == 3, 30, lambda: seen)
        described = self.admin.describe_consumer_groups(["g"])["g"].result(30)
        self.assertEqual(described.state, ConsumerGroupState.STABLE)
        self.assertEqual(len(described.members), 1)
        reader.stop()
        self.assertEqual([offset for _, _, offset in seen], [7, 8, 9])

    @shows("broker killed")
    def test_the_group_survives_kill_9(self):
        self.create("survive", 4)
        seen = []
        readers = [Reader(self.broker, "g", ["survive"], seen) for _ in range(2)]
        wait_until(lambda: self.balanced(readers, 4), 30, lambda: [reader.assigned for reader in readers])
        produce(self.broker, "survive", [b"x"] * 100, key=lambda i: str(i).encode())
        wait_until(lambda: len(set(seen)) == 100, 30, lambda: len(set(seen)))
        self.broker.kill()
        self.broker.start()
        produce(self.broker, "survive", [b"x"] * 100, key=lambda i: str(i).encode())
        wait_until(lambda: len(set(seen)) == 200, 40, lambda: (len(set(seen)), self.broker.tail()))
        self.assertTrue(self.balanced(readers, 4), [reader.assigned for reader in readers])
        for reader in readers:
            reader.stop()

    @shows("static member")
    def test_a_static_member_returns_to_its_partitions(self):
        self.create("static", 4)
        seen = []
        readers = [
            Reader(self.broker, "g", ["static"], seen, **{"group.instance.id": f"instance-{n}"}) for n in range(2)]
        wait_until(lambda: self.balanced(readers, 4), 30, lambda: [reader.assigned for reader in readers])
        mine, others = readers[0].assigned, readers[1].assigned
        readers[0].stop()
        time.sleep(1)
        # Its place is kept while it is away: the other has not been given more.
        self.assertEqual(readers[1].assigned, others)
        again = Reader(self.broker, "g", ["static"], seen, **{"group.instance.id": "instance-0"})
        wait_until(lambda: again.assigned == mine, 30, lambda: (again.assigned, mine))
        self.assertEqual(readers[1].assigned, others)
        again.stop()
        readers[1].stop()

    @shows("migration")
    def test_a_live_group_goes_over_member_by_member_and_back(self):
        """Two members of the classic protocol are replaced one by one, while records flow, and put back again."""
        for strategy in ("range", "cooperative-sticky"):
            with self.subTest(strategy=strategy):
                topic, group = f"live-{strategy}", f"g-{strategy}"
                self.create(topic, 6)
                seen, count = [], 0

                def classic():
                    return Reader(self.broker, group, [topic], seen, **{
                        "group.protocol": "classic", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500,
                        "partition.assignment.strategy": strategy})

                def settles(readers):
                    nonlocal count
                    produce(self.broker, topic, [b"x"] * 60, key=lambda i: str(i).encode())
                    count += 60
                    wait_until(
                        lambda: self.balanced(readers, 6) and len(set(seen)) == count, 60,
                        lambda: f"{[r.assigned for r in readers]} {len(set(seen))} of {count}\n{self.broker.tail()}")

                readers = [classic(), classic()]
                settles(readers)
                for make in (lambda: Reader(self.broker, group, [topic], seen), classic):
                    for _ in range(2):
                        readers.append(make())
                        settles(readers)
                        readers.pop(0).stop()
                        settles(readers)
                self.assertEqual(sum((reader.errors for reader in readers), []), [])
                described = self.admin.describe_consumer_groups([group])[group].result(30)
                self.assertEqual(described.state, ConsumerGroupState.STABLE)
                for reader in readers:
                    reader.stop()


if __name__ == "__main__":
    unittest.main()
