# SPDX-License-Identifier: Apache-2.0
"""Three nodes as processes, each in a network of its own where the system allows it, and what can be done to them."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import power

NODES = (1, 2, 3)
# A crash is to be told, but not to take half a minute for symbols of all threads.
QUICK_BACKTRACE = {"SWIFT_BACKTRACE": "threads=crashed,registers=none,images=none,color=no,interactive=no"}
# Frames to it go nowhere: no port of the bridge has it.
NOWHERE = "02:00:00:00:ff:ff"


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_ports(count):
    """Ports below the range that the system gives to outgoing connections."""
    found = []
    candidate = 15000 + os.getpid() % 7000 * 2
    while len(found) < count:
        candidate = candidate + 1 if candidate < 31900 else 15000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        found.append(candidate)
    return found


class Network:
    """A bridge and a network namespace for each node. Whoever starts this has a namespace of his own (dev/chaos)."""

    def __init__(self):
        run("mount", "-t", "tmpfs", "none", "/run")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "chaos", "address", "02:00:00:00:00:fe", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.254/24", "dev", "chaos")
        run("ip", "link", "set", "chaos", "up")
        self.hardware = {"clients": "02:00:00:00:00:fe"}
        for node in NODES:
            name = f"node{node}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"port{node}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"port{node}", "master", "chaos", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "address", f"02:00:00:00:00:0{node}", "up")
            run("ip", "-n", name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            self.hardware[node] = f"02:00:00:00:00:0{node}"
        self.heal()

    def address(self, place):
        return "10.77.0.254" if place == "clients" else f"10.77.0.{place}"

    def set(self, source, target, hardware):
        where = ("ip",) if source == "clients" else ("ip", "-n", f"node{source}")
        device = "chaos" if source == "clients" else "eth0"
        run(*where, "neigh", "replace", self.address(target), "lladdr", hardware, "dev", device, "nud", "permanent")

    def cut(self, source, target):
        """What `source` sends to `target` is lost without a sign; the other direction stays as it is."""
        self.set(source, target, NOWHERE)

    def heal(self):
        places = (*NODES, "clients")
        for source in places:
            for target in places:
                if source != target:
                    self.set(source, target, self.hardware[target])

    def command(self, node):
        return ["nsenter", f"--net=/run/netns/node{node}"]


class Loopback:
    """Where there may be no networks: nothing can be cut."""

    def address(self, place):
        return "127.0.0.1"

    def heal(self):
        pass

    def command(self, node):
        return []


class Cluster:
    def __init__(self, binary, folder, isolated, disk_megabytes, say, preload=None, lies=None):
        self.binary, self.folder, self.say = binary, folder, say
        self.preload, self.lies = preload, lies
        self.isolated = isolated
        self.network = Network() if isolated else Loopback()
        ports = [9092] * 3 + [9093] * 3 if isolated else free_ports(6)
        self.listen = {n: f"{self.network.address(n)}:{ports[n - 1]}" for n in NODES}
        self.controllers = {n: f"{self.network.address(n)}:{ports[n + 2]}" for n in NODES}
        self.processes, self.stopped = {}, set()
        self.unexpected = []
        # Nodes that are allowed to end by themselves for now, as their disk is full.
        self.may_end = set()
        for node in NODES:
            os.makedirs(f"{folder}/{node}")
            if isolated and disk_megabytes:
                run("mount", "-t", "tmpfs", "-o", f"size={disk_megabytes}m", "none", f"{folder}/{node}")
            power.forget(*self.power(node))

    def power(self, node):
        """What was unlinked, and the journal of unsynced changes; the latter not on the disk that gets full."""
        return f"{self.folder}/{node}/grave", f"{self.folder}/{node}.journal"

    def environment(self, node):
        if not self.preload:
            return {}
        grave, journal = self.power(node)
        return {
            "LD_PRELOAD": self.preload, "MDC_POWER_GRAVE": grave, "MDC_POWER_JOURNAL": journal,
            **({"MDC_POWER_LIES": self.lies} if self.lies else {}),
        }

    def lose_power(self, random, *nodes):
        """Ends nodes at once and takes from their disks what they did not sync."""
        for node in nodes:
            self.pause(node)
        self.kill(*nodes)
        for node in nodes:
            self.say(f"node {node}: {power.fail(f'{self.folder}/{node}/data', *self.power(node), random)}")

    @property
    def bootstrap(self):
        return ",".join(self.listen.values())

    @property
    def running(self):
        return [n for n in NODES if n in self.processes]

    def page(self, node):
        """Where a node shows its metrics."""
        return ["--http", "none"]

    def start(self, node):
        voters = ",".join(f"{n}@{address}" for n, address in self.controllers.items())
        with open(f"{self.folder}/{node}.log", "ab") as log:
            log.write(f"--- start at {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            self.processes[node] = subprocess.Popen(
                self.network.command(node)
                + [
                    self.binary, "run", "--node-id", str(node), "--data", f"{self.folder}/{node}/data",
                    "--listen", self.listen[node], *self.page(node),
                    "--controller-listen", self.controllers[node], "--voters", voters,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **QUICK_BACKTRACE, **self.environment(node)},
            )

    def start_missing(self):
        for node in NODES:
            if node not in self.processes:
                self.start(node)

    def reap(self):
        """Notes nodes that ended by themselves."""
        for node, process in list(self.processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self.processes[node]
            self.stopped.discard(node)
            self.say(f"node {node} ended by itself with status {status}")
            if node not in self.may_end or status < 0:
                self.unexpected.append(f"node {node} ended by itself with status {status}")

    def kill(self, *nodes, how=signal.SIGKILL):
        """Ends nodes, all of them signalled before the first is waited for; returns their statuses."""
        self.reap()
        victims = {n: self.processes.pop(n) for n in nodes if n in self.processes}
        for process in victims.values():
            process.send_signal(how)
        for node in list(self.stopped & set(victims)):
            victims[node].send_signal(signal.SIGCONT)
            self.stopped.discard(node)
        return {n: process.wait(timeout=120) for n, process in victims.items()}

    def pause(self, node):
        if node in self.processes:
            self.processes[node].send_signal(signal.SIGSTOP)
            self.stopped.add(node)

    def go_on(self, node):
        if node in self.stopped:
            self.stopped.discard(node)
            self.processes[node].send_signal(signal.SIGCONT)

    def wipe(self, node):
        shutil.rmtree(f"{self.folder}/{node}/data")
        power.forget(*self.power(node))

    def fill(self, node):
        """Writes until the node's disk is full."""
        with open(f"{self.folder}/{node}/ballast", "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(b"\0" * size) > 0:
                        pass
                except OSError:
                    pass

    def empty(self, node):
        try:
            os.remove(f"{self.folder}/{node}/ballast")
        except FileNotFoundError:
            pass

    def heal(self):
        for node in list(self.stopped):
            self.go_on(node)
        self.network.heal()
        for node in NODES:
            self.empty(node)
        self.reap()
        self.start_missing()
        self.may_end.clear()

    def stop(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(timeout=120)
        self.processes.clear()

    def tail(self, node, lines=40):
        with open(f"{self.folder}/{node}.log", encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])


class Timeline:
    """What happened when: printed as it happens, and whole when something is wrong."""

    def __init__(self, quiet):
        self.began = time.monotonic()
        self.lines, self.quiet = [], quiet
        self.lock = threading.Lock()

    def say(self, text):
        line = f"{time.monotonic() - self.began:8.2f} {text}"
        with self.lock:
            self.lines.append(line)
            if not self.quiet:
                print(line, flush=True)
