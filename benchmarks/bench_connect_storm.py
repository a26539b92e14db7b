"""A fleet reconnects at once over mutual TLS, as after a power cut: how long until each device is connected.

Compared with the same devices of the same client process connecting one after the other, in the same round and under
the same load. A device counts as connected with its CONNACK; a disconnected one tries again at once and is counted. The
second pair of rows runs beside two busy loops.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.children import Child, allow_connections, child, tls_fleet
from benchmarks.measure import Row, at_most

_LIMIT = 1.5


@contextmanager
def _busy(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


def storm_rows(client: Child, devices: int, rounds: int, beside: str) -> list[Row]:
    """What a herd that ``client`` sends shows; ``beside`` ends the name of the first row."""
    together, alone, part, cut_off = [], [], [], 0
    quarter = devices // 4
    for _ in range(rounds):
        alone.append(client.ask(f"one_after_the_other {devices}")["seconds"])
        found = client.ask(f"at_once {devices}")
        together.append(found["seconds"])
        part.append(client.ask(f"at_once {quarter}")["seconds"])
        cut_off += found["cut_off"]
    several = statistics.median(whole / few for whole, few in zip(together, part, strict=True))
    return [
        at_most(f"{devices} devices connect at once{beside}", together, "one after the other", alone, "s", _LIMIT),
        Row(
            name=f"the same against {quarter} devices at once (4 × is linear)",
            value=statistics.median(together),
            unit="s",
            against=f"{quarter} devices ({statistics.median(part):.3g} s)",
            ratio=several,
        ),
        Row(name="devices cut off meanwhile", value=cut_off, unit="devices", goal="0", met=not cut_off),
    ]


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, count = (1, 400) if quick else (3, 5_000)
    allow_connections(count)
    devices = [f"dev-{i:05d}" for i in range(count)]
    with tls_fleet(devices, "storm", loop="uvloop") as (_, load), child("load", load) as client:
        rows = storm_rows(client, count, rounds, "")
        with _busy(2):
            rows += storm_rows(client, count, rounds, ", two busy loops beside")
    return rows


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
