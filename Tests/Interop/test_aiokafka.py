# SPDX-License-Identifier: Apache-2.0
"""aiokafka (asyncio, from PyPI) against a fresh node."""

import asyncio
import logging
import time
import unittest

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, TopicAlreadyExistsError

from broker_process import BrokerProcess
from matrix import shows

# A debugging event loop tells of every slow step, and the client of every rebalance.
for name in ("asyncio", "aiokafka"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]


class AIOKafka(unittest.IsolatedAsyncioTestCase):
    client = f"aiokafka {aiokafka.__version__}"

    async def asyncSetUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        self.admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await self.admin.start()
        self.addAsyncCleanup(self.admin.close)

    async def producer(self, **settings):
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, **{"acks": "all", **settings})
        await producer.start()
        self.addAsyncCleanup(producer.stop)
        return producer

    async def consumer(self, *topics, **settings):
        consumer = AIOKafkaConsumer(*topics, bootstrap_servers=self.broker.bootstrap, **{
            "auto_offset_reset": "earliest", "enable_auto_commit": False, "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 500, "metadata_max_age_ms": 2000, **settings})
        await consumer.start()
        self.addAsyncCleanup(consumer.stop)
        return consumer

    async def create(self, topic, partitions=1, **configs):
        answer = await self.admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        return answer

    async def send(self, topic, count, **settings):
        producer = await self.producer(**settings)
        futures = [await producer.send(topic, b"%d" % n, key=b"%d" % (n % 17)) for n in range(count)]
        return await asyncio.gather(*futures)

    async def drain(self, consumer, count, timeout=60):
        records = []
        deadline = time.monotonic() + timeout
        while len(records) < count and time.monotonic() < deadline:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
        return records

    async def until(self, condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"{what()}\n{self.broker.tail()}")
            await asyncio.sleep(0.1)

    # Records

    @shows("produce", "consume", "gzip", "snappy", "lz4", "zstd", "headers")
    async def test_every_codec_with_keys_and_headers(self):
        for codec in CODECS:
            with self.subTest(codec=codec):
                topic = f"codec-{codec}"
                await self.create(topic, 3)
                producer = await self.producer(compression_type=codec)
                values = [(f"{codec} {number} " + "y" * (number % 500)).encode() for number in range(600)]
                futures = [
                    await producer.send(topic, value, key=b"key-%d" % (number % 17), headers=[("n", b"%d" % number)])
                    for number, value in enumerate(values)]
                await asyncio.gather(*futures)
                consumer = await self.consumer(topic, group_id=None)
                back = await self.drain(consumer, len(values))
                self.assertEqual(sorted(record.value for record in back), sorted(values))
                for record in back:
                    self.assertEqual(values[int(record.headers[0][1])], record.value)

    @shows("idempotence")
    async def test_an_idempotent_producer_keeps_order(self):
        await self.create("ordered", 1)
        placed = await self.send("ordered", 1_000, enable_idempotence=True)
        self.assertEqual([record.offset for record in placed], list(range(1_000)))

    @shows("seek by time")
    async def test_offsets_for_times_and_ends(self):
        await self.create("times", 1)
        producer = await self.producer()
        for number in range(10):
            await producer.send_and_wait("times", b"%d" % number, timestamp_ms=1_700_000_000_000 + number * 1000)
        partition = TopicPartition("times", 0)
        consumer = await self.consumer(group_id=None)
        consumer.assign([partition])
        found = await consumer.offsets_for_times({partition: 1_700_000_004_500})
        self.assertEqual((found[partition].offset, found[partition].timestamp), (5, 1_700_000_005_000))
        self.assertEqual(await consumer.beginning_offsets([partition]), {partition: 0})
        self.assertEqual(await consumer.end_offsets([partition]), {partition: 10})
        consumer.seek(partition, 8)
        self.assertEqual([record.value for record in await self.drain(consumer, 2)], [b"8", b"9"])

    # Groups

    @shows("committed offsets")
    async def test_a_committed_position_is_resumed(self):
        await self.create("resume", 1)
        await self.send("resume", 100)
        first = await self.consumer("resume", group_id="resumers")
        await self.drain(first, 100)
        await first.commit({TopicPartition("resume", 0): (40, "note")})
        self.assertEqual(await first.committed(TopicPartition("resume", 0)), 40)
        await first.stop()
        tail = await self.drain(await self.consumer("resume", group_id="resumers"), 60)
        self.assertEqual([record.offset for record in tail], list(range(40, 100)))

    async def run_members(self, assignor):
        topic, total = "members", 1_200
        await self.create(topic, 6)
        seen, stopped = set(), set()

        async def read(consumer):
            while consumer not in stopped:
                batches = await consumer.getmany(timeout_ms=200)
                for batch in batches.values():
                    seen.update(record.value for record in batch)
                if batches and consumer not in stopped:
                    try:
                        await consumer.commit()
                    except CommitFailedError:
                        pass  # the group is on the move; the next owner reads again

        settings = {"group_id": "group", "partition_assignment_strategy": [assignor]}
        members = [await self.consumer(topic, **settings) for _ in range(3)]
        tasks = [asyncio.create_task(read(member)) for member in members]

        def owned(count):
            parts = [{p.partition for p in member.assignment()} for member in members[:count]]
            return all(parts) and sum(map(len, parts)) == 6 and len(set().union(*parts)) == 6

        def what():
            return [member.assignment() for member in members], len(seen)

        await self.until(lambda: owned(3), what)
        producer = await self.producer()
        values = [b"%d" % number for number in range(total)]
        for value in values[:total // 2]:
            await producer.send(topic, value, key=value)
        await producer.flush()
        # One leaves in order, and one loses its place as one does that was silent for too long.
        stopped.add(members[2])
        await tasks[2]
        await members[2].stop()
        await self.until(lambda: owned(2), what)
        for value in values[total // 2:]:
            await producer.send(topic, value, key=value)
        await producer.flush()
        await self.until(lambda: len(seen) == total, what)
        stopped.update(members)
        await asyncio.gather(*tasks)
        self.assertEqual(seen, set(values))

    @shows("group", "eager rebalance")
    async def test_members_come_and_go_roundrobin(self):
        await self.run_members(RoundRobinPartitionAssignor)

    @shows("eager rebalance")
    async def test_members_come_and_go_sticky(self):
        await self.run_members(StickyPartitionAssignor)

    @shows("static member")
    async def test_a_static_member_returns_to_its_partitions(self):
        await self.create("static", 2)
        settings = {"group_id": "statics", "session_timeout_ms": 30_000}
        first = await self.consumer("static", group_instance_id="instance-1", **settings)
        other = await self.consumer("static", group_instance_id="instance-2", **settings)
        await self.until(
            lambda: len(first.assignment()) == 1 and len(other.assignment()) == 1,
            lambda: (first.assignment(), other.assignment()))
        mine = first.assignment()
        await first.stop()
        again = await self.consumer("static", group_instance_id="instance-1", **settings)
        await self.until(lambda: again.assignment(), lambda: again.assignment())
        self.assertEqual(again.assignment(), mine)

    # Administration

    @shows("topics", "partitions", "configs", "cluster")
    async def test_topics_and_configs(self):
        await self.create("managed", 2, **{"retention.ms": "3600000"})
        again = await self.create("managed", 2)
        self.assertEqual(again.topic_errors[0][1], TopicAlreadyExistsError.errno)
        self.assertIn("managed", await self.admin.list_topics())
        await self.admin.create_partitions({"managed": NewPartitions(4)})
        described = await self.admin.describe_topics(["managed"])
        self.assertEqual(len(described[0]["partitions"]), 4)

        async def retention():
            resource = ConfigResource(ConfigResourceType.TOPIC, "managed")
            answers = await self.admin.describe_configs([resource])
            entries = answers[0].resources[0][4]
            return {entry[0]: entry[1] for entry in entries}["retention.ms"]
        self.assertEqual(await retention(), "3600000")
        await self.admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, "managed", {"retention.ms": "7200000"})])
        self.assertEqual(await retention(), "7200000")
        cluster = await self.admin.describe_cluster()
        self.assertEqual(len(cluster["brokers"]), 1)
        await self.admin.delete_topics(["managed"])
        self.assertNotIn("managed", await self.admin.list_topics())

    @shows("delete records")
    async def test_records_are_deleted(self):
        await self.create("shrunk", 1)
        await self.send("shrunk", 10)
        partition = TopicPartition("shrunk", 0)
        await self.admin.delete_records({partition: RecordsToDelete(4)})
        consumer = await self.consumer(group_id=None)
        self.assertEqual(await consumer.beginning_offsets([partition]), {partition: 4})

    @shows("groups admin")
    async def test_groups_are_seen(self):
        await self.create("grouped", 1)
        await self.send("grouped", 20)
        member = await self.consumer("grouped", group_id="visible")
        await self.drain(member, 20)
        await member.commit()
        self.assertIn("visible", [group[0] for group in await self.admin.list_consumer_groups()])
        described = (await self.admin.describe_consumer_groups(["visible"]))[0].groups[0]
        self.assertEqual((described[1], described[2], len(described[5])), ("visible", "Stable", 1))
        offsets = await self.admin.list_consumer_group_offsets("visible")
        self.assertEqual(offsets[TopicPartition("grouped", 0)].offset, 20)

    @shows("broker killed")
    async def test_a_killed_broker_loses_nothing_that_was_acknowledged(self):
        await self.create("survivors", 2)
        before = await self.send("survivors", 200)
        consumer = await self.consumer("survivors", group_id="keepers")
        self.assertEqual(len(await self.drain(consumer, 200)), 200)
        await consumer.commit()
        self.broker.kill()
        self.broker.start()
        after = await self.send("survivors", 200)
        read = await self.drain(consumer, 200)
        self.assertEqual(
            sorted((r.partition, r.offset) for r in read), sorted((r.partition, r.offset) for r in after))
        self.assertFalse({(r.partition, r.offset) for r in before} & {(r.partition, r.offset) for r in after})


if __name__ == "__main__":
    unittest.main()
