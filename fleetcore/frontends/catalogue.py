"""The table of calls as plain data: what a front end has to know that does not run them.

The core's is written by ``scripts/generate.py``; a server sends its own, with its plugins' calls.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from fleetcore.errors import Unavailable

#: How many items of a list are asked for at once where all are wanted.
PAGE = 1000
#: The kind of a member that is text without spaces: a name, a code, a digest.
WORD = "word"
#: How a call answers.
ANSWERS = frozenset({"value", "page", "stream", "nothing"})
#: How text for a parameter is read.
KINDS = frozenset({
    "text", "integer", "integer-or-word", "number", "boolean", "time", "scalar", "json", "bytes",
})  # fmt: skip


class ParameterInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter.

    Attributes:
        place: ``path``, ``query``, ``body``, ``whole``, ``stream``, ``if-match``, ``last-event-id`` or
            ``idempotency-key``.
        kind: ``text``, ``integer``, ``integer-or-word``, ``number``, ``boolean``, ``time``, ``scalar`` or ``json``: how
            text for it is read; ``bytes`` of a stream.
        repeated: whether it is a list of such.
        word: what the command line calls one item of it; of an object, it takes ``--WORD NAME=VALUE``.
        clears: whether None is a value of its own, which clears.
        names: the list call whose items it names, by the member ``named_by``.
        short: whether the command line takes the beginning of what it names.
    """

    name: str
    place: str
    kind: str
    required: bool = False
    repeated: bool = False
    clears: bool = False
    default: Any = None
    choices: Sequence[str] = ()
    word: str = ""
    names: str = ""
    named_by: str = "id"
    short: bool = False
    help: str = ""


class CallInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call.

    Attributes:
        route: method and path below ``/api/v1``; empty where it has none.
        command: as in ``group show GROUP``; empty where there is none.
        answer: ``value``, ``page``, ``stream`` or ``nothing``.
        columns: of its table.
        match_required: whether HTTP asks for ``If-Match``.
        selected_by: the query parameter that tells it from another call at its route.
        also: more commands, each with what it gives.
        members: of the answer, or of each item of a page or a stream, with their kinds: ``id`` (long, made by the
            fleet), ``text`` (for people), ``choice``, ``boolean``, ``time``, ``integer``, ``count``, ``bytes``,
            ``number``, ``value``, ``list`` or ``object``; what is not named is a ``word``.
        needs: members that every answer, or every item of it, has.
        confirm: what the command line says before it makes the call; empty where it does not ask.
        confirm_when: it asks only where these parameters are given so.
    """

    name: str
    help: str
    permission: str
    route: str = ""
    command: str = ""
    answer: str = "value"
    status: int = 200
    parameters: Sequence[ParameterInfo] = ()
    columns: Sequence[str] = ()
    match_required: bool = False
    selected_by: str = ""
    also: Mapping[str, Mapping[str, Any]] = {}
    members: Mapping[str, str] = {}
    needs: Sequence[str] = ()
    confirm: str = ""
    confirm_when: Mapping[str, Any] = {}
    deprecated: str = ""
    plugin: str = ""

    @property
    def stream(self) -> str:
        """The parameter that is the body piece by piece; empty where there is none."""
        return next((parameter.name for parameter in self.parameters if parameter.place == "stream"), "")

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path below ``/api/v1``."""
        return self.route.partition(" ")[2]


class Catalogue(Mapping[str, CallInfo]):
    """Calls by name, in the table's order."""

    def __init__(self, calls: Sequence[CallInfo]) -> None:
        self._calls = {call.name: call for call in calls}

    def __getitem__(self, name: str) -> CallInfo:
        return self._calls[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def nouns(self) -> Mapping[str, Sequence[CallInfo]]:
        """The calls that have a command, by its first word."""
        found: dict[str, list[CallInfo]] = {}
        for call in self._calls.values():
            for noun in {command.split()[0] for command in (call.command, *call.also) if command}:
                found.setdefault(noun, []).append(call)
        return found


@cache
def core() -> Catalogue:
    """The core's calls, as this release has them."""
    return read((files("fleetcore.frontends") / "generated" / "catalogue.json").read_bytes())


def read(content: bytes) -> Catalogue:
    """A catalogue that was sent; raises Unavailable for what is none."""
    try:
        return Catalogue(msgspec.json.decode(content, type=list[CallInfo]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        remedy = "Is it a fleetcore server, of a release like this one?"
        raise Unavailable(f"The list of calls cannot be read: {error}", remedy=remedy) from error
