# SPDX-License-Identifier: Apache-2.0
"""Bytes that no client sends: the node stays up, its memory stays bounded, other clients are served (guarantee G9)."""

import random
import resource
import socket
import struct
import time
import unittest
import urllib.request

from confluent_kafka import Consumer, Producer, TopicPartition

from broker_process import BrokerProcess

MEBIBYTE = 1 << 20


def connect(broker, timeout=5):
    return socket.create_connection(("127.0.0.1", broker.port), timeout=timeout)


def header(api_key, version, correlation=1, client="hostile"):
    encoded = client.encode()
    return struct.pack(">hhih", api_key, version, correlation, len(encoded)) + encoded


def framed(body):
    return struct.pack(">i", len(body)) + body


def receive(connection):
    """One whole answer, or b"" where the node closed the connection."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">i", data[:4])[0]:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return b""
        if not piece:
            return b""
        data += piece
    return data[4:]


class Hostile(unittest.TestCase):
    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        self.sent = 0
        self.serves()
        self.before = self.broker.rss_bytes()

    def serves(self):
        """Another client writes and reads back within reasonable time."""
        value = f"still here {self.sent}".encode()
        self.sent += 1
        placed = []
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "acks": "all", "message.timeout.ms": 20_000})
        producer.produce("canary", value, callback=lambda error, message: placed.append((error, message)))
        self.assertEqual(producer.flush(20), 0, self.broker.tail())
        error, message = placed[0]
        self.assertIsNone(error)
        reader = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "canary"})
        reader.assign([TopicPartition("canary", message.partition(), message.offset())])
        back = reader.poll(20)
        reader.close()
        self.assertIsNotNone(back, self.broker.tail())
        self.assertEqual(back.value(), value)

    def stays_up(self, growth):
        self.assertTrue(self.broker.alive(), self.broker.tail())
        self.serves()
        grown = self.broker.rss_bytes() - self.before
        self.assertLess(grown, growth, f"memory grew by {grown // MEBIBYTE} MiB")

    def test_random_bytes(self):
        dice = random.Random(1)
        for _ in range(300):
            with connect(self.broker) as connection:
                try:
                    connection.sendall(dice.randbytes(dice.randrange(1, 5_000)))
                except OSError:
                    pass
        self.stays_up(64 * MEBIBYTE)

    def test_random_bodies_behind_valid_headers(self):
        dice = random.Random(2)
        for api_key in list(range(0, 93)):
            for version in (0, 1, 3, 7, 9, 12, 18):
                with connect(self.broker) as connection:
                    try:
                        connection.sendall(framed(header(api_key, version) + dice.randbytes(dice.randrange(0, 200))))
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(0.01)
                        connection.recv(1)
                    except OSError:
                        pass
        self.stays_up(128 * MEBIBYTE)

    def test_half_frames_and_sudden_ends(self):
        whole = framed(header(3, 1) + struct.pack(">i", -1))
        for cut in range(len(whole)):
            with connect(self.broker) as connection:
                connection.sendall(whole[:cut])
        held = []
        for cut in range(1, len(whole)):
            connection = connect(self.broker)
            connection.sendall(whole[:cut])
            held.append(connection)
        self.stays_up(64 * MEBIBYTE)
        for connection in held:
            connection.close()

    def test_hostile_length_prefixes(self):
        for length in (0x7FFFFFFF, -1, -0x80000000, 0, 1, 101 * MEBIBYTE):
            with self.subTest(length=length), connect(self.broker) as connection:
                connection.sendall(struct.pack(">i", length) + b"x" * 100)
                connection.settimeout(5)
                self.assertEqual(receive(connection), b"", "a length that cannot be is answered by closing")
        self.stays_up(64 * MEBIBYTE)

    def test_hostile_lengths_within_a_frame(self):
        # Metadata 1 with two billion topics; Produce 3 with a records field longer than its frame.
        bodies = [
            header(3, 1) + struct.pack(">i", 0x7FFFFFFF),
            header(0, 3) + struct.pack(">hhii", -1, -1, 1000, 0x7FFFFFFF),
            header(0, 3) + struct.pack(">hhii", -1, -1, 1000, 1) + struct.pack(">h", 1) + b"t"
            + struct.pack(">iii", 1, 0, 0x7FFFFFFF),
            header(3, 9) + b"\x00" + b"\xff\xff\xff\xff\x0f",
        ]
        for body in bodies:
            with connect(self.broker) as connection:
                connection.sendall(framed(body))
                connection.settimeout(5)
                receive(connection)
        self.stays_up(64 * MEBIBYTE)

    def test_unknown_api_versions_version_is_answered_with_the_range(self):
        with connect(self.broker) as connection:
            connection.sendall(framed(header(18, 99, correlation=7)))
            answer = receive(connection)
        correlation, error, count = struct.unpack(">ihi", answer[:10])
        self.assertEqual((correlation, error), (7, 35))
        keys = [struct.unpack(">hhh", answer[10 + 6 * n:16 + 6 * n]) for n in range(count)]
        self.assertIn(18, [key for key, _, _ in keys])

    def test_wrong_versions_do_not_disturb_others(self):
        for api_key, version in ((0, 99), (1, 99), (3, 99), (999, 0), (-5, 3)):
            with self.subTest(api_key=api_key), connect(self.broker) as connection:
                connection.sendall(framed(header(api_key, version)))
                connection.settimeout(5)
                receive(connection)
        self.stays_up(64 * MEBIBYTE)

    def test_large_requests_that_go_on_arriving_hold_a_bounded_sum(self):
        """200 connections push 100 MB requests as far as the node takes them, which would be gigabytes."""
        piece = b"x" * (1 << 18)
        held = []
        for _ in range(200):
            connection = connect(self.broker, timeout=30)
            connection.sendall(struct.pack(">i", 100_000_000) + header(0, 9))
            connection.setblocking(False)
            held.append(connection)
        pushed, largest = 0, 0
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and pushed < 4 << 30:
            before = pushed
            for connection in held:
                try:
                    pushed += connection.send(piece)
                except BlockingIOError:
                    pass
                except OSError:
                    # The node closes the largest ones where they are too much together.
                    continue
            largest = max(largest, self.broker.rss_bytes() - self.before)
            if pushed == before:
                time.sleep(0.05)
        self.assertGreater(pushed, 512 * MEBIBYTE, "not enough was sent to show anything")
        self.assertLess(largest, 768 * MEBIBYTE, f"memory grew by {largest // MEBIBYTE} MiB")
        self.serves()
        for connection in held:
            connection.close()
        self.serves()

    def test_readers_who_do_not_read_hold_little_memory(self):
        """120 connections ask for 3.6 megabytes of records each and take none of it: the answers stay in the file."""
        large = b"x" * 900_000
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "acks": "all", "message.timeout.ms": 60_000})
        for _ in range(16):
            producer.produce("large", large, partition=0)
        self.assertEqual(producer.flush(60), 0, self.broker.tail())
        self.serves()
        before = self.broker.rss_bytes()
        # Fetch 4: one partition from offset 0, one batch at most; four in a row.
        topic = struct.pack(">h", 5) + b"large"
        fetch = framed(
            header(1, 4) + struct.pack(">iiiib", -1, 0, 1, 50 * MEBIBYTE, 0)
            + struct.pack(">i", 1) + topic + struct.pack(">iiqi", 1, 0, 0, 900_200))
        held = []
        for _ in range(120):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", self.broker.port))
            connection.sendall(fetch * 4)
            held.append(connection)
        # Each is being answered: the first bytes of its first answer have come.
        for connection in held:
            size = struct.unpack(">i", connection.recv(4))[0]
            self.assertGreater(size, 890_000)
        self.serves()
        grown = self.broker.rss_bytes() - before
        self.assertLess(grown, 256 * MEBIBYTE, f"memory grew by {grown // MEBIBYTE} MiB for {len(held)} slow readers")
        for connection in held:
            connection.close()
        self.serves()
        self.assertTrue(self.broker.alive())

    def test_a_thousand_half_sent_large_requests_hold_little_memory(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        held = []
        for _ in range(1_000):
            try:
                connection = connect(self.broker)
                connection.sendall(struct.pack(">i", 100_000_000) + header(0, 9) + b"x" * 1_000)
                held.append(connection)
            except OSError:
                break
        self.assertGreater(len(held), 500, "the node refused most connections")
        time.sleep(1)
        grown = self.broker.rss_bytes() - self.before
        self.assertLess(grown, 256 * MEBIBYTE, f"memory grew by {grown // MEBIBYTE} MiB for {len(held)} half requests")
        self.serves()
        for connection in held:
            connection.close()
        self.assertTrue(self.broker.alive())

    def test_a_flood_of_short_connections(self):
        for _ in range(3_000):
            try:
                connect(self.broker).close()
            except OSError:
                pass
        self.stays_up(64 * MEBIBYTE)

    def test_garbage_on_the_http_port(self):
        for piece in (b"\x00" * 1000, b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n", b"POST /livez HTTP/1.1\r\n"):
            with socket.create_connection(("127.0.0.1", self.broker.http_port), timeout=5) as connection:
                try:
                    connection.sendall(piece)
                    connection.settimeout(0.2)
                    connection.recv(1000)
                except OSError:
                    pass
        with urllib.request.urlopen(f"http://127.0.0.1:{self.broker.http_port}/livez", timeout=5) as answer:
            self.assertEqual(answer.status, 200)
        self.stays_up(64 * MEBIBYTE)


class HealthPages(unittest.TestCase):
    def test_livez_readyz_metrics(self):
        broker = BrokerProcess().start()
        self.addCleanup(broker.close)
        for page, content in (("livez", ""), ("readyz", ""), ("metrics", "# TYPE mdc_")):
            with urllib.request.urlopen(f"http://127.0.0.1:{broker.http_port}/{page}", timeout=5) as answer:
                self.assertEqual(answer.status, 200)
                self.assertIn(content, answer.read().decode())


if __name__ == "__main__":
    unittest.main()
