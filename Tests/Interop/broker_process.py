# SPDX-License-Identifier: Apache-2.0
"""Starts a real mdc-broker on free loopback ports, kills it as hard as a test wants, and starts it again."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time


def free_port():
    """Below the ports of outgoing connections, one of which could take the place of a broker that is killed for a while."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class BrokerProcess:
    """One node with its own data folder. `kill()` is SIGKILL; `start()` after it reopens the same data and ports."""

    def __init__(self, *settings):
        self.binary = os.environ["MDC_BROKER"]
        self.port = free_port()
        self.http_port = free_port()
        self.data = tempfile.mkdtemp(prefix="mdc-interop-")
        self.settings = settings
        self.process = None
        self.log = []

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self, timeout=60):
        command = [
            self.binary, "run",
            "--data", self.data,
            "--listen", self.bootstrap,
            "--http", f"127.0.0.1:{self.http_port}",
        ]
        for setting in self.settings:
            command += ["--set", setting]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        ready = threading.Event()
        threading.Thread(target=self._drain, args=(self.process.stdout, ready), daemon=True).start()
        threading.Thread(target=self._drain, args=(self.process.stderr, None), daemon=True).start()
        deadline = time.monotonic() + timeout
        while not ready.wait(0.02):
            if self.process.poll() is not None:
                time.sleep(0.2)
                raise AssertionError(f"the broker ended with {self.process.returncode}:\n" + self.tail())
            if time.monotonic() > deadline:
                raise AssertionError(f"the broker was not ready within {timeout} s:\n" + self.tail())
        return self

    def _drain(self, stream, ready):
        for line in stream:
            self.log.append(line.rstrip())
            del self.log[:-400]
            if ready is not None and re.match(r"ready\b", line):
                ready.set()
        stream.close()

    def tail(self):
        return "\n".join(self.log[-40:])

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout=15):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def close(self):
        if self.alive():
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)
