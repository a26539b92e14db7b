"""Idle MQTT connections over mutual TLS: the memory of each.

A real fleet issues the certificates and holds the sessions; the devices are in a separate process. The figure is the
growth of the server's resident memory from listening to all connected. The compared parameter is the size of asyncio's
read buffer of each TLS connection: fleetcore sets it to one TLS record, CPython's default is 256 KiB.
"""

from attrs import frozen

from benchmarks.children import child, tls_fleet
from benchmarks.measure import Row, at_most

#: ``asyncio.sslproto.SSLProtocol.max_size`` as CPython has it.
_CPYTHON_BYTES = 256 * 1024
_GIB = 1 << 30


@frozen(kw_only=True)
class Held:
    """What one run found: bytes per connection, and full handshakes a second of both sides together."""

    rss: float
    handshakes: float


def hold(connections: int, *, loop: str = "asyncio", tls_read_bytes: int = 0) -> Held:
    """Holds that many connections; 0 leaves the read buffer as fleetcore sets it."""
    devices = [f"dev-{i:05d}" for i in range(connections)]
    with tls_fleet(devices, "idle", loop=loop, tls_read_bytes=tls_read_bytes) as (server, load):
        before = server.ask("memory")["rss"]
        with child("load", load) as client:
            after = server.ask("memory")["rss"]
            return Held(rss=(after - before) / connections, handshakes=connections / client.told["seconds"])


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, connections = (1, 200) if quick else (2, 1_000)
    ours, large, uvloop = [], [], []
    for _ in range(rounds):
        ours.append(hold(connections))
        large.append(hold(connections, tls_read_bytes=_CPYTHON_BYTES))
        uvloop.append(hold(connections, loop="uvloop"))
    best = min(item.rss for item in ours)
    return [
        at_most(
            f"idle connection over mutual TLS, {connections} held, asyncio",
            [item.rss / 1024 for item in ours],
            "asyncio's own buffer",
            [item.rss / 1024 for item in large],
            "KiB",
            0.5,
        ),
        Row(
            name="the same on uvloop", value=min(item.rss for item in uvloop) / 1024, unit="KiB",
            against=f"asyncio ({best / 1024:.3g} KiB)", ratio=min(item.rss for item in uvloop) / best,
        ),
        Row(name="connections held per GiB, asyncio", value=_GIB / best, unit="connections"),
        Row(
            name="full handshakes with client certificates, both sides on this machine",
            value=max(item.handshakes for item in ours), unit="handshakes/s",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
