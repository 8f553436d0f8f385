# SPDX-License-Identifier: Apache-2.0
"""What the broker's binary links: no Foundation, so that it stays small and starts fast."""

import os
import subprocess
import unittest


class Binary(unittest.TestCase):
    def test_the_broker_links_no_foundation(self):
        binary = os.environ["MDC_BROKER"]
        dynamic = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
        needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
        self.assertIn("libc.so.6", needed)
        self.assertEqual([name for name in needed if "Foundation" in name], [])
        symbols = subprocess.run(["nm", "-D", "--undefined-only", binary], capture_output=True, text=True).stdout
        self.assertNotIn("$s10Foundation4DataV", symbols)
        # In a static binary nothing is undefined: the library's own functions would be there.
        defined = subprocess.run(["nm", "--defined-only", binary], capture_output=True, text=True).stdout
        self.assertNotIn("$s20FoundationEssentials", defined)

    def run_broker(self, *words):
        return subprocess.run([os.environ["MDC_BROKER"], *words], capture_output=True, text=True, timeout=60)

    def test_help_lists_commands_and_options(self):
        for words in ((), ("--help",), ("help",)):
            result = self.run_broker(*words)
            self.assertEqual(result.returncode, 0)
            for command in ("run", "check", "dump-log"):
                self.assertIn(f"\n  {command} ", result.stdout)
        for words in (("run", "--help"), ("run", "-h"), ("help", "run"), ("run", "--data", "x", "--help")):
            result = self.run_broker(*words)
            self.assertEqual(result.returncode, 0)
            for option in ("config", "node-id", "data", "listen", "advertise", "controller-listen", "voters", "http", "set",
                           "log-level", "log-format"):
                self.assertIn(f"\n  --{option} <", result.stdout)
            self.assertLessEqual(max(map(len, result.stdout.splitlines())), 80)

    def test_a_wrong_command_line_is_told_what_is_wrong(self):
        for words, told in (
            (("rum",), "there are run, check, dump-log"),
            (("run", "--nodeid", "3"), "did you mean '--node-id'?"),
            (("run", "--nonsense"), "unknown option '--nonsense'"),
            (("run", "--set"), "a value is missing: --set <key=value>"),
            (("run", "--data", "--listen", "x:1"), "a value is missing: --data"),
            (("run", "extra"), "unexpected argument 'extra'"),
            (("run", "--log-level", "loud"), "there is no log level 'loud'"),
            (("run", "--set", "a=b"), "there is no setting a"),
            (("run", "--node-id", "x"), "node.id"),
            (("check", "--records=yes"), "takes no value"),
            (("dump-log",), "<path> is missing"),
        ):
            with self.subTest(words=words):
                result = self.run_broker(*words)
                self.assertEqual(result.returncode, 64, result.stderr)
                self.assertIn(told, result.stderr)
                self.assertEqual(result.stdout, "")


if __name__ == "__main__":
    unittest.main()
