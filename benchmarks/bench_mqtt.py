"""MQTT at QoS 1: the cost of a message from the socket to its PUBACK, and behind a broker to its acknowledgement.

The endpoint is measured to the durable commit, against itself over a device plane that acknowledges at once, and
against Mosquitto with a consumer that drops everything. Behind Mosquitto the consumer is compared with a paho client
that only acknowledges. The load comes from a separate process; processor time is that of the measured side alone and
the steadier figure, rates share the machine with the load.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from benchmarks.children import Child, Program, child, has_mosquitto, mosquitto
from benchmarks.measure import Row, at_least, at_most

_CONNECTIONS = 50
_WARM = 40
#: Outstanding per connection, below the endpoint's Receive Maximum of 32 and Mosquitto's 20.
_WINDOW = 16
_DEVICES = [f"dev-{i:03d}" for i in range(_CONNECTIONS)]


@frozen(kw_only=True)
class Figure:
    """One run: messages a second, and processor time of the side under test."""

    rate: float
    cpu_us: float


def _load(port: int, tokens: list[list[str]], count: int) -> dict[str, Any]:
    return {
        "kind": "mqtt",
        "host": "127.0.0.1",
        "port": port,
        "devices": tokens,
        "first": 0,
        "warm": _WARM,
        "count": count,
        "window": _WINDOW,
    }


def measured(server: Child, load: Child) -> Figure:
    """What a server spends while the load, which is ready, runs."""
    before = server.ask()["cpu_s"]
    done = load.ask("go")
    spent = server.ask()["cpu_s"] - before
    return Figure(rate=done["messages"] / done["seconds"], cpu_us=spent / done["messages"] * 1e6)


def endpoint(count: int, *, null: bool) -> Figure:
    """Our own endpoint; ``null`` acknowledges at once instead of after the commit."""
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "kind": "fleet",
            "data": folder,
            "protocols": {"mqtt": {"listen": "mqtt://127.0.0.1:0"}},
            "devices": _DEVICES,
            "null": null,
        }
        with child("serving", task) as server:
            port = urlsplit(server.told["endpoints"]["mqtt"][0]).port
            assert port is not None
            with child("load", _load(port, server.told["tokens"], count)) as load:
                return measured(server, load)


def _broker_alone(count: int) -> Figure:
    total = (count + _WARM) * _CONNECTIONS
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder)) as broker:
        program = shutil.which("mosquitto_sub")
        assert program is not None
        consumer = subprocess.Popen(
            [program, "-p", str(broker.port), "-q", "1", "-t", "fleet/v1/+/telemetry", "-C", str(total), "-N"],
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.3)
            with child("load", _load(broker.port, _anybody(), count)) as load:
                before, begun = broker.cpu_s(), time.perf_counter()
                load.ask("go")
                consumer.wait(60)
                return _figure(count, time.perf_counter() - begun, broker.cpu_s() - before)
        finally:
            consumer.kill()
            consumer.wait()


def _anybody() -> list[list[str]]:
    return [[device, "anonymous"] for device in _DEVICES]


def _figure(count: int, seconds: float, cpu_s: float) -> Figure:
    messages = count * _CONNECTIONS
    return Figure(rate=messages / seconds, cpu_us=cpu_s / messages * 1e6)


def behind_broker(count: int, *, null: bool) -> Figure:
    """A consumer behind Mosquitto: ours to the durable commit, or a paho client that does nothing."""
    with (
        tempfile.TemporaryDirectory() as data,
        tempfile.TemporaryDirectory() as folder,
        mosquitto(Path(folder)) as broker,
        child("serving", _consumer(broker, data, null=null)) as consumer,
        child("load", _load(broker.port, _anybody(), count)) as load,
    ):
        consumer.wait_for(_WARM * _CONNECTIONS)
        before, begun = consumer.ask()["cpu_s"], time.perf_counter()
        load.ask("go")
        consumer.wait_for((_WARM + count) * _CONNECTIONS)
        return _figure(count, time.perf_counter() - begun, consumer.ask()["cpu_s"] - before)


def _consumer(broker: Program, data: str, *, null: bool) -> dict[str, Any]:
    if null:
        return {"kind": "paho", "host": "127.0.0.1", "port": broker.port}
    protocols = {"mqtt": {"url": f"mqtt://127.0.0.1:{broker.port}"}}
    return {"kind": "fleet", "data": data, "protocols": protocols, "devices": _DEVICES}


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark; those with a broker only where Mosquitto is installed."""
    rounds, count, behind = (2, 800, 120) if quick else (5, 4_000, 1_000)
    broker = has_mosquitto() and shutil.which("mosquitto_sub") is not None
    ours, null, alone, consumed, paho = [], [], [], [], []
    for _ in range(rounds):
        ours.append(endpoint(count, null=False))
        null.append(endpoint(count, null=True))
        if broker:
            alone.append(_broker_alone(count))
            consumed.append(behind_broker(behind, null=False))
            paho.append(behind_broker(behind, null=True))
    rows = [
        at_most(
            "MQTT QoS 1 to durable commit and PUBACK, processor time",
            [item.cpu_us for item in ours], "null device plane", [item.cpu_us for item in null], "µs/message", 2.0,
        ),
        at_least(
            "MQTT QoS 1 to durable commit and PUBACK, rate",
            [item.rate for item in ours], "null device plane", [item.rate for item in null], "messages/s", 0.5,
        ),
    ]  # fmt: skip
    if broker:
        rows += [
            at_least(
                "MQTT QoS 1 to durable commit and PUBACK, rate",
                [item.rate for item in ours], "Mosquitto to a null consumer", [item.rate for item in alone],
                "messages/s", 0.5,
            ),
            at_most(
                "MQTT QoS 1 to durable commit and PUBACK, processor time",
                [item.cpu_us for item in ours], "Mosquitto alone", [item.cpu_us for item in alone], "µs/message", 2.0,
            ),
            at_most(
                "MQTT behind Mosquitto to durable commit, processor time of the consumer",
                [item.cpu_us for item in consumed], "null paho consumer", [item.cpu_us for item in paho],
                "µs/message", 2.0,
            ),
            at_least(
                "MQTT behind Mosquitto to durable commit, rate",
                [item.rate for item in consumed], "null paho consumer", [item.rate for item in paho],
                "messages/s", 0.5,
            ),
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
