"""What a server takes under constant load comes to an end: memory, descriptors and files are flat while readings go."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from fleetcore.wire import messages

#: Readings a second, of so many devices with so many metrics each.
_RATE, _DEVICES, _METRICS = 5000, 10, 5
_ROUND_S = 0.5
#: Readings are kept for a minute, and packed every 20 s.
_RETENTION = """
[storage]
seal_points = 100000

[retention]
default_days = 0.0006945
"""
#: How much more the last third may take than the one before: a share, and bytes or descriptors beside it.
_SHARE = 1.05
_BESIDE = {"rss": 8 << 20, "descriptors": 8, "database": 4 << 20, "log": 1 << 20, "folder": 8 << 20}


def _taken(server):
    """What the server's process and its folder take now."""
    process = Path(f"/proc/{server.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    sizes = {}
    for path in server.data.rglob("*"):
        try:
            sizes[path.name] = path.lstat().st_size
        except FileNotFoundError:
            continue
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list((process / "fd").iterdir())),
        "database": sizes["fleet.db"],
        "log": sizes["fleet.db-wal"],
        "folder": sum(sizes.values()),
    }


async def _send(server, number, secrets, until_s, sent):
    """One device at its part of the rate; what it could not send in its time it sends at once."""
    every_ms = 1000 * _DEVICES * _METRICS // _RATE
    loop = asyncio.get_running_loop()
    async with server.client("http" if number % 2 else "mqtt", secrets) as device:
        at_ms = time.time_ns() // 1_000_000
        while loop.time() < until_s:
            now_ms = time.time_ns() // 1_000_000
            times = range(at_ms, now_ms, every_ms)
            if times:
                body = [{"time": t, "values": {f"m{m}": (t * (m + 1)) % 977 for m in range(_METRICS)}} for t in times]
                begun_s = loop.time()
                reply = await device.send(messages.TELEMETRY, body)
                assert reply.error is None, reply.error
                sent.append((len(times) * _METRICS, loop.time() - begun_s))
                at_ms = times[-1] + every_ms
            await asyncio.sleep(_ROUND_S)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_memory_descriptors_and_files_are_flat_while_old_readings_go(serving, opened, tmp_path):
    """``FLEETCORE_SOAK_SECONDS`` says how long, 30 minutes by default; the samples are in ``steady.csv``."""
    duration_s = float(os.environ.get("FLEETCORE_SOAK_SECONDS", "1800"))
    assert duration_s >= 180, "it takes two minutes until the first readings are gone"
    loop = asyncio.get_running_loop()
    samples, sent = [], []
    async with serving(_RETENTION) as server:
        # Of the detectors that `init` configures and this fleet.toml has not: they would hold the log back for a week.
        for left in (await server.caller.run("list_left_behind", {}))["items"]:
            await server.caller.run("drop_left_behind", {"name": left["name"]})
        devices = [await server.device(f"d{number}") for number in range(_DEVICES)]
        begun_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, secrets in enumerate(devices):
                group.create_task(_send(server, number, secrets, begun_s + duration_s, sent))
            while loop.time() < begun_s + duration_s:
                samples.append({"seconds": round(loop.time() - begun_s), **_taken(server)})
                await asyncio.sleep(1)
        status = await server.caller.run("get_status", {})
        code, out, _ = await server.command("doctor", "--deep")
        await server.kill()
    lines = [",".join(samples[0]), *(",".join(map(str, sample.values())) for sample in samples)]
    (tmp_path / "steady.csv").write_text("\n".join(lines) + "\n")
    count, waits = sum(points for points, _ in sent), sorted(wait for _, wait in sent)
    print(
        f"{count / duration_s:.0f} readings/s, {status['retention']['readings']} dropped; answers took"
        f" {1000 * waits[len(waits) // 2]:.0f} ms in the middle, {1000 * waits[-1]:.0f} ms at most"
    )
    for name in _BESIDE:
        print(name, *(max(sample[name] for sample in third) for third in _thirds(samples)))

    assert code == 0, out
    assert count >= 0.9 * _RATE * duration_s, "the machine is too slow for the rate"
    assert status["readings"]["stored"] == status["readings"]["sent"] == count
    assert status["retention"]["readings"] >= count * (1 - 160 / duration_s), "readings stay too long"
    _, middle, last = _thirds(samples)
    for name, beside in _BESIDE.items():
        before, after = (max(sample[name] for sample in third) for third in (middle, last))
        assert after <= _SHARE * before + beside, f"{name} grew from {before} to {after}"
    async with opened(server.data) as manager:
        assert (await manager.check_storage()).problems == []
        kept = (await manager.query_telemetry("d0", "m0")).time
        step = 1000 * _DEVICES * _METRICS // _RATE
        assert kept[-1] - kept[0] >= 55_000
        assert set((kept[1:] - kept[:-1]).tolist()) <= set(range(step, 100 * step)), (
            "readings within the period are gone"
        )


def _thirds(samples):
    third = len(samples) // 3
    return samples[:third], samples[third : 2 * third], samples[2 * third :]
