# SPDX-License-Identifier: Apache-2.0
"""`mdc mirror` between two nodes: each record once, whatever is killed; groups go on at their place; and back again."""

import json
import signal
import subprocess
import time
import unittest
import urllib.request

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from broker_process import BrokerProcess, free_port
from test_confluent import consumer, drain, produce
from test_mdc_cli import MDC, run


class MirrorTest(unittest.TestCase):
    def setUp(self):
        self.source = BrokerProcess().start()
        self.addCleanup(self.source.close)
        self.target = BrokerProcess().start()
        self.addCleanup(self.target.close)
        self.running = []
        self.addCleanup(self.end)

    def end(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def mirror(self, *options, source=None, target=None, name="dr"):
        process = subprocess.Popen(
            [MDC, "mirror", "run", "--name", name, "--source", (source or self.source).bootstrap,
             "--bootstrap", (target or self.target).bootstrap, *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def status(self, source=None, target=None, name="dr"):
        result = run("mirror", "status", "--name", name, "--source", (source or self.source).bootstrap,
                     "--bootstrap", (target or self.target).bootstrap, "-o", "json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def until(self, condition, what, timeout=120):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                process = self.running[-1]
                process.kill()
                self.fail(f"{what}\n{process.communicate()}\n{self.target.tail()}")
            time.sleep(0.2)

    def caught_up(self, partitions, **clusters):
        def is_level():
            rows = self.status(**clusters)
            return len(rows) == partitions and all(row["lag"] == 0 for row in rows)
        self.until(is_level, "the mirror does not catch up")

    def read_all(self, broker, topic, count):
        """Everything committed that is there, by partition; waits a little for what should not be there."""
        reader = consumer(broker, "everything", **{"isolation.level": "read_committed"})
        partitions = reader.list_topics(topic, 10).topics[topic].partitions
        reader.assign([TopicPartition(topic, number, 0) for number in partitions])
        messages = drain(reader, count)
        messages += drain(reader, 1, timeout=2)
        reader.close()
        found = {}
        for message in messages:
            found.setdefault(message.partition(), []).append(message)
        return found

    def test_each_record_is_copied_once_whatever_is_killed(self):
        admin = AdminClient({"bootstrap.servers": self.source.bootstrap})
        admin.create_topics([NewTopic("orders", 3, 1, config={"retention.ms": "123456789"})])["orders"].result(30)
        produce(self.source, "orders", [f"{n}".encode() for n in range(2_000)], key=lambda n: f"key-{n % 50}".encode())
        # What was aborted is not copied.
        transactional = Producer({"bootstrap.servers": self.source.bootstrap, "transactional.id": "t"})
        transactional.init_transactions(30)
        transactional.begin_transaction()
        for number in range(50):
            transactional.produce("orders", b"aborted", key=f"key-{number}".encode())
        transactional.abort_transaction(30)
        port = free_port()
        self.mirror("--http", f"127.0.0.1:{port}")
        self.until(lambda: self.status(), "nothing is copied")
        # Killed under load: the mirror, the target, the source.
        sent = 2_000
        for victim in ("mirror", "target", "source", "mirror"):
            values = [f"{n}".encode() for n in range(sent, sent + 2_000)]
            produce(self.source, "orders", values, key=lambda n: f"key-{n % 50}".encode())
            sent += 2_000
            if victim == "mirror":
                self.running[-1].send_signal(signal.SIGKILL)
                self.running[-1].wait()
                self.mirror("--http", f"127.0.0.1:{port}")
            else:
                node = getattr(self, victim)
                node.kill()
                node.start()
        self.caught_up(3)
        original = self.read_all(self.source, "orders", sent)
        copies = self.read_all(self.target, "orders", sent)
        self.assertEqual(sum(map(len, original.values())), sent)
        for partition, messages in original.items():
            def told(message):
                return (message.key(), message.value(), message.headers(), message.timestamp())
            self.assertEqual(
                [told(message) for message in copies[partition]], [told(message) for message in messages], partition)
        # Settings and partitions follow.
        resource = ConfigResource(ResourceType.TOPIC, "orders")
        there = AdminClient({"bootstrap.servers": self.target.bootstrap})
        self.assertEqual(there.describe_configs([resource])[resource].result(30)["retention.ms"].value, "123456789")
        admin.create_partitions([NewPartitions("orders", 5)])["orders"].result(30)
        self.until(lambda: len(there.list_topics("orders", 10).topics["orders"].partitions) == 5, "partitions do not follow")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            text = page.read().decode()
        self.assertIn("mdc_mirror_running 1", text)
        self.assertIn('mdc_mirror_lag_offsets{topic="orders",partition="0"}', text)
        # Stopped in order it leaves nothing open, and says nothing.
        process = self.running[-1]
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 0, process.stderr.read())

    def test_a_group_goes_on_at_the_target_and_all_of_it_goes_back(self):
        admin = AdminClient({"bootstrap.servers": self.source.bootstrap})
        admin.create_topics([NewTopic("mail", 1, 1)])["mail"].result(30)
        produce(self.source, "mail", [f"{n}".encode() for n in range(500)])
        reader = consumer(self.source, "senders")
        reader.subscribe(["mail"])
        read = [message.value() for message in drain(reader, 300)]
        reader.commit(asynchronous=False)
        reader.close()
        self.mirror()
        self.caught_up(1)
        produce(self.source, "mail", [f"{n}".encode() for n in range(500, 700)])
        self.caught_up(1)

        def has_place():
            probe = Consumer({"bootstrap.servers": self.target.bootstrap, "group.id": "senders"})
            place = probe.committed([TopicPartition("mail", 0)], timeout=30)[0].offset
            probe.close()
            return place > 0
        self.until(has_place, "the group has no place at the target")
        self.running[-1].send_signal(signal.SIGTERM)
        self.running[-1].wait(60)
        # The old cluster is left; consumers and producers go on at the new one.
        follower = consumer(self.target, "senders")
        follower.subscribe(["mail"])
        read += [message.value() for message in drain(follower, 400)]
        self.assertEqual(read, [f"{n}".encode() for n in range(700)])
        follower.commit(asynchronous=False)
        follower.close()
        produce(self.target, "mail", [f"{n}".encode() for n in range(700, 800)])
        # Straight back would make every record go round.
        result = run("mirror", "run", "--name", "back", "--source", self.target.bootstrap, "--bootstrap", self.source.bootstrap)
        self.assertEqual(result.returncode, 1)
        self.assertIn("--failback dr", result.stderr)
        self.mirror("--failback", "dr", source=self.target, target=self.source, name="back")
        self.until(
            lambda: sum(map(len, self.read_all(self.source, "mail", 800).values())) == 800, "what is new does not come back")
        self.assertEqual(
            [message.value() for message in self.read_all(self.source, "mail", 800)[0]], [f"{n}".encode() for n in range(800)])

        def is_back():
            probe = Consumer({"bootstrap.servers": self.source.bootstrap, "group.id": "senders"})
            place = probe.committed([TopicPartition("mail", 0)], timeout=30)[0].offset
            probe.close()
            return place == 700
        self.until(is_back, "the group's place does not come back")

    def test_what_cannot_be_is_refused(self):
        for options, told in (
                (["--name", "a b"], "use 1 to 100 of"),
                (["--name", "x", "--topics", "("], "no regular expression"),
                (["--name", "x"], "same cluster")):
            result = run("mirror", "run", *options, "--source", self.source.bootstrap, "--bootstrap", self.source.bootstrap)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(told, result.stderr)

    def test_a_topic_that_is_made_again_is_not_continued(self):
        admin = AdminClient({"bootstrap.servers": self.source.bootstrap})
        admin.create_topics([NewTopic("again", 1, 1), NewTopic("other", 1, 1)])["again"].result(30)
        produce(self.source, "again", [b"old"] * 100)
        self.mirror()
        self.caught_up(2)
        self.running[-1].send_signal(signal.SIGTERM)
        self.running[-1].wait(60)
        admin.delete_topics(["again"])["again"].result(30)
        time.sleep(1)
        admin.create_topics([NewTopic("again", 1, 1)])["again"].result(30)
        produce(self.source, "again", [b"new"] * 10)
        produce(self.source, "other", [b"more"] * 10)
        self.mirror()
        self.until(
            lambda: sum(map(len, self.read_all(self.target, "other", 10).values())) == 10, "the other topic does not go on")
        self.assertEqual(len(self.read_all(self.target, "again", 100)[0]), 100)
        self.running[-1].kill()
        _, told = self.running[-1].communicate()
        self.assertIn("made again at the source", told)
        result = run("mirror", "forget", "--name", "dr", "--topic", "again", "--bootstrap", self.target.bootstrap)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.mirror()
        self.until(
            lambda: len(self.read_all(self.target, "again", 110)[0]) == 110, "the new topic is not copied")


if __name__ == "__main__":
    unittest.main()
