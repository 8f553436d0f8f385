# SPDX-License-Identifier: Apache-2.0
"""segmentio's kafka-go 0.2 (Go, from Debian) against a fresh node.

It asks for no versions: it sends Produce 2 and Fetch 2, which Kafka dropped in 4.0, and the first versions of everything
else, which Kafka kept. So it can administer topics, look up offsets and join groups, and cannot move a record.
"""

import time
import unittest

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_process import BrokerProcess
from go_client import Member, run
from matrix import refuses, shows
from test_confluent import produce


class KafkaGo(unittest.TestCase):
    client = "kafka-go 0.2"

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        self.admin.create_topics([NewTopic("existing", 2, 1)])["existing"].result(30)

    def run_client(self, command, *arguments):
        return run("kafka-go-client", command, self.broker.bootstrap, *arguments)

    @refuses("lists and deletes topics, but creates them with CreateTopics 0, which Kafka dropped in 4.0", "topics")
    def test_topics_are_listed_and_deleted(self):
        lines = self.run_client("admin")
        self.assertNotEqual(lines[0], "create <nil>")
        self.assertEqual(lines[1:], ["partitions 2", "delete <nil>"])
        self.assertNotIn("existing", self.admin.list_topics(timeout=30).topics)

    @shows("offsets admin")
    def test_offsets_are_looked_up(self):
        produce(self.broker, "existing", [b"x"] * 20, key=lambda _: "same")
        first, last = map(int, self.run_client("offsets", "existing")[0].split()[1:])
        low, high = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "-"}).get_watermark_offsets(
            TopicPartition("existing", 0), timeout=30)
        self.assertEqual((first, last), (low, high))

    @refuses("sends Produce 2 and Fetch 2, whatever the broker announces; Kafka 4.0 and later refuse them", "produce")
    def test_produce_2_is_refused_by_a_clear_error(self):
        line = self.run_client("produce", "existing")[0]
        self.assertIn("[35]", line)

    @refuses("sends Produce 2 and Fetch 2, whatever the broker announces; Kafka 4.0 and later refuse them", "consume")
    def test_fetch_2_closes_the_connection_and_nothing_else(self):
        produce(self.broker, "existing", [b"x"] * 20)
        line = self.run_client("consume", "existing")[0]
        self.assertNotIn("<nil>", line)
        self.assertTrue(self.broker.alive())

    @shows("group")
    def test_it_is_a_member_of_a_group(self):
        member = Member("kafka-go-client", "member", self.broker.bootstrap, "g", "existing")
        self.addCleanup(member.close)
        deadline = time.monotonic() + 60
        while True:
            group = self.admin.describe_consumer_groups(["g"])["g"].result(30)
            if group.state.name == "STABLE" and len(group.members) == 1:
                break
            self.assertLess(time.monotonic(), deadline, member.lines[-20:])
            time.sleep(0.2)
        assigned = group.members[0].assignment.topic_partitions
        self.assertEqual(sorted((p.topic, p.partition) for p in assigned), [("existing", 0), ("existing", 1)])


if __name__ == "__main__":
    unittest.main()
