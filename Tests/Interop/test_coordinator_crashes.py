# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while groups, transactions and a share group work at the same time: what each coordinator acknowledged is what is
there afterwards, no less and no more."""

import collections
import threading
import time
import unittest

from confluent_kafka import (
    AcknowledgeType, Consumer, KafkaError, KafkaException, Producer, ShareConsumer, TopicPartition)
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType)

from broker_process import BrokerProcess
from test_group_crashes import Committer

KILLS = 3


class Worker(threading.Thread):
    """Does something again and again until it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.failures = []

    def run(self):
        try:
            while not self.stopped.is_set():
                self.turn()
            self.finish()
        except Exception as error:  # whatever it is, the test shows it
            self.failures.append(error)

    def finish(self):
        pass

    def stop(self):
        self.stopped.set()
        self.join(90)
        assert not self.is_alive(), f"{self} does not end"


class Transactor(Worker):
    """Commits and aborts in turn; keeps what was acknowledged. A transaction whose end was not answered is in doubt; the
    next producer of the same id settles it."""

    def __init__(self, broker, name):
        super().__init__()
        self.broker, self.name_ = broker, name
        self.client = None
        self.number = 0
        self.outcomes = {}
        self.start()

    def turn(self):
        self.number += 1
        value = f"{self.name_} {self.number}"
        commit = self.number % 3 != 0
        try:
            if self.client is None:
                client = Producer({
                    "bootstrap.servers": self.broker.bootstrap, "transactional.id": self.name_, "linger.ms": 0,
                    "transaction.timeout.ms": 10_000, "log_level": 0, "reconnect.backoff.max.ms": 500})
                client.init_transactions(60)
                self.client = client
            self.client.begin_transaction()
            for partition in range(2):
                self.client.produce("outcomes", value, partition=partition)
            if commit:
                self.client.commit_transaction(20)
            else:
                self.client.flush(20)
                self.client.abort_transaction(20)
            self.outcomes[value] = commit
        except KafkaException:
            self.outcomes[value] = None
            self.client = None

    def finish(self):
        """What is in doubt is decided before anybody looks."""
        client = Producer({"bootstrap.servers": self.broker.bootstrap, "transactional.id": self.name_, "log_level": 0})
        client.init_transactions(60)

    def acknowledged(self):
        return sum(1 for outcome in list(self.outcomes.values()) if outcome is not None)


class Sharer(Worker):
    """Accepts what it gets; keeps what was acknowledged, and what came although it had been."""

    def __init__(self, broker):
        super().__init__()
        self.accepted = set()
        self.again = []
        self.client = ShareConsumer({
            "bootstrap.servers": broker.bootstrap, "group.id": "sharers", "log_level": 0,
            "share.acknowledgement.mode": "explicit", "max.poll.records": 10})
        self.client.subscribe(["shared"])
        self.start()

    def turn(self):
        pending = []
        for message in self.client.poll(0.3):
            if message.error():
                continue
            place = (message.partition(), message.offset())
            if place in self.accepted:
                self.again.append(place)
            self.client.acknowledge(message, AcknowledgeType.ACCEPT)
            pending.append(place)
        if not pending:
            return
        results = self.client.commit_sync(30)
        failed = {item.partition for item, error in results.items() if error is not None}
        self.accepted.update(place for place in pending if place[0] not in failed)

    def finish(self):
        self.client.close()


class CoordinatorCrashes(unittest.TestCase):
    def setUp(self):
        self.broker = BrokerProcess(
            "group.consumer.heartbeat.interval.ms=500", "group.share.min.record.lock.duration.ms=500",
            "group.share.min.heartbeat.interval.ms=200").start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for name, partitions in (("load", 3), ("outcomes", 2), ("shared", 2)):
            self.admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in (("share.auto.offset.reset", "earliest"), ("share.record.lock.duration.ms", "2000"))]
        resource = ConfigResource(ResourceType.GROUP, "sharers", incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(30)

    def test_what_all_coordinators_acknowledged_survives_kill_9_under_load(self):
        committers = [Committer(self.broker, protocol, protocol) for protocol in ("classic", "consumer")]
        transactors = [Transactor(self.broker, f"id-{number}") for number in range(3)]
        sharer = Sharer(self.broker)
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 5, "log_level": 0})
        total = 0

        def progress():
            return [sum(c.acknowledged.values()) for c in committers] + [t.acknowledged() for t in transactors] + [
                len(sharer.accepted)]

        for _ in range(KILLS):
            for number in range(400):
                producer.produce("load", str(number), partition=number % 3)
                producer.produce("shared", str(number), partition=number % 2)
            self.assertEqual(0, producer.flush(60))
            total += 400
            before = progress()
            # Every coordinator has acknowledged something since the last kill, and goes on doing so.
            self.until(lambda: all(now > then for now, then in zip(progress(), before)), progress)
            self.broker.kill()
            known = [dict(member.acknowledged) for member in committers]
            self.broker.start()
            for member, offsets in zip(committers, known):
                self.check_offsets(member.group, offsets)
        self.until(
            lambda: all(sum(c.acknowledged.values()) == total for c in committers) and len(sharer.accepted) == total,
            progress)
        for worker in [*transactors, sharer]:
            worker.stop()
            self.assertEqual([], worker.failures)
        for member in committers:
            self.assertEqual([], member.went_back)
            self.check_offsets(member.group, member.acknowledged, exactly=True)
            member.stop()
        self.assertEqual([], sharer.again)
        self.check_share_group()
        self.check_outcomes(transactors)

    def until(self, condition, what):
        deadline = time.monotonic() + 90
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"{what()}\n{self.broker.tail()}")
            time.sleep(0.1)

    def check_offsets(self, group, acknowledged, exactly=False):
        reader = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": group})
        stored = reader.committed([TopicPartition("load", number) for number in range(3)], timeout=30)
        reader.close()
        for place in stored:
            known = acknowledged.get(place.partition, -1001)
            if exactly:
                self.assertEqual(known, place.offset, f"{group} {place}")
            else:
                # What was under way when the node died may be there without its acknowledgement.
                self.assertGreaterEqual(place.offset, known, f"{group} {place}")

    def check_share_group(self):
        """Nothing is left for somebody who comes later."""
        late = ShareConsumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "sharers", "log_level": 0,
            "share.acknowledgement.mode": "explicit"})
        late.subscribe(["shared"])
        producer = Producer({"bootstrap.servers": self.broker.bootstrap})
        for partition in range(2):
            producer.produce("shared", "last", partition=partition)
        self.assertEqual(0, producer.flush(60))
        values = []

        def both_came():
            for message in late.poll(0.3):
                if not message.error():
                    values.append(message.value())
                    late.acknowledge(message, AcknowledgeType.ACCEPT)
            late.commit_sync(30)
            return values.count(b"last") == 2

        self.until(both_came, lambda: values)
        late.close()
        self.assertEqual([b"last"] * 2, values)

    def check_outcomes(self, transactors):
        """Committed means seen, in both partitions and once; aborted means not seen; in doubt means one of the two, whole."""
        outcomes = {value: outcome for worker in transactors for value, outcome in worker.outcomes.items()}
        self.assertIn(True, outcomes.values())
        self.assertIn(False, outcomes.values())
        reader = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "outcomes", "isolation.level": "read_committed",
            "enable.partition.eof": True, "auto.offset.reset": "earliest", "enable.auto.commit": False})
        reader.assign([TopicPartition("outcomes", number, 0) for number in range(2)])
        seen = [collections.Counter(), collections.Counter()]
        ended = {}

        def both_ended():
            # All that is there at once: how many outcomes there are depends on how fast the machine is.
            while len(ended) < 2 and (message := reader.poll(1)) is not None:
                if message.error():
                    self.assertEqual(KafkaError._PARTITION_EOF, message.error().code())
                    ended[message.partition()] = message.offset()
                else:
                    seen[message.partition()][message.value().decode()] += 1
            return len(ended) == 2

        self.until(both_ended, lambda: ended)
        reader.close()
        # Nothing is undecided: a reader of committed records comes to the end of the log.
        plain = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "plain", "isolation.level": "read_uncommitted"})
        for partition, end in ended.items():
            self.assertEqual(plain.get_watermark_offsets(TopicPartition("outcomes", partition), timeout=30)[1], end)
        plain.close()
        for value, outcome in outcomes.items():
            counts = (seen[0][value], seen[1][value])
            if outcome is None:
                self.assertIn(counts, ((0, 0), (1, 1)), value)
            else:
                self.assertEqual((1, 1) if outcome else (0, 0), counts, value)
        self.assertEqual(set(), set(seen[0]) - set(outcomes))


if __name__ == "__main__":
    unittest.main()
