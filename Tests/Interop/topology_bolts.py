# SPDX-License-Identifier: Apache-2.0
"""Bolts for test_topology.py, run by streamparse's `streamparse_run` as children of `mdc topology run`."""

import os
import time

from streamparse import BatchingBolt, Bolt


class SplitBolt(Bolt):
    """Words of a line. The line `die` ends the process, `hang` stops it; each once, as far as the folder remembers."""

    def initialize(self, conf, context):
        self.folder = conf.get("test.folder")
        self.logger.info("split for %s, task %s", conf["topology.name"], context["taskid"])

    def once(self, what):
        path = os.path.join(self.folder, what)
        if os.path.exists(path):
            return False
        with open(path, "w"):
            return True

    def process(self, tup):
        line = tup.values.value
        if line == "die" and self.once("died"):
            os._exit(9)
        if line == "hang" and self.once("hung"):
            time.sleep(600)
        if line == "poison":
            raise ValueError("this line is poison")
        for word in line.split():
            tasks = self.emit([word, "1"], need_task_ids=True)
            assert tasks, tasks


class BatchBolt(BatchingBolt):
    """How many lines there were between two ticks, and their number."""

    ticks_between_batches = 1

    def process_batch(self, key, tups):
        self.emit(["batch", len(tups)])
