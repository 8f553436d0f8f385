# SPDX-License-Identifier: Apache-2.0
"""A member of a share group in a process of its own, so that a test can kill it. Prints what it gets and keeps it."""

import sys
import time

from confluent_kafka import ShareConsumer


def main(bootstrap, group, topic):
    member = ShareConsumer({
        "bootstrap.servers": bootstrap, "group.id": group, "share.acknowledgement.mode": "explicit", "log_level": 0})
    member.subscribe([topic])
    print("joined", flush=True)
    messages = []
    while not messages:
        messages = [message for message in member.poll(0.2) if not message.error()]
    for message in messages:
        print("got", message.offset(), message.delivery_count(), flush=True)
    while True:
        time.sleep(1)


main(*sys.argv[1:])
