"""Sends a file of rows to a fleet in parts, so that a large one is never completely in memory."""

import contextlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from fleetcore.cli.connect import Caller
from fleetcore.cli.operation import follow
from fleetcore.cli.progress import progress
from fleetcore.cli.rows import count, read

#: Rows sent at once.
_ROWS = 5_000
#: How many lines that are not rows are listed; an operation lists as many failed rows.
_MAX_NAMED = 1000
_UNREADABLE = "payload_unreadable"


@define
class _Lines:
    """The line numbers of the rows sent so far, and the lines that are not rows."""

    rows: "array[int]" = field(factory=lambda: array("L"))
    wrong: list[tuple[int, str]] = field(factory=list)
    unreadable: int = 0

    def parts(self, file: Path) -> Iterator[list[Any]]:
        """The rows of the file, some thousand at a time."""
        part: list[Any] = []
        for line in read(file):
            if line.wrong:
                self.unreadable += 1
                if len(self.wrong) < _MAX_NAMED:
                    self.wrong.append((line.number, line.wrong))
                continue
            self.rows.append(line.number)
            part.append(line.row)
            if len(part) == _ROWS:
                yield part
                part = []
        if part:
            yield part


async def send_rows(caller: Caller, file: Path, *, dry_run: bool, reason: str) -> tuple[dict[str, Any], Sequence[int]]:
    """Imports a file and waits for the end: the operation with the lines that are not rows, and the line of each item.

    Raises Refused, before anything is sent, for a file that is neither CSV nor JSONL.
    """
    total = count(file)
    lines = _Lines()
    with progress("checking" if dry_run else "importing", total) as step:
        ended = await _send(caller, lines.parts(file), step, dry_run=dry_run, reason=reason)
    numbers = lines.rows
    failures = list(ended["failures"])
    for number, why in lines.wrong:
        # Lines that are not rows are failures like others; they are numbered after the rows.
        numbers.append(number)
        failures.append({"item": len(numbers), "about": "", "code": _UNREADABLE, "reason": why})
    reasons = Counter(ended["reasons"])
    reasons[_UNREADABLE] += lines.unreadable
    return {
        "total": total,
        "done": ended["done"] + lines.unreadable,
        "failed": ended["failed"] + lines.unreadable,
        "failures": sorted(failures, key=lambda failure: numbers[failure["item"] - 1]),
        "reasons": dict(+reasons),
        "result": ended["result"],
        "operations": [] if dry_run or not ended["id"] else [ended["id"]],
    }, numbers


async def _send(
    caller: Caller, parts: Iterator[list[Any]], step: Callable[[int], None], *, dry_run: bool, reason: str
) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": None, "done": 0, "failed": 0, "failures": [], "reasons": {}, "result": {}}
    seen, part = 0, next(parts, None)
    try:
        while part is not None:
            following = next(parts, None)
            more: dict[str, Any] = {} if answer["id"] is None else {"operation": answer["id"]}
            if following is not None:
                more["more"] = True
            if dry_run:
                answer = await caller.run("check_import", {"rows": part, **more})
            else:
                answer = await caller.run("import_devices", {"rows": part, "reason": reason, **more})
            done = answer["count"] if dry_run else answer["done"]
            step(done - seen)
            seen, part = done, following
    except BaseException:
        if answer["id"] is not None and not dry_run:
            with contextlib.suppress(Exception):
                given = {"operation": answer["id"], "reason": "its rows did not end"}
                await caller.run("cancel_operation", given)
        raise
    if dry_run or answer["id"] is None:
        return {**answer, "done": seen}
    return await follow(caller, answer, step, seen)
