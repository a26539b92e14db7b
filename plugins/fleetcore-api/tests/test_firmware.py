"""Firmware over the operators' API: uploads that go wrong leave nothing, and who may do what."""

import asyncio
import gzip
import hashlib

import httpx
import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.signers import IMAGE, Signers, digest

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def signers():
    return Signers()


@pytest.fixture
async def manager(clock, tmp_path):
    """On disk, since there is where something could be left behind."""
    async with IoTFleetManager(tmp_path / "data", clock=clock) as manager:
        yield manager


@pytest.fixture
def left(tmp_path):
    """The files below the artifacts."""
    return lambda: sorted(
        str(one.relative_to(tmp_path / "data" / "artifacts"))
        for one in (tmp_path / "data" / "artifacts").rglob("*")
        if one.is_file()
    )


async def test_an_upload_is_kept_under_its_digest_alone(admin, left):
    answer = await admin.post("/firmware/artifacts", content=IMAGE, headers=OCTETS)

    assert answer.status_code == 201
    assert left() == [f"{digest(IMAGE)[:2]}/{digest(IMAGE)}"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"sha256": "0" * 64}, "hash_mismatch"),
        ({"size": len(IMAGE) - 1}, "size_mismatch"),
        ({"size": len(IMAGE) + 1}, "size_mismatch"),
        ({"size": 0}, "size_mismatch"),
    ],
)
async def test_content_that_is_not_what_was_announced_leaves_nothing(admin, left, params, code):
    answer = await admin.post("/firmware/artifacts", content=IMAGE, headers=OCTETS, params=params)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert left() == []


async def test_an_image_in_a_body_of_another_kind_is_refused(admin, left):
    answer = await admin.post("/firmware/artifacts", content=IMAGE, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_unsupported")
    assert left() == []


async def test_the_gate_leaves_only_the_body_of_a_stream_to_its_call(served):
    from fleetcore_api.endpoints import streamed

    from fleetcore.calls.fleet_table import core

    takes = streamed(core())

    assert takes("POST", "/api/v1/firmware/artifacts")
    assert not any(
        takes(*request)
        for request in (
            ("PUT", "/api/v1/firmware/artifacts"),
            ("POST", "/api/v1/firmware/artifacts/x"),
            ("POST", "/firmware/artifacts"),
            ("POST", "/api/v1/devices"),
        )
    )


async def raw(served, token, head, body, *, end=True, to="POST /api/v1/firmware/artifacts"):
    """A request as bytes; gives the answer's first line, empty where the connection just ends."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{to} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}", *head]
    writer.write("\r\n".join([*lines, "Content-Type: application/octet-stream", "", ""]).encode() + body)
    await writer.drain()
    if end:
        writer.write_eof()
    try:
        return (await asyncio.wait_for(reader.read(), PATIENCE_S)).split(b"\r\n")[0]
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def token(admin):
    return admin.headers["Authorization"].removeprefix("Bearer ")


async def test_an_upload_in_parts_that_is_cut_off_keeps_what_came_and_goes_on(served, token, admin, left):
    content, body = bytes(1_000_000), bytes(990_000)
    at, params = f"/firmware/uploads/{digest(content)}", {"size": len(content)}
    await raw(served, token, ["Content-Length: 1000000"], body, to=f"PUT /api/v1{at}?size={len(content)}")
    async with asyncio.timeout(PATIENCE_S):
        while (came := (answer := await admin.get(at, params=params)).json().get("received")) == 0:
            await asyncio.sleep(0.01)
    assert came, answer.text

    assert left() == [f"parts/{digest(content)}-{len(content)}"]
    again = await admin.put(at, content=content[5:], headers=OCTETS, params={**params, "offset": 5})
    assert (again.status_code, again.json()["code"], again.json()["ids"]["received"]) == (409, "offset_mismatch", came)
    rest = await admin.put(at, content=content[came:], headers=OCTETS, params={**params, "offset": came})
    assert rest.json() == {
        "sha256": digest(content), "size_bytes": len(content), "received": len(content), "complete": True,
    }  # fmt: skip
    assert left() == [f"{digest(content)[:2]}/{digest(content)}"]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (["Content-Length: 1000000"], bytes(990_000)),
        (["Transfer-Encoding: chunked"], b"F000\r\n" + bytes(0xF000) + b"\r\n" + b"F000\r\n" + bytes(100)),
    ],
    ids=["99 %", "within a chunk"],
)
async def test_an_upload_that_is_cut_off_leaves_nothing(served, token, admin, left, head, body, caplog):
    await raw(served, token, head, body)
    async with asyncio.timeout(PATIENCE_S):
        while left():
            await asyncio.sleep(0.01)

    assert left() == []
    assert (await admin.get("/devices")).status_code == 200
    assert not caplog.records


async def test_content_longer_than_its_length_is_another_request_and_never_content(served, token, left):
    await raw(served, token, [f"Content-Length: {len(IMAGE)}", "Connection: close"], IMAGE + b"more", end=False)

    assert left() == [f"{digest(IMAGE)[:2]}/{digest(IMAGE)}"]


async def test_a_bomb_is_kept_packed_as_it_came(admin, left):
    bomb = gzip.compress(bytes(200_000_000))

    coded = await admin.post("/firmware/artifacts", content=bomb, headers={**OCTETS, "Content-Encoding": "gzip"})
    answer = await admin.post("/firmware/artifacts", content=bomb, headers=OCTETS)

    assert coded.status_code == 415
    assert answer.json() == {"sha256": hashlib.sha256(bomb).hexdigest(), "size_bytes": len(bomb)}
    assert left() == [f"{digest(bomb)[:2]}/{digest(bomb)}"]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "C:\\x", "a%00b", "x" * 4096, "\u202egpj.exe".encode().hex(), "..%2f..%2fx"]
)
async def test_a_name_that_somebody_gives_it_is_no_place(admin, left, name, tmp_path):
    headers = {**OCTETS, "Content-Disposition": f'attachment; filename="{name}"', "X-Filename": name}

    await admin.post("/firmware/artifacts", content=IMAGE, headers=headers)

    assert left() == [f"{digest(IMAGE)[:2]}/{digest(IMAGE)}"]
    for path in (f"/firmware/artifacts/{name}", f"/firmware/releases/{name}", f"/firmware/trust/{name}"):
        try:
            answer = await admin.get(path)
        except httpx.InvalidURL:
            continue
        assert answer.status_code in (404, 400, 422), path


async def test_who_signs_off_does_not_deploy_and_nobody_but_an_admin_says_who_is_believed(
    manager, admin, as_role, signers
):
    await manager.register_device("a", "sensor", {"model": "T-1000"})
    release, deployer = await as_role("release"), await as_role("deployer")
    trust, manifest = {"envelope": signers.trust()}, {"manifest": signers.manifest()}
    campaign = {"id": "c", "release": "2.0.0", "devices": ["a"], "from_release": "thermo:2"}

    said = [
        (await release.post("/firmware/trust", json=trust)).status_code,
        (await admin.post("/firmware/trust", json=trust)).status_code,
        (await deployer.post("/firmware/artifacts", content=IMAGE, headers=OCTETS)).status_code,
        (await release.post("/firmware/artifacts", content=IMAGE, headers=OCTETS)).status_code,
        (await deployer.post("/firmware/releases", json=manifest)).status_code,
        (await release.post("/firmware/releases", json=manifest)).status_code,
        (await release.post("/campaigns", json=campaign)).status_code,
        (await deployer.post("/campaigns", json=campaign)).status_code,
    ]

    assert said == [403, 201, 403, 201, 403, 201, 403, 201]
    assert (await deployer.get("/firmware/releases")).json()["items"][0]["id"] == "thermo:2"


async def test_each_device_that_does_not_fit_is_in_the_refusal(manager, admin, signers):
    await admin.post("/firmware/trust", json={"envelope": signers.trust()})
    for name, model in (("a", "T-1000"), ("b", "T-2000")):
        await manager.register_device(name, "sensor", {"model": model})

    answer = await admin.post(
        "/campaigns",
        json={"id": "c", "release": "2.0.0", "devices": ["a", "b"], "url": "https://x.example/f",
              "manifest": signers.manifest()},
    )  # fmt: skip

    assert (answer.status_code, answer.json()["code"]) == (409, "model_mismatch")
    (failure,) = answer.json()["ids"]["failures"]
    assert (failure["device"], failure["code"]) == ("b", "model_mismatch")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "gopher://x/", "http://user:pw@x.example/f", "//x.example/f", "http://", "http://[::1"],
)
@pytest.mark.parametrize("pin", [{}, {"sha256": "0" * 64, "size": 1}])
async def test_no_campaign_is_made_for_what_is_no_web_address(manager, admin, url, pin):
    await manager.register_device("a", "sensor")

    answer = await admin.post("/campaigns", json={"id": "c", "release": "2", "devices": ["a"], "url": url, **pin})

    assert (answer.status_code, answer.json()["code"]) == (422, "url_forbidden")
    assert (await admin.get("/campaigns/c")).status_code == 404


@pytest.mark.parametrize("host", ["127.1", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "192.0.0.192"])
async def test_no_address_of_the_own_network_is_fetched_for_a_campaign(manager, admin, fleet, host):
    await manager.register_device("a", "sensor")
    body = {"id": "c", "release": "2", "devices": ["a"], "url": f"http://{host}/fw"}

    await admin.post("/campaigns", json=body)
    while fleet.campaigns._tasks:
        await asyncio.gather(*fleet.campaigns._tasks)

    found = (await admin.get("/campaigns/c")).json()
    assert (found["state"], found["code"]) == ("draft", "artifact_unpinned")
    assert "not a public address" in found["reason"]
