# SPDX-License-Identifier: Apache-2.0
"""Some requests over a bare socket, so that the benchmarks need no Python package."""

import socket
import struct
import time


def _text(value):
    return struct.pack(">h", len(value.encode())) + value.encode()


def _ask(broker, api, version, body, timeout=60):
    """Sends a request with a header of version 1; returns the answer after its correlation id."""
    request = struct.pack(">hhi", api, version, 1) + _text("bench") + body
    with socket.create_connection(("127.0.0.1", broker.port), timeout=timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
            piece = connection.recv(65536)
            if not piece:
                raise RuntimeError("the node closed the connection")
            answer += piece
    return answer[8:]


def _check(name, error):
    if error:
        raise RuntimeError(f"{name} answered error {error}")


def create_topic(broker, name, partitions, replicas=1, **settings):
    """Creates a topic by CreateTopics version 2 and raises where the node refuses it."""
    body = struct.pack(">i", 1) + _text(name) + struct.pack(">ihii", partitions, replicas, 0, len(settings))
    for key, value in settings.items():
        body += _text(key.replace("_", ".")) + _text(str(value))
    answer = _ask(broker, 19, 2, body + struct.pack(">ib", 30_000, 0))
    # throttle, count of topics, name, error
    length = struct.unpack_from(">h", answer, 8)[0]
    _check("CreateTopics", struct.unpack_from(">h", answer, 10 + length)[0])


def _partitions(broker, name, timeout):
    """The number of brokers, and leader and in-sync replicas of each partition of a topic, by Metadata version 1."""
    answer = _ask(broker, 3, 1, struct.pack(">i", 1) + _text(name), timeout=timeout)
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from(form, answer, at)
        at += struct.calcsize(form)
        return values

    def skip_text():
        nonlocal at
        count = take(">h")[0]
        at += max(0, count)

    brokers = take(">i")[0]
    for _ in range(brokers):
        take(">i")
        skip_text()
        take(">i")
        skip_text()
    # the controller, count of topics, error
    take(">iih")
    skip_text()
    found = {}
    # internal, count of partitions
    for _ in range(take(">bi")[1]):
        _, partition, leader, replicas = take(">hiii")
        take(f">{replicas}i")
        found[partition] = (leader, take(f">{take('>i')[0]}i"))
    return brokers, found


def leader_and_in_sync(broker, name):
    """Leader and in-sync replicas of a topic's only partition, and the number of brokers."""
    brokers, partitions = _partitions(broker, name, timeout=5)
    leader, in_sync = partitions[0]
    return leader, in_sync, brokers


def leaders(broker, name):
    """The leader of each partition of a topic."""
    return {partition: leader for partition, (leader, _) in _partitions(broker, name, timeout=30)[1].items()}


def alter_topic(broker, name, **settings):
    """Changes settings of a topic by IncrementalAlterConfigs version 0."""
    body = struct.pack(">ib", 1, 2) + _text(name) + struct.pack(">i", len(settings))
    for key, value in settings.items():
        body += _text(key.replace("_", ".")) + struct.pack(">b", 0) + _text(str(value))
    answer = _ask(broker, 44, 0, body + b"\0")
    # throttle, count of resources, error
    _check("IncrementalAlterConfigs", struct.unpack_from(">h", answer, 8)[0])


def start_offset(broker, name, partition=0):
    """The first offset of a partition, by ListOffsets version 1."""
    body = struct.pack(">ii", -1, 1) + _text(name) + struct.pack(">iiq", 1, partition, -2)
    answer = _ask(broker, 2, 1, body)
    # count of topics, name, count of partitions, partition, error, timestamp, offset
    at = 4 + 2 + struct.unpack_from(">h", answer, 4)[0] + 4
    _, error, _, offset = struct.unpack_from(">ihqq", answer, at)
    _check("ListOffsets", error)
    return offset


def produce(broker, name, batches):
    """Appends a batch to each partition that is a key of `batches`, acks=all, by Produce version 3."""
    body = struct.pack(">hhii", -1, -1, 30_000, 1) + _text(name) + struct.pack(">i", len(batches))
    for partition, batch in batches.items():
        body += struct.pack(">ii", partition, len(batch)) + batch
    answer = _ask(broker, 0, 3, body)
    at = 4 + 2 + struct.unpack_from(">h", answer, 4)[0] + 4
    for index in range(len(batches)):
        # partition, error, base offset, log append time
        _check("Produce", struct.unpack_from(">ihqq", answer, at + index * 22)[1])


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _table()


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _varint(value):
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def make_batch(records):
    """A record batch (message format 2) of pairs of key and value, without compression, made now."""
    data = b""
    for index, (key, value) in enumerate(records):
        record = b"\0\0" + _varint(index) + _varint(len(key)) + key + _varint(len(value)) + value + b"\0"
        data += _varint(len(record)) + record
    now = int(time.time() * 1000)
    summed = struct.pack(">hiqqqhii", 0, len(records) - 1, now, now, -1, -1, -1, len(records)) + data
    return struct.pack(">qiibI", 0, len(summed) + 9, -1, 2, _crc32c(summed)) + summed
