# SPDX-License-Identifier: Apache-2.0
"""`mdc up --demo`: messages from a file to their ends, whole and killed in the middle."""

import collections
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
MDC = os.environ.get("MDC_CLI", os.path.join(ROOT, ".build", "debug", "mdc"))
EXAMPLES = os.path.join(ROOT, "Examples", "messages.csv")
FINAL = {"delivered", "sent", "failed", "expired"}


def cut(path, rows):
    """The first rows of the examples, as a file of its own; returns how many there are."""
    with open(EXAMPLES, newline="", encoding="utf-8") as source, open(path, "w", newline="", encoding="utf-8") as out:
        reader = csv.reader(source)
        writer = csv.writer(out)
        writer.writerow(next(reader))
        count = 0
        for row in reader:
            if count == rows:
                break
            writer.writerow(row)
            count += 1
    return count


class DemoTest(unittest.TestCase):
    rows = 200

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="mdc-demo-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.file = os.path.join(self.folder, "messages.csv")
        self.data = os.path.join(self.folder, "data")
        self.config = None
        self.assertEqual(cut(self.file, self.rows), self.rows)

    def command(self, *more):
        command = [MDC, "up", "--demo", self.file, "--data", self.data, "--timeout", "150", *more]
        return command + (["--config", self.config] if self.config else [])

    def demo(self, *more):
        """Runs the demonstration to its end; returns what it printed."""
        done = subprocess.run(self.command(*more), capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-4000:])
        return done.stdout

    def kill_after(self, final):
        """Runs it until so many messages are at their end, then sends SIGKILL. Returns how many there were."""
        process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(150, process.kill)
        watchdog.start()
        tail, seen = [], 0
        try:
            for line in process.stderr:
                tail.append(line)
                match = re.search(r"(\d+) of (\d+) at their end", line)
                if match:
                    seen = int(match.group(1))
                    if seen >= final and int(match.group(2)) > 0:
                        break
            else:
                self.fail("it ended before it was killed:\n" + "".join(tail[-40:]))
            process.send_signal(signal.SIGKILL)
            self.assertEqual(process.wait(), -signal.SIGKILL)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stderr.close()
        self.assertFalse(os.path.exists(os.path.join(self.data, "demo-complete.json")))
        return seen

    def stored(self):
        listed = subprocess.run([MDC, "message", "list", "--data", self.data, "--limit", "0", "-o", "json"],
                                capture_output=True, text=True, timeout=60, check=True)
        return json.loads(listed.stdout)

    def check_store(self, report):
        """Each message that was submitted is there once, and at its end."""
        messages = self.stored()
        self.assertEqual(len(messages), report["submitted"])
        self.assertEqual(len({message["id"] for message in messages}), report["submitted"])
        self.assertEqual({message["id"]: message["status"] for message in messages
                          if message["status"] not in FINAL}, {})
        self.check_timelines({message["id"] for message in messages})
        keys = [message["message"]["idempotencyKey"] for message in messages]
        self.assertEqual(len(set(keys)), report["submitted"])

    def check_timelines(self, identities):
        """Each message was submitted once, and an attempt that a provider took twice says that it was repeated."""
        kinds = collections.Counter()
        with contextlib.closing(sqlite3.connect(os.path.join(self.data, "messages.sqlite"))) as store:
            for identity, text in store.execute("SELECT message_id, event FROM timeline"):
                event = json.loads(text)
                kinds[identity, event["kind"], event.get("attempt", 1)] += 1
        self.assertEqual({key[0] for key in kinds}, identities)
        for identity in identities:
            self.assertEqual(kinds[identity, "submitted", 1], 1, identity)
        for (identity, kind, attempt), count in kinds.items():
            if kind == "accepted" and count > 1:
                self.assertGreaterEqual(kinds[identity, "redelivered", attempt], count - 1, (identity, attempt))

    def check_report(self, report):
        self.assertEqual(report["rows"], self.rows)
        self.assertEqual(report["open"], [])
        self.assertEqual(report["submitted"] + len(report["invalid"]) + report["repeatedRows"], self.rows)
        self.assertGreater(report["submitted"], self.rows * 0.9)
        lanes = report["lanes"]
        self.assertEqual(sum(lane["submitted"] for lane in lanes), report["submitted"])
        for lane in lanes:
            ends = lane["delivered"] + lane["sent"] + lane["failed"] + lane["expired"]
            self.assertEqual(ends, lane["submitted"], lane)
        self.assertGreater(sum(lane["delivered"] for lane in lanes), report["submitted"] * 0.8)

    def test_table_adds_up(self):
        text = self.demo()
        lines = text.splitlines()
        header = next(index for index, line in enumerate(lines) if line.startswith("CHANNEL"))
        self.assertEqual(lines[header].split()[:7],
                         ["CHANNEL", "LANE", "SUBMITTED", "DELIVERED", "FAILED", "EXPIRED", "RETRIED"])
        sums, total = [0] * 5, None
        for line in lines[header + 1:]:
            cells = line.split()
            if cells[0] == "total":
                total = [int(cell) for cell in cells[1:6]]
                break
            row = [int(cell) for cell in cells[2:7]]
            self.assertEqual(row[0], sum(row[1:4]), line)
            sums = [a + b for a, b in zip(sums, row)]
        self.assertEqual(total, sums)
        self.assertEqual(total[0], sum(total[1:4]))
        self.assertIn(f"{self.rows} rows = {total[0]} messages", text)
        self.assertIn("+ 0 lost", text)
        with open(os.path.join(self.data, "demo-complete.json"), encoding="utf-8") as marker:
            report = json.load(marker)
        self.check_report(report)
        self.check_store(report)
        self.assertEqual(report["resumed"], 0)

        # The step-by-step message of the report is the one that `message get` shows.
        shown = re.search(r"^  id +(\S+)$", text, re.M).group(1)
        got = subprocess.run([MDC, "message", "get", shown, "--data", self.data, "-o", "json"],
                             capture_output=True, text=True, timeout=60, check=True)
        message = json.loads(got.stdout)
        kinds = [event["kind"] for event in message["timeline"]]
        self.assertIn("submitted", kinds)
        self.assertIn(message["timeline"][-1].get("status"), FINAL)
        if total[4] > 0:
            self.assertGreater(message["attempt"], 1)

        # A demonstration that came to its end begins anew.
        again = json.loads(self.demo("-o", "json"))
        self.check_report(again)
        self.assertEqual(again["resumed"], 0)
        self.assertEqual(again["submitted"], report["submitted"])

    def test_killed_three_times(self):
        # Reports that take their time leave room to kill it between them.
        self.config = os.path.join(self.folder, "slow.toml")
        with open(self.config, "w", encoding="utf-8") as config:
            config.write('[simulator]\nreceipt = "2s"\n')
        self.kill_after(0)
        first = self.kill_after(1)
        self.kill_after(first + 10)
        report = json.loads(self.demo("-o", "json"))
        self.check_report(report)
        self.assertGreater(report["resumed"], 0)
        self.check_store(report)

    def test_ends_in_order_on_sigterm(self):
        process = subprocess.Popen([MDC, "up", "--data", self.data, "--listen", "127.0.0.1:0", "--http", "none"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            ready = process.stdout.readline()
            self.assertTrue(ready.startswith("ready "), ready)
            bootstrap = re.search(r"advertised=(\S+)", ready).group(1)
            sent = subprocess.run(
                [MDC, "send", "--bootstrap", bootstrap, "--channel", "email", "--to", "ann@example.com",
                 "--subject", "Hello", "--text", "Grüße", "--lane", "high"],
                capture_output=True, text=True, timeout=60)
            self.assertEqual(sent.returncode, 0, sent.stderr)
            bad = subprocess.run(
                [MDC, "send", "--bootstrap", bootstrap, "--channel", "sms", "--to", "12", "--text", "x"],
                capture_output=True, text=True, timeout=60)
            self.assertEqual(bad.returncode, 1)
            self.assertIn("to:", bad.stderr)
            whole = subprocess.run([MDC, "send", "--bootstrap", bootstrap, "--file", self.file, "-o", "json"],
                                   capture_output=True, text=True, timeout=120)
            rows = [json.loads(line) for line in whole.stdout.splitlines()]
            self.assertEqual(len(rows), self.rows, whole.stderr)
            deadline = time.monotonic() + 60
            identity = sent.stdout.strip()
            while True:
                got = subprocess.run([MDC, "message", "get", identity, "--data", self.data, "-o", "json"],
                                     capture_output=True, text=True, timeout=60)
                if got.returncode == 0 and json.loads(got.stdout)["status"] == "delivered":
                    break
                self.assertLess(time.monotonic(), deadline, got.stdout + got.stderr)
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), 0)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
            drain.join()
            process.stderr.close()


if __name__ == "__main__":
    unittest.main()
