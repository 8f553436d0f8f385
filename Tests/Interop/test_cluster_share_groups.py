# SPDX-License-Identifier: Apache-2.0
"""A share group over partitions of three nodes: share coordinators are elsewhere than leaders, and both are killed."""

import os
import threading
import unittest

from confluent_kafka import AcknowledgeType, KafkaException, Producer, ShareConsumer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from test_cluster import DEADLINE
from test_cluster_transactions import ClusterCase

PARTITIONS = 6
KILLS = int(os.environ.get("MDC_CLUSTER_KILLS", "3"))


class Worker(threading.Thread):
    """Accepts whatever it gets, and notes what the node has confirmed."""

    def __init__(self, bootstrap, group, topic):
        super().__init__(daemon=True)
        self.client = ShareConsumer({
            "bootstrap.servers": bootstrap, "group.id": group, "share.acknowledgement.mode": "explicit",
            "log_level": 0, "max.poll.records": 50, "reconnect.backoff.max.ms": 500})
        self.client.subscribe([topic])
        # Places of confirmed records, and places that came although they had been confirmed.
        self.delivered = []
        self.confirmed = set()
        self.failures = []
        self.stopping = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    self.round()
                except KafkaException as error:
                    if error.args[0].fatal():
                        raise
            self.client.close()
        except KafkaException as error:
            self.failures.append(error)

    def round(self):
        places = {}
        for message in self.client.poll(0.2):
            if message.error():
                continue
            place = (message.partition(), message.offset())
            self.delivered.append((place, message.value().decode()))
            self.client.acknowledge(message, AcknowledgeType.ACCEPT)
            places.setdefault(message.partition(), []).append(place)
        if places:
            for partition, error in self.client.commit_sync(30).items():
                if error is None:
                    self.confirmed.update(places.get(partition.partition, []))

    def stop(self):
        self.stopping.set()
        self.join(2 * DEADLINE)


class ShareGroupsOverNodes(ClusterCase):
    settings = (
        "group.share.min.record.lock.duration.ms=500", "group.share.min.heartbeat.interval.ms=200",
        "group.share.heartbeat.interval.ms=500", "group.share.min.session.timeout.ms=2000")

    def configure(self, group, **settings):
        entries = [
            ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for name, value in settings.items()]
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(DEADLINE)

    def produce(self, first, count):
        failures = []
        producer = Producer({
            "bootstrap.servers": self.cluster.bootstrap, "enable.idempotence": True, "log_level": 0,
            "message.timeout.ms": DEADLINE * 3000, "retry.backoff.ms": 50, "reconnect.backoff.max.ms": 500})
        for number in range(first, first + count):
            producer.produce(
                "work", str(number), partition=number % PARTITIONS,
                on_delivery=lambda error, _: failures.append(error) if error else None)
        self.assertEqual(producer.flush(3 * DEADLINE), 0, self.cluster.logs())
        self.assertEqual(failures, [])

    def test_leaders_and_coordinators_killed(self):
        self.create("work", PARTITIONS)
        self.configure("g", share_auto_offset_reset="earliest", share_record_lock_duration_ms=3000)
        workers = [Worker(self.cluster.bootstrap, "g", "work") for _ in range(3)]
        total = 0

        def all_confirmed():
            confirmed = set().union(*(worker.confirmed for worker in workers))
            delivered = {place: value for worker in workers for place, value in list(worker.delivered)}
            return {int(delivered[place]) for place in confirmed if place in delivered} == set(range(total))

        def goes_on(what):
            nonlocal total
            self.produce(total, 120)
            total += 120
            self.until(f"all is accepted {what}", all_confirmed)

        goes_on("with all nodes")
        topics = ("work", "__share_group_state", "__consumer_offsets")
        self.until("all in sync", lambda: self.all_in_sync(*topics))
        homes = {p.leader for p in self.metadata().topics["__share_group_state"].partitions.values()}
        self.assertEqual(homes, {1, 2, 3}, "share coordinators are on all nodes")
        for kill in range(KILLS):
            # A leader of work, then the group's coordinator, then another leader.
            victim = (
                self.coordinator("__consumer_offsets", "g") if kill % 3 == 1
                else self.leader("work", kill * 5 % PARTITIONS))
            self.kill_and_restart(victim, topics, goes_on)
        goes_on("in the end")
        for worker in workers:
            worker.stop()
            self.assertEqual(worker.failures, [], self.cluster.logs())
        # What was confirmed once stays done: whoever comes now gets only what is new.
        late = Worker(self.cluster.bootstrap, "g", "work")
        before = total
        self.produce(total, 12)
        total += 12
        self.until("the last is accepted", lambda: len(late.confirmed) >= 12)
        late.stop()
        self.assertEqual(sorted(int(value) for _, value in late.delivered), list(range(before, total)))


if __name__ == "__main__":
    unittest.main()
