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
        # FoundationEssentials, which the argument parser uses, is another library: strings and files, no ICU.
        banned = {"libFoundation.so", "libFoundationNetworking.so", "libFoundationInternationalization.so"}
        self.assertEqual(sorted(banned.intersection(needed)), [])
        symbols = subprocess.run(["nm", "-D", "--undefined-only", binary], capture_output=True, text=True).stdout
        self.assertNotIn("$s10Foundation4DataV", symbols)


if __name__ == "__main__":
    unittest.main()
