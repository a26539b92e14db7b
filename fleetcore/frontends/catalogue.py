"""The table of calls as plain data, for front ends that do not run the calls.

``scripts/generate.py`` writes the core's; a server sends its own, including its plugins' calls.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from fleetcore.errors import Unavailable

#: The page size when all items of a list are wanted.
PAGE = 1000
#: The kind of a member that is text without spaces: a name, a code, a digest.
WORD = "word"
#: How a call answers.
ANSWERS = frozenset({"value", "page", "stream", "nothing"})
#: How text for a parameter is converted.
KINDS = frozenset({
    "text", "integer", "integer-or-word", "number", "boolean", "time", "scalar", "json", "bytes",
})  # fmt: skip


class ParameterInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter.

    Attributes:
        place: ``path``, ``query``, ``body``, ``whole``, ``stream``, ``if-match``, ``last-event-id`` or
            ``idempotency-key``.
        kind: ``text``, ``integer``, ``integer-or-word``, ``number``, ``boolean``, ``time``, ``scalar`` or ``json``: how
            text for it is converted; ``bytes`` for a stream.
        repeated: whether it is a list of them.
        word: the command line's name for one item of it; for an object, it takes ``--WORD NAME=VALUE``.
        clears: whether None is a separate value, which clears.
        names: the list call whose items it names, by the member ``named_by``.
        short: whether the command line accepts the beginning of the id that it names.
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
        match_required: whether HTTP requires ``If-Match``.
        selected_by: the query parameter that distinguishes it from another call at its route.
        also: more commands, each with the parameters that it sets.
        members: of the answer, or of each item of a page or a stream, with their kinds: ``id`` (long, made by the
            fleet), ``text`` (for people), ``choice``, ``boolean``, ``time``, ``integer``, ``count``, ``bytes``,
            ``number``, ``value``, ``list`` or ``object``; members without an entry are a ``word``.
        needs: members that every answer, or every item of it, has.
        confirm: the warning of the command line before it makes the call; empty where it does not ask.
        confirm_when: it asks only where these parameters have these values.
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
        """The parameter that is the streamed body; empty where there is none."""
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
    """The core's calls in this release."""
    return read((files("fleetcore.frontends") / "generated" / "catalogue.json").read_bytes())


def read(content: bytes) -> Catalogue:
    """Decodes a catalogue that was sent; raises Unavailable for anything else."""
    try:
        return Catalogue(msgspec.json.decode(content, type=list[CallInfo]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        remedy = "Is it a fleetcore server, of a release like this one?"
        raise Unavailable(f"The list of calls cannot be read: {error}", remedy=remedy) from error
