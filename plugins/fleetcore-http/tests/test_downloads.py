"""Downloads from a fleet on a disk over plain HTTP, where the kernel sends the image from its file."""

import asyncio
import contextlib
import random

import pytest

from fleetcore.model.device import Lifecycle
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FirmwareSection, FleetSection, Instance

#: More than two reads, and no multiple of anything.
IMAGE = random.Random(7).randbytes(2_500_001)


def loops():
    found = [None]
    with contextlib.suppress(ImportError):
        import uvloop

        found.append(uvloop.new_event_loop)
    return found


@contextlib.asynccontextmanager
async def served(folder, image=IMAGE, **firmware):
    """A fleet that offers the image to a device, its port, its token and the image's path."""
    http = Instance(name="http", kind="http", table={"listen": "http://127.0.0.1:0"})
    config = Config(
        fleet=FleetSection(name="t", data=str(folder)), protocols=(http,), firmware=FirmwareSection(**firmware)
    )
    fleet = await Fleet.open(config)
    try:
        await fleet.devices.register("d", "sensor")
        token = await fleet.security.device_tokens.issue("d")
        stored = await fleet.campaigns.add_artifact(image)
        await fleet.campaigns.create("c", "2.0.0", ["d"], sha256=stored.sha256)
        await fleet.serve()
        port = int(fleet.protocols["http"].adapter.endpoints[0].rpartition(":")[2])
        yield fleet, port, f"/device/v1/artifacts/{stored.sha256}", token
    finally:
        await fleet.close()


@contextlib.asynccontextmanager
async def asked(port, path, token, span=""):
    """The status and the stream of the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    try:
        more = f"Range: bytes={span}\r\n" if span else ""
        head = f"GET {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n{more}Connection: close\r\n\r\n"
        writer.write(head.encode())
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        yield int(status), reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def body(reader):
    found = b""
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(1 << 20):
            found += some
    return found


@pytest.mark.parametrize("loop", loops(), ids=lambda factory: "asyncio" if factory is None else "uvloop")
def test_the_whole_and_any_part_are_what_was_stored(tmp_path, loop):
    async def run():
        async with served(tmp_path) as (_, port, path, token):
            for span, start, end in (("", 0, len(IMAGE)), ("1-1", 1, 2), ("262143-1048577", 262_143, 1_048_578),
                                     ("-5", len(IMAGE) - 5, len(IMAGE)), ("1100000-", 1_100_000, len(IMAGE))):  # fmt: skip
                async with asked(port, path, token, span) as (status, reader):
                    assert status == (206 if span else 200)
                    assert await body(reader) == IMAGE[start:end], span

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_damaged_bytes_are_not_sent(tmp_path):
    async with served(tmp_path) as (_, port, path, token):
        async with asked(port, path, token) as (_, reader):
            assert await body(reader) == IMAGE
        digest = path.rpartition("/")[2]
        with (tmp_path / "artifacts" / digest[:2] / digest).open("r+b") as file:
            file.seek(1_100_000)
            file.write(bytes([IMAGE[1_100_000] ^ 1]))

        async with asked(port, path, token) as (_, reader):
            found = await body(reader)

    assert len(found) <= 1 << 20
    assert found == IMAGE[: len(found)]


async def test_a_device_that_is_retired_while_it_reads_nothing_gets_no_more(tmp_path):
    large = bytes(32 << 20)  # more than the kernel takes for a peer that reads nothing
    async with served(tmp_path, large) as (fleet, port, path, token), asked(port, path, token) as (_, reader):
        await fleet.lifecycles.move("d", Lifecycle.RETIRED)
        while fleet.protocols["http"].adapter.connections:
            await asyncio.sleep(0.01)

        assert len(await body(reader)) < len(large)


async def test_a_slot_is_free_once_the_kernel_has_sent_all(tmp_path):
    async with served(tmp_path, downloads_at_once=1) as (fleet, port, path, token):
        async with asked(port, path, token, "0-99") as (_, reader):
            assert await body(reader) == IMAGE[:100]
        assert len(fleet.plane._downloads._leases) == 1
        async with asked(port, path, token, "100-") as (_, reader):
            assert await body(reader) == IMAGE[100:]
        assert fleet.plane._downloads._leases == {}
