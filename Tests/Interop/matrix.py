# SPDX-License-Identifier: Apache-2.0
"""Which client can do what: tests say what they show, a run of all of them writes the table of docs/wire-compatibility.md.

A test class names its client in `client`, a test method says with @shows which capabilities it proves. `--write` runs all
tests and keeps what came out in results.json and in the page; `--check` tells whether the page is what results.json says.
"""

import json
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, "results.json")
PAGE = os.path.join(HERE, "..", "..", "docs", "wire-compatibility.md")
BEGIN, END = "<!-- clients: begin -->", "<!-- clients: end -->"

CAPABILITIES = [
    "produce", "gzip", "snappy", "lz4", "zstd", "headers", "idempotence", "consume", "seek by time", "committed offsets",
    "group", "eager rebalance", "cooperative rebalance", "member killed", "static member", "consumer protocol", "migration",
    "topics", "partitions", "configs", "delete records", "groups admin", "offsets admin", "cluster", "broker killed",
    "transactions", "share groups",
]

# What one has to know to use a client with a broker of Kafka 4's versions.
NOTES = {
    "sarama 1.22":
        "set `Consumer.Offsets.Retention`, or it commits with OffsetCommit 1, which Kafka dropped in 4.0; "
        "`ClusterAdmin.ListTopics` asks for DescribeConfigs 0, too old as well; `Client.Topics` works.",
}


def shows(*capabilities):
    """Marks what a test proves of its client."""
    unknown = set(capabilities) - set(CAPABILITIES)
    assert not unknown, f"not in the list of capabilities: {unknown}"

    def mark(method):
        method.shows = (*getattr(method, "shows", ()), *capabilities)
        return method
    return mark


def refuses(reason, *capabilities):
    """Marks what a test proves that its client cannot do, with the reason; the broker's refusal is what it checks."""
    def mark(method):
        method.refuses = {capability: reason for capability in capabilities}
        return method
    return mark


def tests_in(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from tests_in(entry)
        else:
            yield entry


class Outcome(unittest.TextTestResult):
    """Remembers which tests passed."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.passed = []

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed.append(test)


def collect(passed, all_tests):
    """client → capability → "yes", "no", or why not."""
    table = {}
    done = {test.id() for test in passed}
    for test in all_tests:
        client = getattr(test, "client", None)
        method = getattr(test, test._testMethodName, None)
        if client is None or method is None:
            continue
        row = table.setdefault(client, {})
        for capability in getattr(method, "shows", ()):
            if test.id() not in done:
                row[capability] = "no"
            else:
                row.setdefault(capability, "yes")
        for capability, reason in getattr(method, "refuses", {}).items():
            row[capability] = reason if test.id() in done else "no"
    return table


def render(results):
    """The part of the page between the markers."""
    table = results["clients"]
    clients = sorted(table, key=str.lower)
    lines = [
        BEGIN,
        *render_apis(results["apis"]),
        "## Clients",
        "",
        "What `dev/interop --matrix` found, running each client against this broker: **yes** where a test of `Tests/Interop`",
        "shows it, **no** where that test failed, a number where the client cannot (see below), nothing where the client",
        "has no such thing or no test shows it.",
        "",
        "| | " + " | ".join(clients) + " |",
        "|---|" + ":---:|" * len(clients),
    ]
    reasons = []
    for capability in CAPABILITIES:
        cells = []
        for client in clients:
            value = table[client].get(capability, "")
            if value not in ("yes", "no", ""):
                if value not in reasons:
                    reasons.append(value)
                value = f"({reasons.index(value) + 1})"
            cells.append(f"**{value}**" if value == "no" else value)
        if any(cells):
            lines.append(f"| {capability} | " + " | ".join(cells) + " |")
    if reasons:
        lines.append("")
        lines += [f"({index}) {reason}  " for index, reason in enumerate(reasons, 1)]
    notes = [f"- {client}: {NOTES[client]}" for client in clients if client in NOTES]
    if notes:
        lines += ["", *notes]
    lines.append(END)
    return "\n".join(lines) + "\n"


def announced():
    """How the APIs that a fresh node announces differ from those of a broker of Kafka 4.3, as kafka-python knows them."""
    from kafka import KafkaAdminClient
    from kafka.protocol.api_key import ApiKey
    from kafka.protocol.broker_version_data import BROKER_API_VERSIONS

    from broker_process import BrokerProcess
    broker = BrokerProcess().start()
    try:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        ours = {key: list(versions) for key, versions in admin.get_broker_version_data(1).api_versions.items()}
        admin.close()
    finally:
        broker.close()
    kafka = {key: list(versions) for key, versions in BROKER_API_VERSIONS[(4, 3)].items()}

    def name(key):
        return f"{ApiKey(key).name} ({key})" if key in set(ApiKey) else str(key)
    return {
        "announced": len(ours),
        "missing": [name(key) for key in sorted(kafka.keys() - ours.keys())],
        "added": [name(key) for key in sorted(ours.keys() - kafka.keys())],
        "different": [name(key) for key in sorted(ours.keys() & kafka.keys()) if ours[key] != kafka[key]],
    }


def render_apis(apis):
    def listed(what):
        return ", ".join(apis[what]) or "none"
    return [
        "## Announced APIs",
        "",
        f"A fresh node of this build announces {apis['announced']} APIs. Compared with a broker of Kafka 4.3:",
        "",
        f"- other versions: {listed('different')};",
        f"- not announced: {listed('missing')};",
        f"- announced in addition: {listed('added')}.",
        "",
    ]


def split_page():
    with open(PAGE) as page:
        text = page.read()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{PAGE} has no markers {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    between, after = rest.split(END, 1)
    return before, BEGIN + between + END + "\n", after.removeprefix("\n")


def read_results():
    with open(RESULTS) as file:
        results = json.load(file)
    for client, row in results["clients"].items():
        for capability, value in row.items():
            if capability not in CAPABILITIES or not isinstance(value, str):
                raise SystemExit(f"{RESULTS}: {client} has {capability!r}: {value!r}, which is no capability")
    return results


def write_page(results):
    before, _, after = split_page()
    with open(PAGE, "w") as page:
        page.write(before + render(results) + after)


def main():
    if sys.argv[1:] == ["--check"]:
        if split_page()[1] != render(read_results()):
            raise SystemExit("docs/wire-compatibility.md differs from Tests/Interop/results.json: run Tests/Interop/matrix.py --render")
        return
    if sys.argv[1:] == ["--render"]:
        return write_page(read_results())
    if sys.argv[1:2] != ["--write"]:
        raise SystemExit("usage: matrix.py --write [test …] | --check | --render")
    loader = unittest.defaultTestLoader
    names = sys.argv[2:]
    suite = loader.loadTestsFromNames(names) if names else loader.discover(HERE, "test_*.py", HERE)
    all_tests = list(tests_in(suite))
    result = unittest.TextTestRunner(verbosity=2, resultclass=Outcome).run(suite)
    found = collect(result.passed, all_tests)
    # A run of some tests says nothing of what it left out.
    known = read_results()["clients"] if names and os.path.exists(RESULTS) else {}
    for client, row in found.items():
        known.setdefault(client, {}).update(row)
    results = {"clients": known, "apis": announced()}
    with open(RESULTS, "w") as file:
        json.dump(results, file, indent=2, sort_keys=True)
        file.write("\n")
    write_page(results)
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    # Tests import this module by its name: there must be one of it.
    sys.modules["matrix"] = sys.modules["__main__"]
    main()
