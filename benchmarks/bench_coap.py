"""CoAP: the cost of a message in plain and over DTLS with client certificates, against aiocoap's own resource server.

aiocoap's handlers do nothing; ours over DTLS commits durably, and in plain, which serves no device, answers a small
request. Processor time is that of the measured side alone, so its ratio is the ratio of messages per core; rates share
the machine with the load.
"""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

from fleetcore_coap.codec import CHANGED, Kind, Method, Option, Packet, options
from fleetcore_coap.oscore.security import DEVICE, SERVER, Opened, Security

from benchmarks.bench_connect_storm import storm_rows
from benchmarks.bench_mqtt import Figure, measured
from benchmarks.children import allow_connections, child, coap_server, tls_fleet
from benchmarks.measure import Row, at_least, at_most, without_goal
from fleetcore.wire.shared_keys import SharedKey

_DEVICES = [f"dev-{i:03d}" for i in range(25)]
_WARM = 20
#: Outstanding per device; RFC 7252 §4.7 has devices keep to one.
_WINDOW = 4
#: As long as ours at ``/device/v1/``.
_BODY = json.dumps({"fleet": "bench", "time_ms": 1767225600000, "limits": {"message_bytes": 262144, "json_depth": 10}})
_GIB = 1 << 30
_RATE = 100
_AIOCOAP = "aiocoap's server, empty"


def _load(port: int | None, what: str, count: int, task: dict[str, Any] | None = None) -> dict[str, Any]:
    given = {"kind": "messages", "port": port, "what": what, "dtls": task is not None, "devices": _DEVICES}
    return {**given, "warm": _WARM, "count": count, "window": _WINDOW, **(task or {})}


def aiocoap(what: str, count: int) -> Figure:
    """Aiocoap's resource server, in plain."""
    with (
        child("serving", {"kind": "aiocoap"}) as server,
        child("coap_load", _load(server.told["port"], what, count)) as load,
    ):
        return measured(server, load)


def libcoap(count: int) -> Figure:
    """Libcoap's server, in C and in plain, under the same reads."""
    with coap_server() as server:
        made = ["coap-client-notls", "-m", "put", "-e", _BODY, f"coap://127.0.0.1:{server.port}/device/v1/"]
        subprocess.run(made, check=True, capture_output=True)
        with child("coap_load", _load(server.port, "get", count)) as load:
            before = server.cpu_s()
            done = load.ask("go")
            spent = server.cpu_s() - before
    return Figure(rate=done["messages"] / done["seconds"], cpu_us=spent / done["messages"] * 1e6)


def plain(count: int) -> Figure:
    """Our listener in plain."""
    with tempfile.TemporaryDirectory() as folder:
        protocols = {"coap": {"listen": "coap://127.0.0.1:0"}}
        task = {"kind": "fleet", "data": folder, "protocols": protocols, "devices": []}
        with child("serving", task) as server:
            port = urlsplit(server.told["endpoints"]["coap"][0]).port
            with child("coap_load", _load(port, "get", count)) as load:
                return measured(server, load)


def dtls(count: int) -> Figure:
    """Our listener over DTLS, to the durable commit."""
    with (
        tls_fleet(_DEVICES, "messages", loop="uvloop", protocol="coap") as (server, task),
        child("coap_load", _load(task["port"], "post", count, task)) as load,
    ):
        return measured(server, load)


def association_bytes(count: int) -> float:
    """What an association costs that a device holds after its first message."""
    devices = [f"dev-{i:05d}" for i in range(count)]
    with tls_fleet(devices, "hold", loop="uvloop", protocol="coap") as (server, task):
        before: int = server.ask("memory")["rss"]
        with child("coap_load", task):
            after: int = server.ask("memory")["rss"]
            return float(after - before) / count


def handshakes(count: int) -> dict[str, Any]:
    """Handshakes with client certificates at a steady rate: how long they take on the client's clock."""
    with (
        tls_fleet(_DEVICES, "handshakes", loop="uvloop", protocol="coap") as (_, task),
        child("coap_load", {**task, "rate": _RATE, "count": count}) as load,
    ):
        return load.ask("go")


def protection(count: int) -> float:
    """What OSCORE costs the server beside the rest: processor time to open a small request and seal its answer, µs."""
    numbers = itertools.count()
    key = SharedKey("dev-000:0123456789abcdef", b"0" * 32)
    device = Security(key, DEVICE, SERVER, lambda: next(numbers), None)
    server = Security(key, SERVER, DEVICE, lambda: next(numbers), b"")
    server.recipient_replay_window.initialize_empty()
    given = options([(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")])
    request = Packet(kind=Kind.CON, code=Method.POST, token=b"abcd", options=given, payload=b'{"t": 21.5, "h": 40}')
    answer = Packet(kind=Kind.ACK, code=CHANGED)
    requests = [device.request(request)[0] for _ in range(count)]
    before = time.process_time()
    for item in requests:
        opened = server.open(item)
        assert isinstance(opened, Opened)
        server.answer(answer, opened.binding)
    return (time.process_time() - before) / count * 1e6


def slow_reader(count: int, seconds: float, rounds: int) -> Row:
    """A thousand devices with and without one beside them that asks for its twin and reads nothing."""
    devices = [*[f"dev-{i:04d}" for i in range(count)], "slow"]
    twin = {"blob": "x" * 60_000}
    with tls_fleet(devices, "latency", loop="uvloop", protocol="coap", twin=twin) as (_, task):
        alone, beside = [], []
        with child("coap_load", {**task, "every_s": 2.0, "seconds": seconds}) as load:
            for _ in range(rounds):
                alone.append(load.ask("alone")["p99_ms"])
                beside.append(load.ask("slow")["p99_ms"])
    name = f"{count} devices on CoAP over DTLS beside one that reads nothing, p99"
    return at_most(name, beside, "without it", alone, "ms", 1.5)


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, count, held, shaken = (2, 300, 300, 400) if quick else (5, 1_000, 1_000, 1_000)
    reading, ours, posting, durable = [], [], [], []
    in_c: list[Figure] = []
    for _ in range(rounds):
        reading.append(aiocoap("get", count))
        ours.append(plain(count))
        if shutil.which("coap-server-notls"):
            in_c.append(libcoap(10 * count))  # the kernel counts its time in hundredths of a second
        posting.append(aiocoap("post", count))
        durable.append(dtls(count))
    each = association_bytes(held)
    slow = slow_reader(1_000, 8.0, 1 if quick else 2)
    herd = 400 if quick else 5_000
    allow_connections(herd)
    with (
        tls_fleet([f"dev-{i:05d}" for i in range(herd)], "storm", loop="uvloop", protocol="coap") as (_, task),
        child("coap_load", task) as client,
    ):
        storm = storm_rows(client, herd, 1 if quick else 3, " over CoAP")
    shown = handshakes(shaken)

    def row(name: str, mine: list[Figure], theirs: list[Figure], limit: float, whose: str = _AIOCOAP) -> Row:
        per_core = [[1e6 / figure.cpu_us for figure in figures] for figures in (mine, theirs)]
        return at_least(name, per_core[0], whose, per_core[1], "messages/s a core", limit)

    def rate(name: str, mine: list[Figure], theirs: list[Figure]) -> Row:
        figures = ([item.rate for item in mine], [item.rate for item in theirs])
        return at_least(name, figures[0], _AIOCOAP, figures[1], "messages/s", 1.0)

    machine = f"{os.cpu_count()} processors shared with the load"
    return [
        row("CoAP in plain, a small read", ours, reading, 5.0),
        rate("the same, rate", ours, reading),
        *([without_goal(row("the same", ours, in_c, 0.0, "libcoap's server, in C"))] if in_c else []),
        row("CoAP over DTLS, POST to durable commit", durable, posting, 4.0),
        rate("the same, rate", durable, posting),
        Row(
            name=f"DTLS association of a device, {held} held", value=each / 1024, unit="KiB",
            against=f"{_GIB / each:,.0f} a GiB", goal="≥ 8,000 a GiB", met=_GIB / each >= 8_000,
        ),
        Row(
            name=f"DTLS handshake with client certificates, p99 at {_RATE}/s", value=shown["p99_ms"], unit="ms",
            against=f"median {shown['median_ms']:.3g} ms; {machine}", goal="≤ 20 ms", met=shown["p99_ms"] <= 20.0,
        ),
        Row(name="Opening and sealing a message under OSCORE, processor time", value=protection(10 * count), unit="µs"),
        slow,
        *storm,
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
