"""Commands made from the catalogue of calls: parameters become arguments and options, and the answer is printed."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from fleetcore.cli.confirm import asks, confirm, yes_parameter
from fleetcore.cli.connect import Target, connect, fleet_option
from fleetcore.cli.ids import Named, whole_ids, with_whole_ids
from fleetcore.cli.items import items_of
from fleetcore.cli.output import output_option, show, show_line
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import CallInfo, ParameterInfo

#: In a command's text: the place of the remaining parameters.
_PAIRS = "NAME=VALUE"
#: In the text of a confirmation: a parameter.
_NAMED = re.compile(r"\{(\w+)\}")
#: Option names of every command: a parameter with such a name is renamed internally.
_TAKEN = frozenset({"at", "ca", "data", "help", "output", "pairs", "plain_http", "server", "token", "yes"})


def add_commands(group: click.Group, noun: str, calls: Sequence[CallInfo]) -> None:
    """Adds the commands of some calls to their noun; an existing command stays."""
    for call, text, fixed in _commands(noun, calls):
        words = [word for word in text.split()[1:] if not word.isupper()]
        place = group
        for word in words[:-1]:
            inner = place.commands.get(word)
            if not isinstance(inner, click.Group):
                inner = click.Group(word)
                place.add_command(inner)
            place = inner
        if words[-1] not in place.commands:
            place.add_command(command(call, text, fixed))


def _commands(noun: str, calls: Sequence[CallInfo]) -> Iterator[tuple[CallInfo, str, Mapping[str, Any]]]:
    """Each command of some calls, with the parameters that it fixes."""
    for call in calls:
        for text, fixed in {call.command: {}, **call.also}.items():
            if text.split()[:1] == [noun]:
                yield call, text, fixed


def command(
    call: CallInfo,
    text: str,
    fixed: Mapping[str, Any],
    *,
    options: Sequence[click.Parameter] = (),
    ask: Callable[..., Any] | None = None,
    finish: Callable[..., Any] | None = None,
    members: Mapping[str, str] | None = None,
) -> click.Command:
    """The command ``text`` of a call, with the parameters ``fixed`` and options for the rest.

    ``options`` are additional. One with the name of a parameter of the call replaces it; its value is text.
    ``finish(at, given, answer, output, NAME=…)`` gets the parameters, the answer and the values of the other options,
    and returns what to print; None if it has printed it. ``ask(at, given, output, NAME=…)`` replaces the call and
    ``finish``, and returns the same. ``members`` gives the kinds of the result's members, if they are not those of the
    call's answer.
    """
    name = [word for word in text.split() if not word.isupper()][-1]
    arguments = [word.lower() for word in text.split() if word.isupper() and word != _PAIRS]
    taken = {parameter.name: parameter for parameter in call.parameters}
    paged = {"limit", "cursor"} if call.answer == "page" else set()
    instead = {str(option.name): option for option in options if option.name in taken}
    added = [option for option in options if option.name not in taken]
    parameters: list[click.Parameter] = [instead.get(argument) or _argument(taken[argument]) for argument in arguments]
    if _PAIRS in text.split():
        said = "The members to change; VALUE may be JSON."
        parameters.append(click.Argument(["pairs"], nargs=-1, metavar="[NAME=VALUE…]", help=said))
    for parameter in call.parameters:
        if parameter.name not in arguments and parameter.name not in paged and parameter.name not in fixed:
            parameters += [instead[parameter.name]] if parameter.name in instead else _options(parameter)
    most_help = {"page": "The maximum number; all by default.", "stream": "The maximum number; unlimited by default."}
    if ("limit" in taken and paged) or call.answer == "stream":
        parameters.append(click.Option(["--limit"], type=click.IntRange(1), help=most_help[call.answer]))

    confirms = bool(call.confirm) and all(
        name not in fixed or fixed[name] == wanted for name, wanted in call.confirm_when.items()
    )
    if confirms:
        parameters.append(yes_parameter())

    @fleet_option
    @output_option
    def run(at: Target, output: str, **words: Any) -> None:
        yes = words.pop("yes", False) if confirms else True
        most = words.pop("limit", None) if call.answer in most_help else None
        named = dict(map(pair, words.pop("pairs", ())))
        own = {option.name: words.pop(str(option.name)) for option in added}
        given: Mapping[str, Any] = {**named, **_given(call, words), **fixed}
        if not yes:
            given = confirmed(at, call, given)
        if call.answer == "stream":
            follow(at, call, given, output, most)
            return
        if ask is not None:
            answer = ask(at, given, output, **own)
        else:
            answer = items(at, call, given, most) if call.answer == "page" else value(at, call, given)
        if finish is not None:
            answer = finish(at, given, answer, output, **own)
        if answer is None and (ask is not None or finish is not None):
            return
        show(answer, output, call.columns, call.members if members is None else members)

    # -5 is a number, not an option.
    numeric = any(taken[argument].kind in ("integer", "number", "scalar") for argument in arguments)
    settings = {"ignore_unknown_options": numeric}
    made = click.command(name, help=call.help, deprecated=call.deprecated or False, context_settings=settings)(run)
    made.params = [*parameters, *added, *made.params]
    return made


def value(at: Target, call: CallInfo, given: Mapping[str, Any]) -> Any:
    """The answer of a call, as plain data."""

    async def ask() -> Any:
        async with connect(at) as caller:
            return await with_whole_ids(caller, call, given, lambda whole: caller.run(call.name, whole))

    return asyncio.run(ask())


def confirmed(at: Target, call: CallInfo, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Asks on a terminal before an irreversible call; returns the parameters, with complete ids if it asked."""
    if not asks() or any(given.get(name) != wanted for name, wanted in call.confirm_when.items()):
        return given

    async def ask() -> Mapping[str, Any]:
        async with connect(at) as caller:
            return await whole_ids(caller, call, given)

    if any(parameter.short for parameter in call.parameters):
        given = asyncio.run(ask())
    confirm(confirmation(call, given), yes=False)
    return given


def confirmation(call: CallInfo, given: Mapping[str, Any]) -> str:
    """The effect of an irreversible call."""
    return _NAMED.sub(lambda found: str(given.get(found[1], found[0])), call.confirm)


def follow(at: Target, call: CallInfo, given: Mapping[str, Any], output: str, most: int | None = None) -> None:
    """Prints each item of a streaming call as it arrives, a line each: the first ``most``, or until interrupted."""
    from fleetcore.cli.source import followed

    async def run() -> None:
        left = most
        async with contextlib.aclosing(followed(at, call.name, given)) as found:
            async for item in found:
                show_line(item, output, call.columns)
                left = None if left is None else left - 1
                if left == 0:
                    return

    asyncio.run(run())


def items(at: Target, call: CallInfo, given: Mapping[str, Any], most: int | None = None) -> list[Any]:
    """All items of a list, or the first ``most``, as plain data."""

    async def ask() -> list[Any]:
        async with connect(at) as caller:
            return await with_whole_ids(caller, call, given, lambda whole: items_of(caller, call, whole, most))

    return asyncio.run(ask())


def _inside(name: str) -> str:
    return f"{name}_" if name in _TAKEN else name


def _given(call: CallInfo, words: Mapping[str, Any]) -> dict[str, Any]:
    """The typed parameters, as the call takes them; raises Refused as every front end does."""
    from fleetcore.calls.decode import read_text, refusal
    from fleetcore.wire.decode import Fault, Invalid

    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for parameter in call.parameters:
        typed = words.get(_inside(parameter.name))
        if parameter.clears and words.get(f"no_{parameter.name}"):
            found[parameter.name] = None
        elif parameter.place == "stream":
            found[parameter.name] = typed  # the path of a file
        elif typed not in (None, ()):
            if parameter.kind == "json" and parameter.word and isinstance(typed, tuple):
                found[parameter.name] = dict(map(pair, typed))
                continue
            texts = list(typed) if isinstance(typed, tuple) else [typed]
            if parameter.kind == "boolean":
                texts = [str(text).lower() for text in texts]
            try:
                found[parameter.name] = read_text(parameter.kind, texts, parameter.name, repeated=parameter.repeated)
            except Invalid as invalid:
                faults.append(invalid.fault)
    if faults:
        raise refusal(faults)
    return found


def pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE; VALUE may be JSON."""
    from fleetcore.wire import strict_json

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise Refused(f"{text!r} is not NAME=VALUE", remedy="Write it as floor=3")
    try:
        return name, strict_json.loads(value.encode())
    except strict_json.StrictJsonError:
        return name, value


def _argument(parameter: ParameterInfo) -> click.Argument:
    name = f"{parameter.name.upper()}…" if parameter.repeated else parameter.name.upper()
    return click.Argument(
        [_inside(parameter.name)], metavar=name if parameter.required else f"[{name}]", required=parameter.required,
        nargs=-1 if parameter.repeated else 1, type=_type(parameter), help=parameter.help,
    )  # fmt: skip


def _options(parameter: ParameterInfo) -> list[click.Option]:
    word = (parameter.word or parameter.name).replace("_", "-")
    pairs = parameter.kind == "json" and bool(parameter.word)
    said = parameter.help
    if parameter.default not in (None, "", [], False):
        said = f"{said.rstrip('.')}. By default {_plain(parameter.default)}.".lstrip(". ")
    if parameter.repeated or pairs:
        said = f"{said} Repeatable{'; VALUE may be JSON' if pairs else ''}.".strip()
    if parameter.kind == "boolean":
        return [click.Option([f"--{word}/--no-{word}", _inside(parameter.name)], default=None, help=said)]
    made = click.Option(
        [f"--{word}", _inside(parameter.name)],
        multiple=parameter.repeated or pairs,
        required=parameter.required,
        type=_type(parameter),
        help=said,
        metavar="NAME=VALUE" if pairs else "JSON" if parameter.kind == "json" else None,
    )
    if not parameter.clears:
        return [made]
    return [made, click.Option([f"--no-{word}"], is_flag=True, help=f"Clears the {word}.")]


def _plain(default: object) -> str:
    """A default as it is typed: whole numbers without a fraction, the items of a list one after the other."""
    if isinstance(default, list):
        return ", ".join(map(_plain, default))
    return f"{default:.0f}" if isinstance(default, float) and default.is_integer() else str(default)


class _Choice(click.ParamType[str]):
    """One of few values: shown and completed here, checked by the call as on every front end."""

    name = "choice"

    def __init__(self, choices: Sequence[str]) -> None:
        self._choices = choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        del param, ctx
        return f"[{'|'.join(self._choices)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


def _type(parameter: ParameterInfo) -> "click.ParamType[Any]":
    if parameter.place == "stream":
        return click.Path(exists=True, dir_okay=False)
    if parameter.names:
        return Named(parameter)
    return _Choice(parameter.choices) if parameter.choices else click.STRING
