# SPDX-License-Identifier: Apache-2.0
"""sarama 1.22 (Go, from Debian) against a fresh node."""

import json
import time
import unittest

from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from broker_process import BrokerProcess
from go_client import Member, run
from matrix import refuses, shows
from test_confluent import produce


class Sarama(unittest.TestCase):
    client = "sarama 1.22"

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)

    def create(self, topic, partitions=1):
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)

    def run_client(self, command, *arguments):
        return run("sarama-client", command, self.broker.bootstrap, *arguments)

    @shows("produce", "consume", "gzip", "snappy", "lz4", "zstd", "headers")
    def test_every_codec_with_keys_and_headers(self):
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            with self.subTest(codec=codec):
                self.create(codec, 3)
                placed = self.run_client("produce", codec, codec, 500, "2.1.0", "plain")
                self.assertEqual(len(placed), 500)
                back = [line.split(" ", 4) for line in self.run_client("consume", codec, 500)]
                self.assertEqual({value for *_, value in back}, {f"{codec} {number}" for number in range(500)})
                for _, _, key, number, value in back:
                    self.assertEqual((key, value), (f"key-{int(number) % 17}", f"{codec} {number}"))

    @shows("idempotence")
    def test_an_idempotent_producer_stores_each_message_once(self):
        self.create("ordered")
        placed = [line.split() for line in self.run_client("produce", "ordered", "none", 1_000, "2.1.0", "idempotent")]
        self.assertEqual(sorted(int(offset) for _, offset, _ in placed), list(range(1_000)))
        self.assertEqual(
            [int(number) for _, offset, number in sorted(placed, key=lambda p: int(p[1]))], list(range(1_000)))

    def until(self, condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"{what()}\n{self.broker.tail()}")
            time.sleep(0.1)

    def run_members(self, strategy):
        self.create("moves", 6)
        members = [Member("sarama-client", "member", self.broker.bootstrap, "g", "moves", strategy) for _ in range(3)]
        for member in members:
            self.addCleanup(member.close)
        values = [f"value {number}".encode() for number in range(900)]

        def seen():
            return set().union(*(member.saying("value") for member in members))

        def assigned(count):
            """Whether the latest generation of each of the first `count` members is one in which they have everything."""
            latest = [member.saying("assigned")[-1:] for member in members[:count]]
            if not all(latest):
                return False
            parts = [list(map(int, one[0].split())) for one in latest]
            return sum(size for size, _ in parts) == 6 and len({generation for _, generation in parts}) == 1

        def what():
            return [member.lines[-3:] for member in members], len(seen())

        self.until(lambda: assigned(3), what)
        produce(self.broker, "moves", values[:300], key=str)
        members[2].kill()
        self.until(lambda: assigned(2), what)
        produce(self.broker, "moves", values[300:600], key=str)
        members[1].leave()
        self.until(lambda: assigned(1), what)
        produce(self.broker, "moves", values[600:], key=str)
        self.until(lambda: len(seen()) == len(values), what)

    @shows("group", "eager rebalance", "member killed")
    def test_members_leave_and_are_killed_range(self):
        self.run_members("range")

    @shows("eager rebalance")
    def test_members_leave_and_are_killed_roundrobin(self):
        self.run_members("roundrobin")

    @shows("topics", "partitions", "delete records", "cluster")
    def test_administration(self):
        told = [(what, json.loads(value)) for what, value in (line.split(" ", 1) for line in self.run_client("admin"))]
        self.assertIn("already exists", dict(told)["create-again"])
        self.assertEqual(
            [entry for entry in told if entry[0] != "create-again"],
            [("validate", "<nil>"), ("validated-exists", False), ("described", 4), ("cluster", [1, -1, 1]),
             ("offsets", [4, 10]), ("exists", True), ("exists", False)])
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        resource = ConfigResource(ResourceType.TOPIC, "managed")
        self.assertEqual(admin.describe_configs([resource])[resource].result(30)["retention.ms"].value, "7200000")

    @refuses("changes settings, but describes them with DescribeConfigs 0, which Kafka dropped in 4.0", "configs")
    def test_describe_configs_0_closes_the_connection_and_nothing_else(self):
        self.create("configured")
        self.assertNotEqual(self.run_client("describe-configs", "configured"), ["describe <nil>"])
        self.assertTrue(self.broker.alive())

    @shows("groups admin", "offsets admin", "committed offsets")
    def test_groups_are_seen(self):
        self.create("seen", 1)
        produce(self.broker, "seen", [b"x"] * 10)
        member = Member("sarama-client", "member", self.broker.bootstrap, "visible", "seen", "range")
        self.addCleanup(member.close)
        self.until(lambda: len(member.saying("value")) == 10, lambda: member.lines)

        def told():
            return dict(line.split(" ", 1) for line in self.run_client("groups", "visible", "seen"))
        self.until(lambda: told()["offset"] == "10", told)
        self.assertEqual(told(), {"groups": '["visible"]', "state": '"Stable"', "members": "1", "offset": "10"})
        member.leave()
        self.assertEqual(told(), {"groups": '["visible"]', "state": '"Empty"', "members": "0", "offset": "10"})

    @shows("broker killed")
    def test_a_member_survives_the_brokers_death(self):
        self.create("survive", 2)
        member = Member("sarama-client", "member", self.broker.bootstrap, "g", "survive", "range")
        self.addCleanup(member.close)
        produce(self.broker, "survive", [b"before %d" % n for n in range(50)], key=str)
        self.until(lambda: len(set(member.saying("value"))) == 50, lambda: member.lines[-5:])
        self.broker.kill()
        self.broker.start()
        produce(self.broker, "survive", [b"after %d" % n for n in range(50)], key=str)
        self.until(lambda: len(set(member.saying("value"))) == 100, lambda: member.lines[-5:])


if __name__ == "__main__":
    unittest.main()
