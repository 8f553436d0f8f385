# SPDX-License-Identifier: Apache-2.0
"""The centre behind Kannel's `smsc = fake`: fakesmsc.py PORT LOG. What Kannel sends is a line in LOG; receipts Kannel makes itself."""

import socket
import sys
import time

deadline = time.monotonic() + 60
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
with open(sys.argv[2], "ab", buffering=0) as log:
    for line in connection.makefile("rb"):
        log.write(line)
