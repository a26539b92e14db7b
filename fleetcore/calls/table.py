"""The table of calls: what ``@call`` declares of a function, and the single entry, which checks the rights.

The route decides where a parameter is sent: in the path if the path names it; else in the query for GET and DELETE, and
in the body for other methods. If one parameter is the whole body (:class:`~.types.In`), the rest is in the query too.
"""

import contextlib
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from attrs import define, field, frozen

from fleetcore.calls import decode
from fleetcore.calls.caller import Caller
from fleetcore.calls.types import OPTIONS, In, Ms, Names, Page, Word
from fleetcore.errors import FleetError, PluginError, Refused
from fleetcore.interfaces.boundary import contained
from fleetcore.model.operator import Permission

F = TypeVar("F", bound=Callable[..., Awaitable[Any] | AsyncIterator[Any]])

_DECLARED = "__fleetcore_call__"
#: The places that are headers of a request.
HEADERS = ("if-match", "last-event-id", "idempotency-key")
#: Commands without a call: plugins may not use these nouns.
VERBS = frozenset({"adopt", "demo", "doctor", "init", "restore", "serve", "simulate", "top"})
_ROUTE = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE) (?:/(?:[A-Za-z0-9._~-]+|\{\w+\}))+", re.ASCII)
_NO_BODY = frozenset({"GET", "DELETE"})
_NAMED = re.compile(r"\{(\w+)\}")
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n      .*)*)", re.MULTILINE)


@frozen
class Scope:
    """The object on which a call needs its permission.

    ``kind`` is ``everywhere`` (the whole fleet), ``anywhere`` (anything at all), ``device`` or ``group`` (the one that
    the parameter names), or ``by-call``: the function checks through its caller, and is refused where it does not.
    """

    kind: str
    parameter: str = ""


EVERYWHERE = Scope("everywhere")
#: For reads of data that belongs to no device and is equal for all callers, such as releases.
ANYWHERE = Scope("anywhere")
#: For reads, which select by the rights; a write that checks late has already happened.
BY_CALL = Scope("by-call")


def on(parameter: str) -> Scope:
    """On the device, or the group, that a parameter names: ``device_id`` or ``group``."""
    return Scope("group" if parameter == "group" else "device", parameter)


@frozen
class Rows:
    """Turns an answer, or each item of a page, into a table: the names of its columns, and the rows."""

    header: Sequence[str]
    of: Callable[[Any], Iterable[Sequence[object]]]


@frozen(kw_only=True)
class Declared:
    """The declaration of a function by ``@call``; see :func:`call`."""

    route: str | None
    permission: Permission
    scope: Scope
    cli: str | None
    no_cli: str
    status: int
    location: str
    columns: Sequence[str]
    secret_fields: Sequence[str]
    match_required: bool
    selected_by: str
    also: Mapping[str, Mapping[str, object]]
    rows: Rows | None
    needs_too: Sequence[Permission]
    confirm: str
    confirm_when: Mapping[str, object]
    deprecated: str


def call(
    route: str | None,
    permission: Permission,
    *,
    scope: Scope = EVERYWHERE,
    cli: str | None = None,
    no_cli: str = "",
    status: int = 200,
    location: str = "",
    columns: Sequence[str] = (),
    secret_fields: Sequence[str] = (),
    match_required: bool = False,
    selected_by: str = "",
    also: Mapping[str, Mapping[str, object]] = {},
    rows: Rows | None = None,
    needs_too: Sequence[Permission] = (),
    confirm: str = "",
    confirm_when: Mapping[str, object] = {},
    deprecated: str = "",
) -> Callable[[F], F]:
    """Declares a call.

    Args:
        route: method and path below ``/api/v1``; None for calls that only the owner may make.
        permission: what the caller needs.
        scope: on what.
        cli: the command, as in ``group show GROUP``; upper case names parameters.
        no_cli: why there is no command.
        status: of the HTTP answer; 201 adds the header ``Location`` where the new object can be read below the route.
        location: the path where it is read otherwise: ``/devices/{device}``, with members of the answer.
        columns: of the table on the command line.
        secret_fields: members of the answer that are returned once: never cached, never stored.
        match_required: whether HTTP requires ``If-Match``.
        selected_by: a query parameter that distinguishes it from another call at its route: ``purge`` is
            ``?purge=true``.
        also: more commands, each with the parameters that it sets: ``device retire DEVICE_ID`` sets a state.
        rows: the answer as a table; HTTP writes it as CSV and Arrow too, where ``format`` asks for it.
        needs_too: more permissions that the caller needs on the same object.
        confirm: the effect of a call that cannot be undone: ``Erases {device_id}.``, with its parameters. On a terminal
            the command line asks before it makes the call.
        confirm_when: asks only where these parameters have these values.
        deprecated: what to use instead.
    """

    def declare(function: F) -> F:
        declared = Declared(
            route=route, permission=permission, scope=scope, cli=cli, no_cli=no_cli, status=status, location=location,
            columns=columns,
            secret_fields=secret_fields, match_required=match_required, selected_by=selected_by, also=also,
            rows=rows, needs_too=needs_too, confirm=confirm, confirm_when=confirm_when, deprecated=deprecated,
        )  # fmt: skip
        setattr(function, _DECLARED, declared)
        return function

    return declare


@frozen(kw_only=True)
class Parameter:
    """One parameter of a call."""

    name: str
    reader: decode.Reader
    #: ``path``, ``query``, ``body``, ``whole`` (the body), ``stream`` (the body in pieces), ``if-match`` or
    #: ``last-event-id`` or ``idempotency-key``.
    place: str
    #: The letter before the version that counts, in an ``If-Match`` with several versions.
    section: str
    #: The command line's name for one item of it.
    word: str
    #: The list whose items it names, if any.
    names: Names | None
    required: bool
    default: Any
    help: str


@define(eq=False)
class Call:
    """A declared function; its parameters are analysed on first use."""

    name: str
    function: Callable[..., Any]
    declared: Declared = field(repr=False)
    #: The plugin whose call it is; empty for the core's.
    plugin: str = ""

    @property
    def method(self) -> str:
        """The HTTP method; empty without a route."""
        return (self.declared.route or "").partition(" ")[0]

    @property
    def path(self) -> str:
        """The path below ``/api/v1``."""
        return (self.declared.route or "").partition(" ")[2]

    @cached_property
    def help(self) -> str:
        """The docstring up to its sections."""
        text = inspect.cleandoc(self.function.__doc__ or "")
        return re.split(r"\n(?:Args|Raises|Returns):\n", text)[0].strip()

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """By name, in order."""
        hints = get_type_hints(self.function, include_extras=True)
        named = frozenset(_NAMED.findall(self.path))
        taken = [
            parameter
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.name != "caller"
        ]
        places = {item.name: _place(hints[item.name]) for item in taken}
        rest = "query" if self.method in _NO_BODY or {"whole", "stream"} & set(places.values()) else "body"
        described = self._described
        return {
            item.name: Parameter(
                name=item.name,
                reader=decode.Reader(item.name, bytes if places[item.name] == "stream" else hints[item.name]),
                place="path" if item.name in named else places[item.name] or rest,
                section=next((mark.section for mark in _metadata(hints[item.name]) if isinstance(mark, In)), ""),
                word=next((mark.word for mark in _metadata(hints[item.name]) if isinstance(mark, Word)), ""),
                names=next((mark for mark in _metadata(hints[item.name]) if isinstance(mark, Names)), None),
                required=item.default is inspect.Parameter.empty,
                default=None if item.default is inspect.Parameter.empty else item.default,
                help=described.get(item.name, "") or _description(hints[item.name]),
            )
            for item in taken
        }

    @cached_property
    def readers(self) -> Mapping[str, decode.Reader]:
        """The types of the parameters, except a stream."""
        return {name: item.reader for name, item in self.parameters.items() if item.place != "stream"}

    def values(
        self, given: Mapping[str, Any], *, texts: Iterable[str] = (), content: AsyncIterator[bytes] | None = None
    ) -> dict[str, Any]:
        """The given values, validated; ``texts`` are those given as lists of text, ``content`` is the stream.

        Raises Refused.
        """
        values = decode.convert(self.readers, given, required=self.required, texts=texts)
        if self.stream:
            if content is None:
                raise decode.refusal([decode.missing(self.stream)])
            values[self.stream] = content
        elif content is not None:
            raise Refused(f"{self.name} takes no stream of bytes")
        return values

    @property
    def stream(self) -> str:
        """The parameter that is the streamed body; empty where there is none."""
        return next(iter(self.placed["stream"]), "")

    @cached_property
    def required(self) -> Sequence[str]:
        """The names of the required parameters, except a stream."""
        return [name for name in self.readers if self.parameters[name].required]

    @cached_property
    def placed(self) -> Mapping[str, frozenset[str]]:
        """The names of the parameters by where they are sent."""
        return {
            place: frozenset(name for name, parameter in self.parameters.items() if parameter.place == place)
            for place in ("path", "query", "body", "whole", "stream", *HEADERS)
        }

    @cached_property
    def answer(self) -> Any:
        """The type of the answer."""
        return get_type_hints(self.function)["return"]

    @property
    def is_stream(self) -> bool:
        """Whether it returns items without end, while it is read."""
        return get_origin(self.answer) is AsyncIterator

    @property
    def is_page(self) -> bool:
        """Whether it returns a page of a list."""
        return get_origin(self.answer) is Page

    @cached_property
    def _described(self) -> Mapping[str, str]:
        text = inspect.cleandoc(self.function.__doc__ or "")
        _, _, arguments = text.partition("\nArgs:\n")
        found = _ARGUMENT.findall(arguments.partition("\nRaises:")[0])
        sentences = {name: " ".join(words.split()) for name, words in found}
        return {name: f"{text[:1].upper()}{text[1:]}" for name, text in sentences.items()}


def admit(call: Call, caller: Caller) -> None:
    """Checks whether the caller may make a call on anything at all; raises NotAuthorised."""
    caller.permission, caller.asked = call.declared.permission, False
    if call.declared.scope is EVERYWHERE:
        caller.everywhere(call.name)
    elif not caller.rights.holds(caller.permission):
        raise caller.denied(call.name)


async def invoke(call: Call, caller: Caller, values: Mapping[str, Any]) -> Any:
    """Checks the rights, then calls: the only entry. A streaming call returns its iterator.

    Raises NotAuthorised, NotFound, and the errors of the call.
    """
    admit(call, caller)
    await _ask(call, caller, values)
    if call.is_stream:  # which checks for each item
        items = call.function(caller, **values)
        return _of_plugin(call, caller, values, items) if call.plugin else items
    try:
        answer = await call.function(caller, **values)
    except Exception:
        raise
    except BaseException as error:  # an exit() would end the server's process
        raise RuntimeError(str(contained(error, call.name))) from error
    if not caller.asked:
        raise _unasked(call)
    return answer


async def _ask(call: Call, caller: Caller, values: Mapping[str, Any]) -> None:
    scope = call.declared.scope
    needed = (call.declared.permission, *call.declared.needs_too)
    match scope.kind:
        case "device":
            for permission in needed:
                caller.subject = await caller.record(values[scope.parameter], permission)
        case "group":
            for permission in needed:
                caller.group(values[scope.parameter], permission)
        case "everywhere":
            for permission in call.declared.needs_too:
                caller.everywhere(call.name, permission)
        case "anywhere":
            caller.asked = True


async def _of_plugin(
    call: Call, caller: Caller, values: Mapping[str, Any], items: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """The items of a plugin's call, each by the current rights; a call that does not check rights returns none."""
    async with contextlib.aclosing(items):
        try:
            async for item in items:
                rights, asked = caller.rights, caller.asked
                if await caller.renewed() is not rights:
                    admit(call, caller)
                    await _ask(call, caller, values)
                if not (asked or caller.asked):
                    raise _unasked(call)
                caller.asked = True
                yield item
        except (SystemExit, KeyboardInterrupt) as error:  # GeneratorExit is how an abandoned stream ends
            raise RuntimeError(str(contained(error, call.name))) from error


def _unasked(call: Call) -> FleetError:
    return FleetError(f"{call.name} answered without a check of rights")


async def run(
    call: Call,
    caller: Caller,
    given: Mapping[str, Any],
    *,
    texts: Iterable[str] = (),
    content: AsyncIterator[bytes] | None = None,
) -> Any:
    """Checks the rights, validates the given values, then calls; ``texts`` and ``content`` as for :meth:`Call.values`.

    Raises Refused for missing, unknown or invalid values, and as :func:`invoke`.
    """
    admit(call, caller)
    return await invoke(call, caller, call.values(given, texts=texts, content=content))


class Table:
    """All calls of a fleet: the core's and those of its plugins."""

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self._calls: dict[str, Call] = {}
        self._routes: dict[tuple[str, str, str], str] = {}
        self._commands: dict[str, str] = {}
        for item in calls:
            self.add(item)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def __getitem__(self, name: str) -> Call:
        return self._calls[name]

    def get(self, name: str) -> Call | None:
        """A call by its name, or None."""
        return self._calls.get(name)

    def copy(self) -> "Table":
        """A table of the same calls, to be extended."""
        table = Table()
        table._calls, table._routes, table._commands = dict(self._calls), dict(self._routes), dict(self._commands)
        return table

    def extend(self, calls: Iterable[Call]) -> None:
        """Adds all of some calls, or none of them; raises as :meth:`add`."""
        tried = self.copy()
        for call in calls:
            tried.add(call)
            if problem := _unfit(call):  # reports unreadable types now too
                raise PluginError(f"The call {call.name!r} cannot be added: {problem}", plugin=call.plugin)
        self._calls, self._routes, self._commands = tried._calls, tried._routes, tried._commands

    def add(self, call: Call) -> None:
        """Adds a call; raises PluginError where it is incomplete or clashes with another."""
        declared = call.declared
        problem = ""
        route = (call.method, _NAMED.sub("{}", call.path), declared.selected_by)
        commands = [_verbs(command) for command in (declared.cli, *declared.also) if command]
        clash = next((command for command in commands if command in self._commands), "")
        named = set(_NAMED.findall(call.path))
        taken = set(inspect.signature(call.function).parameters)
        if call.plugin and (foreign := self._foreign(call)):
            problem = foreign
        elif not call.help:
            problem = "it has no docstring"
        elif (declared.cli is None) == (not declared.no_cli):
            problem = "it needs a command, or a reason for not having one"
        elif call.name in self._calls:
            problem = "a call of that name exists"
        elif declared.route is not None and route in self._routes:
            problem = f"{declared.route} is that of {self._routes[route]}"
        elif clash:
            problem = f"the command `{clash}` is that of {self._commands[clash]}"
        elif named - taken:
            problem = f"the path names {', '.join(sorted(named - taken))}, which it does not take"
        elif declared.scope.parameter and declared.scope.parameter not in taken:
            problem = f"its scope names {declared.scope.parameter!r}, which it does not take"
        elif unknown := {*_NAMED.findall(declared.confirm), *declared.confirm_when} - taken:
            problem = f"it confirms {', '.join(sorted(unknown))}, which it does not take"
        elif inspect.isasyncgenfunction(call.function) and declared.route is not None and call.method != "GET":
            problem = "it streams, and is not a GET"
        elif declared.match_required and "if_version" not in taken:
            problem = "it requires If-Match and does not take if_version"
        if problem:
            raise PluginError(f"The call {call.name!r} cannot be added: {problem}", plugin=call.plugin)
        self._calls[call.name] = call
        if declared.route is not None:
            self._routes[route] = call.name
        self._commands |= dict.fromkeys(commands, call.name)

    def _foreign(self, call: Call) -> str:
        """Which part of a plugin's call is outside the plugin's names."""
        name = call.plugin.replace("-", "_")
        nouns = {words.split()[0] for words, owner in self._commands.items() if not self._calls[owner].plugin}
        if not call.name.startswith(f"{name}_"):
            return f"its name does not begin with {name}_"
        if call.declared.route is not None and not call.path.startswith(f"/x/{call.plugin}/"):
            return f"its path does not begin with /x/{call.plugin}/"
        for command in (call.declared.cli, *call.declared.also):
            if command and (command.split()[0] != call.plugin or len(_verbs(command).split()) < 2):
                return f"its command is not `{call.plugin} VERB`"
        if call.plugin in nouns | VERBS:
            return f"the noun {call.plugin!r} is the core's"
        return ""


def _unfit(call: Call) -> str:
    """Why a plugin's call cannot be served on every front end; empty where it can."""
    taken = inspect.signature(call.function).parameters
    answered = get_type_hints(call.function, include_extras=True)
    if not (inspect.iscoroutinefunction(call.function) or inspect.isasyncgenfunction(call.function)):
        return "it is not async"
    if next(iter(taken), "") != "caller":
        return "its first parameter is not `caller`"
    if any(item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY) for item in taken.values()):
        return "it takes parameters without names"
    if unspoken := sorted({*taken, "return"} - answered.keys() - {"caller"}):
        return f"{', '.join(unspoken)} has no type"
    if inspect.isasyncgenfunction(call.function) != call.is_stream:
        return "it must yield items and return AsyncIterator[…], or neither"
    if call.declared.route is not None and _ROUTE.fullmatch(call.declared.route) is None:
        return f"{call.declared.route!r} is not a method and path"
    answer = get_args(call.answer)[0] if call.is_stream else call.answer
    kinds = {f"the parameter {name!r}": item.reader.kind for name, item in call.parameters.items()}
    for what, kind in {**kinds, "its answer": answer}.items():
        try:
            msgspec.json.schema_components([kind], schema_hook=_as_text)
        except TypeError as error:
            # The last line is the reason; the lines before it are advice for callers of msgspec.
            return f"{what} is not plain data: {str(error).splitlines()[-1]}"
    if call.declared.scope is BY_CALL and call.method != "GET":
        return "it is not a GET, so it must declare the object of its permission: a late check comes after the change"
    return _clash(call)


def _as_text(kind: type) -> dict[str, str]:
    if kind is Ms:
        return {"type": "string"}
    raise NotImplementedError(f"{kind} cannot be sent")


def _clash(call: Call) -> str:
    """Why one of its commands is not possible."""
    for command in filter(None, (call.declared.cli, *call.declared.also)):
        arguments = {word.lower() for word in command.split() if word.isupper()}
        if unknown := sorted(arguments - {*call.parameters}):
            return f"its command names {', '.join(unknown)}, which it does not take"
        options = [item.word or item.name for name, item in call.parameters.items() if name not in arguments]
        taken = OPTIONS | {"limit"} if call.is_stream else OPTIONS
        if clash := next((word for word in options if word in taken), ""):
            return f"--{clash} is the command line's own: give the parameter a Word"
    return ""


def _verbs(command: str) -> str:
    """A command without its arguments."""
    return " ".join(word for word in command.split() if not word.isupper())


def calls_of(module: ModuleType) -> Iterator[Call]:
    """The calls that a module declares, in its order."""
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and hasattr(function, _DECLARED):
            yield call_of(function)


def call_of(function: Any, plugin: str = "") -> Call:
    """The call that a function is declared as; raises PluginError for a function without :func:`call`."""
    declared = getattr(function, _DECLARED, None)
    if declared is None:
        raise PluginError(f"{function!r} is not declared by fleetcore.calls.table.call", plugin=plugin)
    return Call(name=function.__name__, function=function, declared=declared, plugin=plugin)


def _place(hint: Any) -> str:
    for item in _metadata(hint):
        if isinstance(item, In):
            return "whole" if item.place == "body" else item.place
    return ""


def _description(hint: Any) -> str:
    return next((item.description for item in _metadata(hint) if getattr(item, "description", None)), "")


def _metadata(hint: Any) -> Iterator[Any]:
    """What a type is annotated with, the outermost first."""
    yield from reversed(getattr(hint, "__metadata__", ()))
    for item in get_args(hint):
        if get_origin(hint) is not dict and get_origin(hint) is not list:
            yield from _metadata(item)
