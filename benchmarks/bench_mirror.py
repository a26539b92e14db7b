"""Mirroring to AWS: against the bare SDK, and against the quotas.

AWS is a counterpart in dictionaries, in a process of its own, that answers after 40 ms; the SDK is the real one. Quotas
are raised where nothing else is said, so that the machine is what bounds.
"""

import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import Child, child
from benchmarks.measure import Row, at_least, at_most

_THREADS = 32
_DELAY_S = 0.04
_FREE = 100_000.0
_PATIENCE_S = 1800.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
    rows = _against_the_sdk(1000 if quick else 3000, 2 if quick else 3)
    rows += _coalescing(50 if quick else 200)
    rows += _catching_up(2000 if quick else 100_000)
    rows += _first_synchronisation(5000 if quick else 100_000, 3 if quick else 10)
    rows += _importing(1000 if quick else 10_000, 5000 if quick else 100_000)
    rows += _memory(1000 if quick else 10_000, 10_000 if quick else 100_000)
    return rows + _ingest(3 if quick else 5)


@contextmanager
def _hub(delay_s: float = _DELAY_S) -> Iterator[Child]:
    with child("mirror_child", {"role": "hub", "delay_s": delay_s}) as one:
        yield one


def _toml(folder: Path, endpoints: Mapping[str, str], what: str, rates: Mapping[str, float]) -> None:
    """A fleet with a mirror for each endpoint, at so many calls a second."""
    sections = "".join(
        f"""
[clouds.{name}]
kind = "aws"
region = "us-east-1"
endpoint = "{endpoint}"
threads = {_THREADS}
mirror = {what}
rates = {{{", ".join(f'"{action}" = {rate}' for action, rate in rates.items())}}}
"""
        for name, endpoint in endpoints.items()
    )
    (folder / "fleet.toml").write_text(f'[fleet]\ndata = "data"\n{sections}')


@contextmanager
def _fleet(folder: Path, devices: int) -> Iterator[Child]:
    with child("mirror_child", {"role": "fleet", "folder": str(folder), "devices": devices}) as one:
        yield one


def _said(of: Child, what: str, **given: Any) -> dict[str, Any]:
    return of.ask(f"{what} {json.dumps(given)}")


_RAISED = {"iot:CreateThing": _FREE, "iot:CreateThingType": _FREE}


def _against_the_sdk(devices: int, rounds: int) -> list[Row]:
    """Entities a second, and processor time an entity: what a fleet with a mirror takes over the same without."""
    found: dict[str, list[float]] = {name: [] for name in ("mirror", "loop", "threads", "mirror cpu", "sdk cpu")}
    for _ in range(rounds):
        with _hub() as hub, tempfile.TemporaryDirectory() as name:
            few = max(50, devices // 20)
            with child("mirror_child", {"role": "sdk", "threads": 1, "endpoint": hub.told["endpoint"]}) as loop:
                found["loop"].append(few / _said(loop, "run", first=0, count=few)["seconds"])
            with child("mirror_child", {"role": "sdk", "threads": _THREADS, "endpoint": hub.told["endpoint"]}) as many:
                took = _said(many, "run", first=few, count=devices)
                found["threads"].append(devices / took["seconds"])
                found["sdk cpu"].append(took["processor"] / devices * 1e3)
            _toml(Path(name), {"aws": hub.told["endpoint"]}, '["registry"]', _RAISED)
            with _fleet(Path(name), 1) as fleet:
                _said(fleet, "step", held=1)
                took = _said(fleet, "fill", devices=devices)
        with tempfile.TemporaryDirectory() as name:
            _toml(Path(name), {}, "[]", {})
            with _fleet(Path(name), 1) as fleet:
                without = _said(fleet, "fill", devices=devices)
        found["mirror"].append(devices / (took["seconds"] - without["seconds"]))
        found["mirror cpu"].append((took["processor"] - without["processor"]) / devices * 1e3)
    what = "mirroring new devices"
    return [
        at_least(what, found["mirror"], "the SDK in a loop", found["loop"], "entities/s", 10.0),
        at_least(what, found["mirror"], f"the SDK in {_THREADS} threads", found["threads"], "entities/s", 0.9),
        at_most(
            "processor time of a new device", found["mirror cpu"], f"the SDK in {_THREADS} threads", found["sdk cpu"],
            "ms", 1.3,
        ),
    ]  # fmt: skip


def _coalescing(devices: int) -> list[Row]:
    """Calls that a hundred changes of each twin cost."""
    times = 100
    with _hub() as hub, tempfile.TemporaryDirectory() as name:
        rates = {**_RAISED, "iot:UpdateThingShadow": _FREE, "iot:GetThingShadow": _FREE, "iot:DescribeThing": _FREE}
        _toml(Path(name), {"aws": hub.told["endpoint"]}, '["registry", "twins"]', rates)
        with _fleet(Path(name), devices) as fleet:
            _said(fleet, "step", held=devices)
            for value in range(times):
                _said(fleet, "change", devices=devices, value=value)
            _said(fleet, "step", held=2 * devices)
        calls = hub.ask("calls")["calls"]["iot:UpdateThingShadow"]
    saved = devices * times / calls
    return [
        Row(
            name=f"changes of a twin for one write, {times} each of {devices}", value=saved, unit="changes/write",
            against="a write a change", ratio=saved, goal="≥ 20 ×", met=saved >= 20,
        )
    ]  # fmt: skip


def _catching_up(devices: int) -> list[Row]:
    """After an outage with as many changes, at AWS's own default quota of shadows."""
    quota = 400.0
    with _hub() as hub, tempfile.TemporaryDirectory() as name:
        _toml(
            Path(name), {"aws": hub.told["endpoint"]}, '["registry", "twins"]',
            {**_RAISED, "iot:DescribeThing": _FREE, "iot:UpdateThingShadow": quota, "iot:GetThingShadow": _FREE},
        )  # fmt: skip
        with _fleet(Path(name), devices) as fleet:
            _said(fleet, "change", devices=devices, value=0)
            _said(fleet, "step", held=2 * devices)
            _said(hub, "faults", down=True)
            _said(fleet, "change", devices=devices, value=1)
            before = hub.ask("calls")["calls"].get("iot:UpdateThingShadow", 0)
            _said(hub, "faults", down=False)
            _said(fleet, "resume")
            took = _said(fleet, "step", held=2 * devices)
        writes = hub.ask("calls")["calls"]["iot:UpdateThingShadow"] - before
    rate = devices / took["seconds"]
    return [
        Row(
            name=f"catching up with {devices:,} changes", value=rate, unit="twins/s",
            against=f"the quota of {quota:g} writes/s", ratio=rate / quota, goal="≥ 0.9 ×", met=rate >= 0.9 * quota,
        ),
        Row(name="throttled calls under the quota", value=took["throttled"], unit="calls", goal="0",
            met=took["throttled"] == 0),
        Row(name="writes of it", value=writes / devices, unit="a twin"),
    ]  # fmt: skip


def _first_synchronisation(devices: int, kills: int) -> list[Row]:
    """The first synchronisation, killed so many times on its way, at 1,000 new things a second."""
    quota = 1000.0
    with _hub() as hub, tempfile.TemporaryDirectory() as name:
        _toml(Path(name), {"aws": hub.told["endpoint"]}, '["registry"]', {**_RAISED, "iot:CreateThing": quota})
        begun = time.monotonic()
        for kill in range(kills):
            with _fleet(Path(name), devices) as fleet:
                if kill == 0:
                    begun = time.monotonic()  # the devices are registered
                goal = devices * (kill + 1) // (kills + 1)
                while _made(hub) < goal and time.monotonic() < begun + _PATIENCE_S:
                    time.sleep(0.05)
                os.kill(fleet.pid, signal.SIGKILL)
        with _fleet(Path(name), devices) as fleet:
            _said(fleet, "step", held=devices)
        took, writes = time.monotonic() - begun, _made(hub) / devices
    return [
        Row(
            name=f"first synchronisation of {devices:,} devices, killed {kills} times", value=took / 60, unit="min",
            against=f"a quota of {quota:g} new things/s", ratio=devices / took / quota, goal="≤ 15 min",
            met=took <= 900,
        ),
        Row(name="writes of it", value=writes, unit="a device", goal="≤ 1.05", met=writes <= 1.05),
    ]  # fmt: skip


def _importing(few: int, many: int) -> list[Row]:
    """An import of things with shadows, at raised quotas: calls, time, and resident memory over a small one."""
    grown, calls, took_s = [], 0, 0.0
    for devices in (few, many):
        with _hub() as hub, tempfile.TemporaryDirectory() as name:
            _said(hub, "existing", things=devices)
            raised = dict.fromkeys(
                ("iot:ListThings", "iot:UpdateThing", "iot:GetThingShadow", "iot:UpdateThingShadow"), _FREE
            )
            _toml(
                Path(name), {"aws": hub.told["endpoint"]}, '["registry", "twins"]\nimports = true\nshadow = ""', raised
            )
            with _fleet(Path(name), 0) as fleet:
                begun = time.monotonic()
                _said(fleet, "take_over")
                grown.append(_said(fleet, "step", held=2 * devices)["resident"] - fleet.told["resident"])
                took_s = time.monotonic() - begun
            calls = sum(hub.ask("calls")["calls"].values())
    # A page of things, a shadow read, a thing and a shadow marked.
    least = many / 250 + 3 * many
    return [
        at_most(
            f"calls of an import of {many:,} devices", [calls], "the fewest that AWS's API allows", [least],
            "calls", 1.05,
        ),
        Row(name="an import of as many", value=many / took_s, unit="devices/s"),
        Row(
            name=f"resident memory of an import, {many:,} devices over {few:,}", value=grown[1] - grown[0], unit="MiB",
            goal="≤ 50 MiB", met=grown[1] - grown[0] <= 50,
        ),
    ]  # fmt: skip


def _made(hub: Child) -> int:
    made: int = hub.ask("calls")["calls"].get("iot:CreateThing", 0)
    return made


def _memory(few: int, many: int) -> list[Row]:
    """Resident memory of a server once its hub holds few devices, and many."""
    found = []
    for devices in (few, many):
        with _hub(0.0) as hub, tempfile.TemporaryDirectory() as name:
            _toml(Path(name), {"aws": hub.told["endpoint"]}, '["registry"]', _RAISED)
            with _fleet(Path(name), devices) as fleet:
                found.append(_said(fleet, "step", held=devices)["resident"] - fleet.told["resident"])
    growth = found[1] - found[0]
    return [
        Row(
            name=f"resident memory of mirroring, {many:,} devices over {few:,}", value=growth, unit="MiB",
            goal="≤ 50 MiB", met=growth <= 50,
        )
    ]  # fmt: skip


def _ingest(rounds: int) -> list[Row]:
    """Storing readings while three mirrors are behind, for their hubs are down; and without mirrors."""
    devices, readings = 500, 40
    took: dict[str, list[float]] = {"with": [], "without": []}
    with _hub() as hub:
        _said(hub, "faults", down=True)
        for _ in range(rounds):
            for which, names in (("without", ()), ("with", ("a", "b", "c"))):
                with tempfile.TemporaryDirectory() as name:
                    endpoints = dict.fromkeys(names, hub.told["endpoint"])
                    _toml(Path(name), endpoints, '["registry", "twins"]\nmetrics = ["*"]', {})
                    with _fleet(Path(name), devices) as fleet:
                        _said(fleet, "ingest", devices=devices, rounds=2)
                        _said(fleet, "behind")
                        took[which].append(_said(fleet, "ingest", devices=devices, rounds=readings)["seconds"])
    stored = {which: [devices * readings / each for each in values] for which, values in took.items()}
    row = at_least(
        "readings stored with three mirrors behind",
        stored["with"],
        "without mirrors",
        stored["without"],
        "readings/s",
        0.95,
    )
    return [row, Row(name="spread of it", value=_spread(took["without"]), unit="× of the median")]


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)
