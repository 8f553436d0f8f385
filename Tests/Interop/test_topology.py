# SPDX-License-Identifier: Apache-2.0
"""`mdc topology`: workers killed under load, children in Python, and the commands."""

import collections
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_process import BrokerProcess, free_port
from test_confluent import consumer, drain, produce
from test_mdc_cli import MDC, run

HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, "..", "..", ".build", "venv", "bin")


class TopologyTest(unittest.TestCase):
    def setUp(self):
        self.broker = BrokerProcess(
            "group.initial.rebalance.delay.ms=0", "transaction.state.log.num.partitions=4").start()
        self.addCleanup(self.broker.close)
        self.folder = tempfile.mkdtemp(prefix="mdc-topology-test-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.running = []
        self.addCleanup(self.end)

    def end(self):
        for process, log in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            log.close()

    def create(self, *names, partitions=3):
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for future in admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
            future.result(30)

    def worker(self, toml, *options):
        path = os.path.join(self.folder, "topology.toml")
        with open(path, "w") as file:
            file.write(toml)
        log = open(os.path.join(self.folder, "worker.log"), "a+")
        process = subprocess.Popen(
            [MDC, "topology", "run", path, "--bootstrap", self.broker.bootstrap, *options],
            stdout=log, stderr=log, env={**os.environ, "PATH": VENV + ":" + os.environ["PATH"], "TMPDIR": self.folder})
        self.running.append((process, log))
        return process

    def worker_log(self):
        with open(os.path.join(self.folder, "worker.log")) as file:
            return "".join(file.readlines()[-60:])

    def command(self, *words):
        result = run("topology", *words, "--bootstrap", self.broker.bootstrap)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def status(self, name):
        return json.loads(self.command("status", name, "-o", "json"))

    def until(self, condition, what, timeout=120):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"{what}\n{self.worker_log()}")
            time.sleep(0.2)

    def read_all(self, topic, count, timeout=60):
        """Everything committed that is there; waits a little for what should not be there."""
        reader = consumer(self.broker, "everything", **{"isolation.level": "read_committed"})
        partitions = reader.list_topics(topic, 10).topics[topic].partitions
        reader.assign([TopicPartition(topic, number, 0) for number in partitions])
        messages = drain(reader, count, timeout)
        messages += drain(reader, 1, timeout=2)
        reader.close()
        return messages

    def caught_up(self, name, count):
        def is_level():
            standing = self.status(name)
            return standing["lag"] == 0 and sum(row["position"] or 0 for row in standing["partitions"]) >= count
        self.until(is_level, "the topology does not catch up")

    def test_each_input_has_one_output_whatever_is_killed(self):
        self.create("in", "out")
        toml = """
            [topology]
            name = "copy"
            guarantee = "exactly-once"
            transaction_interval = "30ms"
            transaction_timeout = "10s"
            session_timeout = "6s"
            [source.in]
            topics = ["in"]
            [sink.out]
            topic = "out"
            from = ["in"]
        """
        sent = 0
        self.worker(toml, "--instance", "w0")
        self.worker(toml, "--instance", "w1")
        for turn in range(5):
            values = [f"{number}".encode() for number in range(sent, sent + 2_000)]
            produce(self.broker, "in", values, key=lambda n: f"key-{n % 50}".encode())
            sent += 2_000
            # Somewhere in the middle of what was just sent.
            time.sleep(0.1 + 0.15 * turn)
            victim, log = self.running[-2]
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            self.worker(toml, "--instance", f"w{turn % 2}")
        self.caught_up("copy", sent)
        values = collections.Counter(int(message.value()) for message in self.read_all("out", sent))
        self.assertEqual([number for number in range(sent) if values[number] != 1], [], self.worker_log())
        self.assertEqual(sum(values.values()), sent)
        for process, log in self.running[-2:]:
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), 0, self.worker_log())

    def test_bolts_of_streamparse(self):
        self.create("lines", "words", "batches")
        lines = [f"word{number % 10} and more" for number in range(300)]
        lines[100], lines[200], lines[250] = "die", "hang", "poison"
        produce(self.broker, "lines", [line.encode() for line in lines])
        port = free_port()
        toml = f"""
            [topology]
            name = "words"
            retries = 2
            retry_backoff = "50ms"
            [source.lines]
            topics = ["lines"]
            [processor.split]
            from = ["lines"]
            command = ["streamparse_run", "topology_bolts.SplitBolt"]
            folder = "{HERE}"
            parallelism = 2
            timeout = "8s"
            [processor.split.conf]
            "test.folder" = "{self.folder}"
            [processor.batch]
            from = ["lines"]
            command = ["streamparse_run", "topology_bolts.BatchBolt"]
            folder = "{HERE}"
            pending = 10
            tick = "100ms"
            [sink.words]
            topic = "words"
            from = ["split"]
            [sink.batches]
            topic = "batches"
            from = ["batch"]
        """
        self.worker(toml, "--http", f"127.0.0.1:{port}")
        self.until(lambda: os.path.exists(os.path.join(self.folder, "worker.log")) and "split for words" in self.worker_log(),
                   "the bolts do not start")
        self.until(lambda: self.is_known("words"), "the topology is not known")
        self.caught_up("words", 300)
        wanted = collections.Counter(word for line in lines if line != "poison" for word in line.split())
        found = collections.Counter(message.key().decode() for message in self.read_all("words", sum(wanted.values())))
        # At least once: what a child had when it died may be there again.
        self.assertEqual([word for word in wanted if found[word] < wanted[word]], [])
        self.assertEqual(set(found), set(wanted))
        letters = self.read_all("mdc-topology.words.dead-letter", 1)
        self.assertEqual([letter.value() for letter in letters], [b"poison"])
        headers = dict(letters[0].headers())
        self.assertIn(b"this line is poison", headers["reason"])
        self.assertEqual(headers["stage"], b"split")
        self.assertTrue(headers["source"].startswith(b"lines:"), headers)
        # All of it is there; how many batches it was depends on the ticks.
        batches = [int(message.value()) for message in self.read_all("batches", 300, timeout=5)]
        self.assertGreaterEqual(sum(batches), 300)
        for event in ("died", "hung"):
            self.assertTrue(os.path.exists(os.path.join(self.folder, event)), event)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            text = page.read().decode()
        self.assertIn('mdc_topology_stage_failed_total{topology="words",stage="split"} 1', text)
        self.assertIn('mdc_topology_lag_records{topology="words",topic="lines",partition="0"} 0', text)

    def is_known(self, name):
        return run("topology", "status", name, "--bootstrap", self.broker.bootstrap).returncode == 0

    def test_pause_resume_and_redrive(self):
        self.create("in", "out")
        flag = os.path.join(self.folder, "repaired")
        with open(os.path.join(self.folder, "child.py"), "w") as file:
            file.write(CHILD)
        toml = f"""
            [topology]
            name = "hold"
            guarantee = "exactly-once"
            retries = 0
            [source.in]
            topics = ["in"]
            [processor.check]
            from = ["in"]
            command = ["python3", "child.py", "{flag}"]
            [sink.out]
            topic = "out"
            from = ["check"]
        """
        worker = self.worker(toml, "--instance", "one")
        self.until(lambda: self.is_known("hold"), "the topology is not known")
        produce(self.broker, "in", [b"good", b"bad 1", b"good", b"bad 2"])
        self.until(lambda: self.status("hold")["deadLetters"] == 2, "no dead letters")
        self.caught_up("hold", 4)
        self.command("pause", "hold")
        time.sleep(1)
        produce(self.broker, "in", [b"late"])
        # A worker that is started while it is paused reads nothing either.
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(worker.wait(60), 0, self.worker_log())
        self.worker(toml, "--instance", "one")
        self.until(lambda: self.status("hold")["workers"] == 1, "no worker")
        self.assertEqual(sorted(m.value() for m in self.read_all("out", 2)), [b"good", b"good"])
        standing = self.status("hold")
        self.assertTrue(standing["paused"])
        self.assertEqual(standing["lag"] > 0, True, standing)
        # What is repaired is put back, each once.
        with open(flag, "w"):
            pass
        plan = json.loads(self.command("redrive", "hold", "--dry-run", "-o", "json"))
        self.assertEqual((plan["count"], plan["left"]), (2, 0))
        self.assertEqual({row["reason"] for row in plan["letters"]}, {"not yet"})
        self.assertEqual(self.status("hold")["waitingLetters"], 2)
        first = json.loads(self.command("redrive", "hold", "--limit", "1", "-o", "json"))
        self.assertEqual((first["count"], first["left"] > 0), (1, True), first)
        self.command("redrive", "hold")
        self.assertEqual(json.loads(self.command("redrive", "hold", "-o", "json"))["count"], 0)
        self.assertEqual(self.status("hold")["waitingLetters"], 0)
        self.command("resume", "hold")
        found = sorted(message.value() for message in self.read_all("out", 5))
        self.assertEqual(found, [b"bad 1", b"bad 2", b"good", b"good", b"late"], self.worker_log())

    def test_mistakes_are_named(self):
        def refused(toml):
            path = os.path.join(self.folder, "wrong.toml")
            with open(path, "w") as file:
                file.write(toml)
            result = run("topology", "run", path, "--check", "--bootstrap", self.broker.bootstrap)
            self.assertEqual(result.returncode, 1, result.stdout)
            return result.stderr
        self.assertIn("[topology] is missing", refused(""))
        self.assertIn("guarantee: write one of", refused('[topology]\nname = "a"\nguarantee = "often"'))
        self.assertIn("no source", refused('[topology]\nname = "a"'))
        head = '[topology]\nname = "a"\n[source.in]\ntopics = ["in"]\n'
        self.assertIn("processor.p: write a command", refused(head + '[processor.p]\nfrom = ["in"]'))
        self.assertIn("sink.s.topics: is not known here",
                      refused(head + '[sink.s]\ntopic = "t"\ntopics = ["t"]\nfrom = ["in"]'))
        result = run("topology", "status", "nobody", "--bootstrap", self.broker.bootstrap)
        self.assertEqual(result.returncode, 1)
        self.assertIn("'nobody' is not known here", result.stderr)


# Speaks the protocol by hand: fails what begins with `bad` until the file is there.
CHILD = """
import json, os, sys

def read():
    lines = []
    while True:
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        if line == "end\\n":
            return json.loads("".join(lines))
        lines.append(line)

def say(message):
    sys.stdout.write(json.dumps(message, indent=1) + "\\nend\\n")
    sys.stdout.flush()

shake = read()
open(os.path.join(shake["pidDir"], str(os.getpid())), "w").close()
say({"pid": os.getpid()})
while True:
    message = read()
    if message["stream"] == "__heartbeat":
        say({"command": "sync"})
        continue
    value = message["tuple"][1]
    if value.startswith("bad") and not os.path.exists(sys.argv[1]):
        say({"command": "emit", "tuple": ["never seen"], "anchors": [message["id"]], "need_task_ids": False})
        say({"command": "error", "msg": "not yet"})
        say({"command": "fail", "id": message["id"]})
        continue
    say({"command": "emit", "tuple": [value], "anchors": [message["id"]], "need_task_ids": False})
    say({"command": "ack", "id": message["id"]})
"""


if __name__ == "__main__":
    unittest.main()
