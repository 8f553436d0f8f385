# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the clients of Tests/Interop/go, against the libraries that Debian packages."""

import os
import subprocess
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = os.path.normpath(os.path.join(HERE, "..", "..", ".build", "go"))


def build(name):
    """The path of the program `name`; Go itself sees whether it is up to date."""
    os.makedirs(BUILT, exist_ok=True)
    environment = {
        **os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": os.path.join(BUILT, "cache"),
        "CGO_CFLAGS": "-O2 -w"}
    program = os.path.join(BUILT, name)
    subprocess.run(
        ["go", "build", "-o", program, "./" + name], cwd=os.path.join(HERE, "go"), env=environment, check=True)
    return program


def run(name, *arguments, timeout=90):
    """Runs a command to its end and returns its lines."""
    done = subprocess.run(
        [build(name), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise AssertionError(f"{name} {arguments}: {done.stderr}\n{done.stdout}")
    return done.stdout.splitlines()


class Member:
    """A member of a group in a process of its own; keeps what it prints."""

    def __init__(self, name, *arguments):
        self.process = subprocess.Popen(
            [build(name), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # killed in the midst of a line
            self.lines.append(line.rstrip("\n"))
        self.process.stdout.close()

    def saying(self, word):
        """What came after `word` at the beginning of a line."""
        return [line[len(word) + 1:] for line in list(self.lines) if line.startswith(word + " ")]

    def kill(self):
        self.process.kill()
        self._end()

    def leave(self):
        self.process.stdin.close()
        self._end()

    def _end(self):
        self.process.wait(60)
        self.thread.join(10)
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self._end()
