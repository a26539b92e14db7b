"""Writes what follows from the table of calls, of the source text of their signatures.

fleetcore/frontends/generated/calls_async.py      typed methods that library and remote client inherit
fleetcore/frontends/generated/calls_blocking.py   the same, blocking
fleetcore/frontends/generated/catalogue.json      the table as plain data

``python scripts/generate.py`` writes them (``make generate``); with ``--check`` it exits 1 where one is stale.
"""

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args, get_origin

from fleetcore.calls import nouns
from fleetcore.calls.table import Call, calls_of
from fleetcore.calls.types import Ms
from fleetcore.frontends.describe import describe, to_json

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "fleetcore" / "frontends" / "generated"
#: Why a checker of types does not follow a line of the generated files.
_AT_RUN_TIME = "# type: ignore[valid-type]  # at run time"


def _enum(value: object) -> type[StrEnum] | None:
    """The enum of text that a type is, with or without a description."""
    kind = get_args(value)[0] if get_origin(value) is Annotated else value
    return kind if isinstance(kind, type) and issubclass(kind, StrEnum) else None


#: Names of enums of text: their values may be given as text.
_ENUMS = {name: kind for noun in nouns() for name, value in vars(noun).items() if (kind := _enum(value)) is not None}


#: Names of times and of bytes: what a caller may give for them.
_GIVEN = {"Ms": "Time", "Content": "Source"} | {
    name: "Time"
    for noun in nouns()
    for name, value in vars(noun).items()
    if get_origin(value) is Annotated and get_args(value)[0] is Ms
}


class Method:
    """One call as the text of a method."""

    def __init__(self, call: Call, node: ast.AsyncFunctionDef) -> None:
        self.call, self.node = call, node

    def names(self) -> set[str]:
        """The names that its signature uses."""
        arguments = self.node.args
        hints = [one.annotation for one in (*arguments.args[1:], *arguments.kwonlyargs)]
        parts = [part for hint in (*hints, self.node.returns) if hint for part in ast.walk(hint)]
        return {part.id for part in parts if isinstance(part, ast.Name)}

    def answered(self) -> set[str]:
        """The names that its answer uses, which are needed when it runs."""
        answer = self.node.returns
        return {part.id for part in ast.walk(answer) if isinstance(part, ast.Name)} if answer else set()

    def parameters(self, *, without: frozenset[str] = frozenset()) -> str:
        """Those after ``self``, as they stand in the source."""
        arguments = self.node.args
        first = len(arguments.args) - len(arguments.defaults)
        taken = []
        for number, one in enumerate(arguments.args[1:], 1):
            taken.append(_parameter(one, arguments.defaults[number - first] if number >= first else None))
        keyword = [
            _parameter(one, default)
            for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if one.arg not in without
        ]
        return ", ".join(["self", *taken, *(["*", *keyword] if keyword else [])])

    def given(self, *, without: frozenset[str] = frozenset()) -> str:
        """The parameters as a dictionary of the call."""
        names = [name for name in self.call.parameters if name not in without]
        return "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"

    def doc(self, *, first: str = "") -> str:
        """The docstring, with another first line."""
        text = inspect.cleandoc(self.call.function.__doc__ or "")
        if first:
            text = first + text[text.find("\n") if "\n" in text else len(text) :]
        return textwrap.indent(f'"""{text}{chr(10) if chr(10) in text else ""}"""', " " * 8).strip()

    def text(self, *, blocking: bool) -> Iterator[str]:
        """The method, and for a list the one that goes on through its pages."""
        answer = ast.unparse(self.node.returns) if self.node.returns else "None"
        if self.call.is_stream:
            yield from self._stream(answer.removeprefix("AsyncIterator[").removesuffix("]"), blocking=blocking)
            return
        wait, define = ("", "def") if blocking else ("await ", "async def")
        yield f"    {define} {self.call.name}({self.parameters()}) -> {answer}:"
        yield f"        {self.doc()}"
        kind = "type(None)" if answer == "None" else answer
        back = "" if answer == "None" else "return "
        yield f'        {back}{wait}self._value("{self.call.name}", {self.given()}, {kind})'
        yield ""
        if self.call.is_page and "cursor" in self.call.parameters:
            yield from self._pages(answer.removeprefix("Page[").removesuffix("]"), blocking=blocking)

    def _stream(self, item: str, *, blocking: bool) -> Iterator[str]:
        yield f"    def {self.call.name}({self.parameters()}) -> {'Iterator' if blocking else 'AsyncIterator'}[{item}]:"
        yield f"        {self.doc()}"
        yield f'        return self._stream("{self.call.name}", {self.given()}, {item})'
        yield ""

    def _pages(self, item: str, *, blocking: bool) -> Iterator[str]:
        paged = frozenset({"limit", "cursor"})
        plural = self.call.name.removeprefix("list_")
        kind = "Iterator" if blocking else "AsyncIterator"
        yield f"    def iter_{plural}({self.parameters(without=paged)}) -> {kind}[{item}]:"
        yield f"        {self.doc(first=f'Goes through all that ``{self.call.name}`` lists, page by page.')}"
        yield f'        return self._pages("{self.call.name}", {self.given(without=paged)}, {item})'
        yield ""


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    hint = ast.unparse(one.annotation) if one.annotation else "object"
    words = hint.split(" ")
    hint = " ".join(_GIVEN.get(word, f"{word} | str" if word in _ENUMS else word) for word in words)
    return f"{one.arg}: {hint}" + ("" if default is None else f" = {_default(default)}")


def _default(default: ast.expr) -> str:
    """The text of a default; a member of an enum is its value, so that the enum is not needed at run time."""
    match default:
        case ast.Attribute(ast.Name(enum), member) if enum in _ENUMS:
            return repr(_ENUMS[enum][member].value)
        case _:
            return ast.unparse(default)


def methods() -> Iterator[tuple[ModuleType, list[Method]]]:
    """The calls of each noun."""
    for noun in nouns():
        tree = ast.parse(inspect.getsource(noun))
        nodes = {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
        yield noun, [Method(call, nodes[call.name]) for call in calls_of(noun)]


def imports() -> tuple[dict[str, str], dict[str, str]]:
    """Name → module: what the file needs when it runs, and for its annotations alone.

    Raises SystemExit where two nouns give one name to different things.
    """
    running: dict[str, str] = {}
    typing: dict[str, str] = {}
    at_run_time = {"UNSET"}.union(*(method.answered() for _, found in methods() for method in found))
    for noun, found in methods():
        origins = _origins(noun)
        for method in found:
            for name in method.names():
                origin = origins.get(name)
                if origin is None:
                    continue
                place = running if name in at_run_time else typing
                if place.setdefault(name, origin) != origin:
                    sys.exit(f"{noun.__name__}: {name} is another one than in {place[name]}; rename it")
    return running, typing


def _origins(noun: ModuleType) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(noun)).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id: noun.__name__ for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef):
            found[node.name] = noun.__name__
    return found


def calls(*, blocking: bool) -> str:
    """The text of one class of methods."""
    running, typing = imports()
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
        *_import_lines(
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
        *(f"    {line}" for line in _import_lines({**typing, "Ms": "fleetcore.calls.types"})),
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
    for _, found in methods():
        for method in found:
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


def _import_lines(names: dict[str, str]) -> list[str]:
    modules: dict[str, list[str]] = {}
    for name, module in names.items():
        modules.setdefault(module, []).append(name)
    return [f"from {module} import {', '.join(sorted(found))}" for module, found in sorted(modules.items())]


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
    return to_json(describe(call for noun in nouns() for call in calls_of(noun))).decode()


FILES = {
    "calls_async.py": lambda: calls(blocking=False),
    "calls_blocking.py": lambda: calls(blocking=True),
    "catalogue.json": catalogue,
}


def main() -> None:
    """Writes or compares."""
    for name, make in FILES.items():
        place, text = FOLDER / name, make()
        if "--check" not in sys.argv:
            place.write_text(text, encoding="utf-8")
        elif not place.is_file() or place.read_text(encoding="utf-8") != text:
            sys.exit(f"{place.relative_to(ROOT)} is stale: run `make generate`")


if __name__ == "__main__":
    main()
