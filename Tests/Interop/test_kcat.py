# SPDX-License-Identifier: Apache-2.0
"""Debian's kcat (librdkafka 2.0) against a fresh node."""

import json
import subprocess
import unittest

from broker_process import BrokerProcess
from matrix import shows

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def kcat(broker, *arguments, text=None, timeout=60):
    result = subprocess.run(
        ["kcat", "-b", broker.bootstrap, *arguments],
        input=text, capture_output=True, text=True, timeout=timeout)
    if result.returncode != 0:
        raise AssertionError(f"kcat {arguments} ended with {result.returncode}:\n{result.stderr}\n{broker.tail()}")
    return result.stdout


class Kcat(unittest.TestCase):
    client = "kcat 1.7 (librdkafka 2.0)"

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)

    def test_metadata_lists_the_node_and_its_topics(self):
        kcat(self.broker, "-P", "-t", "greetings", text="hello\n")
        listing = json.loads(kcat(self.broker, "-L", "-J"))
        self.assertEqual([b["name"] for b in listing["brokers"]], [self.broker.bootstrap])
        self.assertIn("greetings", [t["topic"] for t in listing["topics"]])

    @shows("produce", "consume", "gzip", "snappy", "lz4", "zstd")
    def test_every_codec_comes_back_as_it_went_in(self):
        lines = [f"message {number} — {'x' * (number % 300)}" for number in range(2_000)]
        for codec in CODECS:
            with self.subTest(codec=codec):
                topic = f"codec-{codec}"
                kcat(self.broker, "-P", "-t", topic, "-z", codec, text="\n".join(lines) + "\n")
                back = kcat(self.broker, "-C", "-t", topic, "-o", "beginning", "-e", "-q")
                self.assertEqual(back.splitlines(), lines)

    @shows("headers")
    def test_keys_headers_and_null_values(self):
        kcat(self.broker, "-P", "-t", "keyed", "-K", ":", "-Z", "-H", "trace=42", text="a:1\nb:\n")
        back = kcat(self.broker, "-C", "-t", "keyed", "-o", "beginning", "-e", "-q", "-J")
        records = sorted((json.loads(line) for line in back.splitlines()), key=lambda record: record["key"])
        self.assertEqual([(r["key"], r["payload"]) for r in records], [("a", "1"), ("b", None)])
        self.assertEqual(records[0]["headers"], ["trace", "42"])

    @shows("group", "committed offsets")
    def test_a_group_resumes_where_it_committed(self):
        first = [f"first {number}" for number in range(500)]
        second = [f"second {number}" for number in range(500)]
        consume = ["-G", "readers", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "-e", "-q"]
        kcat(self.broker, "-P", "-t", "resume", text="\n".join(first) + "\n")
        self.assertEqual(kcat(self.broker, *consume, "resume").splitlines(), first)
        kcat(self.broker, "-P", "-t", "resume", text="\n".join(second) + "\n")
        self.assertEqual(kcat(self.broker, *consume, "resume").splitlines(), second)

    @shows("seek by time")
    def test_offsets_by_time(self):
        kcat(self.broker, "-P", "-t", "times", text="one\ntwo\nthree\n")
        answer = kcat(self.broker, "-Q", "-t", "times:0:1")
        self.assertIn("times [0] offset 0", answer)
        answer = kcat(self.broker, "-Q", "-t", "times:0:-1")
        self.assertIn("times [0] offset 3", answer)

    def test_a_message_above_the_limit_is_refused_and_the_next_one_taken(self):
        big = "x" * 2_000_000
        result = subprocess.run(
            ["kcat", "-b", self.broker.bootstrap, "-P", "-t", "big", "-X", "message.max.bytes=8000000"],
            input=big + "\n", capture_output=True, text=True, timeout=60)
        self.assertIn("Message size too large", result.stderr)
        kcat(self.broker, "-P", "-t", "big", text="small\n")
        self.assertEqual(kcat(self.broker, "-C", "-t", "big", "-o", "beginning", "-e", "-q"), "small\n")


if __name__ == "__main__":
    unittest.main()
