"""The wire as libcoap's clients see it, with OpenSSL and with GnuTLS: a peer that was not written here."""

import asyncio
import json

import cbor2
import pytest

from fleetcore.model.message import Rejected

PROGRAMS = [pytest.param(name, marks=pytest.mark.peer(name)) for name in ("coap-client-openssl", "coap-client-gnutls")]
OPENSSL = pytest.mark.peer("coap-client-openssl")


@pytest.mark.parametrize("program", PROGRAMS)
async def test_readings_are_answered_after_their_commit(served, plane, coap_client, until, program):
    plane.hold()
    url = f"{served.url}/device/v1/telemetry?id=boot7-1"
    asking = asyncio.ensure_future(coap_client(url, "-m", "post", "-t", "50", "-e", '{"t": 21.5}', program=program))
    await until(lambda: plane.waiting)
    assert not asking.done()
    plane.commit()
    said = await asking

    (received,) = plane.received
    assert said.codes[-1] == "2.04"
    assert (received.identity, received.message.id) == ("dev1", "boot7-1")
    assert (received.message.payload, received.message.content_type) == (b'{"t": 21.5}', "application/json")


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_long_body_comes_in_blocks_and_is_one_message(served, plane, coap_client, tmp_path, program):
    body = json.dumps([{"time": 1_769_860_800_000 + number, "values": {"t": number}} for number in range(200)])
    file = tmp_path / "body"
    file.write_text(body)
    said = await coap_client(
        f"{served.url}/d/t", "-m", "post", "-t", "50", "-b", "512", "-f", str(file), program=program
    )

    assert said.codes[-1] == "2.04"
    assert plane.bodies == [body.encode()]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_an_artifact_is_read_block_by_block(served, plane, coap_client, tmp_path, program):
    content = bytes(range(256)) * 100
    file = tmp_path / "artifact"
    digest = plane.put_artifact(content)
    await coap_client(f"{served.url}/device/v1/artifacts/{digest}", "-m", "get", "-o", str(file), program=program)

    assert file.read_bytes() == content


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_command_comes_to_a_device_that_observes(served, plane, coap_client, until, program):
    asking = asyncio.ensure_future(coap_client(f"{served.url}/d/c", "-m", "get", "-s", "2", program=program))
    await until(lambda: plane.listening)
    plane.command("dev1", {"id": "c-77", "name": "reboot", "args": {}, "sequence": 7})
    said = await asking

    assert '"commands":[]' in said.text
    assert '"id":"c-77"' in said.text


@OPENSSL
async def test_every_answer_says_what_waits(served, plane, coap_client):
    plane.desire("dev1", 13, {"interval": 60})
    plane.command("dev1", {"id": "c-1", "name": "reboot", "args": {}, "sequence": 1})
    said = await coap_client(f"{served.url}/d/t", "-m", "post", "-e", '{"t": 1}')

    assert said.pending == "commands=1, desired=13"


@OPENSSL
async def test_a_result_by_sequence_number_reaches_its_command(served, plane, coap_client):
    plane.command("dev1", {"id": "c-77", "name": "reboot", "args": {}, "sequence": 7})
    said = await coap_client(f"{served.url}/d/c/7", "-m", "post", "-t", "50", "-e", '{"status": "succeeded"}')
    unknown = await coap_client(f"{served.url}/d/c/8", "-m", "post", "-t", "50", "-e", '{"status": "succeeded"}')

    assert said.codes[-1] == "2.04"
    assert [message.target for message in plane.messages] == ["c-77"]
    assert unknown.codes[-1] == "4.04"


@OPENSSL
async def test_a_gateway_speaks_for_its_leaf_and_for_no_other(served, plane, coap_client):
    own = await coap_client(f"{served.url}/device/v1/leaf/leaf1/telemetry", "-m", "post", "-e", '{"t": 1}')
    foreign = await coap_client(f"{served.url}/device/v1/leaf/foreign1/telemetry", "-m", "post", "-e", '{"t": 1}')

    assert (own.codes[-1], foreign.codes[-1]) == ("2.04", "4.03")
    assert [message.subject for message in plane.messages] == ["leaf1"]


@OPENSSL
async def test_accept_decides_the_form_of_a_body(served, plane, coap_client, tmp_path):
    file = tmp_path / "twin"
    await coap_client(f"{served.url}/d/w", "-m", "get", "-A", "60", "-o", str(file))
    refused = await coap_client(f"{served.url}/d/w", "-m", "get", "-A", "41")

    assert cbor2.loads(file.read_bytes())["reported_version"] == 40
    assert refused.codes[-1] == "4.06"


@OPENSSL
async def test_a_content_format_that_nothing_reads_is_refused(served, plane, coap_client):
    said = await coap_client(f"{served.url}/d/t", "-m", "post", "-t", "41", "-e", "<t>1</t>")

    assert said.codes[-1] == "4.15"
    assert plane.received == []


@OPENSSL
@pytest.mark.parametrize(
    ("code", "expected"), [("schema_invalid", "4.22"), ("rate_limited", "4.29"), ("storage_full", "5.03")]
)
async def test_a_refusal_has_the_code_of_the_registry(served, plane, coap_client, code, expected):
    plane.outcome = Rejected(code=code, reason="as the test wants it")
    said = await coap_client(f"{served.url}/d/t", "-m", "post", "-e", '{"t": 1}')

    assert said.codes[-1] == expected
    assert code in said.text


@OPENSSL
async def test_what_there_is_is_listed(served, coap_client):
    said = await coap_client(f"{served.url}/.well-known/core", "-m", "get")

    assert '</d/c>;rt="fleetcore.command";obs' in said.text


@OPENSSL
async def test_a_path_or_a_method_that_there_is_not_is_refused_and_noted(served, plane, coap_client):
    nowhere = await coap_client(f"{served.url}/device/v1/nowhere", "-m", "get")
    wrong = await coap_client(f"{served.url}/device/v1/telemetry", "-m", "get")

    assert (nowhere.codes[-1], wrong.codes[-1]) == ("4.04", "4.05")
    assert [refusal.rejected.code for refusal in plane.refusals] == ["operation_unknown", "operation_unknown"]


@OPENSSL
async def test_without_a_certificate_only_what_is_public_is_served(serve, plane, coap_client):
    plain = await serve(tls=False)
    bundle = await coap_client(f"{plain.url}/device/v1/ca", "-m", "get", device=None)
    refused = await coap_client(f"{plain.url}/d/t", "-m", "post", "-e", '{"t": 1}', device=None)

    assert "BEGIN CERTIFICATE" in bundle.text
    assert refused.codes[-1] == "4.01"
    assert plane.arrived == []


@OPENSSL
async def test_a_revoked_device_is_told_so(served, plane, coap_client):
    plane.revoke("dev1")
    said = await coap_client(f"{served.url}/d/t", "-m", "post", "-e", '{"t": 1}')

    assert said.codes[-1] == "4.03"
    assert "device_revoked" in said.text
    assert plane.arrived == []
