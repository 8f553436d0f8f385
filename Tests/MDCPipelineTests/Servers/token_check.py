# SPDX-License-Identifier: Apache-2.0
"""Checks a token with PyJWT: token_check.py ALGORITHM PRIVATE_KEY_FILE TOKEN. Prints its claims and header as JSON."""

import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization

algorithm, path, token = sys.argv[1:]
with open(path, "rb") as file:
    public = serialization.load_pem_private_key(file.read(), None).public_key()
claims = jwt.decode(token, public, algorithms=[algorithm], options={
    "verify_aud": False, "verify_exp": False, "verify_iat": False})
print(json.dumps({"claims": claims, "header": jwt.get_unverified_header(token)}))
