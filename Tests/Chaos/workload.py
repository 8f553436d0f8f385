# SPDX-License-Identifier: Apache-2.0
"""Clients that go on whatever happens, and note what they were told."""

import collections
import random
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

# No request of an idempotent producer may be given up: what becomes of it would be unknown.
NEVER = 3_600_000


def settings(bootstrap, **more):
    return {
        "bootstrap.servers": bootstrap,
        "log_level": 0,
        "retry.backoff.ms": 50,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 500,
        "socket.timeout.ms": 10_000,
        "topic.metadata.refresh.interval.ms": 5_000,
        **more,
    }


class Client:
    """A thread that runs `step` until it is stopped; what `step` raises is a failure of the run."""

    def __init__(self, name):
        self.name = name
        self.failures = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def run(self):
        try:
            while not self.stopping.is_set():
                self.step()
        except Exception as error:  # told by the checker, with the client's name
            self.failures.append(f"{self.name}: {type(error).__name__}: {error}")

    def stop(self, seconds=120):
        self.stopping.set()
        self.thread.join(seconds)
        if self.thread.is_alive():
            self.failures.append(f"{self.name} does not end")


class NumberedWriter(Client):
    """An idempotent producer: the values `name/0`, `name/1`, …, in turn to all partitions."""

    def __init__(self, name, bootstrap, topic, partitions, rate):
        super().__init__(name)
        self.topic, self.partitions, self.rate = topic, partitions, rate
        # Number -> offset, -1 where a repeated request was acknowledged without a place.
        self.acknowledged = {}
        self.sent = 0
        self.due = time.monotonic()
        # Writes nothing new for now.
        self.resting = False
        self.producer = Producer(
            settings(
                bootstrap,
                **{
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 5,
                    "message.timeout.ms": NEVER,
                    "error_cb": self.error,
                },
            )
        )

    def error(self, error):
        if error.fatal():
            self.failures.append(f"{self.name}: fatal: {error}")

    def step(self):
        # What is not acknowledged is bounded: a cluster that is down does not make the end of the run longer.
        if not self.resting and self.sent - len(self.acknowledged) < 1000 and time.monotonic() > self.due:
            self.due = max(self.due, time.monotonic() - 1) + 0.05
            for _ in range(max(1, self.rate // 20)):
                number = self.sent
                self.producer.produce(
                    self.topic,
                    f"{self.name}/{number}".encode(),
                    partition=number % self.partitions,
                    on_delivery=lambda error, message, number=number: self.delivered(number, error, message),
                )
                self.sent += 1
        self.producer.poll(0.02)

    def delivered(self, number, error, message):
        if error is not None:
            self.failures.append(f"{self.name}: {number} was given up: {error}")
        else:
            self.acknowledged[number] = message.offset()

    def has_written_since(self, first):
        """Whether each partition took something that was sent later than the number."""
        return all(
            any(n in self.acknowledged for n in range(first + index, self.sent, self.partitions))
            for index in range(self.partitions)
        )

    def finish(self):
        self.stop()
        left = self.producer.flush(120)
        if left:
            self.failures.append(f"{self.name}: {left} records are not acknowledged two minutes after healing")


def begin_group(bootstrap, group, topic, partitions):
    """Commits the beginning, since members must not find a position by themselves."""
    consumer = Consumer(settings(bootstrap, **{"group.id": group, "enable.auto.commit": False}))
    try:
        wanted = [TopicPartition(topic, index, 0) for index in range(partitions)]
        return all(each.error is None for each in consumer.commit(offsets=wanted, asynchronous=False))
    finally:
        consumer.close()


class GroupMember(Client):
    """Reads with a group and commits what it has read, one request after the other."""

    def __init__(self, name, bootstrap, group, topic, protocol):
        super().__init__(name)
        self.group, self.topic = group, topic
        # (partition, offset) -> value, of all that was read.
        self.read = {}
        # (partition, offset, when acknowledged) in the order of the answers.
        self.committed = []
        self.position = {}
        self.mine = set()
        self.commits = self.refused = 0
        more = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500} if protocol == "classic" else {}
        self.consumer = Consumer(
            settings(
                bootstrap,
                **{
                    "group.id": group,
                    "group.protocol": protocol,
                    # A position that is out of range must not be reset in silence.
                    "auto.offset.reset": "error",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": 100,
                    **more,
                },
            )
        )
        self.consumer.subscribe([topic], on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.revoked)
        self.due = time.monotonic()

    def assigned(self, consumer, partitions):
        for each in partitions:
            self.position.pop(each.partition, None)
            self.mine.add(each.partition)

    def revoked(self, consumer, partitions):
        for each in partitions:
            self.position.pop(each.partition, None)
            self.mine.discard(each.partition)

    def step(self):
        for message in self.consumer.consume(500, 0.1):
            error = message.error()
            if error is not None:
                if error.name() in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
                    self.failures.append(f"{self.name}: position lost in partition {message.partition()}: {error}")
                continue
            place = (message.partition(), message.offset())
            if self.read.setdefault(place, message.value()) != message.value():
                self.failures.append(f"{self.name}: {place} was {self.read[place]}, is {message.value()} now")
            if message.partition() in self.mine:
                self.position[message.partition()] = message.offset() + 1
        if time.monotonic() > self.due and self.position:
            self.due = time.monotonic() + 0.5
            self.commit()

    def commit(self):
        wanted = [TopicPartition(self.topic, index, offset) for index, offset in self.position.items()]
        try:
            answer = self.consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException:
            self.refused += 1
            return
        now = time.monotonic()
        for each in answer:
            if each.error is None:
                self.commits += 1
                self.committed.append((each.partition, each.offset, now))

    def finish(self):
        self.stop()
        self.consumer.close()


class TransactionalWriter(Client):
    """Transactions of a few records over several partitions, each ended as drawn; another process of it takes over now and then."""

    def __init__(self, name, bootstrap, topic, partitions, seed):
        super().__init__(name)
        self.bootstrap, self.topic, self.partitions = bootstrap, topic, partitions
        self.random = random.Random(f"{seed}/{name}")
        # Number of the transaction -> (outcome, number of records); "unknown" until it is known.
        self.outcomes = {}
        self.number = 0
        self.errors = collections.Counter()
        self.producer = None

    def connect(self):
        producer = Producer(
            settings(
                self.bootstrap,
                **{"transactional.id": self.name, "transaction.timeout.ms": 15_000, "linger.ms": 2},
            )
        )
        producer.init_transactions(60)
        self.producer = producer

    def step(self):
        try:
            if self.producer is None:
                self.connect()
            self.transaction()
            if self.random.random() < 0.02:
                self.producer = None
        except KafkaException as raised:
            self.recover(raised.args[0])
        self.stopping.wait(0.02)

    def transaction(self):
        number = self.number
        self.number += 1
        count = self.random.randint(1, 6)
        self.outcomes[number] = ("unknown", count)
        self.producer.begin_transaction()
        for index in range(count):
            self.producer.produce(
                self.topic,
                f"{self.name}/{number}/{index}".encode(),
                partition=self.random.randrange(self.partitions),
            )
            if self.random.random() < 0.2:
                self.producer.flush(0.05)
        if self.random.random() < 0.3:
            self.producer.flush(1)
            self.end(self.producer.abort_transaction)
            self.outcomes[number] = ("aborted", count)
        else:
            self.end(self.producer.commit_transaction)
            self.outcomes[number] = ("committed", count)

    def end(self, call):
        """A request that may be repeated is, for as long as it takes."""
        until = time.monotonic() + 90
        while True:
            try:
                return call(10)
            except KafkaException as raised:
                if not raised.args[0].retriable() or time.monotonic() > until:
                    raise

    def recover(self, error):
        self.errors[error.name()] += 1
        if error.txn_requires_abort() and self.producer is not None:
            try:
                self.end(self.producer.abort_transaction)
                number = self.number - 1
                if self.outcomes.get(number, ("", 0))[0] == "unknown":
                    self.outcomes[number] = ("aborted", self.outcomes[number][1])
                return
            except KafkaException as raised:
                self.errors[raised.args[0].name()] += 1
        # A new one of the same id: whatever the old one left open is aborted, or committed if that was decided.
        self.producer = None

    def finish(self):
        self.stop()
        self.producer = None


class TopicMaker(Client):
    """Makes topics and deletes some again; what an answer said must be so on every node."""

    def __init__(self, name, bootstrap, seed):
        super().__init__(name)
        self.random = random.Random(f"{seed}/{name}")
        self.admin = AdminClient(settings(bootstrap))
        # Name -> whether it must be there; None where no answer came.
        self.topics = {}
        self.made = 0

    def step(self):
        there = [topic for topic, exists in self.topics.items() if exists]
        if len(there) > 3 and self.random.random() < 0.5:
            topic = self.random.choice(there)
            self.topics[topic] = None
            self.ask(lambda: self.admin.delete_topics([topic], request_timeout=15)[topic], topic, False)
        else:
            topic = f"made-{self.made}"
            self.made += 1
            self.topics[topic] = None
            self.ask(lambda: self.admin.create_topics([NewTopic(topic, 1, 3)], request_timeout=15)[topic], topic, True)
        self.stopping.wait(2)

    def ask(self, call, topic, exists):
        try:
            call().result(timeout=30)
            self.topics[topic] = exists
        except (KafkaException, TimeoutError):
            # It may have been carried out all the same.
            pass

    def finish(self):
        self.stop()


class Watcher(Client):
    """Asks again and again for what must never go back: ends of partitions, committed offsets."""

    def __init__(self, name, bootstrap, topics, groups):
        super().__init__(name)
        # Topic -> partitions; group -> its topic.
        self.topics, self.groups = topics, groups
        self.ends = collections.defaultdict(lambda: -1)
        self.offsets = collections.defaultdict(lambda: -1)
        self.asked = 0
        self.consumer = Consumer(settings(bootstrap, **{"group.id": f"{name}-none"}))
        self.committed = {
            group: Consumer(settings(bootstrap, **{"group.id": group, "enable.auto.commit": False})) for group in groups
        }

    def step(self):
        for topic, partitions in self.topics.items():
            for index in range(partitions):
                try:
                    end = self.consumer.get_watermark_offsets(TopicPartition(topic, index), timeout=1)[1]
                except KafkaException:
                    continue
                self.asked += 1
                if end < self.ends[topic, index]:
                    self.failures.append(
                        f"{self.name}: the end of {topic}-{index} went back from {self.ends[topic, index]} to {end}"
                    )
                self.ends[topic, index] = max(end, self.ends[topic, index])
        for group, topic in self.groups.items():
            wanted = [TopicPartition(topic, index) for index in range(self.topics[topic])]
            try:
                answer = self.committed[group].committed(wanted, timeout=2)
            except KafkaException:
                continue
            for each in answer:
                if each.error is not None:
                    continue
                self.asked += 1
                known = self.offsets[group, each.partition]
                if max(each.offset, -1) < known:
                    self.failures.append(
                        f"{self.name}: the offset of {group} in {topic}-{each.partition} went back "
                        f"from {known} to {each.offset}"
                    )
                self.offsets[group, each.partition] = max(known, each.offset)
        self.stopping.wait(0.1)

    def finish(self):
        self.stop()
        self.consumer.close()
        for consumer in self.committed.values():
            consumer.close()
