"""Guards against two readers of one header at the operators' API, with bytes that no HTTP client would send."""

import asyncio
import json

import pytest

from fleetcore.testing.patience import PATIENCE_S

BODY = b'{"id": "a", "type": "x"}'
CHUNKED = b"18\r\n" + BODY + b"\r\n0\r\n\r\n"
LENGTH = f"Content-Length: {len(BODY)}"
JSON = "Content-Type: application/json"


@pytest.fixture
async def ask(served, admin):
    """Sends lines and a body by hand: the status of the answer, its headers in lower case, its body."""
    token = f"Authorization: {admin.headers['authorization']}"

    async def asking(*lines, body=b"", method="POST", authorised=True):
        host, _, port = served.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = [f"{method} /api/v1/devices HTTP/1.1", "Host: x", *([token] if authorised else []), *lines, "", ""]
        writer.write("\r\n".join(head).encode("latin-1") + body)
        async with asyncio.timeout(PATIENCE_S):
            shown = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in shown[1:] if line)
            content = await reader.readexactly(int(headers["content-length"]))
            left = await reader.read() if headers.get("connection") == "close" else b""
        writer.close()
        return int(shown[0].split()[1]), headers, content + left

    return asking


@pytest.mark.parametrize(
    "lines",
    [
        (LENGTH, JSON, "Authorization: Bearer fc_pat_other"),
        (LENGTH, JSON, "Host: y"),
        (LENGTH, JSON, JSON),
        (LENGTH, JSON, "content-type: text/plain"),
        (LENGTH, JSON, "Idempotency-Key: a", "Idempotency-Key: b"),
        (LENGTH, JSON, "If-Match: *", 'If-Match: "1"'),
        (LENGTH, JSON, "Fleetcore-Position: 0", "Fleetcore-Position: 1"),
        (LENGTH, JSON, "Content-Length: 3"),
        (LENGTH, JSON, "Transfer-Encoding: chunked"),
        (JSON, "Transfer-Encoding: gzip, chunked"),
        (JSON, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        (JSON, "Content-Length: -1"),
        ("Bad Header: 1",),
    ],
)
async def test_a_request_that_two_readers_could_take_differently_is_refused_and_nothing_is_done(ask, admin, lines):
    status, headers, body = await ask(*lines, body=CHUNKED if "Transfer" in str(lines) else BODY)

    problem = json.loads(body)
    assert (status, problem["code"]) == (400, "payload_unreadable")
    assert problem["remedy"]
    assert (headers["content-type"], headers["connection"]) == ("application/problem+json", "close")
    assert (await admin.get("/devices")).json()["items"] == []


async def test_two_credentials_are_refused_before_either_is_looked_at(ask, fleet):
    status, _, body = await ask("Authorization: Bearer x", "Authorization: Bearer y", method="GET", authorised=False)
    await fleet.denials.flush()

    assert (status, json.loads(body)["detail"]) == (400, "The header authorization occurs twice in the request")


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ([], 201),
        ([JSON], 201),
        (["Content-Type: Application/JSON; Charset=UTF-8"], 201),
        (["CONTENT-TYPE: application/json"], 201),
        (["Content-Type: application/json; charset=utf-16"], 415),
        (["Content-Type: text/plain"], 415),
        (["Content-Type: application/x-www-form-urlencoded"], 415),
        (["Content-Type: application/json, text/plain"], 415),
        (["Content-Type: application/merge-patch+json"], 415),
        ([JSON, "Content-Encoding: gzip"], 415),
    ],
)
async def test_a_body_is_read_as_what_it_is_declared_or_refused_with_what_is_read(ask, declared, status):
    answered, _, body = await ask(LENGTH, *declared, body=BODY)

    assert answered == status
    if status == 415:
        found = json.loads(body)
        assert found["code"] == "media_type_unsupported"
        assert "send application/json" in found["detail"] or "send it as it is" in found["detail"]


@pytest.mark.parametrize("declared", ["application/json", "APPLICATION/JSON", "application/json;charset=utf-8", ""])
@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "a", "id": "b", "type": "x"}',
        b'{"id": "a", "type": "x", "attributes": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
        b'{"id": "a", "type": "x", "attributes": {"n": NaN}}',
    ],
    ids=["a key twice", "deep", "NaN"],
)
async def test_json_is_read_strictly_however_it_is_declared(ask, declared, body):
    lines = [f"Content-Type: {declared}"] if declared else []

    status, _, answer = await ask(f"Content-Length: {len(body)}", *lines, body=body)

    assert (status, json.loads(answer)["code"]) == (400, "payload_unreadable")


async def test_a_change_is_a_merge_patch_by_either_name(admin):
    await admin.post("/devices", json={"id": "a", "type": "x"})

    answers = [
        await admin.patch("/devices/a", content=b'{"name": "A"}', headers={"Content-Type": kind})
        for kind in ("application/json", "application/merge-patch+json", "application/json-patch+json")
    ]

    assert [one.status_code for one in answers] == [200, 200, 415]


async def test_a_quoted_key_is_the_key_in_its_quotes(admin):
    first = await admin.post("/devices", json={"id": "a", "type": "x"}, headers={"Idempotency-Key": '"k"'})
    again = await admin.post("/devices", json={"id": "a", "type": "x"}, headers={"Idempotency-Key": "k"})

    assert (first.status_code, again.status_code, again.headers["idempotency-replayed"]) == (201, 201, "true")
