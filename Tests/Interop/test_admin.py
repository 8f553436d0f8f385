# SPDX-License-Identifier: Apache-2.0
"""Administration as foreign clients see it: quotas, settings that are changed while the node runs, metrics, logs."""

import json
import pathlib
import re
import time
import unittest
import urllib.request

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from broker_process import BrokerProcess
from test_mdc_cli import run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def mdc(broker, *arguments):
    result = run(*arguments, "--bootstrap", broker.bootstrap)
    if result.returncode != 0:
        raise AssertionError(f"mdc {arguments} ended with {result.returncode}:\n{result.stderr}\n{broker.tail()}")
    return result.stdout


def metrics(broker):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.http_port}/metrics", timeout=30) as page:
        return page.read().decode()


class Quotas(unittest.TestCase):
    """Lower bounds of time hold on any machine: a quota makes slower, never faster."""

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for future in admin.create_topics([NewTopic("t", 1)]).values():
            future.result(30)

    def produce(self, client_id, size, count):
        """Sends records one request each; returns the seconds it took and the throttle times that were told."""
        throttles = []
        producer = Producer({
            "bootstrap.servers": self.broker.bootstrap, "client.id": client_id, "acks": "all", "linger.ms": 0,
            "batch.num.messages": 1, "throttle_cb": lambda event: throttles.append(event.throttle_time)})
        failures = []
        start = time.monotonic()
        for _ in range(count):
            producer.produce("t", b"x" * size, on_delivery=lambda error, _: error and failures.append(error))
            producer.poll(0)
        self.assertEqual(producer.flush(120), 0, self.broker.tail())
        self.assertEqual(failures, [])
        return time.monotonic() - start, throttles

    def test_a_limited_producer_takes_as_long_as_it_should(self):
        mdc(self.broker, "quota", "set", "--client-id", "limited", "producer_byte_rate=100000")
        # One window (a second's worth) is free, so 500 kB take at least four seconds, less the last request's share.
        seconds, throttles = self.produce("limited", 10_000, 50)
        self.assertGreater(seconds, 3)
        self.assertTrue(throttles and max(throttles) > 0, "no throttle time was told")
        _, free = self.produce("other", 10_000, 50)
        self.assertEqual([value for value in free if value > 0], [])
        page = metrics(self.broker)
        self.assertRegex(page, r'mdc_throttled_total\{quota="producer_byte_rate"\} [1-9]')
        # Quotas are metadata: a kill does not lift them.
        self.broker.kill()
        self.broker.start()
        listed = json.loads(mdc(self.broker, "quota", "list", "-o", "json"))
        self.assertEqual(listed, [
            {"user": None, "clientID": "limited", "ip": None, "quotas": {"producer_byte_rate": 100000}}])
        mdc(self.broker, "quota", "remove", "--client-id", "limited")
        self.assertEqual(json.loads(mdc(self.broker, "quota", "list", "-o", "json")), [])
        _, throttles = self.produce("limited", 10_000, 50)
        self.assertEqual([value for value in throttles if value > 0], [])

    def test_a_limited_consumer_gets_everything_slowly(self):
        self.produce("p", 10_000, 40)
        mdc(self.broker, "quota", "set", "--any-client-id", "consumer_byte_rate=100000")
        throttles = []
        consumer = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "g", "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 20_000, "enable.auto.commit": False,
            "throttle_cb": lambda event: throttles.append(event.throttle_time)})
        self.addCleanup(consumer.close)
        consumer.subscribe(["t"])
        count = 0
        first = None
        deadline = time.monotonic() + 90
        while count < 40 and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            self.assertIsNone(message.error())
            first = first or time.monotonic()
            count += 1
        self.assertEqual(count, 40, self.broker.tail())
        self.assertGreater(time.monotonic() - first, 2)
        self.assertTrue(throttles and max(throttles) > 0, "no throttle time was told")

    def test_mdc_quota_says_what_is_wrong(self):
        for arguments, said in [
            (("set", "--client-id", "c", "producer_byte_rat=1"), "producer_byte_rate"),
            (("set", "--client-id", "c", "producer_byte_rate=0.5"), "whole number"),
            (("set", "--ip", "nowhere", "connection_creation_rate=1"), "address"),
        ]:
            result = run("quota", *arguments, "--bootstrap", self.broker.bootstrap)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn(said, result.stderr)
        for arguments in [
            ("set", "producer_byte_rate=1"), ("set", "--client-id", "c", "producer_byte_rate=x"),
            ("describe", "--ip", "::1", "--user", "u"),
        ]:
            self.assertEqual(run("quota", *arguments, "--bootstrap", self.broker.bootstrap).returncode, 64)
        mdc(self.broker, "quota", "set", "--any-user", "request_percentage=12.5", "controller_mutation_rate=5")
        table = mdc(self.broker, "quota", "describe", "--any-user")
        self.assertRegex(table, r"request_percentage +12\.5")
        self.assertRegex(table, r"controller_mutation_rate +5")


class Settings(unittest.TestCase):
    def test_settings_of_the_node_change_while_it_runs_and_stay_after_a_kill(self):
        broker = BrokerProcess("log.retention.ms=5000000").start()
        self.addCleanup(broker.close)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for future in admin.create_topics([NewTopic("t", 1)]).values():
            future.result(30)

        def alter(resource, name, operation, key, value=None):
            entry = ConfigEntry(key, value, incremental_operation=operation)
            request = ConfigResource(resource, name, incremental_configs=[entry])
            for future in admin.incremental_alter_configs([request]).values():
                future.result(30)

        def retention(admin):
            described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "t")])
            return [future.result(30)["retention.ms"] for future in described.values()][0]

        self.assertEqual((retention(admin).value, retention(admin).source), ("5000000", 4))
        alter(ResourceType.BROKER, "1", AlterConfigOpType.SET, "log.retention.ms", "6000000")
        self.assertEqual((retention(admin).value, retention(admin).source), ("6000000", 2))
        with self.assertRaisesRegex(Exception, "while the node runs"):
            alter(ResourceType.BROKER, "1", AlterConfigOpType.SET, "node.id", "9")
        broker.kill()
        broker.start()
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        self.assertEqual(retention(admin).value, "6000000")
        shown = json.loads(mdc(broker, "config", "describe", "--broker", "1", "--overridden", "-o", "json"))
        self.assertEqual([(row["name"], row["value"]) for row in shown], [("log.retention.ms", "6000000")])
        mdc(broker, "config", "set", "--broker", "1", "--reset", "log.retention.ms")
        mdc(broker, "config", "set", "--broker", "all", "num.partitions=3")
        shown = json.loads(mdc(broker, "config", "describe", "--broker", "all", "-o", "json"))
        self.assertEqual([(row["name"], row["value"]) for row in shown], [("num.partitions", "3")])
        mdc(broker, "topic", "create", "three")
        self.assertEqual(len(json.loads(mdc(broker, "topic", "describe", "three", "-o", "json"))[0]["partitions"]), 3)


class Space(unittest.TestCase):
    """What falls due while a node runs. The promise is ten seconds; Benchmarks/run space measures it, for a busy machine may be late."""

    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        self.producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 50})

    def create(self, name, **settings):
        settings = {key.replace("_", "."): value for key, value in settings.items()}
        for future in self.admin.create_topics([NewTopic(name, 1, config=settings)]).values():
            future.result(30)

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline, self.broker.tail())
            time.sleep(0.1)

    def logs(self, topic):
        """The partition's log files that are in use."""
        return sorted(pathlib.Path(self.broker.data, f"{topic}-0").glob("*.log"))

    def test_a_shorter_retention_acts_on_what_is_there(self):
        self.create("old")
        for number in range(10):
            self.producer.produce("old", f"{number}")
        self.assertEqual(self.producer.flush(60), 0)
        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "g"})
        self.addCleanup(consumer.close)
        partition = TopicPartition("old", 0)
        self.assertEqual(consumer.get_watermark_offsets(partition, timeout=60), (0, 10))
        mdc(self.broker, "config", "set", "--topic", "old", "retention.ms=1")
        self.wait_for(lambda: consumer.get_watermark_offsets(partition, timeout=60) == (10, 10))

    def test_a_dirty_compacted_topic_is_compacted(self):
        self.create("dirty", cleanup_policy="compact", segment_bytes="1048576")
        for number in range(5000):
            self.producer.produce("dirty", b"x" * 1000, key=f"key-{number % 10}")
        self.assertEqual(self.producer.flush(60), 0)
        self.wait_for(lambda: sum(log.stat().st_size for log in self.logs("dirty")[:-1]) < 1 << 20)
        consumer = Consumer({
            "bootstrap.servers": self.broker.bootstrap, "group.id": "g", "auto.offset.reset": "earliest",
            "enable.partition.eof": True})
        self.addCleanup(consumer.close)
        consumer.subscribe(["dirty"])
        last = {}
        deadline = time.monotonic() + 120
        while True:
            self.assertLess(time.monotonic(), deadline, self.broker.tail())
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error():
                self.assertEqual(message.error().code(), KafkaError._PARTITION_EOF)
                break
            last[message.key()] = message.offset()
        self.assertEqual(sorted(last.values()), list(range(4990, 5000)))


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.broker = BrokerProcess().start()
        self.addCleanup(self.broker.close)
        mdc(self.broker, "topic", "create", "t", "--partitions", "2")

    def produce(self, *arguments, text):
        return run("produce", "t", *arguments, "--bootstrap", self.broker.bootstrap, text=text)

    def test_what_consume_prints_as_json_is_what_produce_reads(self):
        lines = '{"key":"a","value":"1","headers":[{"key":"h","value":"x"}]}\n{"valueBase64":"/w==","key":null}\n'
        sent = self.produce("--format", "json", "--partition", "0", text=lines)
        self.assertEqual(sent.returncode, 0, sent.stderr)
        read = mdc(self.broker, "consume", "t", "--until-end", "-o", "json")
        records = [json.loads(line) for line in read.splitlines()]
        self.assertEqual([(r["key"], r.get("value"), r.get("valueBase64")) for r in records],
                         [("a", "1", None), (None, None, "/w==")])
        self.assertEqual(records[0]["headers"], [{"key": "h", "value": "x"}])
        again = self.produce("--format", "json", "--partition", "1", text=read)
        self.assertEqual(again.returncode, 0, again.stderr)
        wrong = self.produce("--format", "json", text='{"key":1}\n')
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("line 1 is no JSON object", wrong.stderr)

    def test_consume_stops_where_it_is_told(self):
        self.assertEqual(self.produce("--partition", "0", text="a\nb\nc\n").returncode, 0)
        self.assertEqual(mdc(self.broker, "consume", "t", "--partition", "0", "--until", "2"), "a\nb\n")
        self.assertEqual(mdc(self.broker, "consume", "t", "--until", "@0"), "")
        self.assertEqual(mdc(self.broker, "consume", "t", "--until", "@4102444800000"), "a\nb\nc\n")

    def test_members_of_the_new_protocol_are_shown(self):
        self.assertEqual(self.produce("--partition", "0", text="a\nb\n").returncode, 0)
        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "new", "group.protocol": "consumer",
                             "auto.offset.reset": "earliest", "enable.auto.commit": False})
        self.addCleanup(consumer.close)
        consumer.subscribe(["t"])
        count = 0
        deadline = time.monotonic() + 60
        while count < 2 and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            count += message is not None and message.error() is None
        self.assertEqual(count, 2, self.broker.tail())
        consumer.commit(asynchronous=False)
        group = json.loads(mdc(self.broker, "group", "describe", "new", "-o", "json"))[0]
        self.assertEqual((group["type"], group["state"], group["totalLag"]), ("consumer", "Stable", 0))
        self.assertGreaterEqual(group["epoch"], 1)
        self.assertEqual([member["assignment"] for member in group["members"]], [[{"topic": "t", "partitions": [0, 1]}]])
        self.assertEqual(group["members"][0]["target"], group["members"][0]["assignment"])
        self.assertIn("EPOCH", mdc(self.broker, "group", "describe", "new"))

    def test_there_are_scripts_for_completion(self):
        for shell, sign in [("bash", "complete"), ("zsh", "#compdef mdc"), ("fish", "complete -c 'mdc'")]:
            result = run("completion", shell)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(sign, result.stdout)
            self.assertIn("quota", result.stdout)
        self.assertEqual(run("completion", "tcsh").returncode, 64)


class Instrumentation(unittest.TestCase):
    def page(self):
        broker = BrokerProcess("metrics.partitions.enable=true").start()
        self.addCleanup(broker.close)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for future in admin.create_topics([NewTopic("t", 2)]).values():
            future.result(30)
        return metrics(broker)

    def test_metrics_are_as_the_page_about_them_and_the_dashboard_say(self):
        page = self.page()
        exported = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
        for name, kind in exported.items():
            self.assertRegex(page, rf"(?m)^# HELP {name} \S")
            if kind == "counter":
                self.assertTrue(name.endswith("_total"), name)
            self.assertNotRegex(name, r"_(ms|milliseconds|kb|mb|percent)(_|$)", "base units only")
        documented = set(re.findall(r"^\| `(mdc_[a-z_]+)`", (ROOT / "docs/metrics.md").read_text(), re.M))
        self.assertEqual(set(exported) - documented, set(), "exported, but not in docs/metrics.md")
        self.assertEqual(documented - set(exported), set(), "in docs/metrics.md, but not exported")
        dashboard = json.loads((ROOT / "deploy/grafana/mdc-broker.json").read_text())
        used = set()
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                used |= set(re.findall(r"mdc_[a-z_]+", target["expr"]))
        self.assertGreater(len(used), 15)
        series = set(exported)
        for name, kind in exported.items():
            if kind == "histogram":
                series |= {name + "_bucket", name + "_sum", name + "_count"}
        self.assertEqual(used - series, set(), "in the dashboard, but not exported")
        for line in page.splitlines():
            if not line.startswith("#"):
                self.assertRegex(line, r'^[a-z_]+(\{([a-z]+="[^"]*",?)+\})? -?[0-9.e+-]+$')
        self.assertIn('mdc_partition_end_offset{topic="t",partition="1"} 0', page)

    def test_logs_are_json_where_that_is_asked_for(self):
        broker = BrokerProcess("logging.format=json").start()
        self.addCleanup(broker.close)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for future in admin.create_topics([NewTopic("logged", 1)]).values():
            future.result(30)
        self.assertEqual(broker.terminate(), 0)
        deadline = time.monotonic() + 30
        while not any('"stopped"' in line for line in broker.log) and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [json.loads(line) for line in broker.log if not line.startswith("ready ")]
        self.assertGreater(len(lines), 2)
        for line in lines:
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ["trace", "debug", "info", "notice", "warning", "error", "critical"])
        created = [line for line in lines if line["message"] == "topic created"]
        self.assertEqual([line["topic"] for line in created], ["logged"])


if __name__ == "__main__":
    unittest.main()
