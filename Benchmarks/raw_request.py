# SPDX-License-Identifier: Apache-2.0
"""CreateTopics over a bare socket, so that the benchmarks need no Python package."""

import socket
import struct


def create_topic(broker, name, partitions):
    """Creates a topic by CreateTopics version 2 and raises where the node refuses it."""
    topic = name.encode()
    client = b"bench"
    body = struct.pack(">hhih", 19, 2, 1, len(client)) + client
    body += struct.pack(">ih", 1, len(topic)) + topic + struct.pack(">ihii", partitions, 1, 0, 0)
    body += struct.pack(">ib", 30_000, 0)
    with socket.create_connection(("127.0.0.1", broker.port), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
            piece = connection.recv(65536)
            if not piece:
                raise RuntimeError("the node closed the connection")
            answer += piece
    # size, correlation, throttle, count of topics, name, error
    length = struct.unpack(">h", answer[16:18])[0]
    error = struct.unpack(">h", answer[18 + length:20 + length])[0]
    if error:
        raise RuntimeError(f"CreateTopics answered error {error}")
