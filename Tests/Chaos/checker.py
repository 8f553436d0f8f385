# SPDX-License-Identifier: Apache-2.0
"""What must hold at the end, whatever happened: from what clients were told, what is read, and the nodes' files."""

import collections
import glob
import hashlib
import os
import struct
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from nodes import NODES
from workload import settings


def read_all(bootstrap, topic, partitions, isolation, seconds=120):
    """Partition -> [(offset, value)], to the end that the leaders tell."""
    consumer = Consumer(
        settings(
            bootstrap,
            **{
                "group.id": "checker",
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
            },
        )
    )
    until = time.monotonic() + seconds
    try:
        found = {index: [] for index in range(partitions)}
        consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(partitions)])
        open_partitions = set(range(partitions))
        while open_partitions:
            if time.monotonic() > until:
                raise TimeoutError(f"{topic} is not read to its end ({isolation}): {sorted(open_partitions)} are open")
            for message in consumer.consume(2000, 0.5):
                if message.error() is None:
                    found[message.partition()].append((message.offset(), message.value()))
                elif message.error().name() == "_PARTITION_EOF":
                    open_partitions.discard(message.partition())
        return found
    finally:
        consumer.close()


def check_writer(writer, found):
    """Nothing acknowledged is lost or elsewhere, nothing is there twice, each partition is in the order of sending."""
    prefix = f"{writer.name}/"
    for index, records in found.items():
        numbers, places = [], {}
        for offset, value in records:
            text = value.decode()
            if text.startswith(prefix):
                number = int(text[len(prefix):])
                if number in places:
                    yield f"{writer.name}: {number} is at {places[number]} and {offset} of partition {index}"
                numbers.append(number)
                places[number] = offset
        for before, after in zip(numbers, numbers[1:]):
            if after < before:
                yield f"{writer.name}: {after} follows {before} in partition {index}"
        for number, offset in list(writer.acknowledged.items()):
            if number % writer.partitions != index:
                continue
            if number not in places:
                yield f"{writer.name}: {number} is lost, acknowledged at {offset} of partition {index}"
            # Of a repetition that the node recognised, the client is not told where the first one went.
            elif offset is not None and offset >= 0 and places[number] != offset:
                yield f"{writer.name}: {number} was acknowledged at {offset}, is at {places[number]} of partition {index}"


def check_group(members, watcher, group, topic, found):
    """What was read is what is there; below the committed offset everything was read; commits do not go back."""
    final = {index: dict(records) for index, records in found.items()}
    seen = collections.defaultdict(set)
    best = collections.defaultdict(int)
    for member in members:
        for (index, offset), value in member.read.items():
            seen[index].add(offset)
            if final[index].get(offset) != value:
                yield f"{member.name} read {value} at {index}/{offset}, where {final[index].get(offset)} is"
        last = {}
        for index, offset, _ in member.committed:
            best[index] = max(best[index], offset)
            last[index] = offset
    for index, offset in best.items():
        missing = [o for o in final[index] if o < offset and o not in seen[index]]
        if missing:
            yield f"{group} committed {offset} in {topic}-{index}, but nobody read {missing[:5]} ({len(missing)} records)"
        told = watcher.offsets[group, index]
        if told < offset:
            yield f"{group} in {topic}-{index} is at {told}, but {offset} was acknowledged"
        if told > offset and told not in {o for m in members for o in m.position.values()} and told > max(seen[index], default=-1) + 1:
            yield f"{group} in {topic}-{index} is at {told}, which nobody committed"


def check_transactions(writer, committed, everything):
    """Each transaction is there whole or not at all, as it was acknowledged."""
    counts, places = collections.Counter(), {}
    prefix = f"{writer.name}/"
    for index, records in committed.items():
        newest = (-1, -1)
        for offset, value in records:
            text = value.decode()
            if not text.startswith(prefix):
                continue
            number, part = map(int, text[len(prefix):].split("/"))
            if (number, part) in places:
                yield f"{text} is at {places[number, part]} and at {index}/{offset}"
            if (number, part) < newest:
                yield f"{text} follows {newest} in partition {index}"
            newest = (number, part)
            places[number, part] = f"{index}/{offset}"
            counts[number] += 1
    for number, (outcome, size) in writer.outcomes.items():
        there = counts[number]
        if outcome == "committed" and there != size:
            yield f"{writer.name}: transaction {number} is committed, {there} of {size} records are read"
        if outcome == "aborted" and there:
            yield f"{writer.name}: transaction {number} is aborted, {there} of its {size} records are read"
        if outcome == "unknown" and there not in (0, size):
            yield f"{writer.name}: transaction {number} is torn: {there} of {size} records are read"
    unknown = set(counts) - set(writer.outcomes)
    if unknown:
        yield f"{writer.name}: nobody began {sorted(unknown)}"


def check_topics(maker, views):
    """Every node knows what was acknowledged, and all know the same. `views`: node -> names of topics."""
    for node, names in views.items():
        for topic, exists in maker.topics.items():
            if exists is not None and exists != (topic in names):
                yield f"{topic} was {'made' if exists else 'deleted'}, node {node} says otherwise"
        for topic in names:
            if topic.startswith("made-") and topic not in maker.topics:
                yield f"node {node} knows {topic}, which nobody made"
    if len(set(map(frozenset, views.values()))) > 1:
        yield f"the nodes know different topics: {views}"


def batches(folder):
    """Base offset -> (end, epoch, hash of the bytes) of all batches in a partition's folder, read by the format alone."""
    found = {}
    for path in sorted(glob.glob(f"{folder}/*.log")):
        with open(path, "rb") as file:
            content = file.read()
        at = 0
        while at + 61 <= len(content):
            base, length, epoch, magic = struct.unpack_from(">qiib", content, at)
            if magic != 2 or length < 49 or at + 12 + length > len(content):
                break
            (delta,) = struct.unpack_from(">i", content, at + 23)
            found[base] = (base + delta + 1, epoch, hashlib.md5(content[at:at + 12 + length]).hexdigest())
            at += 12 + length
    return found


def check_replicas(folder, topics):
    """The logs of all nodes are equal, byte by byte, at equal offsets, and end at the same one. Nodes have stopped in order."""
    for topic, partitions in topics.items():
        for index in range(partitions):
            logs = {node: batches(f"{folder}/{node}/data/{topic}-{index}") for node in NODES}
            ends = {node: max((end for end, _, _ in log.values()), default=0) for node, log in logs.items()}
            if len(set(ends.values())) > 1:
                yield f"the replicas of {topic}-{index} end at {ends}"
            for node in NODES[1:]:
                first, other = logs[NODES[0]], logs[node]
                start = max(min(first, default=0), min(other, default=0))
                for base in sorted(set(first) | set(other)):
                    if base >= start and first.get(base) != other.get(base):
                        yield f"{topic}-{index} differs at {base}: node 1 {first.get(base)}, node {node} {other.get(base)}"
                        break
