# SPDX-License-Identifier: Apache-2.0
"""SIGKILL under groups of both protocols that commit all the time: what was acknowledged is there afterwards."""

import threading
import time
import unittest

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_process import BrokerProcess
from test_confluent import produce

PARTITIONS = 3
PROTOCOLS = {
    "classic": {"group.protocol": "classic", "session.timeout.ms": 30_000, "heartbeat.interval.ms": 500},
    "consumer": {"group.protocol": "consumer"},
}


class Committer(threading.Thread):
    """A member that commits after each record and keeps what was acknowledged, per partition."""

    def __init__(self, broker, group, protocol):
        super().__init__(daemon=True)
        self.group = group
        self.assignments = 0
        self.acknowledged = {}
        self.went_back = []
        self.stopped = threading.Event()
        self.client = Consumer({
            "bootstrap.servers": broker.bootstrap, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "reconnect.backoff.max.ms": 500, **PROTOCOLS[protocol]})
        self.client.subscribe(["load"], on_assign=self.assigned)
        self.start()

    def assigned(self, _, partitions):
        if partitions:
            self.assignments += 1

    def run(self):
        while not self.stopped.is_set():
            message = self.client.poll(0.2)
            if message is None or message.error():
                continue
            try:
                for placed in self.client.commit(message=message, asynchronous=False):
                    if placed.error is None:
                        if placed.offset < self.acknowledged.get(placed.partition, 0):
                            self.went_back.append(placed)
                        self.acknowledged[placed.partition] = placed.offset
            except KafkaException:
                # Not acknowledged: the broker was away. The next commit covers it.
                pass

    def stop(self):
        self.stopped.set()
        self.join()
        self.client.close()


class GroupCrashes(unittest.TestCase):
    def test_acknowledged_offsets_and_memberships_survive_kill_9_under_load(self):
        broker = BrokerProcess("group.consumer.heartbeat.interval.ms=500").start()
        self.addCleanup(broker.close)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        admin.create_topics([NewTopic("load", PARTITIONS, 1)])["load"].result(30)
        groups = [(f"{protocol}-{number}", protocol) for protocol in PROTOCOLS for number in range(3)]
        members = [Committer(broker, group, protocol) for group, protocol in groups]

        def until(condition, what):
            # A heartbeat waits behind the commit that was sent before it, and that for the disk. Where that takes two heartbeat
            # intervals (seen on a busy machine, by the packets), librdkafka gives the connection up and repeats the commit when
            # it pleases: within a second most times, once only after about a minute.
            deadline = time.monotonic() + 150
            while not condition():
                self.assertLess(time.monotonic(), deadline, f"{what}: {[m.acknowledged for m in members]}\n{broker.tail()}")
                time.sleep(0.1)

        def acknowledged():
            return [sum(member.acknowledged.values()) for member in members]

        total = 0
        for kill in range(4):
            produce(broker, "load", [b"x"] * 1_500, key=lambda i: str(i).encode())
            total += 1_500
            before = acknowledged()
            # Every group is in the middle of its work.
            until(lambda: all(now > old for now, old in zip(acknowledged(), before)), "all commit")
            broker.kill()
            self.check(broker.start(), members)
        until(lambda: all(done == total for done in acknowledged()), "everything is read and committed")
        states = {
            group: admin.describe_consumer_groups([group])[group].result(30) for group, _ in groups}
        self.assertEqual({str(state.state.name) for state in states.values()}, {"STABLE"})
        # The members were known throughout: four kills made nobody join anew, but for a client that lost its patience once.
        self.assertLessEqual(max(member.assignments for member in members), 2)
        self.assertLessEqual(sum(member.assignments for member in members), len(members) + 2)
        self.assertEqual(sum((member.went_back for member in members), []), [])
        for member in members:
            member.stop()

    def check(self, broker, members):
        """What the broker has is what it acknowledged, or what it was about to acknowledge when it was killed."""
        for member in members:
            known = dict(member.acknowledged)
            reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": member.group})
            stored = reader.committed([TopicPartition("load", n) for n in range(PARTITIONS)], timeout=30)
            reader.close()
            for place in stored:
                self.assertGreaterEqual(place.offset, known.get(place.partition, -1001), f"{member.group} {place}")


if __name__ == "__main__":
    unittest.main()
