# SPDX-License-Identifier: Apache-2.0
"""PyPI's moto as a server that also tells what it was given: moto_server.py PORT FILE. FILE has mails and pushes as JSON."""

import json
import os
import sys
import time

from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer
from moto.ses.models import ses_backends
from moto.sns.models import sns_backends

REGION = "eu-central-1"
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
while True:
    mails = [str(vars(mail)) for mail in list(ses_backends[DEFAULT_ACCOUNT_ID][REGION].sent_messages)]
    pushes = [str(message) for endpoint in list(sns_backends[DEFAULT_ACCOUNT_ID][REGION].platform_endpoints.values())
              for message in endpoint.messages.values()]
    with open(sys.argv[2] + ".new", "w", encoding="utf-8") as out:
        json.dump({"mails": mails, "pushes": pushes}, out)
    os.replace(sys.argv[2] + ".new", sys.argv[2])
    time.sleep(0.1)
