# SPDX-License-Identifier: Apache-2.0
"""Share groups (KIP-932) with librdkafka's ShareConsumer: many members read one partition, record by record."""

import collections
import json
import os
import subprocess
import sys
import threading
import time
import unittest

import confluent_kafka
from confluent_kafka import AcknowledgeType, KafkaException, Producer, ShareConsumer
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType)

from broker_process import BrokerProcess
from matrix import shows

HERE = os.path.dirname(os.path.abspath(__file__))


def wait_until(condition, timeout, what):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what()}")
        time.sleep(0.05)


class Member(threading.Thread):
    """Polls and answers each record with what `decide` says, until it is stopped."""

    def __init__(self, broker, group, topics, decide, seen, **settings):
        super().__init__(daemon=True)
        self.client = ShareConsumer({
            "bootstrap.servers": broker.bootstrap, "group.id": group, "share.acknowledgement.mode": "explicit",
            "log_level": 0, "max.poll.records": 20, **settings})
        self.client.subscribe(topics)
        self.decide = decide
        self.seen = seen
        self.errors = []
        self.stopped = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.stopped.is_set():
                messages = self.client.poll(0.2)
                answered = False
                for message in messages:
                    if message.error():
                        self.errors.append(message.error())
                        continue
                    self.seen.append((message.partition(), message.offset(), message.delivery_count(), self))
                    self.client.acknowledge(message, self.decide(message))
                    answered = True
                if answered:
                    self.client.commit_sync(30)
            self.client.close()
        except KafkaException as error:
            self.errors.append(error)

    def stop(self):
        self.stopped.set()
        self.join(60)


def accept(_):
    return AcknowledgeType.ACCEPT


class ShareGroupTest(unittest.TestCase):
    client = f"confluent-kafka {confluent_kafka.__version__}"

    def setUp(self):
        self.broker = BrokerProcess(
            "group.share.min.record.lock.duration.ms=500", "group.share.min.heartbeat.interval.ms=200",
            "group.share.min.session.timeout.ms=2000").start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})

    def topic(self, name, partitions=1):
        self.admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)

    def configure(self, group, **settings):
        settings.setdefault("share_auto_offset_reset", "earliest")
        entries = [
            ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for name, value in settings.items()]
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(30)

    def produce(self, topic, count, first=0):
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "batch.num.messages": 10})
        for number in range(first, first + count):
            producer.produce(topic, str(number).encode())
        self.assertEqual(0, producer.flush(60))

    def mdc(self, *arguments):
        binary = os.environ.get("MDC_CLI")
        self.assertTrue(binary, "set MDC_CLI to the mdc binary")
        run = subprocess.run(
            [binary, *arguments, "--bootstrap", self.broker.bootstrap], capture_output=True, text=True, timeout=60)
        self.assertEqual(0, run.returncode, run.stderr)
        return run.stdout

    def distinct(self, seen):
        return {(partition, offset) for partition, offset, _, _ in seen}

    @shows("share groups")
    def test_several_members_share_one_partition(self):
        self.topic("one")
        self.configure("g")
        seen = []
        members = [Member(self.broker, "g", ["one"], accept, seen) for _ in range(3)]
        total = 0
        deadline = time.monotonic() + 60
        # Until each of them has got something: a member may join late.
        while len({id(member) for *_, member in seen}) < 3 and time.monotonic() < deadline:
            self.produce("one", 100, first=total)
            total += 100
        wait_until(lambda: len(self.distinct(seen)) == total, 60, lambda: (len(seen), total))
        for member in members:
            member.stop()
            self.assertEqual([], member.errors)
        self.assertEqual(3, len({id(member) for *_, member in seen}))
        # Nobody died and nobody gave anything back: each record came once.
        self.assertEqual(total, len(seen))
        self.assertTrue(all(count == 1 for _, _, count, _ in seen))
        # Whoever comes later gets only what is new.
        late = []
        member = Member(self.broker, "g", ["one"], accept, late)
        self.produce("one", 10, first=total)
        wait_until(lambda: len(late) >= 10, 60, lambda: late)
        member.stop()
        self.assertEqual(list(range(total, total + 10)), sorted(offset for _, offset, _, _ in late))

    @shows("share groups")
    def test_released_comes_again_rejected_does_not(self):
        self.topic("two")
        self.configure("g", share_delivery_count_limit=4)
        seen = []

        def decide(message):
            if message.offset() % 3 == 0:
                return AcknowledgeType.REJECT
            if message.offset() % 3 == 1 and (message.offset() == 1 or message.delivery_count() < 3):
                return AcknowledgeType.RELEASE
            return AcknowledgeType.ACCEPT

        members = [Member(self.broker, "g", ["two"], decide, seen) for _ in range(2)]
        self.produce("two", 30)

        def deliveries():
            return collections.Counter(offset for _, offset, _, _ in seen)

        # Offset 1 is released for ever and given up at the limit; the others like it are accepted the third time.
        expected = {
            offset: 1 if offset % 3 != 1 else 4 if offset == 1 else 3 for offset in range(30)}
        wait_until(lambda: deliveries() == expected, 60, deliveries)
        self.produce("two", 1, first=30)
        wait_until(lambda: deliveries()[30] == 1, 60, deliveries)
        for member in members:
            member.stop()
            self.assertEqual([], member.errors)
        expected[30] = 1
        self.assertEqual(expected, dict(deliveries()))
        counts = collections.defaultdict(list)
        for _, offset, count, _ in seen:
            counts[offset].append(count)
        self.assertTrue(all(sorted(list_) == list(range(1, len(list_) + 1)) for list_ in counts.values()), counts)

    @shows("share groups")
    def test_a_killed_member_gives_its_records_back(self):
        self.topic("three")
        self.configure("g", share_record_lock_duration_ms=2000, share_session_timeout_ms=45000)
        self.produce("three", 40)
        victim = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "share_member_process.py"), self.broker.bootstrap, "g", "three"],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(victim.kill)
        self.addCleanup(victim.stdout.close)
        while not victim.stdout.readline().startswith("got"):
            self.assertIsNone(victim.poll(), "the member ended by itself")
        victim.kill()
        victim.wait()
        seen = []
        member = Member(self.broker, "g", ["three"], accept, seen)
        wait_until(lambda: len(self.distinct(seen)) == 40, 60, lambda: seen)
        member.stop()
        self.assertEqual([], member.errors)
        self.assertGreaterEqual(max(count for _, _, count, _ in seen), 2)

    @shows("share groups")
    def test_a_lock_ends_and_the_record_goes_to_another(self):
        self.topic("four")
        self.configure("g", share_record_lock_duration_ms=1000)
        self.produce("four", 5)
        # This one holds on to what it got and stays alive.
        holder = ShareConsumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "g", "share.acknowledgement.mode": "explicit",
            "log_level": 0})
        holder.subscribe(["four"])
        held = []
        wait_until(lambda: held.extend(holder.poll(0.2)) or held, 60, lambda: "nothing came")
        seen = []
        member = Member(self.broker, "g", ["four"], accept, seen)
        wait_until(lambda: len(self.distinct(seen)) == 5, 60, lambda: seen)
        member.stop()
        self.assertEqual([], member.errors)
        self.assertEqual({2}, {count for _, _, count, _ in seen})
        # Too late, and no harm: others have finished these records.
        for message in held:
            holder.acknowledge(message, AcknowledgeType.RELEASE)
        holder.commit_sync(30)
        holder.close()
        again = []
        member = Member(self.broker, "g", ["four"], accept, again)
        self.produce("four", 1, first=5)
        wait_until(lambda: again, 60, lambda: again)
        member.stop()
        self.assertEqual({5}, {offset for _, offset, _, _ in again})

    @shows("share groups")
    def test_nothing_acknowledged_comes_again_after_the_broker_was_killed(self):
        self.topic("five", 2)
        self.configure("g", share_record_lock_duration_ms=2000)
        accepted = set()
        again = []

        def work(messages):
            for message in messages:
                if message.error():
                    continue
                place = (message.partition(), message.offset())
                if place in accepted:
                    again.append(place)
                if place[1] % 7 == 3 and message.delivery_count() == 1:
                    client.acknowledge(message, AcknowledgeType.RELEASE)
                else:
                    client.acknowledge(message, AcknowledgeType.ACCEPT)
                    pending.append(place)

        def commit():
            results = client.commit_sync(30)
            failed = {item.partition for item, error in results.items() if error is not None}
            accepted.update(place for place in pending if place[0] not in failed)

        client = ShareConsumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "g", "log_level": 0,
            "share.acknowledgement.mode": "explicit", "max.poll.records": 10})
        client.subscribe(["five"])
        total = 0
        kills = 0
        deadline = time.monotonic() + 80
        while time.monotonic() < deadline and (kills < 3 or len(accepted) < total):
            if kills < 3:
                self.produce("five", 40, first=total)
                total += 40
            pending = []
            work(client.poll(0.5))
            commit()
            if len(accepted) > 30 * (kills + 1) and kills < 3:
                # Some records are out and unanswered when the node dies.
                held = []
                wait_until(lambda: held.extend(client.poll(0.2)) or held, 60, lambda: "nothing came")
                self.broker.kill()
                self.broker.start()
                kills += 1
                pending = []
                work(held)
                commit()
        client.close()
        self.assertEqual([], again)
        self.assertEqual((3, total), (kills, len(accepted)))

    @shows("share groups")
    def test_implicit_acknowledgement_and_latest(self):
        self.topic("six")
        self.produce("six", 5)
        # Without a setting a group begins at the end.
        client = ShareConsumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "latest", "log_level": 0})
        client.subscribe(["six"])
        got = []
        deadline = time.monotonic() + 60
        number = 5
        while not got and time.monotonic() < deadline:
            self.produce("six", 1, first=number)
            number += 1
            got.extend(client.poll(1.0))
        self.assertTrue(got and all(message.offset() >= 5 for message in got), [m.offset() for m in got])
        first = {message.offset() for message in got}
        # The next poll accepts what the last one brought.
        self.produce("six", 1, first=number)
        more = []
        wait_until(lambda: more.extend(client.poll(0.2)) or more, 60, lambda: "nothing came")
        client.poll(0.5)
        client.close()
        self.assertFalse(first & {message.offset() for message in more})

    def test_the_command_shows_share_groups(self):
        self.topic("seven")
        self.configure("g")
        seen = []
        member = Member(self.broker, "g", ["seven"], accept, seen)
        self.produce("seven", 3)
        wait_until(lambda: len(seen) == 3, 60, lambda: seen)
        row = [group for group in json.loads(self.mdc("group", "list", "-o", "json")) if group["group"] == "g"]
        self.assertEqual(["share"], [group["type"] for group in row])
        [group] = json.loads(self.mdc("group", "describe", "g", "-o", "json"))
        self.assertEqual(("share", "Stable", 1), (group["type"], group["state"], len(group["members"])))
        self.assertEqual([{"topic": "seven", "partitions": [0]}], group["members"][0]["assignment"])
        member.stop()
        self.assertEqual([], member.errors)
        [group] = json.loads(self.mdc("group", "describe", "g", "-o", "json"))
        [partition] = group["partitions"]
        self.assertEqual((3, 0, "Empty"), (partition["startOffset"], partition["lag"], group["state"]))
        self.assertIn("share", self.mdc("group", "describe", "g"))
        self.mdc("group", "delete", "g")


if __name__ == "__main__":
    unittest.main()
