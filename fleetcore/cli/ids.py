"""Ids as people type them: the beginning of a long one, and completion."""

import asyncio
import contextlib
import io
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from fleetcore.cli.connect import Caller, Target, connect, target_of
from fleetcore.cli.items import items_of
from fleetcore.errors import FleetError, NotFound, Refused
from fleetcore.frontends.catalogue import CallInfo, ParameterInfo, core

T = TypeVar("T")

#: The minimum number of typed characters of an id.
LEAST_TYPED = 4
#: In longer lists a beginning is not searched: its uniqueness could not be checked.
_MAX_ITEMS = 20_000
#: How many items completion reads, and how long it may take.
_COMPLETED = 100
_COMPLETED_S = 3.0
#: Characters that every shell accepts within a word.
_PLAIN = re.compile(r"[A-Za-z0-9._:/@-]+", re.ASCII)


async def with_whole_ids(
    caller: Caller, call: CallInfo, given: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], Awaitable[T]]
) -> T:
    """The answer of ``ask``; if a given id is not found, ``ask`` is repeated with the complete id that begins so.

    Raises Refused if several ids begin so, and the errors of ``ask``.
    """
    try:
        return await ask(given)
    except NotFound:
        whole = await whole_ids(caller, call, given)
        if whole == given:
            raise
        return await ask(whole)


async def whole_ids(caller: Caller, call: CallInfo, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, with complete ids for unique beginnings; raises Refused if several begin so."""
    found = dict(given)
    for parameter in call.parameters:
        typed = given.get(parameter.name)
        if parameter.short and isinstance(typed, str) and len(typed) >= LEAST_TYPED:
            found[parameter.name] = _whole(parameter, typed, await _listed(caller, parameter))
    return found


def _whole(parameter: ParameterInfo, typed: str, ids: Sequence[str]) -> str:
    names = {whole: (whole, _tail(whole)) for whole in ids}
    if any(typed in both for both in names.values()):
        return typed
    beginning = [whole for whole, both in names.items() if any(name.startswith(typed) for name in both)]
    if len(beginning) > 1:
        shown = ", ".join(beginning[:2]) + (f" and {len(beginning) - 2} more" if beginning[2:] else "")
        raise Refused(
            f"/{parameter.name}: {len(beginning)} ids begin with {typed!r}: {shown}",
            code="name_invalid",
            remedy="Type more of it",
            pointer=f"/{parameter.name}",
        )
    return beginning[0] if beginning else typed


async def _listed(caller: Caller, parameter: ParameterInfo) -> Sequence[str]:
    """The ids that a parameter may name; none if they cannot be listed, or are too many."""
    try:
        items = await first_items(caller, parameter.names, _MAX_ITEMS + 1)
    except FleetError:
        return ()
    return [str(item[parameter.named_by]) for item in items] if len(items) <= _MAX_ITEMS else ()


async def first_items(caller: Caller, name: str, most: int) -> list[Mapping[str, Any]]:
    """The first items of a list, also a plugin's."""
    listing = core().get(name)
    if listing is not None:
        return await items_of(caller, listing, {}, most)
    whole: list[Mapping[str, Any]] = (await caller.run(name, {}))["items"]
    return whole[:most]


def _tail(whole: str) -> str:
    """The serial in ``ISSUER:SERIAL``, which also identifies it."""
    return whole.rpartition(":")[2]


class Named(click.ParamType[str]):
    """The name of a list item, which the shell completes."""

    name = "text"

    def __init__(self, parameter: ParameterInfo) -> None:
        self._parameter = parameter

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, of the first items of the list; none if they cannot be read."""
        del param
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception):
            found = asyncio.run(self._found(target_of(ctx)))
            return [CompletionItem(name) for name in found if name.startswith(incomplete) and _PLAIN.fullmatch(name)]
        return []

    async def _found(self, at: Target) -> Sequence[str]:
        parameter = self._parameter
        async with asyncio.timeout(_COMPLETED_S), connect(at) as caller:
            items = await first_items(caller, parameter.names, _COMPLETED)
        names = [str(item[parameter.named_by]) for item in items]
        return [_tail(name) for name in names] if parameter.short else names
