# SPDX-License-Identifier: Apache-2.0
"""A group member in a process of its own, so that a test can kill it: prints each value before it commits it."""

import sys

from confluent_kafka import Consumer

bootstrap, group, topic, strategy = sys.argv[1:]
client = Consumer({
    "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "partition.assignment.strategy": strategy})
client.subscribe([topic], on_assign=lambda _, partitions: print("assigned", len(partitions), flush=True))
while True:
    message = client.poll(0.2)
    if message is None or message.error():
        continue
    print("value", message.value().decode(), flush=True)
    client.commit(message, asynchronous=True)
