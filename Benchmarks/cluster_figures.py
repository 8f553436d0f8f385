# SPDX-License-Identifier: Apache-2.0
"""Figures of three nodes on one machine: what replication costs, what many partitions cost when nothing happens, and how long
changes of the metadata take with them."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from broker_process import BrokerProcess
from nodes import NODES, Cluster, free_ports
from raw_request import create_topic, leaders, make_batch, produce

PATIENCE = 300


class Address:
    def __init__(self, listen):
        self.port = int(listen.split(":")[1])


class Nodes(Cluster):
    """Three nodes that show their metrics."""

    def __init__(self, binary):
        self.folder_of_all = tempfile.mkdtemp(prefix="mdc-cluster-", dir=os.environ.get("BENCH_DIR"))
        super().__init__(binary, self.folder_of_all, False, 0, lambda text: print(f"# {text}", file=sys.stderr))
        taken = {address.split(":")[1] for address in (*self.listen.values(), *self.controllers.values())}
        free = [port for port in free_ports(9) if str(port) not in taken]
        self.http = dict(zip(NODES, free))
        self.address = {node: Address(listen) for node, listen in self.listen.items()}

    def page(self, node):
        return ["--http", f"127.0.0.1:{self.http[node]}"]

    def metric(self, node, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http[node]}/metrics", timeout=30) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise RuntimeError(f"there is no {name}")

    def until(self, what, check):
        end = time.monotonic() + PATIENCE
        last = None
        while True:
            try:
                last = check()
                if last:
                    return last
            except (OSError, RuntimeError) as error:
                last = error
            if time.monotonic() > end:
                raise SystemExit(f"not within {PATIENCE} s: {what}: {last}\n{self.tail(1)}")
            time.sleep(0.005)

    def begin(self):
        self.start_missing()
        for node in NODES:
            self.until("ready", lambda: self.metric(node, "mdc_brokers") == 3)
        return self

    def in_sync(self):
        return all(
            self.metric(node, "mdc_under_replicated_partitions") == 0 and self.metric(node, "mdc_partitions_leaderless") == 0
            for node in self.running
        )

    def controller(self):
        found = [node for node in self.running if self.metric(node, "mdc_active_controller") == 1]
        return found[0] if len(found) == 1 else None

    def rss(self):
        values = []
        for node in self.running:
            with open(f"/proc/{self.processes[node].pid}/status") as status:
                values += [int(line.split()[1]) / 1e3 for line in status if line.startswith("VmRSS:")]
        return values

    def close(self):
        self.stop()
        shutil.rmtree(self.folder_of_all, ignore_errors=True)


def replicated(binary, load, cpu_seconds, median):
    """acks=all of librdkafka's producer, 100 bytes, six partitions: a node of its own and three nodes, in turns."""
    count = 1_000_000
    rates, costs = {1: [], 3: []}, {1: [], 3: []}
    for _ in range(3):
        alone = BrokerProcess().start()
        create_topic(alone, "load", 6)
        three = Nodes(binary).begin()
        three.until("topic", lambda: create_topic(three.address[1], "load", 6, replicas=3) or True)
        three.until("in sync", three.in_sync)
        for key, bootstrap, processes in (
            (1, alone.bootstrap, [alone.process]), (3, three.bootstrap, list(three.processes.values())),
        ):
            before = sum(map(cpu_seconds, processes))
            seconds = float(subprocess.run(
                [load, "produce", bootstrap, "load", str(count), "100"],
                check=True, capture_output=True, text=True).stdout)
            # What followers have not fetched yet costs as well.
            if key == 3:
                three.until("in sync", three.in_sync)
            costs[key].append((sum(map(cpu_seconds, processes)) - before) / count * 1e6)
            rates[key].append(count / seconds)
        alone.close()
        three.close()
    for key in (1, 3):
        median(f"cluster_produce_cpu_{key}_nodes", costs[key], "s/Mmsg")
        median(f"cluster_produce_rate_{key}_nodes", rates[key], "msg/s")
    median("cluster_produce_cpu_of_single", [three / one for one, three in zip(costs[1], costs[3])], "ratio")
    median("cluster_produce_rate_of_single", [three / one for one, three in zip(rates[1], rates[3])], "ratio")


def idle(binary, cpu_seconds, figure):
    """1,000 partitions of three replicas with a record each, and nobody who asks for anything."""
    three = Nodes(binary).begin()
    try:
        batch = make_batch([(b"key", b"x" * 100)])
        for number in range(10):
            create_topic(three.address[1], f"idle-{number}", 100, replicas=3)
        three.until("in sync", three.in_sync)
        for number in range(10):
            for node in NODES:
                own = [p for p, leader in leaders(three.address[1], f"idle-{number}").items() if leader == node]
                produce(three.address[node], f"idle-{number}", {partition: batch for partition in own})
        time.sleep(15)
        before = {node: cpu_seconds(process) for node, process in three.processes.items()}
        began = time.monotonic()
        time.sleep(30)
        passed = time.monotonic() - began
        shares = [(cpu_seconds(three.processes[node]) - before[node]) / passed * 100 for node in NODES]
        print(f"# idle: {' '.join(f'{value:.2f}' for value in shares)} % of a core", file=sys.stderr)
        figure("cluster_1000_partitions_idle_cpu_of_all", sum(shares), "% of a core")
        figure("cluster_1000_partitions_rss_of_each", max(three.rss()), "MB")
    finally:
        three.close()


def many(binary, figure):
    """10,000 partitions: made, and the controller killed with them."""
    for replicas in (1, 3):
        three = Nodes(binary).begin()
        try:
            node = three.address[three.until("a controller", three.controller)]
            began = time.monotonic()
            for number in range(10):
                create_topic(node, f"many-{number}", 1_000, replicas=replicas)
            answered = time.monotonic() - began
            three.until(
                "all led", lambda: sum(three.metric(node, "mdc_replica_leaders") for node in NODES) >= 10_000
            )
            figure(f"cluster_10000_partitions_{replicas}_replicas_answered", answered, "s")
            figure(f"cluster_10000_partitions_{replicas}_replicas_created", time.monotonic() - began, "s")
            three.until("in sync", three.in_sync)
            figure(f"cluster_10000_partitions_{replicas}_replicas_in_sync", time.monotonic() - began, "s")
            figure(f"cluster_10000_partitions_{replicas}_replicas_rss_of_each", max(three.rss()), "MB")
            times = []
            for turn in range(3):
                victim = three.until("a controller", three.controller)
                began = time.monotonic()
                three.kill(victim)

                def changed():
                    for node in three.running:
                        try:
                            create_topic(three.address[node], f"after-{turn}", 1, replicas=2)
                            return True
                        except (OSError, RuntimeError):
                            continue

                three.until("a change of the metadata", changed)
                times.append(time.monotonic() - began)
                three.start(victim)
                three.until("in service", lambda: three.metric(victim, "mdc_brokers") == 3)
                three.until("in sync", three.in_sync)
            print(f"# controller failover: {' '.join(f'{value:.3f}' for value in times)}", file=sys.stderr)
            figure(f"cluster_10000_partitions_{replicas}_replicas_controller_failover_p50", statistics.median(times), "s")
            figure(f"cluster_10000_partitions_{replicas}_replicas_controller_failover_max", max(times), "s")
        finally:
            three.close()
