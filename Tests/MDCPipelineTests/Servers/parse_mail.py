# SPDX-License-Identifier: Apache-2.0
"""Prints what Python's email package finds in a mail, as JSON: the tree of types, and what each leaf holds."""

import email
import email.policy
import hashlib
import json
import sys


def tree(part):
    if part.is_multipart():
        return {"type": part.get_content_type(), "parts": [tree(inner) for inner in part.iter_parts()]}
    body = part.get_payload(decode=True)
    leaf = {"type": part.get_content_type(), "sha256": hashlib.sha256(body).hexdigest(), "size": len(body),
            "disposition": part.get_content_disposition(), "name": part.get_filename(), "id": part["Content-ID"]}
    if part.get_content_maintype() == "text" and leaf["disposition"] is None:
        leaf["text"] = part.get_content()
    return leaf


with open(sys.argv[1], "rb") as file:
    # smtp-sink writes line ends without CR, and an envelope line or two before the mail.
    text = file.read()
start = text.index(b"Date: ")
mail = email.message_from_bytes(text[start:], policy=email.policy.default)
defects = [str(defect) for part in mail.walk() for defect in part.defects]
print(json.dumps({"tree": tree(mail), "defects": defects, "subject": mail["Subject"]}))
