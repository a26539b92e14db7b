"""What devices do under OSCORE, with aiocoap's own client as the independent peer: nothing of ours is in its messages."""

import asyncio
import json
from hashlib import sha256

import cbor2
import pytest
from fleetcore_coap.codec import Option
from fleetcore_coap.plugin import open_client

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.message import Rejected
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

COMMAND = {"id": "c-1", "name": "reboot", "args": {}, "sequence": 1, "attempt": 1}


async def test_a_message_of_an_independent_client_is_stored(protected, plane, oscore_peer):
    peer = await oscore_peer(protected.url)
    answers = [await peer.ask("POST", "/device/v1/telemetry?id=a1", b'{"t": 21.5}', content_format=50) for _ in "12"]

    assert [str(answer.code) for answer in answers] == ["2.04 Changed"] * 2
    assert [(each.identity, each.message.payload, each.message.id) for each in plane.received] == [
        ("dev1", b'{"t": 21.5}', "a1")
    ] * 2


async def test_a_wrong_key_of_an_independent_client_gets_nothing(protected, plane, oscore_peer):
    from aiocoap.oscore import NotAProtectedMessage

    from fleetcore.wire.shared_keys import SharedKey, shared_key

    known = shared_key("dev1", plane.token("dev1"))
    peer = await oscore_peer(protected.url, key=SharedKey(known.token, b"f" * 32))
    with pytest.raises(NotAProtectedMessage) as refused:
        await peer.ask("POST", "/device/v1/telemetry", b'{"t": 1}', content_format=50)

    assert refused.value.plain_message.payload == b"Decryption failed"
    assert plane.arrived == []


async def test_the_twin_is_read_with_its_tag_and_what_waits(protected, plane, oscore_peer):
    plane.desire("dev1", 3, {"interval": 60})
    plane.command("dev1", COMMAND)
    peer = await oscore_peer(protected.url)
    read = await peer.ask("GET", "/device/v1/twin", accept=50)
    again = await peer.ask("GET", "/device/v1/twin", etags=[read.opt.etag])
    pending = [option.value for option in read.opt.option_list() if option.number == Option.PENDING]

    assert json.loads(read.payload)["desired"] == {"interval": 60}
    assert str(again.code) == "2.03 Valid"
    assert b"commands=1" in pending[0]


async def test_a_refusal_is_told_inside_the_protection(protected, plane, oscore_peer):
    plane.outcome = Rejected(code="payload_unreadable", reason="as the test wants it")
    peer = await oscore_peer(protected.url)
    answer = await peer.ask("POST", "/device/v1/telemetry", b"{", content_format=50)
    problem = cbor2.loads(answer.payload)

    assert str(answer.code) == "4.00 Bad Request"
    assert int(answer.opt.content_format) == 257
    assert problem["urn:fleetcore:error"]["code"] == "payload_unreadable"
    assert type(answer.remote).__name__ == "OSCOREAddress"


async def test_a_long_body_goes_up_in_blocks_inside_the_protection(protected, plane, oscore_peer):
    peer = await oscore_peer(protected.url)
    body = json.dumps([{"time": 1_750_000_000_000 + n, "values": {"t": n}} for n in range(400)]).encode()
    answer = await peer.ask("POST", "/device/v1/telemetry", body, content_format=50)

    assert len(body) > 10_000
    assert str(answer.code) == "2.04 Changed"
    assert plane.bodies == [body]


async def test_an_artifact_comes_down_in_blocks_and_from_the_byte_where_it_broke_off(protected, plane, oscore_peer):
    content = bytes(range(256)) * 100
    digest = plane.put_artifact(content)
    peer = await oscore_peer(protected.url)
    whole = await peer.ask("GET", f"/device/v1/artifacts/{digest}")
    secrets = DeviceSecrets(device="dev2", token=plane.token("dev2"))
    async with open_client(protected.url, secrets) as device:
        rest = b"".join([piece async for piece in device.artifact(digest, 20_001)])

    assert sha256(whole.payload).hexdigest() == digest
    assert rest == content[20_001:]


async def test_an_observation_tells_of_changes_to_an_independent_client(protected, plane, oscore_peer):
    peer = await oscore_peer(protected.url)
    request = peer.request("GET", "/device/v1/commands", observe=0)
    first = await request.response
    told = aiter(request.observation)
    found = []
    for number in (1, 2, 3):
        plane.command("dev1", COMMAND | {"id": f"c-{number}", "sequence": number})
        async with asyncio.timeout(PATIENCE_S):
            found.append(json.loads((await anext(told)).payload))
    request.observation.cancel()

    assert json.loads(first.payload)["commands"] == []
    assert [len(each["commands"]) for each in found] == [1, 2, 3]


async def test_an_independent_client_goes_on_after_a_restart_of_the_server(restarting, plane, oscore_peer):
    peer = await oscore_peer(restarting.url)
    before = await peer.ask("POST", "/device/v1/telemetry?id=1", b'{"t": 1}', content_format=50)
    await restarting.stop()
    await restarting.start()
    after = await peer.ask("POST", "/device/v1/telemetry?id=2", b'{"t": 2}', content_format=50)

    assert [str(answer.code) for answer in (before, after)] == ["2.04 Changed"] * 2
    assert [message.id for message in plane.messages] == ["1", "2"]


async def test_an_observation_goes_on_after_a_restart_between_once_it_is_renewed(restarting, plane, monkeypatch):
    monkeypatch.setattr("fleetcore_coap.client._RENEW_S", 0.3)
    secrets = DeviceSecrets(device="dev1", token=plane.token("dev1"))
    async with open_client(restarting.url, secrets) as device:
        downlinks = device.downlinks()
        plane.command("dev1", COMMAND)
        async with asyncio.timeout(PATIENCE_S):
            first = await anext(downlinks)
        await restarting.stop()
        await restarting.start()
        plane.command("dev1", COMMAND | {"id": "c-2", "sequence": 2})
        async with asyncio.timeout(PATIENCE_S):
            second = await anext(downlinks)
        reply = await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target="c-2")

    assert (first.body["id"], second.body["id"]) == ("c-1", "c-2")
    assert reply.error is None


async def test_a_revoked_device_is_refused_from_then_on(protected, plane, hand):
    from fleetcore_coap.codec import Method, code_of

    device = hand(protected)
    twin = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"twin")]
    before = await device.tell(Method.GET, twin)
    plane.revoke("dev1")
    after = await device.ask(device.made(Method.GET, twin))

    assert before.code == code_of(205)
    assert (after.code, after.payload) == (code_of(401), b"Security context not found")
    assert protected.adapter.connections == 0
