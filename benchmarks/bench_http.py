"""HTTP keep-alive posts of telemetry: our device plane to the durable commit, against an empty aiohttp handler.

Both are plain HTTP on loopback, on the same loop, under the same client: connections that send their next request after
the last answer, so one commit has at most as many messages as there are connections. Then many devices connect at once
over mutual TLS.
"""

import tempfile
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench_connect_storm import storm_rows
from benchmarks.bench_mqtt import Figure, measured
from benchmarks.children import allow_connections, child, tls_fleet
from benchmarks.measure import Row, at_least, at_most

_CONNECTIONS = 100
_WARM = 10
_DEVICES = [f"dev-{i:03d}" for i in range(_CONNECTIONS)]


def posts(count: int, *, null: bool) -> Figure:
    """Our listener, or an empty handler, under ``count`` posts on each connection."""
    with tempfile.TemporaryDirectory() as folder:
        task: dict[str, Any] = {"kind": "aiohttp"}
        if not null:
            task = {
                "kind": "fleet",
                "data": folder,
                "protocols": {"http": {"listen": "http://127.0.0.1:0"}},
                "devices": _DEVICES,
            }
        with child("serving", task) as server:
            load = {
                "kind": "http",
                "host": "127.0.0.1",
                "port": urlsplit(server.told["endpoints"]["http"][0]).port,
                # An empty handler reads no token, but gets one of the same length.
                "devices": server.told.get("tokens") or [[device, f"fc_dev_{'x' * 70}"] for device in _DEVICES],
                "first": 0,
                "warm": _WARM,
                "count": count,
                "window": 1,
            }
            with child("load", load) as client:
                return measured(server, client)


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, count, herd = (2, 40, 400) if quick else (5, 200, 5_000)
    ours, null = [], []
    for _ in range(rounds):
        ours.append(posts(count, null=False))
        null.append(posts(count, null=True))
    allow_connections(herd)
    devices = [f"dev-{i:05d}" for i in range(herd)]
    with (
        tls_fleet(devices, "storm", loop="uvloop", protocol="http") as (_, load),
        child("load", load) as client,
    ):
        storm = storm_rows(client, herd, 1 if quick else 3, " over HTTP")
    return [
        at_least(
            "HTTP POST to durable commit, rate",
            [item.rate for item in ours],
            "empty aiohttp handler",
            [item.rate for item in null],
            "requests/s",
            0.5,
        ),
        at_most(
            "HTTP POST to durable commit, processor time",
            [item.cpu_us for item in ours],
            "empty aiohttp handler",
            [item.cpu_us for item in null],
            "µs/request",
            2.0,
        ),
        *storm,
    ]


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
