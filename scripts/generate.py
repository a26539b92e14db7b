"""Generates typed methods and the catalogue from the table of calls and the source text of signatures.

fleetcore/frontends/generated/calls_async.py      typed methods that library and remote client inherit
fleetcore/frontends/generated/calls_blocking.py   the same, blocking
fleetcore/frontends/generated/catalogue.json      the table as plain data

``python scripts/generate.py`` writes them (``make generate``); with ``--check`` it exits with 1 if one is stale.
"""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

from fleetcore.calls.fleet_table import NOUNS
from fleetcore.calls.table import calls_of
from fleetcore.frontends.describe import describe, to_json
from fleetcore.frontends.typed_methods import Method, Words, import_lines, imports, methods_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "fleetcore" / "frontends" / "generated"
#: Why a type checker cannot follow a line of the generated files.
_AT_RUN_TIME = "# type: ignore[valid-type]  # at run time"


def methods() -> dict[ModuleType, list[Method]]:
    """The calls of each noun."""
    words = Words(NOUNS)
    return {noun: methods_of(noun, list(calls_of(noun)), words) for noun in NOUNS}


def calls(*, blocking: bool) -> str:
    """The text of one class of methods."""
    found = methods()
    running, typing = imports(found)
    name, iterator = ("BlockingCalls", "Iterator") if blocking else ("AsyncCalls", "AsyncIterator")
    lines = [
        f'"""Every call as a typed method{", blocking" if blocking else ""}. ``make generate`` writes this file."""',
        "",
        "from __future__ import annotations",
        "",
        "from abc import ABC, abstractmethod",
        "from datetime import datetime",
        "from typing import TYPE_CHECKING, Any, TypeVar",
        "",
        *import_lines(
            {
                **running,
                "UNSET": "fleetcore.calls.types",
                "Page": "fleetcore.calls.types",
                "PAGE": "fleetcore.frontends.catalogue",
            }
        ),
        "",
        "if TYPE_CHECKING:",
        f"    from collections.abc import {iterator}, Mapping",
        *(f"    {line}" for line in import_lines({**typing, "Ms": "fleetcore.calls.types"})),
        "",
        f"    from fleetcore.wire.pieces import {'Source' if blocking else 'AsyncSource as Source'}",
        "    Time = Ms | int | str | datetime",
        'T = TypeVar("T")',
        "",
        "",
        f"class {name}(ABC):",
        '    """The calls; what carries them out is in the classes that inherit this."""',
        "",
    ]
    for methods_of_noun in found.values():
        for method in methods_of_noun:
            lines += method.text(blocking=blocking)
    wait, define = ("", "def") if blocking else ("await ", "async def")
    each = (
        ["            yield from page"] if blocking else ["            for item in page:", "                yield item"]
    )
    lines += [
        "    @abstractmethod",
        f"    def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> {iterator}[T]:",
        '        """The items of a call that streams; raises what the call raises."""',
        "",
        "    @abstractmethod",
        f"    {define} _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:",
        '        """The answer of a call; raises what the call raises."""',
        "",
        f"    {define} _pages(self, name: str, given: Mapping[str, Any], kind: type[T]) -> {iterator}[T]:",
        '        """All items of a list, page by page."""',
        "        cursor: str | None = None",
        "        while True:",
        '            asked = {**given, "limit": PAGE, "cursor": cursor}',
        f"            page: Page[T] = {wait}self._value(name, asked, Page[kind])  {_AT_RUN_TIME}",
        *each,
        "            cursor = page.next",
        "            if cursor is None:",
        "                return",
        "",
    ]
    return _formatted("\n".join(lines))


def _formatted(text: str) -> str:
    for words in (["check", "--select", "I,F401,UP", "--fix", "--quiet"], ["format"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(FOLDER / "calls.py"), "-"],
            input=text, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode and not done.stdout:
            sys.exit(done.stderr)
        text = done.stdout
    return text


def catalogue() -> str:
    """The text of the catalogue."""
    return to_json(describe(call for noun in NOUNS for call in calls_of(noun))).decode()


FILES = {
    "calls_async.py": lambda: calls(blocking=False),
    "calls_blocking.py": lambda: calls(blocking=True),
    "catalogue.json": catalogue,
}


def main() -> None:
    """Writes or compares them."""
    for name, make in FILES.items():
        place, text = FOLDER / name, make()
        if "--check" not in sys.argv:
            place.write_text(text, encoding="utf-8")
        elif not place.is_file() or place.read_text(encoding="utf-8") != text:
            sys.exit(f"{place.relative_to(ROOT)} is stale: run `make generate`")


if __name__ == "__main__":
    main()
