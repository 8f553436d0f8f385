# SPDX-License-Identifier: Apache-2.0
"""The command line `mdc` against a fresh node, with kcat (librdkafka) on the other side."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import unittest

from broker_process import BrokerProcess, free_port
from test_kcat import kcat

ROOT = pathlib.Path(__file__).resolve().parents[2]
MDC = ROOT / os.environ.get("MDC_CLI", ".build/debug/mdc")


def run(*arguments, text=None, timeout=60):
    if not MDC.exists():
        raise AssertionError(f"no command line at {MDC}: build it with 'swift build --product mdc' or set MDC_CLI")
    return subprocess.run([MDC, *arguments], input=text, capture_output=True, text=True, timeout=timeout)


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)

    def mdc(self, *arguments, text=None):
        result = run(*arguments, "--bootstrap", self.broker.bootstrap, text=text)
        if result.returncode != 0:
            raise AssertionError(
                f"mdc {arguments} ended with {result.returncode}:\n{result.stderr}\n{self.broker.tail()}")
        return result.stdout

    def json(self, *arguments, text=None):
        return json.loads(self.mdc(*arguments, "-o", "json", text=text))

    def refused(self, *arguments, text=None):
        """What an expected failure says: on standard error alone, with exit status 1."""
        result = run(*arguments, "--bootstrap", self.broker.bootstrap, text=text)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(result.stdout, "")
        return result.stderr

    def eventually(self, condition, timeout=30):
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            self.assertLess(time.monotonic(), deadline, "it did not come to pass in time")
            time.sleep(0.2)

    def test_topics_are_created_listed_described_and_deleted(self):
        self.assertEqual(self.json("topic", "list"), [])
        self.mdc("topic", "create", "orders", "--partitions", "3", "--replication-factor", "1",
                 "--config", "retention.ms=3600000")
        listed = self.json("topic", "list")
        self.assertEqual([(t["name"], t["partitions"]) for t in listed], [("orders", 3)])
        self.assertRegex(self.mdc("topic", "list"), r"(?m)^orders +3 +1$")
        metadata = json.loads(kcat(self.broker, "-L", "-J", "-t", "orders"))
        self.assertEqual(len(metadata["topics"][0]["partitions"]), 3)

        self.mdc("produce", "orders", "--partition", "1", text="one\ntwo\n")
        [described] = self.json("topic", "describe", "orders")
        self.assertEqual(described["config"], {"retention.ms": "3600000"})
        self.assertEqual([p["endOffset"] for p in described["partitions"]], [0, 2, 0])
        self.assertEqual([p["leader"] for p in described["partitions"]], [1, 1, 1])
        self.assertIn("retention.ms = 3600000", self.mdc("topic", "describe", "orders"))

        self.assertIn("--if-not-exists", self.refused("topic", "create", "orders"))
        self.assertFalse(self.json("topic", "create", "orders", "--if-not-exists")["created"])
        # A misspelt name costs the others nothing.
        self.assertIn("'ordres' does not exist", self.refused("topic", "delete", "orders", "ordres"))
        self.assertEqual(self.json("topic", "delete", "orders"), {"deleted": ["orders"]})
        self.assertEqual(self.json("topic", "list"), [])
        self.assertIn("mdc topic create orders", self.refused("topic", "describe", "orders"))

    def test_kcat_reads_what_produce_wrote(self):
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
            with self.subTest(codec=codec):
                lines = [f"{number}:Grüße {'x' * (number % 200)}" for number in range(1_000)]
                self.mdc("topic", "create", codec, "--partitions", "1")
                summary = self.json("produce", codec, "--key-separator", ":", "--header", "trace=42",
                                    "--header", "note=a=b", "--compression", codec, text="\n".join(lines) + "\n")
                self.assertEqual((summary["records"], summary["failed"]), (1_000, 0))
                self.assertEqual(summary["partitions"],
                                 [{"partition": 0, "records": 1_000, "firstOffset": 0, "lastOffset": 999}])
                back = kcat(self.broker, "-C", "-t", codec, "-o", "beginning", "-e", "-q", "-J")
                records = [json.loads(line) for line in back.splitlines()]
                self.assertEqual([f"{r['key']}:{r['payload']}" for r in records], lines)
                self.assertEqual(records[0]["headers"], ["trace", "42", "note", "a=b"])

    def test_a_file_is_produced_line_by_line(self):
        path = pathlib.Path(self.broker.data) / "lines.txt"
        # An empty line is an empty record; the last line needs no line feed.
        path.write_text("first\n\nlast")
        self.assertEqual(self.json("produce", "lines", "--file", str(path))["records"], 3)
        self.assertEqual(self.mdc("consume", "lines", "--until-end"), "first\n\nlast\n")
        self.assertIn("nowhere.txt", self.refused("produce", "lines", "--file", "/nowhere.txt"))

    def test_records_above_the_limit_are_counted_and_the_others_delivered(self):
        result = run("produce", "big", "--bootstrap", self.broker.bootstrap, "-o", "json",
                     text="small\n" + "x" * 2_000_000 + "\nlast\n")
        self.assertEqual(result.returncode, 1)
        summary = json.loads(result.stdout)
        self.assertEqual((summary["records"], summary["failed"]), (2, 1))
        self.assertIn("line 2", result.stderr)
        self.assertEqual(self.mdc("consume", "big", "--until-end"), "small\nlast\n")

    def test_consume_reads_what_kcat_wrote(self):
        self.mdc("topic", "create", "keyed", "--partitions", "1")
        kcat(self.broker, "-P", "-t", "keyed", "-K", ":", "-Z", "-z", "zstd", "-H", "trace=42",
             text='a:1\nb:\nc:"quoted" \\ Ü\n')
        lines = self.mdc("consume", "keyed", "--until-end", "-o", "json").splitlines()
        records = [json.loads(line) for line in lines]
        self.assertEqual([(r["offset"], r["key"], r["value"]) for r in records],
                         [(0, "a", "1"), (1, "b", None), (2, "c", '"quoted" \\ Ü')])
        self.assertEqual(records[0]["headers"], [{"key": "trace", "value": "42"}])
        self.assertLess(abs(time.time() * 1000 - records[0]["timestamp"]), 600_000)
        printed = self.mdc("consume", "keyed", "--until-end", "-f", r"%t/%p@%o\t%k=%s;%h;%K;%S;%%\n")
        self.assertEqual(printed.splitlines()[0], "keyed/0@0\ta=1;trace=42;1;1;%")
        self.assertEqual(printed.splitlines()[1], "keyed/0@1\tb=;trace=42;1;-1;%")

    def test_consume_begins_and_stops_where_it_is_told(self):
        self.mdc("topic", "create", "numbers", "--partitions", "2")
        self.mdc("produce", "numbers", "--partition", "0", text="".join(f"{n}\n" for n in range(100)))
        self.mdc("produce", "numbers", "--partition", "1", text="other\n")
        consume = ["consume", "numbers", "--partition", "0"]
        self.assertEqual(self.mdc(*consume, "--from", "97", "--until-end").split(), ["97", "98", "99"])
        self.assertEqual(self.mdc(*consume, "--max-messages", "2").split(), ["0", "1"])
        self.assertEqual(self.mdc(*consume, "--from", "latest", "--until-end"), "")
        self.assertEqual(self.mdc(*consume, "--from", "@0", "-n", "1").split(), ["0"])
        self.assertEqual(self.mdc(*consume, "--from", "@2100-01-01T00:00:00Z", "--until-end"), "")
        both = self.mdc("consume", "numbers", "--until-end").split()
        self.assertEqual(sorted(both), sorted([str(n) for n in range(100)] + ["other"]))
        self.assertIn("it has 2", self.refused("consume", "numbers", "--partition", "7"))

    def test_binary_values_survive_as_base64(self):
        self.mdc("topic", "create", "binary", "--partitions", "1")
        subprocess.run([MDC, "produce", "binary", "--bootstrap", self.broker.bootstrap],
                       input=b"\xff\x00\xfe\n", check=True, capture_output=True, timeout=60)
        record = json.loads(self.mdc("consume", "binary", "--until-end", "-o", "json"))
        self.assertEqual(record["valueBase64"], "/wD+")
        self.assertNotIn("value", record)

    def test_a_group_shows_its_members_and_its_lag_and_resumes(self):
        self.mdc("topic", "create", "jobs", "--partitions", "2")
        self.mdc("produce", "jobs", "--partition", "0", text="".join(f"{n}\n" for n in range(10)))
        self.assertEqual(self.json("group", "list"), [])
        first = self.mdc("consume", "jobs", "--group", "workers", "--max-messages", "4").split()
        self.assertEqual(first, ["0", "1", "2", "3"])
        self.assertEqual([(g["group"], g["state"]) for g in self.json("group", "list")], [("workers", "Empty")])
        [group] = self.json("group", "describe", "workers")
        lags = {(p["topic"], p["partition"]): (p["committedOffset"], p["endOffset"], p["lag"])
                for p in group["partitions"]}
        self.assertEqual(lags[("jobs", 0)], (4, 10, 6))
        self.assertEqual((group["totalLag"], group["members"]), (6, []))

        follower = subprocess.Popen(
            [MDC, "consume", "jobs", "--group", "workers", "--bootstrap", self.broker.bootstrap],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(follower.stderr.close)
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(line.strip() for line in follower.stdout), daemon=True)
        reader.start()
        self.eventually(lambda: len(seen) == 6)
        self.assertEqual(seen, ["4", "5", "6", "7", "8", "9"])
        [group] = self.json("group", "describe", "workers")
        self.assertEqual(group["state"], "Stable")
        self.assertEqual([m["assignment"] for m in group["members"]], [[{"topic": "jobs", "partitions": [0, 1]}]])
        self.assertIn("jobs[0-1]", self.mdc("group", "describe", "workers"))
        self.assertIn("first", self.refused("group", "delete", "workers"))

        # What comes while it follows; then Ctrl-C, after which all is committed and the member is gone.
        self.mdc("produce", "jobs", "--partition", "1", text="late\n")
        self.eventually(lambda: "late" in seen)
        follower.send_signal(signal.SIGINT)
        self.assertEqual(follower.wait(20), 0)
        reader.join(10)
        [group] = self.json("group", "describe", "workers")
        self.assertEqual((group["totalLag"], group["members"], group["state"]), (0, [], "Empty"))
        # Another client goes on from there.
        kcat(self.broker, "-P", "-t", "jobs", "-p", "0", text="next\n")
        self.assertEqual(kcat(self.broker, "-G", "workers", "-X", "auto.offset.reset=earliest", "-e", "-q", "jobs"),
                         "next\n")
        self.mdc("group", "delete", "workers")
        self.assertIn("mdc group list", self.refused("group", "describe", "workers"))

    def test_a_group_reads_until_the_end_and_stops(self):
        self.mdc("topic", "create", "finite", "--partitions", "3")
        self.mdc("produce", "finite", text="".join(f"{n}\n" for n in range(500)))
        consume = ["consume", "finite", "--group", "once", "--until-end"]
        self.assertEqual(sorted(map(int, self.mdc(*consume).split())), list(range(500)))
        self.assertEqual(self.mdc(*consume), "")

    def test_a_group_without_members_is_moved(self):
        self.mdc("topic", "create", "moved", "--partitions", "2")
        self.mdc("produce", "moved", "--partition", "0", text="".join(f"{n}\n" for n in range(10)))
        self.mdc("consume", "moved", "--group", "movers", "--until-end")

        def after(*arguments):
            result = self.json("group", "reset", "movers", "--topic", "moved", "--partition", "0", *arguments)
            return [(p["before"], p["after"]) for p in result["partitions"]]

        self.assertEqual(after("--to", "earliest", "--dry-run"), [(10, 0)])
        self.assertEqual(after("--to", "-3"), [(10, 7)])
        self.assertEqual(self.mdc("consume", "moved", "--group", "movers", "--until-end").split(), ["7", "8", "9"])
        # No further than the partition reaches.
        self.assertEqual(after("--to", "+5"), [(10, 10)])
        self.assertEqual(after("--to", "-1000"), [(10, 0)])
        self.assertEqual(after("--to", "4"), [(0, 4)])
        self.assertEqual(after("--to", "@0"), [(4, 0)])
        self.assertEqual(after("--to", "@2100-01-01T00:00:00Z"), [(0, 10)])
        self.assertEqual(after("--to", "earliest"), [(10, 0)])

        member = subprocess.Popen(
            [MDC, "consume", "moved", "--group", "movers", "--bootstrap", self.broker.bootstrap],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(member.wait)
        self.addCleanup(member.kill)
        self.eventually(lambda: self.json("group", "describe", "movers")[0]["state"] == "Stable")
        self.assertIn("stop them first", self.refused(
            "group", "reset", "movers", "--topic", "moved", "--to", "latest"))

    def test_settings_are_shown_and_changed(self):
        self.mdc("topic", "create", "tuned")
        result = self.json("config", "set", "--topic", "tuned", "retention.ms=1000", "cleanup.policy=compact")
        self.assertEqual(result["set"], {"retention.ms": "1000", "cleanup.policy": "compact"})
        own = {s["name"]: s["value"] for s in self.json("config", "describe", "--topic", "tuned", "--overridden")}
        self.assertEqual(own, {"retention.ms": "1000", "cleanup.policy": "compact"})
        self.mdc("config", "set", "--topic", "tuned", "--reset", "cleanup.policy")
        everything = {s["name"]: s for s in self.json("config", "describe", "--topic", "tuned")}
        self.assertEqual(everything["cleanup.policy"]["value"], "delete")
        self.assertFalse(everything["cleanup.policy"]["isOverridden"])
        self.assertIn("bogus", self.refused("config", "set", "--topic", "tuned", "bogus=1"))

    def test_the_cluster_and_its_versions(self):
        cluster = self.json("cluster")
        self.assertEqual([(b["id"], f"{b['host']}:{b['port']}") for b in cluster["brokers"]],
                         [(1, self.broker.bootstrap)])
        versions = {v["name"]: (v["minimum"], v["maximum"]) for v in self.json("api-versions")}
        self.assertEqual(versions["Produce"][0], 0)
        self.assertGreaterEqual(versions["Fetch"][1], 13)

    def test_a_reader_that_goes_away_is_no_error(self):
        self.mdc("produce", "long", text="".join(f"{n}\n" for n in range(100_000)))
        command = f"'{MDC}' consume long --bootstrap {self.broker.bootstrap} | head -n 1"
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(len(result.stdout.splitlines()), 1)


class WithoutBroker(unittest.TestCase):
    def test_every_command_says_at_once_how_to_fix_it(self):
        address = f"127.0.0.1:{free_port()}"
        for command in (["topic", "list"], ["topic", "create", "t"], ["group", "describe", "g"], ["api-versions"],
                        ["cluster"], ["config", "describe", "--topic", "t"], ["consume", "t"], ["produce", "t"]):
            with self.subTest(command=command):
                result = run(*command, "--bootstrap", address, text="x\n", timeout=20)
                self.assertEqual((result.returncode, result.stdout), (1, ""))
                self.assertIn(f"no broker answers at {address}: start one with `mdc-broker run`", result.stderr)

    def test_a_server_that_is_no_broker_is_called_so(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            def answer():
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.settimeout(5)
                        try:
                            if connection.recv(1024):
                                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        except OSError:
                            pass
            threading.Thread(target=answer, daemon=True).start()
            address = f"127.0.0.1:{server.getsockname()[1]}"
            result = run("topic", "list", "--bootstrap", address, "--timeout", "2", timeout=30)
            server.shutdown(socket.SHUT_RDWR)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn(address, result.stderr)
        self.assertIn("Kafka", result.stderr)

    def test_wrong_use_is_explained_before_anything_is_sent(self):
        for command in (["topic", "list", "--bootstrap", "nonsense"], ["consume", "t", "--from", "tomorrow"],
                        ["consume", "t", "--group", "g", "--partition", "1"], ["config", "describe"],
                        ["consume", "t", "-f", "%z"]):
            with self.subTest(command=command):
                result = run(*command)
                self.assertEqual((result.returncode, result.stdout), (64, ""))
                self.assertIn("Error:", result.stderr)


if __name__ == "__main__":
    unittest.main()
