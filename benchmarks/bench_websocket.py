"""WebSocket: the cost of a message from the socket to its reply after the commit; HTTP keep-alive and bare echoes.

Everything is plain on loopback, over connections that send their next message after the last answer, in one run and in
turn. The echoes return every message and store nothing: that of our own endpoint's WebSocket, of the library
websockets, and of picows if it is installed. Then many devices connect at once over mutual TLS; and a thousand devices
are timed with and without one beside them that reads a byte a second.
"""

import tempfile
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench_connect_storm import storm_rows
from benchmarks.bench_http import posts
from benchmarks.bench_mqtt import Figure, measured
from benchmarks.children import allow_connections, child, tls_fleet
from benchmarks.measure import Row, at_least, at_most, without_goal

_CONNECTIONS = 100
_WARM = 10
_DEVICES = [f"dev-{i:03d}" for i in range(_CONNECTIONS)]


def messages(count: int, *, kind: str = "fleet", null: bool = False, window: int = 1) -> Figure:
    """Our endpoint, or an echo, under ``count`` messages on each connection."""
    with tempfile.TemporaryDirectory() as folder:
        task: dict[str, Any] = {"kind": kind}
        if kind == "fleet":
            listen = {"websocket": {"listen": "ws://127.0.0.1:0"}}
            task |= {"data": folder, "protocols": listen, "devices": _DEVICES, "null": null}
        with child("serving", task) as server:
            load = {
                "kind": "websocket",
                "host": "127.0.0.1",
                "port": urlsplit(server.told["endpoints"]["websocket"][0]).port,
                "devices": server.told.get("tokens") or [[device, f"fc_dev_{'x' * 70}"] for device in _DEVICES],
                "greets": kind == "fleet",
                "first": 0,
                "warm": _WARM,
                "count": count,
                "window": window,
            }
            with child("load", load) as client:
                return measured(server, client)


def _slow_reader(devices: int, seconds: float, rounds: int) -> Row:
    names = [f"dev-{i:04d}" for i in range(devices)] + ["slow"]
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "kind": "fleet",
            "data": folder,
            "protocols": {"websocket": {"listen": "ws://127.0.0.1:0"}},
            "devices": names,
            "twin": {"blob": "x" * 60_000},
        }
        with child("serving", task) as server:
            tokens = server.told["tokens"]
            load = {
                "kind": "latency",
                "host": "127.0.0.1",
                "port": urlsplit(server.told["endpoints"]["websocket"][0]).port,
                "devices": tokens[:-1],
                "slow": tokens[-1],
                "every_s": 2.0,
                "seconds": seconds,
                "runs": rounds * 2,
            }
            with child("load", load) as client:
                alone, beside = [], []
                for _ in range(rounds):
                    alone.append(client.ask("alone")["p99_ms"])
                    beside.append(client.ask("slow")["p99_ms"])
    name = f"{devices} devices on WebSocket beside one that reads a byte a second, p99"
    return at_most(name, beside, "without it", alone, "ms", 1.5)


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, count, herd = (2, 100, 400) if quick else (5, 200, 5_000)
    candidates: dict[str, Any] = {
        "ours": lambda: messages(count),
        "HTTP keep-alive": lambda: posts(count, null=False),
        "null device plane": lambda: messages(count, null=True),
        "own bare echo": lambda: messages(count, kind="own echo"),
        "echo of websockets": lambda: messages(count, kind="websockets echo"),
    }
    if find_spec("picows") is not None:
        candidates["echo of picows"] = lambda: messages(count, kind="picows echo")
    found: dict[str, list[Figure]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            found[name].append(measure())
    ours = found.pop("ours")
    rows = []
    for name, theirs in found.items():
        most, least = (1.0, 1.0) if name == "HTTP keep-alive" else (None, None)
        cpu = at_most(
            "WebSocket to durable commit, processor time",
            [item.cpu_us for item in ours], name, [item.cpu_us for item in theirs], "µs/message", most or 0.0,
        )  # fmt: skip
        rate = at_least(
            "WebSocket to durable commit, rate",
            [item.rate for item in ours], name, [item.rate for item in theirs], "messages/s", least or 0.0,
        )  # fmt: skip
        rows += [cpu, rate] if most else [without_goal(cpu), without_goal(rate)]
    rows.append(_slow_reader(1_000, 8.0, 1 if quick else 2))
    allow_connections(herd)
    devices = [f"dev-{i:05d}" for i in range(herd)]
    with (
        tls_fleet(devices, "storm", loop="uvloop", protocol="websocket") as (_, load),
        child("load", load) as client,
    ):
        rows += storm_rows(client, herd, 1 if quick else 3, " over WebSocket")
    return rows


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
