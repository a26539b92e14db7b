"""``fleetcore top`` on a large fleet under messages: what it costs server and client, and how old what it shows is.

The server takes messages all the time; its processor time of a second is compared with a display and without, in turn.
The display is the real command on a terminal.
"""

import json
import os
import pty
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

from benchmarks.children import Child, child
from benchmarks.measure import Row
from fleetcore.wire.times import parse_time

_PER_S = 5000
#: What a display may cost the server: looking at all devices takes 4 % of its time at most.
_MORE = 0.05


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    devices, seconds, rounds = (20_000, 8.0, 2) if quick else (100_000, 20.0, 5)
    with (
        tempfile.TemporaryDirectory() as folder,
        child("top_child", {"folder": folder, "devices": devices, "per_s": _PER_S}) as server,
    ):
        without, watched, client = [], [], []
        _display(folder, 6.0)  # the columns are made once
        for _ in range(rounds):
            without.append(_load(server, lambda: time.sleep(seconds)))
            begun = resource.getrusage(resource.RUSAGE_CHILDREN)
            watched.append(_load(server, lambda: _display(folder, seconds)))
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            client.append((ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime) / seconds)
        ages = _ages(folder)
    more = median(watched) - median(without)
    of = f"{devices:,} devices, {_PER_S:,} messages/s"
    return [
        Row(
            name=f"top, {of}: processor of the server",
            value=median(watched),
            unit="of one",
            against=f"without, {median(without):.3f}",
            goal=f"≤ {_MORE} more",
            met=more <= _MORE,
        ),
        Row(name="processor of the client, its start included", value=median(client), unit="of one"),
        Row(name="age of its counts, median", value=median(ages), unit="s", against=f"at most {max(ages):.1f} s"),
    ]


def _load(server: Child, meanwhile: Callable[[], None]) -> float:
    """The share of one processor that the server takes meanwhile."""
    before, begun = server.ask(), time.monotonic()
    meanwhile()
    after = server.ask()
    seconds = time.monotonic() - begun
    rate = (after["accepted"] - before["accepted"]) / seconds
    assert rate > 0.8 * _PER_S, f"only {rate:.0f} messages/s were accepted"
    return float((after["processor"] - before["processor"]) / seconds)


def _display(folder: str, seconds: float) -> None:
    """The command on a terminal, for some time."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "fleetcore", "top", "--data", folder]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as shown:
        os.close(theirs)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([ours], [], [], left)[0]:
                os.read(ours, 1 << 16)
        os.write(ours, b"q")
        while shown.poll() is None:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    os.read(ours, 1 << 16)
                except OSError:
                    break
    os.close(ours)


def _ages(folder: str) -> list[float]:
    """How old the counts of some answers were, seconds."""
    words = [sys.executable, "-m", "fleetcore", "top", "-o", "jsonl", "--count", "20", "--every", "1", "--data", folder]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    answers = [json.loads(line) for line in printed.splitlines()]
    return [(parse_time(answer["time"]) - parse_time(answer["as_of"])) / 1000 for answer in answers]
