# SPDX-License-Identifier: Apache-2.0
"""An SMSC made of PyPI's smpp34, for the tests of the SMPP provider: smsc.py PORT LOG.

What happens to a message is said by the last two digits of its number:
01 refused for good, 02 throttled, 03 no answer, 04 receipt before the answer, 05 receipt of a failure, 06 receipt by TLV only,
others: taken and delivered. Ids are hexadecimal in answers and decimal in receipts. Each submit is a JSON line in LOG.
"""

import asyncio
import json
import sys

import smpp34


async def main(port, log):
    server = smpp34.Server(host="127.0.0.1", port=port, system_id="smsc")
    await server.start()
    sessions, kept, serial = {}, [], 0x1000
    tasks = set()

    def spawn(coroutine):
        # The library's calls return futures, not coroutines.
        task = asyncio.ensure_future(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def report(event, number, fate):
        session = sessions.get(event.session_id)
        if session is None or not event.registered_delivery & 1:
            return
        state, code = ("UNDELIV", 5) if fate == "05" else ("DELIVRD", 2)
        arguments = {"source_addr": event.destination_addr, "destination_addr": event.source_addr, "esm_class": 4}
        if fate == "06":
            tlvs = [smpp34.Tlv(smpp34.TLV_RECEIPTED_MESSAGE_ID, b"%d\0" % number),
                    smpp34.Tlv(smpp34.TLV_MESSAGE_STATE, bytes([code]))]
            await session.deliver_sm(short_message=b"", tlvs=tlvs, **arguments)
            return
        text = (f"id:{number:010d} sub:001 dlvrd:001 submit date:2611231200 done date:2611231201 "
                f"stat:{state} err:0{code}0 text:hello")
        await session.deliver_sm(short_message=text.encode(), **arguments)

    print("ready", flush=True)
    with open(log, "a", encoding="utf-8") as out:
        while True:
            event = await server.next()
            if isinstance(event, smpp34.Esme):
                sessions[event.session_id] = event
            elif isinstance(event, smpp34.Unbound):
                sessions.pop(event.session_id, None)
            elif isinstance(event, smpp34.SubmitSmEvent):
                fate = event.destination_addr[-2:]
                out.write(json.dumps({
                    "to": event.destination_addr, "from": event.source_addr, "ton": event.source_addr_ton,
                    "coding": event.data_coding, "esm": event.esm_class, "text": event.short_message.hex(),
                    "tlvs": {f"{tlv.tag:04x}": tlv.value.hex() for tlv in event.tlvs}}) + "\n")
                out.flush()
                if fate == "01":
                    event.reject(smpp34.ESME_RINVDSTADR)
                elif fate == "02":
                    event.reject(smpp34.ESME_RTHROTTLED)
                elif fate == "03":
                    kept.append(event)
                else:
                    serial += 1
                    if fate == "04":
                        await asyncio.wait([asyncio.ensure_future(report(event, serial, fate))], timeout=2)
                        event.accept(f"{serial:x}")
                    else:
                        event.accept(f"{serial:X}")
                        spawn(report(event, serial, fate))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
