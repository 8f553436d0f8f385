# SPDX-License-Identifier: Apache-2.0
"""Copies a topic exactly once, in a process of its own, so that a test can kill it: reads a batch, writes it transformed
and commits the offsets in one transaction, again and again. Prints a line for each transaction."""

import os
import signal
import sys

from confluent_kafka import Consumer, KafkaException, Producer

bootstrap, source, target, group, transactional_id = sys.argv[1:]
BATCH = 40


def make_producer():
    producer = Producer({
        "bootstrap.servers": bootstrap, "transactional.id": transactional_id, "linger.ms": 2,
        "transaction.timeout.ms": 20000})
    producer.init_transactions(60)
    return producer


def copy(consumer, producer, messages):
    producer.begin_transaction()
    for message in messages:
        producer.produce(target, b"copy of " + message.value(), partition=message.partition())
    producer.send_offsets_to_transaction(
        consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 10)
    producer.commit_transaction(30)


def main():
    # The predecessor is fenced before anything is read: what it committed by then is final.
    producer = make_producer()
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "isolation.level": "read_committed", "session.timeout.ms": 2000,
        "heartbeat.interval.ms": 300})
    consumer.subscribe([source])
    while True:
        messages = [m for m in consumer.consume(BATCH, 0.5) if not m.error()]
        if not messages:
            print("idle", flush=True)
            continue
        # librdkafka 2.16 can wait for ever in send_offsets_to_transaction, if the connection breaks under it: then the
        # process ends here, as if it were killed.
        signal.alarm(12)
        try:
            copy(consumer, producer, messages)
            signal.alarm(0)
            print("copied", len(messages), flush=True)
        except KafkaException as failure:
            error = failure.args[0]
            print("failed", error, flush=True)
            if not error.txn_requires_abort():
                # Fenced, or not able to go on: a successor, or a new start, does it. Without a goodbye, as when killed.
                os._exit(3)
            producer.abort_transaction(30)
            # Back to what is committed: the batch is read again.
            for partition in consumer.committed(consumer.assignment(), 30):
                if partition.offset < 0:
                    partition.offset = 0
                consumer.seek(partition)


main()
