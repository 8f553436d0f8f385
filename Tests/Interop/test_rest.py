# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of `mdc up`: its answers against its own OpenAPI description, keys, reports, and secrets in logs."""

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

import openapi_schema_validator
import openapi_spec_validator

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
MDC = os.environ.get("MDC_CLI", os.path.join(ROOT, ".build", "debug", "mdc"))
SMS = {"channel": "sms", "to": "+919876543210", "content": {"text": "hello"}}


class UpProcess:
    """`mdc up` on free ports in a folder of its own."""

    def __init__(self, *options):
        self.data = tempfile.mkdtemp(prefix="mdc-rest-")
        self.log = []
        self.process = subprocess.Popen(
            [MDC, "up", "--data", self.data, "--listen", "127.0.0.1:0", "--http", "none", "--log-level", "trace", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()
        watchdog = threading.Timer(150, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line.startswith("ready"):
            self.close()
            raise AssertionError("not ready: " + line + "".join(self.log[-20:]))
        self.places = dict(part.split("=", 1) for part in line.split()[1:])

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def mdc(self, *arguments, expect=0):
        done = subprocess.run([MDC, *arguments], capture_output=True, text=True, timeout=120)
        if done.returncode != expect:
            raise AssertionError(f"mdc {arguments} exits with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def connected(self, *arguments, expect=0):
        return self.mdc(*arguments, "--bootstrap", self.places["advertised"], "--timeout", "60", expect=expect)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(timeout=10)
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self.data, ignore_errors=True)


def eventually(what, condition, seconds=90):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about that " + what)
        time.sleep(0.1)


class RestTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.up = UpProcess("--api", "127.0.0.1:0")
        cls.addClassCleanup(cls.up.close)
        cls.document = json.loads(cls.call("GET", "/openapi.json")[2])
        made = json.loads(cls.up.connected("apikey", "create", "--name", "shop", "--tenant", "shop", "-o", "json"))
        cls.key = made["token"]
        cls.key_id = made["id"]
        eventually("the key is known", lambda: cls.call("GET", "/v1/messages", cls.key)[0] == 200)

    @classmethod
    def call(cls, method, path, key=None, body=None, **headers):
        host, port = cls.up.places["api"].rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            if key:
                headers["Authorization"] = "Bearer " + key
            if body is not None:
                headers["Content-Type"] = "application/json"
                body = json.dumps(body)
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def checked(self, method, template, path=None, key=None, body=None, **headers):
        """Calls, and holds the answer against the description."""
        status, answer_headers, text = self.call(method, path or template, key or self.key, body, **headers)
        operation = self.document["paths"][template][method.lower()]
        self.assertIn(str(status), operation["responses"], (method, path, text))
        response = operation["responses"][str(status)]
        if "$ref" in response:
            response = self.document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        if status == 304:
            self.assertEqual(text, "")
            return status, answer_headers, None
        media = answer_headers["content-type"].split(";")[0]
        self.assertIn(media, response["content"], (method, path, text))
        if media == "text/csv":
            return status, answer_headers, text
        value = json.loads(text)
        schema = {**response["content"][media]["schema"], "components": self.document["components"]}
        openapi_schema_validator.OAS31Validator(schema).validate(value)
        return status, answer_headers, value

    def test_description(self):
        openapi_spec_validator.validate(self.document)

    def test_answers_are_as_described(self):
        status, _, receipt = self.checked("POST", "/v1/messages", body=SMS, Idempotency_Key="one")
        self.assertEqual(status, 202)
        self.assertEqual(self.checked("POST", "/v1/messages", body=SMS, Idempotency_Key="one")[0], 200)
        wrong = {**SMS, "to": "12"}
        status, _, problem = self.checked("POST", "/v1/messages", body=wrong)
        self.assertEqual((status, problem["errors"][0]["field"]), (422, "to"))
        self.assertEqual(self.checked("POST", "/v1/messages", body=[SMS, SMS])[0], 202)
        status, _, bulk = self.checked("POST", "/v1/messages", body={"messages": [SMS, wrong]})
        self.assertEqual((status, bulk["accepted"], bulk["rejected"]), (207, 1, 1))
        self.assertEqual(self.checked("POST", "/v1/messages", body=[wrong])[0], 422)
        self.assertEqual(self.checked("POST", "/v1/messages", body=[])[0], 400)

        path = "/v1/messages/" + receipt["id"]
        eventually("the message is delivered", lambda: json.loads(self.call("GET", path, self.key)[2]).get("status") == "delivered")
        _, headers, message = self.checked("GET", "/v1/messages/{id}", path)
        self.assertEqual((message["tenant"], message["idempotencyKey"]), ("shop", "one"))
        self.assertEqual(self.checked("GET", "/v1/messages/{id}", path, If_None_Match=headers["etag"])[0], 304)
        self.assertEqual(self.checked("GET", "/v1/messages/{id}", "/v1/messages/none")[0], 404)
        _, _, timeline = self.checked("GET", "/v1/messages/{id}/timeline", path + "/timeline")
        self.assertEqual(timeline["events"][0]["kind"], "submitted")

        query = urllib.parse.urlencode({"filter": json.dumps({"status": {"$in": ["delivered"]}, "to": {"$regex": "^\\+91"}}),
                                        "sort": "-createdAt", "pagesize": 2, "count": "true"})
        _, _, page = self.checked("GET", "/v1/messages", "/v1/messages?" + query)
        self.assertGreaterEqual(page["count"], 1)
        for bad in ({"filter": "{"}, {"filter": '{"x":1}'}, {"sort": "x"}, {"keys": "x"}, {"page": "0"}, {"x": "1"}):
            status, _, problem = self.checked("GET", "/v1/messages", "/v1/messages?" + urllib.parse.urlencode(bad))
            self.assertEqual(status, 400)
            self.assertIn(next(iter(bad)), problem["detail"])

        for report in ("delivery", "latency", "failures"):
            path = f"/v1/reports/{report}?group=lane,country,hour"
            _, _, table = self.checked("GET", "/v1/reports/{report}", path)
            self.assertEqual(table["columns"][:3], ["lane", "country", "hour"])
            _, _, csv = self.checked("GET", "/v1/reports/{report}", path, Accept="text/csv")
            self.assertTrue(csv.startswith("lane,country,hour,"))
        self.assertEqual(self.checked("GET", "/v1/reports/{report}", "/v1/reports/delivery?group=x")[0], 400)

    def test_commands(self):
        identity = self.checked("POST", "/v1/messages", body={**SMS, "lane": "critical"})[2]["id"]
        listed = eventually("the message is listed", lambda: json.loads(self.up.mdc(
            "message", "list", "--data", self.up.data, "--filter", json.dumps({"id": identity, "lane": {"$ne": "bulk"}}),
            "-o", "json")))
        self.assertEqual([message["id"] for message in listed], [identity])
        self.up.mdc("message", "list", "--data", self.up.data, "--filter", '{"x":1}', expect=1)
        rows = json.loads(self.up.mdc("report", "delivery", "--by", "lane", "--data", self.up.data, "-o", "json"))
        self.assertIn("critical", {row["lane"] for row in rows})
        self.assertTrue(self.up.mdc("report", "latency", "--by", "channel", "--csv", "--data", self.up.data)
                        .startswith("channel,messages,mean,p50"))
        self.assertIn("MESSAGES", self.up.mdc("report", "failures", "--data", self.up.data))

    def test_templates(self):
        draft = {"channel": "email", "variants": {
            "en": {"subject": "Hello {{name}}", "text": "Dear {{name}}", "html": "<b>{{name}}</b>"}}}
        path = "/v1/templates/greeting"
        _, _, put = self.checked("PUT", "/v1/templates/{name}", path, body=draft)
        self.assertEqual((put["version"], put["tenant"]), (1, "shop"))
        _, headers, _ = self.checked("GET", "/v1/templates/{name}", path)
        self.assertEqual(self.checked("GET", "/v1/templates/{name}", path, If_None_Match=headers["etag"])[0], 304)
        self.assertEqual(self.checked("PUT", "/v1/templates/{name}", path, body={"channel": "x"})[0], 422)
        self.assertIn("greeting", {one["name"] for one in self.checked("GET", "/v1/templates")[2]["templates"]})
        message = {"channel": "email", "to": "a@example.com", "template": "greeting", "variables": {"name": "A & B"}}
        status, _, receipt = self.checked("POST", "/v1/messages", body=message)
        self.assertEqual((status, receipt["templateVersion"], receipt["locale"]), (202, 1, "en"))
        one = "/v1/messages/" + receipt["id"]
        eventually("the message is stored", lambda: self.call("GET", one, self.key)[0] == 200)
        content = self.checked("GET", "/v1/messages/{id}", one)[2]["content"]
        self.assertEqual((content["subject"], content["html"]), ("Hello A & B", "<b>A &amp; B</b>"))
        status, _, problem = self.checked("POST", "/v1/messages", body={**message, "variables": {}})
        self.assertEqual((status, problem["errors"][0]["field"]), (422, "variables.name"))

        self.up.connected("template", "put", "code", "--channel", "sms", "--text", "Your code is {{code}}")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"channel": "sms", "defaultLocale": "en", "variants": {
                "en": {"text": "Code: {{code}}"}, "de": {"text": "Kode: {{code}}"}}}, file)
            file.flush()
            put = json.loads(self.up.connected("template", "put", "code", "--file", file.name, "-o", "json"))
        self.assertEqual(put["version"], 2)
        listed = {one["name"]: one for one in json.loads(self.up.connected("template", "list", "-o", "json"))}
        self.assertEqual((listed["code"]["locales"], listed["greeting"]["tenant"]), (["de", "en"], "shop"))
        self.assertIn("Your code", self.up.connected("template", "get", "code", "--version", "1"))
        sent = json.loads(self.up.connected("send", "--channel", "sms", "--to", "+4915112345678", "--template", "code",
                                            "--locale", "de-CH", "--variable", "code=4711", "-o", "json"))
        stored = eventually("the message is listed", lambda: json.loads(self.up.mdc(
            "message", "list", "--data", self.up.data, "--filter", json.dumps({"id": sent["messageID"]}), "-o", "json")))
        self.assertIn("Kode: 4711", json.dumps(stored))
        self.up.connected("send", "--channel", "sms", "--to", "+4915112345678", "--template", "code", expect=1)
        self.up.connected("template", "delete", "code")
        self.up.connected("template", "get", "code", expect=1)
        self.assertEqual(self.call("DELETE", path, self.key)[0], 204)
        self.assertEqual(self.checked("GET", "/v1/templates/{name}", path)[0], 404)

    def test_keys_and_secrets(self):
        other = json.loads(self.up.connected("apikey", "create", "--name", "bank", "--tenant", "bank",
                                             "--scope", "messages:read", "-o", "json"))
        eventually("the key is known", lambda: self.call("GET", "/v1/messages", other["token"])[0] == 200)
        self.assertEqual(self.checked("POST", "/v1/messages", key=other["token"], body=SMS)[0], 403)
        keys = {key["id"]: key for key in json.loads(self.up.connected("apikey", "list", "-o", "json"))}
        self.assertEqual(keys[other["id"]]["scopes"], ["messages:read"])
        self.up.connected("apikey", "revoke", other["id"])
        eventually("the key is refused", lambda: self.call("GET", "/v1/messages", other["token"])[0] == 401)
        self.up.connected("apikey", "revoke", "nobody", expect=1)

        topics = "".join(self.up.connected("consume", topic, "--from", "earliest", "--until-end", "-o", "json")
                         for topic in ("mdc.api-keys", "mdc.audit"))
        self.assertIn("apikey revoke " + other["id"], topics)
        self.assertIn("GET /v1/messages", topics)
        written = topics + "".join(self.up.log) + self.up.connected("apikey", "list")
        for token in (self.key, other["token"]):
            self.assertNotIn(token.rsplit("_", 1)[1], written)


class ConfigurationTest(unittest.TestCase):
    """The example of a configuration is one, and what it says counts."""

    def test_example(self):
        example = os.path.join(ROOT, "Examples", "mdc.toml")
        up = UpProcess("--config", example, "--api", "127.0.0.1:0")
        self.addCleanup(up.close)

        def send(*arguments, expect=0):
            return up.connected("send", "--config", example, "--channel", "sms", "--to", "+4366412345678", *arguments, "-o", "json",
                                expect=expect)

        receipt = json.loads(send("--text", "a" * 400))
        self.assertEqual((receipt["segments"], receipt["encoding"]), (3, "gsm7"))
        self.assertEqual([warning["field"] for warning in receipt["warnings"]], ["content.text"])
        send("--text", "a" * 1500, expect=1)
        stored = eventually("the message is listed", lambda: json.loads(up.mdc(
            "message", "list", "--data", up.data, "--filter", json.dumps({"id": receipt["messageID"]}), "-o", "json")))
        self.assertIn("SHOP", json.dumps(stored))
        self.assertEqual(json.loads(up.connected("provider", "drift", "-o", "json")), [])
        up.connected("provider", "drift", "--provider", "kaleyra", expect=1)
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("[messages]\nidempotency_windo = \"1h\"\n")
            file.flush()
            done = subprocess.run([MDC, "up", "--config", file.name, "--data", up.data + "-none"], capture_output=True, text=True,
                                  timeout=60)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("messages.idempotency_windo", done.stderr)


if __name__ == "__main__":
    unittest.main()
