# SPDX-License-Identifier: Apache-2.0
"""Twilio's own signature: twilio_signature.py TOKEN, URLs with form bodies as JSON lines on standard input."""

import json
import sys
import urllib.parse

from twilio.request_validator import RequestValidator

validator = RequestValidator(sys.argv[1])
for line in sys.stdin:
    case = json.loads(line)
    fields = dict(urllib.parse.parse_qsl(case["body"], keep_blank_values=True))
    print(validator.compute_signature(case["url"], fields))
