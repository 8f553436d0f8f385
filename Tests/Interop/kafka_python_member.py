# SPDX-License-Identifier: Apache-2.0
"""A kafka-python member in a process of its own, so that a test can kill it: prints each value before it commits it."""

import sys

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from test_kafka_python import STRATEGIES

bootstrap, group, topic, strategy = sys.argv[1:]
consumer = KafkaConsumer(
    topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
    session_timeout_ms=6000, heartbeat_interval_ms=500, partition_assignment_strategy=STRATEGIES[strategy])
known = None
while True:
    batches = consumer.poll(timeout_ms=200)
    if consumer.assignment() != known and consumer.assignment():
        known = consumer.assignment()
        print("assigned", ",".join(str(p.partition) for p in known), flush=True)
    for batch in batches.values():
        for record in batch:
            print("value", record.value.decode(), flush=True)
    if batches:
        try:
            consumer.commit()
        except KafkaError:
            pass
