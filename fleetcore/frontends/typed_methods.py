"""The calls of some modules as the source text of typed methods, from the source text of their signatures."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import ModuleType
from typing import Annotated, get_args, get_origin

from fleetcore.calls.table import Call
from fleetcore.calls.types import Ms
from fleetcore.errors import PluginError


def _enum(value: object) -> type[StrEnum] | None:
    """The enum of text that a type is, with or without a description."""
    kind = get_args(value)[0] if get_origin(value) is Annotated else value
    return kind if isinstance(kind, type) and issubclass(kind, StrEnum) else None


class Words:
    """The wider types that a caller may give: times as text, enums as text, bytes."""

    def __init__(self, modules: Sequence[ModuleType]) -> None:
        values = [(name, value) for module in modules for name, value in vars(module).items()]
        self._enums = {name: kind for name, value in values if (kind := _enum(value)) is not None}
        times = [name for name, value in values if get_origin(value) is Annotated and get_args(value)[0] is Ms]
        self._given = {"Ms": "Time", "Content": "Source"} | dict.fromkeys(times, "Time")

    def parameter(self, arg: ast.arg, default: ast.expr | None) -> str:
        """A parameter as the text of a method's parameter."""
        hint = ast.unparse(arg.annotation) if arg.annotation else "object"
        words = hint.split(" ")
        hint = " ".join(self._given.get(word, f"{word} | str" if word in self._enums else word) for word in words)
        return f"{arg.arg}: {hint}" + ("" if default is None else f" = {self._default(default)}")

    def _default(self, default: ast.expr) -> str:
        """The text of a default; a member of an enum becomes its value, so that the enum is not needed at run time."""
        match default:
            case ast.Attribute(ast.Name(enum), member) if enum in self._enums:
                return repr(self._enums[enum][member].value)
            case _:
                return ast.unparse(default)


class Method:
    """One call as the text of a method.

    ``fleet`` is the method's expression for the object that makes the call; ``prefix`` is left out of the method's
    name.
    """

    def __init__(
        self, call: Call, node: ast.AsyncFunctionDef, words: "Words", *, fleet: str = "self", prefix: str = ""
    ) -> None:
        self.call, self.node = call, node
        self._words, self._fleet, self._prefix = words, fleet, prefix

    @property
    def name(self) -> str:
        """The method's name."""
        return self.call.name.removeprefix(self._prefix)

    def names(self) -> set[str]:
        """The names in its signature."""
        arguments = self.node.args
        hints = [arg.annotation for arg in (*arguments.args[1:], *arguments.kwonlyargs)]
        parts = [part for hint in (*hints, self.node.returns) if hint for part in ast.walk(hint)]
        return {part.id for part in parts if isinstance(part, ast.Name)}

    def answered(self) -> set[str]:
        """The names in its answer, which are needed at run time."""
        answer = self.node.returns
        return {part.id for part in ast.walk(answer) if isinstance(part, ast.Name)} if answer else set()

    def parameters(self, *, without: frozenset[str] = frozenset()) -> str:
        """The parameters after ``self``, as in the source."""
        arguments = self.node.args
        first = len(arguments.args) - len(arguments.defaults)
        taken = []
        for number, item in enumerate(arguments.args[1:], 1):
            taken.append(self._words.parameter(item, arguments.defaults[number - first] if number >= first else None))
        keyword = [
            self._words.parameter(item, default)
            for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if item.arg not in without
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
        """The method, and for a list also the one that iterates over its pages."""
        answer = ast.unparse(self.node.returns) if self.node.returns else "None"
        if self.call.is_stream:
            yield from self._stream(answer.removeprefix("AsyncIterator[").removesuffix("]"), blocking=blocking)
            return
        wait, define = ("", "def") if blocking else ("await ", "async def")
        yield f"    {define} {self.name}({self.parameters()}) -> {answer}:"
        yield f"        {self.doc()}"
        kind = "type(None)" if answer == "None" else answer
        back = "" if answer == "None" else "return "
        yield f'        {back}{wait}{self._fleet}._value("{self.call.name}", {self.given()}, {kind})'
        yield ""
        if self.call.is_page and "cursor" in self.call.parameters:
            yield from self._pages(answer.removeprefix("Page[").removesuffix("]"), blocking=blocking)

    def _stream(self, item: str, *, blocking: bool) -> Iterator[str]:
        yield f"    def {self.name}({self.parameters()}) -> {'Iterator' if blocking else 'AsyncIterator'}[{item}]:"
        yield f"        {self.doc()}"
        yield f'        return {self._fleet}._stream("{self.call.name}", {self.given()}, {item})'
        yield ""

    def _pages(self, item: str, *, blocking: bool) -> Iterator[str]:
        paged = frozenset({"limit", "cursor"})
        plural = self.name.removeprefix("list_")
        kind = "Iterator" if blocking else "AsyncIterator"
        yield f"    def iter_{plural}({self.parameters(without=paged)}) -> {kind}[{item}]:"
        yield f"        {self.doc(first=f'Goes through all that ``{self.name}`` lists, page by page.')}"
        yield f'        return {self._fleet}._pages("{self.call.name}", {self.given(without=paged)}, {item})'
        yield ""


def methods_of(
    module: ModuleType, calls: Sequence[Call], words: Words, *, fleet: str = "self", prefix: str = ""
) -> list[Method]:
    """The calls of a module as methods."""
    tree = ast.parse(inspect.getsource(module))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    return [Method(call, nodes[call.function.__name__], words, fleet=fleet, prefix=prefix) for call in calls]


def imports(found: Mapping[ModuleType, Sequence[Method]]) -> tuple[dict[str, str], dict[str, str]]:
    """Name → module: the names that the methods need at run time, and those for annotations only.

    Raises PluginError where two modules give one name to different things.
    """
    running: dict[str, str] = {}
    typing: dict[str, str] = {}
    at_run_time = {"UNSET"}.union(*(method.answered() for methods in found.values() for method in methods))
    for module, methods in found.items():
        origins = _origins(module)
        for method in methods:
            for name in method.names():
                origin = origins.get(name)
                if origin is None:
                    continue
                place = running if name in at_run_time else typing
                if place.setdefault(name, origin) != origin:
                    raise PluginError(f"{module.__name__}: {name} differs from that in {place[name]}; rename it")
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


def import_lines(names: dict[str, str]) -> list[str]:
    """The statements that import some names, by their modules."""
    modules: dict[str, list[str]] = {}
    for name, module in names.items():
        modules.setdefault(module, []).append(name)
    return [f"from {module} import {', '.join(sorted(found))}" for module, found in sorted(modules.items())]
