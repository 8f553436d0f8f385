# SPDX-License-Identifier: Apache-2.0
"""An incremental fetch session over many partitions that has nothing to tell: what an empty poll of it costs the node."""

import socket
import struct
import time


def exchange(connection, body):
    head = struct.pack(">hhih", 1, 11, 1, 5) + b"polls"
    connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    answer = b""
    while len(answer) < 4 or len(answer) < 4 + struct.unpack_from(">i", answer)[0]:
        piece = connection.recv(1 << 20)
        if not piece:
            raise RuntimeError("the node closed the connection")
        answer += piece
    # Size, correlation id, throttle time.
    error, session, topics = struct.unpack_from(">hii", answer, 12)
    if error:
        raise RuntimeError(f"Fetch answered error {error}")
    return session, topics


def fetch(session, epoch, topic, partitions):
    body = struct.pack(">iiiibii", -1, 0, 1, 50 << 20, 0, session, epoch)
    if partitions:
        name = topic.encode()
        body += struct.pack(">ih", 1, len(name)) + name + struct.pack(">i", partitions)
        for index in range(partitions):
            body += struct.pack(">iiqqi", index, -1, 0, -1, 1 << 20)
    else:
        body += struct.pack(">i", 0)
    return body + struct.pack(">ih", 0, 0)


def measure(broker, topic, partitions, polls, cpu_seconds):
    """Processor seconds of the node, and seconds by the clock, of one empty poll of so many partitions."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session, _ = exchange(connection, fetch(0, 0, topic, partitions))
        if session == 0:
            raise RuntimeError("the node made no fetch session")
        epoch = 0
        for count in (polls // 10, polls):
            before, began = cpu_seconds(broker.process), time.monotonic()
            for _ in range(count):
                epoch += 1
                _, topics = exchange(connection, fetch(session, epoch, topic, 0))
                if topics:
                    raise RuntimeError("the poll was not empty")
        return (cpu_seconds(broker.process) - before) / polls, (time.monotonic() - began) / polls
