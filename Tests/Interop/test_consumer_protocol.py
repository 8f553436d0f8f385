# SPDX-License-Identifier: Apache-2.0
"""The consumer group protocol (KIP-848) of librdkafka against a fresh node: the broker assigns."""

import threading
import time
import unittest

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from broker_process import BrokerProcess
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
                # A partition that has just moved; its next owner reads the record again.
                if error.args[0].code() not in (
                        KafkaError.STALE_MEMBER_EPOCH, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS,
                        KafkaError.FENCED_MEMBER_EPOCH, KafkaError._NO_OFFSET, KafkaError._ASSIGNMENT_LOST):
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


if __name__ == "__main__":
    unittest.main()
