# SPDX-License-Identifier: Apache-2.0
"""What `deploy/` has: settings are read, the unit is one, the package installs what it says, and its binary runs."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

BROKER = os.environ["MDC_BROKER"]
MDC = os.environ["MDC_CLI"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)


class DeployTests(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def test_settings_are_sound(self):
        files = sorted(DEPLOY.glob("config/**/*.toml"))
        self.assertEqual(len(files), 4)
        for file in files:
            result = run(BROKER, "run", "--config", file, "--check")
            self.assertEqual((result.returncode, result.stderr), (0, ""), file)
            self.assertIn("settings", result.stdout)
        bad = self.path / "bad.toml"
        bad.write_text("node.id = 1\nlistenres = \"127.0.0.1:9092\"\n")
        result = run(BROKER, "run", "--config", bad, "--check")
        self.assertEqual(result.returncode, 64)
        self.assertIn(f"{bad}:2", result.stderr)
        self.assertIn("listeners", result.stderr)
        self.assertEqual(sorted(os.listdir(self.path)), ["bad.toml"], "nothing is made")

    def test_three_nodes_differ_where_they_must(self):
        texts = [(DEPLOY / f"config/three-nodes/node-{n}.toml").read_text() for n in (1, 2, 3)]
        voters = {re.search(r"controller.quorum.voters = (.*)", text)[1] for text in texts}
        self.assertEqual(len(voters), 1)
        for number, text in enumerate(texts, 1):
            listen = re.search(r'controller.listeners = "(.*)"', text)[1]
            self.assertIn(f"{number}@{listen}", voters.copy().pop())

    def test_the_unit(self):
        text = (DEPLOY / "systemd/mdc-broker.service").read_text()
        # The check wants the programs to be where the unit says; here they are where they were built.
        unit = self.path / "mdc-broker.service"
        unit.write_text(text.replace("/usr/bin/mdc-broker", BROKER))
        if shutil.which("systemd-analyze") is None:
            print("systemd-analyze is not installed: the unit is not verified")
            return
        result = run("systemd-analyze", "verify", "--man=no", unit)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("mdc-broker.service:", result.stderr)

    def test_the_image_and_the_nodes_of_compose(self):
        dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
        self.assertIn("\nUSER mdc\n", dockerfile)
        compose = (DEPLOY / "docker/compose.yaml").read_text()
        voters = re.search(r'"(--voters=.*)"', compose)[1]
        commands = re.findall(r"command: \[([^\]]*)\]", compose)
        self.assertEqual(len(commands), 3)
        for command in commands:
            words = [word.strip() for word in command.replace("*voters", voters.replace(",", ";")).split(",")]
            words = [word.replace(";", ",") for word in words]
            result = run(BROKER, *words, "--check")
            self.assertEqual((result.returncode, result.stderr), (0, ""), command)

    def test_the_package(self):
        binaries = self.path / "binaries"
        binaries.mkdir()
        os.symlink(BROKER, binaries / "mdc-broker")
        os.symlink(MDC, binaries / "mdc")
        result = run(
            DEPLOY / "debian/build-package", "--binaries", binaries, "--version", "9.8.7", "--output", self.path
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        package = result.stdout.strip()
        self.assertTrue(package.endswith(".deb") and os.path.exists(package), result.stdout)
        control = run("dpkg-deb", "--field", package)
        self.assertIn("Package: mdc\nVersion: 9.8.7\n", control.stdout)
        self.assertRegex(control.stdout, r"Depends: .*libc6 \(>= 2\.\d+\)")
        root = self.path / "root"
        self.assertEqual(run("dpkg-deb", "--extract", package, root).returncode, 0)
        for name in (
            "usr/bin/mdc", "lib/systemd/system/mdc-broker.service", "etc/mdc/broker.toml",
            "usr/share/doc/mdc/operations.md", "usr/share/doc/mdc/examples/three-nodes/node-3.toml",
        ):
            self.assertTrue((root / name).is_file(), name)
        check = run(root / "usr/bin/mdc-broker", "run", "--config", root / "etc/mdc/broker.toml", "--check")
        self.assertEqual(check.returncode, 0, check.stderr)
        scripts = self.path / "scripts"
        self.assertEqual(run("dpkg-deb", "--control", package, scripts).returncode, 0)
        self.assertEqual((scripts / "conffiles").read_text(), "/etc/mdc/broker.toml\n")
        for name in ("postinst", "prerm", "postrm"):
            self.assertEqual(run("sh", "-n", scripts / name).returncode, 0, name)
            self.assertTrue(os.access(scripts / name, os.X_OK), name)


if __name__ == "__main__":
    unittest.main()
