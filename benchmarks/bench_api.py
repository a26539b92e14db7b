"""The operators' API under ``wrk``: the server's processor time per request, and requests per second.

Reads of one device and of a page of a hundred, and writes of a twin, over 1, 16 and 64 connections; the server before
the table of calls, and the present one with either parser, each in turn in every round.
"""

import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.children import Child
from benchmarks.earlier import earlier
from benchmarks.measure import Row, program

#: The last state of the repository with hand-written routes.
COMMIT = "982b3a0"
_DEVICES = 1000
_CONNECTIONS = (1, 16, 64)
_REQUESTS = {
    "GET a device": ("GET", "/devices/d-500", "", 2.0),
    "GET 100 devices": ("GET", "/devices?limit=100", "", 3.0),
    "PATCH desired state": ("PATCH", "/devices/d-{}/twin/desired", '{{\\"interval\\": {}}}', 1.3),
}
_TICKS = os.sysconf("SC_CLK_TCK")


@frozen
class Figure:
    """One round: µs of the server's processor a request, and requests a second."""

    cpu_us: float
    rate: float


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark; none where there is no ``wrk``."""
    if program("wrk", "the API is not measured") is None:
        return []
    rounds, seconds = (2, 1) if quick else (5, 3)
    variants: dict[str, dict[str, Any]] = {"h11": {"parser": "h11"}, "httptools": {"parser": "httptools"}}
    with earlier(COMMIT) as checkout:
        found: dict[tuple[str, str, int], list[Figure]] = {}
        for _ in range(rounds):
            for name, task in [("before", {}), *variants.items()]:
                if name == "before" and checkout is None:
                    continue
                with _server(task, checkout if name == "before" else None) as (told, patch):
                    for request in _REQUESTS:
                        for connections in _CONNECTIONS:
                            figure = _measured(told, request, connections, seconds, patch)
                            found.setdefault((name, request, connections), []).append(figure)
    return [*_rows(found, list(variants))]


def _rows(found: dict[tuple[str, str, int], list[Figure]], variants: list[str]) -> Iterator[Row]:
    for request, (*_, goal) in _REQUESTS.items():
        for connections in _CONNECTIONS:
            before = found.get(("before", request, connections))
            for name in variants:
                ours = found[name, request, connections]
                cpu_us = statistics.median(item.cpu_us for item in ours)
                rate = statistics.median(item.rate for item in ours)
                theirs = None if before is None else statistics.median(item.cpu_us for item in before)
                their_rate = None if before is None else statistics.median(item.rate for item in before)
                yield Row(
                    name=f"{request}, {connections} at once, {name} ({rate:.0f}/s)",
                    value=cpu_us,
                    unit="µs of processor a request",
                    against="" if theirs is None else f"commit {COMMIT} ({theirs:.0f} µs, {their_rate:.0f}/s)",
                    ratio=None if theirs is None else theirs / cpu_us,
                    goal=f"≥ {goal:g} ×" if connections == 16 else "",
                    met=theirs is None or connections != 16 or theirs / cpu_us >= goal,
                )


@contextmanager
def _server(task: dict[str, Any], checkout: Path | None) -> Iterator[tuple[dict[str, Any], Path]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        child = Child("api_child", {"devices": _DEVICES, **task}, checkout)
        stack.callback(child.end)
        yield child.told, folder


def _measured(told: dict[str, Any], request: str, connections: int, seconds: int, folder: Path) -> Figure:
    method, path, body, _ = _REQUESTS[request]
    script = folder / "request.lua"
    script.write_text(
        f"""
local count = 0
request = function()
  count = count + 1
  local path = string.gsub("{path}", "{{}}", tostring(count % {_DEVICES}))
  local body = string.gsub("{body.replace("{{", "{").replace("}}", "}")}", "{{}}", tostring(count))
  local headers = {{["Authorization"] = "Bearer {told["token"]}"}}
  if body ~= "" then headers["Content-Type"] = "application/json"; headers["If-Match"] = "*" end
  return wrk.format("{method}", "/api/v1" .. path, headers, body ~= "" and body or nil)
end
done = function(summary) io.write("requests " .. summary.requests .. " errors " .. summary.errors.status .. "\\n") end
"""
    )
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), told["url"]]
    subprocess.run([*words[:3], "-d1s", *words[4:]], check=True, capture_output=True)  # once to warm it up
    spent, begun = _processor_s(told["process"]), time.perf_counter()
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    took, used = time.perf_counter() - begun, _processor_s(told["process"]) - spent
    match = re.search(r"requests (\d+) errors (\d+)", out)
    assert match is not None, out
    assert match[2] == "0", out
    return Figure(cpu_us=used / int(match[1]) * 1e6, rate=int(match[1]) / took)


def _processor_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
