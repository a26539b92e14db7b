"""Mirroring to clouds: against their bare SDKs, and against their quotas; the same rows for each cloud.

A cloud is its connector's simulation, in a separate process, that answers after 40 ms; the SDK is the real one. Quotas
are raised unless stated otherwise, so that the machine is the limit. Features that a cloud lacks have no row.
"""

import json
import os
import signal
import statistics
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import Child, child
from benchmarks.hubs import CLOUDS
from benchmarks.measure import Row, at_least, at_most, without_goal

_THREADS = 32
_DELAY_S = 0.04
_FREE = 100_000.0
_PATIENCE_S = 1800.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rows: list[Row] = []
    for cloud in CLOUDS:
        rows += _against_the_sdk(cloud, 1000 if quick else 3000, 2 if quick else 3)
        rows += _coalescing(cloud, 50 if quick else 200)
        rows += _catching_up(cloud, 2000 if quick else 100_000)
        rows += _first_synchronisation(cloud, 5000 if quick else 100_000, 3 if quick else 10)
        rows += _importing(cloud, 1000 if quick else 10_000, 5000 if quick else 100_000)
        rows += _memory(cloud, 1000 if quick else 10_000, 10_000 if quick else 100_000)
    return rows + _ingest(3 if quick else 5)


@contextmanager
def _hub(cloud: str, delay_s: float = _DELAY_S) -> Iterator[Child]:
    with child("mirror_child", {"role": "hub", "cloud": cloud, "delay_s": delay_s}) as item:
        os.environ.update(item.told["environment"])  # for the processes that are started from now on
        yield item


def _toml(folder: Path, hubs: Mapping[str, Child], what: str, rates: Mapping[str, float] | None = None) -> None:
    """A fleet with a mirror to each hub, its quotas raised except for these, in calls a second."""
    sections = ""
    for cloud, hub in hubs.items():
        paced = {**dict.fromkeys(hub.told["paced"], _FREE), **(rates or {})}
        sections += f"""
[clouds.{cloud}]
{hub.told["section"]}threads = {_THREADS}
mirror = {what}
rates = {{{", ".join(f'"{action}" = {rate}' for action, rate in paced.items())}}}
"""
    (folder / "fleet.toml").write_text(f'[fleet]\ndata = "data"\n{sections}')


@contextmanager
def _fleet(folder: Path, devices: int) -> Iterator[Child]:
    with child("mirror_child", {"role": "fleet", "folder": str(folder), "devices": devices}) as item:
        yield item


@contextmanager
def _sdk(cloud: str, hub: Child, threads: int) -> Iterator[Child]:
    section = tomllib.loads(hub.told["section"])
    with child("mirror_child", {"role": "sdk", "cloud": cloud, "threads": threads, "section": section}) as item:
        yield item


def _said(of: Child, what: str, **given: Any) -> dict[str, Any]:
    return of.ask(f"{what} {json.dumps(given)}")


def _step(fleet: Child, held: int) -> dict[str, Any]:
    """Waits until the hubs hold so many entities and nothing waits."""
    while not (took := _said(fleet, "step", held=held)):
        pass
    return took


def _against_the_sdk(cloud: str, devices: int, rounds: int) -> list[Row]:
    """Entities a second, and processor time an entity: what a fleet with a mirror takes over the same without."""
    bulk = CLOUDS[cloud].bulk
    found: dict[str, list[float]] = {
        name: [] for name in ("mirror", "loop", "bulk", "threads", "mirror cpu", "sdk cpu")
    }
    for _ in range(rounds):
        with _hub(cloud) as hub, tempfile.TemporaryDirectory() as name:
            few = max(50, devices // 20)
            with _sdk(cloud, hub, 1) as loop:
                found["loop"].append(few / _said(loop, "run", first=0, count=few)["seconds"])
                if bulk > 1:
                    took = _said(loop, "run", first=2 * devices, count=devices, at_once=bulk)
                    found["bulk"].append(devices / took["seconds"])
            with _sdk(cloud, hub, _THREADS) as many:
                took = _said(many, "run", first=few, count=devices)
                found["threads"].append(devices / took["seconds"])
                found["sdk cpu"].append(took["processor"] / devices * 1e3)
            _toml(Path(name), {cloud: hub}, '["registry"]')
            with _fleet(Path(name), 1) as fleet:
                _step(fleet, 1)
                took = _said(fleet, "fill", devices=devices)
        with tempfile.TemporaryDirectory() as name:
            _toml(Path(name), {}, "[]")
            with _fleet(Path(name), 1) as fleet:
                without = _said(fleet, "fill", devices=devices)
        found["mirror"].append(devices / (took["seconds"] - without["seconds"]))
        found["mirror cpu"].append((took["processor"] - without["processor"]) / devices * 1e3)
    title, unit = CLOUDS[cloud].title, "entities/s"
    what, threads = f"{title}: mirroring new devices", f"the SDK in {_THREADS} threads"
    rows = [
        at_least(what, found["mirror"], "the SDK in a loop", found["loop"], unit, 10.0),
        at_least(what, found["mirror"], threads, found["threads"], unit, 0.9),
        at_most(
            f"{title}: processor time of a new device", found["mirror cpu"], threads, found["sdk cpu"], "ms", 1.3
        ),
    ]  # fmt: skip
    if bulk > 1:
        against = f"the SDK in a loop, {bulk} devices a call"
        rows.append(without_goal(at_least(what, found["mirror"], against, found["bulk"], unit, 0.0)))
    return rows


def _coalescing(cloud: str, devices: int) -> list[Row]:
    """Calls that a hundred changes of each twin cost."""
    times = 100
    with _hub(cloud) as hub, tempfile.TemporaryDirectory() as name:
        _toml(Path(name), {cloud: hub}, '["registry", "twins"]')
        with _fleet(Path(name), devices) as fleet:
            _step(fleet, devices)
            for value in range(times):
                _said(fleet, "change", devices=devices, value=value)
            _step(fleet, 2 * devices)
        writes = hub.ask("calls")["twins"]
    saved = devices * times / writes
    return [
        Row(
            name=f"{CLOUDS[cloud].title}: changes of a twin for one write, {times} each of {devices}", value=saved,
            unit="changes/write", against="a write a change", ratio=saved, goal="≥ 20 ×", met=saved >= 20,
        )
    ]  # fmt: skip


def _catching_up(cloud: str, devices: int) -> list[Row]:
    """After an outage with as many changes, at a stated rate of writes."""
    (writing, quota), title = CLOUDS[cloud].twins, CLOUDS[cloud].title
    with _hub(cloud) as hub, tempfile.TemporaryDirectory() as name:
        _toml(Path(name), {cloud: hub}, '["registry", "twins"]', {writing: quota})
        with _fleet(Path(name), devices) as fleet:
            _said(fleet, "change", devices=devices, value=0)
            _step(fleet, 2 * devices)
            _said(hub, "faults", down=True)
            _said(fleet, "change", devices=devices, value=1)
            before = hub.ask("calls")["twins"]
            _said(hub, "faults", down=False)
            _said(fleet, "resume")
            took = _step(fleet, 2 * devices)
        writes = hub.ask("calls")["twins"] - before
    rate = devices / took["seconds"]
    return [
        Row(
            name=f"{title}: catching up with {devices:,} changes", value=rate, unit="twins/s",
            against=f"{CLOUDS[cloud].quota}, {quota:g} writes/s", ratio=rate / quota, goal="≥ 0.9 ×",
            met=rate >= 0.9 * quota,
        ),
        Row(
            name=f"{title}: throttled calls under the quota", value=took["throttled"], unit="calls", goal="0",
            met=took["throttled"] == 0,
        ),
        Row(name=f"{title}: writes of it", value=writes / devices, unit="a twin"),
    ]  # fmt: skip


def _first_synchronisation(cloud: str, devices: int, kills: int) -> list[Row]:
    """The first synchronisation, killed so many times on its way, at 1,000 new devices a second."""
    quota = 1000.0
    making, each = CLOUDS[cloud].makes
    title = CLOUDS[cloud].title
    with _hub(cloud) as hub, tempfile.TemporaryDirectory() as name:
        _toml(Path(name), {cloud: hub}, '["registry"]', {making: quota / each})
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
            _step(fleet, devices)
        took, writes = time.monotonic() - begun, _made(hub) / devices
    return [
        Row(
            name=f"{title}: first synchronisation of {devices:,} devices, killed {kills} times", value=took / 60,
            unit="min", against=f"{quota:g} new devices/s", ratio=devices / took / quota, goal="≤ 15 min",
            met=took <= 900,
        ),
        Row(name=f"{title}: writes of it", value=writes, unit="a device", goal="≤ 1.05", met=writes <= 1.05),
    ]  # fmt: skip


def _importing(cloud: str, few: int, many: int) -> list[Row]:
    """An import of devices with twins, at raised quotas: calls, time, and resident memory since the first few."""
    title, imports = CLOUDS[cloud].title, CLOUDS[cloud].imports
    if not imports:
        return []
    with _hub(cloud) as hub, tempfile.TemporaryDirectory() as name:
        _said(hub, "existing", devices=many)
        _toml(Path(name), {cloud: hub}, '["registry", "twins"]\nimports = true\npoll_s = 86400')
        with _fleet(Path(name), 0) as fleet:
            begun = time.monotonic()
            _said(fleet, "take_over", mirror=cloud)
            while (at_few := _said(fleet, "taken_over"))["entities"] < 2 * few:
                time.sleep(0.5)
            grown = _step(fleet, 2 * many)["resident"] - at_few["resident"]
            took_s = time.monotonic() - begun
        calls, paced = hub.ask("calls")["calls"], hub.told["paced"]
    least_s, slowest = max((calls.get(action, 0) / rate, action) for action, rate in paced.items() if rate)
    return [
        at_most(
            f"{title}: calls of an import of {many:,} devices", [sum(calls.values())],
            "the fewest that its API allows", [sum(each * many for each in imports.values())], "calls", 1.05,
        ),
        Row(name=f"{title}: an import of as many", value=many / took_s, unit="devices/s"),
        Row(
            name=f"{title}: the same at its quota", value=least_s / 60, unit="min",
            against=f"{paced[slowest]:g} calls/s of {slowest}",
        ),
        Row(
            name=f"{title}: resident memory of an import, after {many:,} devices over {few:,}", value=grown,
            unit="MiB", goal="≤ 50 MiB", met=grown <= 50,
        ),
    ]  # fmt: skip


def _made(hub: Child) -> int:
    made: int = hub.ask("calls")["made"]
    return made


def _memory(cloud: str, few: int, many: int) -> list[Row]:
    """Resident memory of a server once its hub holds few devices, and many."""
    found = []
    for devices in (few, many):
        with _hub(cloud, 0.0) as hub, tempfile.TemporaryDirectory() as name:
            _toml(Path(name), {cloud: hub}, '["registry"]')
            with _fleet(Path(name), devices) as fleet:
                found.append(_step(fleet, devices)["resident"] - fleet.told["resident"])
    growth = found[1] - found[0]
    return [
        Row(
            name=f"{CLOUDS[cloud].title}: resident memory of mirroring, {many:,} devices over {few:,}", value=growth,
            unit="MiB", goal="≤ 50 MiB", met=growth <= 50,
        )
    ]  # fmt: skip


def _ingest(rounds: int) -> list[Row]:
    """Storing readings while mirrors to all clouds are behind, for their hubs are down; and without mirrors."""
    devices, readings = 500, 40
    took: dict[str, list[float]] = {"with": [], "without": []}
    with ExitStack() as stack:
        hubs = {cloud: stack.enter_context(_hub(cloud)) for cloud in CLOUDS}
        for hub in hubs.values():
            _said(hub, "faults", down=True)
        for _ in range(rounds):
            for which, behind in (("without", {}), ("with", hubs)):
                with tempfile.TemporaryDirectory() as name:
                    _toml(Path(name), behind, '["registry", "twins"]\nmetrics = ["*"]')
                    with _fleet(Path(name), devices) as fleet:
                        _said(fleet, "ingest", devices=devices, rounds=2)
                        _said(fleet, "behind")
                        took[which].append(_said(fleet, "ingest", devices=devices, rounds=readings)["seconds"])
    stored = {which: [devices * readings / each for each in values] for which, values in took.items()}
    row = at_least(
        f"readings stored with mirrors to {len(hubs)} clouds behind",
        stored["with"],
        "without mirrors",
        stored["without"],
        "readings/s",
        0.95,
    )
    return [row, Row(name="spread of it", value=_spread(took["without"]), unit="× of the median")]


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)
