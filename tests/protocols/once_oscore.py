"""aiocoap's client under OSCORE, once: sends one request and prints code and payload of its answer. Nothing of ours."""

import asyncio
import json
import sys

import aiocoap
from aiocoap.numbers.codes import Code


async def main(given):
    context = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
    context.client_credentials.load_from_dict({"coap://*": {"oscore": {"basedir": given["context"]}}})
    message = aiocoap.Message(
        code={code.name.lower(): code for code in Code}[given["method"]],
        uri=given["url"],
        payload=(given["payload"] or "").encode(),
        accept=given["accept"] and int(given["accept"]),
        content_format=given["form"] and int(given["form"]),
    )
    if given["if_match"]:
        message.opt.if_match = [bytes.fromhex(given["if_match"])]
    answer = await context.request(message).response
    print(json.dumps({"code": str(answer.code), "payload": answer.payload.hex()}))
    await context.shutdown()


asyncio.run(main(json.loads(sys.argv[1])))
