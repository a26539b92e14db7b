"""Tries a function on a file of readings, as the runner of a gateway would run it, and prints what it puts out."""

import asyncio
import csv
import hashlib
import tempfile
from array import array
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from pathlib import Path

from fleetcore.errors import Refused
from fleetcore_edge.runner.records import Batch, Function, Output, Resources, Usage
from fleetcore_edge.runner.runner import open_runner

_COLUMNS = ("time", "device", "metric", "value")


class UnreadableReadings(Refused):
    """The file of readings has a line that cannot be read."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="schema_invalid", remedy=f"Give a CSV file with the columns {', '.join(_COLUMNS)}")


async def tried(module: Path, readings: Path, config: Path | None, size: int) -> AsyncGenerator[str, None]:
    """What a function puts out for a file of readings, a line each, and at last what it took.

    Args:
        size: readings that it gets at a time.

    Raises:
        UnreadableReadings: the file cannot be read as readings.
        FunctionRefused, FunctionStopped: as the runner says.
    """
    content = await asyncio.to_thread(module.read_bytes)
    function = Function(
        name=module.stem,
        version="try",
        sha256=hashlib.sha256(content).hexdigest(),
        module=module,
        config=b"{}" if config is None else await asyncio.to_thread(config.read_bytes),
        resources=Resources(cpu_percent=100),
        may=frozenset({"readings", "alerts", "commands"}),
    )
    with tempfile.TemporaryDirectory(prefix="fleetcore-edge-") as folder:
        async with open_runner(Path(folder)) as runner:
            await runner.load(function)
            for batch in batches(readings, size):
                for line in lines(await runner.run(function.name, batch)):
                    yield line
            yield _summary(runner.usage()[function.name])


def batches(file: Path, size: int) -> Iterator[Batch]:
    """The readings of a file in batches of at most that size.

    Raises:
        UnreadableReadings: a column is missing, or a line cannot be read; names it.
    """
    with file.open(encoding="utf-8", newline="") as opened:
        rows = csv.DictReader(opened)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or [])]
        if missing:
            raise UnreadableReadings(f"{file} has no column {', '.join(missing)}")
        series: dict[tuple[str, str, str], int] = {}
        at, time, value = array("I"), array("q"), array("d")
        for row in rows:
            try:
                time.append(_time_ms(row["time"]))
                value.append(float(row["value"]))
            except (ValueError, TypeError) as error:
                raise UnreadableReadings(f"{file}:{rows.line_num}: {error}") from None
            at.append(series.setdefault((row["device"], row["metric"], row.get("unit") or ""), len(series)))
            if len(at) == size:
                yield Batch(series=list(series), at=at, time=time, value=value)
                at, time, value = array("I"), array("q"), array("d")
        if at:
            yield Batch(series=list(series), at=at, time=time, value=value)


def lines(output: Output) -> Iterator[str]:
    """What a batch came to, for people."""
    for text in output.log:
        yield f"log      {text}"
    batch = output.readings
    for place, now, value in zip(batch.at, batch.time, batch.value, strict=True):
        device, metric, unit = batch.series[place]
        yield f"reading  {_iso(now)}  {device or '(gateway)'}  {metric}  {value:g} {unit}".rstrip()
    for alert in output.alerts:
        where = f"{_iso(alert.time)}  {alert.device or '(gateway)'}  {alert.metric}  {alert.value:g}"
        yield f"alert    {where}  {alert.severity} {alert.kind}: {alert.message}"
    for command in output.commands:
        yield f"command  {command.device or '(gateway)'}  {command.name} {command.args}"


def _summary(usage: Usage) -> str:
    came = f"{_count(usage.readings_in, 'reading')} in {_count(usage.batches, 'batch', 'es')}"
    went = [_count(usage.readings_out, "reading"), _count(usage.alerts, "alert"), _count(usage.commands, "command")]
    return f"{came}; {', '.join(went)} out; {usage.fuel} fuel, {usage.ms:.1f} ms, {usage.memory_kib} KiB of memory"


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"


def _time_ms(text: str) -> int:
    if text.isdecimal():
        return int(text)
    found = datetime.fromisoformat(text)
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
