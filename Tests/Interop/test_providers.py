# SPDX-License-Identifier: Apache-2.0
"""`mdc up` with providers from its configuration file: a mail through smtp-sink, an SMS through an SMSC of smpp34 with its receipt."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
MDC = os.environ.get("MDC_CLI", os.path.join(ROOT, ".build", "debug", "mdc"))
SMSC = os.path.join(ROOT, "Tests", "MDCPipelineTests", "Servers", "smsc.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.1)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ProvidersTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="mdc-providers-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.data = os.path.join(self.folder, "data")

    def start(self, *command, **options):
        process = subprocess.Popen(command, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def configure(self, text):
        path = os.path.join(self.folder, "mdc.toml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def test_mail_and_sms_take_their_providers(self):
        mails, submits = os.path.join(self.folder, "mails"), os.path.join(self.folder, "submits")
        os.mkdir(mails)
        os.chmod(mails, 0o777)
        os.chmod(self.folder, 0o755)
        smtp, smpp = free_port(), free_port()
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        self.start("/usr/sbin/smtp-sink", *user, "-d", mails + "/%M.", f"127.0.0.1:{smtp}", "100")
        self.start(sys.executable, SMSC, str(smpp), submits, stdout=subprocess.DEVNULL)
        wait_for(lambda: listens(smtp) and listens(smpp), "the start of both servers")
        config = self.configure(f"""
[provider.relay]
kind = "smtp"
host = "127.0.0.1"
port = {smtp}
security = "none"
[provider.smsc]
kind = "smpp"
host = "127.0.0.1"
port = {smpp}
system_id = "mdc"
password = {{ env = "SMSC_PASSWORD" }}
id_in_answer = "hex"
id_in_receipt = "decimal"
""")
        up = self.start(MDC, "up", "--config", config, "--data", self.data, "--listen", "127.0.0.1:0",
                        "--http", "127.0.0.1:0", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "SMSC_PASSWORD": "hunter2"})
        log = []
        threading.Thread(target=lambda: log.extend(up.stderr), daemon=True).start()
        watchdog = threading.Timer(150, up.kill)
        watchdog.start()
        self.addCleanup(watchdog.cancel)
        ready = up.stdout.readline()
        match = re.match(r"ready listen=(\S+)", ready)
        self.assertTrue(match, ready + "".join(log[-30:]))

        def send(*arguments):
            # The sender has no secrets, and needs none.
            done = subprocess.run(
                [MDC, "send", "--bootstrap", match.group(1), "--config", config, *arguments],
                capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return done.stdout.split()[0]

        def status(message):
            done = subprocess.run([MDC, "message", "get", message, "--data", self.data, "-o", "json"],
                                  capture_output=True, text=True, timeout=120)
            found = re.search(r'"status"\s*:\s*"(\w+)"', done.stdout)
            return found.group(1) if found else done.stdout + done.stderr

        mail = send("--channel", "email", "--to", "ann@example.com", "--sender", "bob@example.com",
                    "--subject", "Hello", "--text", "Good morning")
        sms = send("--channel", "sms", "--to", "+447700900199", "--sender", "MDC", "--text", "Your code is 1234")
        wait_for(lambda: status(sms) == "delivered", f"the delivery of {sms}")
        # Nobody reports about mails here: taken is all that can be known.
        wait_for(lambda: status(mail) == "sent", f"the acceptance of {mail}")
        texts = []
        for name in os.listdir(mails):
            with open(os.path.join(mails, name), encoding="utf-8") as file:
                texts.append(file.read())
        self.assertEqual(sum(f"X-MDC-Reference: {mail}.1" in text for text in texts), 1)
        with open(submits, encoding="utf-8") as file:
            self.assertEqual([json.loads(line)["to"] for line in file], ["447700900199"])
        up.send_signal(signal.SIGTERM)
        self.assertEqual(up.wait(timeout=120), 0)
        self.assertNotIn("hunter2", "".join(log))

    def test_mistakes_are_named(self):
        for text, words in [
            ('kind = "smtp"', "provider.x.host: is missing"),
            ('kind = "smpp"\nhost = "h"\nsystem_id = "s"\npassword = "hunter2"', "secrets do not stand in this file"),
            ('kind = "smtp"\nhost = "h"\nhots = "x"', "provider.x.hots: is not known"),
        ]:
            config = self.configure("[provider.x]\n" + text)
            done = subprocess.run([MDC, "up", "--config", config, "--data", self.data],
                                  capture_output=True, text=True, timeout=120)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
            self.assertNotIn("hunter2", done.stderr)


if __name__ == "__main__":
    unittest.main()
