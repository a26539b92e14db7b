"""The vocabulary of calls: times, pages, responses, and parameters whose type says which values are valid."""

from collections.abc import AsyncIterator, Callable, Iterator, KeysView, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from html import escape
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fleetcore.errors import Refused
from fleetcore.wire.times import Ms, TimeFault, format_time, read_ms

__all__ = [
    "EVENT_PREFIX",
    "UNSET",
    "BatchName",
    "Content",
    "Cursor",
    "DeviceId",
    "IdempotencyKey",
    "IfVersion",
    "In",
    "Json",
    "Label",
    "Limit",
    "MaxFailed",
    "Ms",
    "Names",
    "NewDeviceId",
    "Page",
    "Reason",
    "Response",
    "UnsetType",
    "Version",
    "Waves",
    "Where",
    "Word",
    "from_builtins",
    "of_python",
    "present",
    "to_builtins",
    "to_response",
]

#: Types that need no conversion.
_PLAIN = frozenset({int, float, bool, str, type(None), dict, list, Ms})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

#: Options of every command: a parameter of such a name gets another option by a :class:`Word`.
OPTIONS = frozenset({"ca", "data", "help", "output", "plain_http", "server", "token", "yes"})
#: A JSON object whose members the caller chooses.
Json = dict[str, Any]


class In:
    """Where a parameter is sent, if the rule of :mod:`fleetcore.calls.table` does not apply.

    ``body`` is the whole body; ``stream`` is the body in pieces; ``if-match``, ``last-event-id`` and
    ``idempotency-key`` are the headers. In an ETag with several versions, such as a twin's, ``section`` is the letter
    before the one that counts.
    """

    def __init__(self, place: str, section: str = "") -> None:
        self.place, self.section = place, section


class Word:
    """The command line's name for one item of a parameter that has many: ``--tag`` of ``tags``."""

    def __init__(self, word: str) -> None:
        self.word = word


class Names:
    """The meaning of a parameter: it names an item of a list call, by one of the item's members.

    The command line completes it from that list. ``short``: the fleet makes these ids, and they are long; a table on a
    terminal shows the beginning of each, and the command line accepts such a beginning.
    """

    def __init__(self, call: str, member: str = "id", *, short: bool = False) -> None:
        self.call, self.member, self.short = call, member, short


# The last character must not be a newline: ``$`` alone would allow one.
_DEVICE_ID, _LABEL = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$(?!\n)", r"^(?! )[A-Za-z0-9 ._/:\-]{1,128}(?<! )$(?!\n)"
_VERSION = r"^(?! )[A-Za-z0-9 ._/:+\-]{1,128}(?<! )$(?!\n)"
_KEY = r"^[!-~]{1,128}$(?!\n)"
_BATCH_NAME = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,39}$(?!\n)"
#: The beginning of a type of events.
EVENT_PREFIX = r"^[a-z0-9_.\-]{1,256}$(?!\n)"
#: Pattern → a description of its values.
ALPHABETS = {
    EVENT_PREFIX: "1-256 lower-case letters, digits and . _ -, and `type` again for another beginning",
    _BATCH_NAME: "1-40 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
    _DEVICE_ID: "1-64 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
    _KEY: "1-128 printable ASCII characters",
    _LABEL: "1-128 characters of letters, digits, space and . _ / : -, no space first or last",
    _VERSION: "1-128 characters of letters, digits, space and . _ / : + -, no space first or last",
}
#: The id of an existing device.
DeviceId = Annotated[str, Meta(pattern=_DEVICE_ID, description="The device's id."), Names("list_devices")]
#: The id of a new device.
NewDeviceId = Annotated[str, Meta(pattern=_DEVICE_ID, description="The new device's id.")]
Label = Annotated[str, Meta(pattern=_LABEL)]
#: Of firmware, in the form of its build: MCUboot has ``1.2.3+4``.
Version = Annotated[str, Meta(pattern=_VERSION)]
BatchName = Annotated[str, Meta(pattern=_BATCH_NAME, description="The batch's name.")]
Reason = Annotated[str, Meta(max_length=1024, description="The reason, for the audit log.")]
Where = Annotated[str, Meta(max_length=4096, description="A query of the fleet query grammar.")]
Wave = Annotated[str, Meta(pattern=r"^[0-9]{1,7}(\.[0-9]{1,3})?%?$(?!\n)")]
Waves = Annotated[
    Sequence[Wave],
    Meta(max_length=100, description="A wave: a number of devices, or a share, 10%. The rest is a last wave."),
    Word("wave"),
]
MaxFailed = Annotated[float, Meta(ge=0, le=1, description="The share of failures beyond which it stops.")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="The most items of a page.")]
Cursor = Annotated[str, Meta(max_length=512, description="The `next` of the page before.")]
IdempotencyKey = Annotated[
    str,
    Meta(pattern=_KEY, description="A repeated request with the same key, within a day, returns the first result."),
    In("idempotency-key"),
]
IfVersion = Annotated[
    int, Meta(ge=0, le=2**53, description="Refuse the change unless this is the current version."), In("if-match")
]
#: Bytes that the call takes in pieces; library and clients take bytes, the path of a file, or pieces.
Content = Annotated[AsyncIterator[bytes], In("stream")]


class Response(msgspec.Struct, frozen=True):
    """The answer of a call: a separate record, which lists what leaves the fleet.

    Members can also be read by name, ``device["id"]``; ``dict(device)`` has all of them.
    """

    def __getitem__(self, name: str) -> Any:
        if name in self.__struct_fields__:
            return getattr(self, name)
        raise KeyError(name)

    def etag(self) -> str:
        """The version in an HTTP answer; empty where there is none."""
        version = getattr(self, "version", None)
        return "" if version is None else f"{version}"

    def keys(self) -> KeysView[str]:
        """The names of the members."""
        return dict.fromkeys(self.__struct_fields__).keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_fields__)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{_cell(self[name])}</td></tr>" for name in self.keys())
        return f"<table>{rows}</table>"


T = TypeVar("T")
R = TypeVar("R", bound=Response)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the cursor for the next page; ``next`` is None at the end."""

    items: list[T]
    next: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __getitem__(self, index: int) -> T:
        return self.items[index]

    def _repr_html_(self) -> str:
        names = next((item.keys() for item in self.items if isinstance(item, Response)), ())
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(item[name])}</td>" for name in names) + "</tr>"
            for item in self.items
            if isinstance(item, Response)
        )
        more = "<p>There are more: continue with <code>cursor=page.next</code>.</p>" if self.next else ""
        return f"<table><tr>{head}</tr>{rows}</table>{more}"


def _cell(value: object) -> str:
    return escape(_text(value))


def _text(value: object) -> str:
    """A value in a cell: times and states as they are sent, also within lists and objects."""
    if isinstance(value, Response):
        value = dict(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)


def to_response(cls: type[R], record: object, **more: Any) -> R:
    """A response whose members are those of a stored record, by name; ``more`` gives the others.

    A time of 0 in records means none.
    """
    made: R = _maker(cls, frozenset(more))(record, more)
    return made


@cache
def _maker(cls: type[Response], given: frozenset[str]) -> Callable[[object, Mapping[str, Any]], Any]:
    """A function that makes the response of a record and given members; compiled, since lists make thousands."""
    hints = get_type_hints(cls)
    converters = {name: _converter(hints[name]) for name in cls.__struct_fields__}
    members = []
    for name, convert in converters.items():
        value = f"more[{name!r}]" if name in given else f"record.{name}"
        members.append(f"{name}={value}" if convert is None else f"{name}=of_{name}({value})")
    scope = {f"of_{name}": convert for name, convert in converters.items()} | {"cls": cls}
    made: Callable[[object, Mapping[str, Any]], Any] = eval(  # noqa: S307  # of the names of a class of ours
        f"lambda record, more: cls({', '.join(members)})", scope
    )
    return made


def _converter(kind: Any) -> Callable[[Any], Any] | None:
    if kind is Ms:
        return Ms
    kinds = [item for item in get_args(kind) if item is not type(None)] if get_origin(kind) not in (list, dict) else []
    if Ms in kinds:
        return lambda value: Ms(value) if value else None
    if get_origin(kind) is list:
        inner = _converter(get_args(kind)[0])
        return list if inner is None else lambda value: [inner(item) for item in value]
    if get_origin(kind) is dict:
        return dict
    nested = next((item for item in (kind, *kinds) if isinstance(item, type) and issubclass(item, Response)), None)
    if nested is not None:
        return lambda value: None if value is None else to_response(nested, value)
    return None


def present(**members: Any) -> dict[str, Any]:
    """The given members: in a change, members that are not given stay, and None clears."""
    return {name: value for name, value in members.items() if value is not UNSET}


def to_builtins(value: object) -> Any:
    """Plain data, as every front end sends it: times are RFC 3339 text."""
    return msgspec.to_builtins(value, enc_hook=encode_hook)


def of_python(value: object) -> Any:
    """A script's value as a call takes it: a scalar of numpy or Arrow as Python's, a numpy time in ms.

    Raises Refused for a time without a value (NaT).
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    module = kind.__module__.partition(".")[0]
    scalar: Any = value
    if module == "numpy" and getattr(value, "shape", None) == ():
        if kind.__name__ == "datetime64":
            ms = int(scalar.astype("datetime64[ms]").astype("int64"))
            if ms == -(2**63):
                raise Refused("NaT is not a time", code="time_invalid")
            return Ms(ms)
        return scalar.item()
    if module == "pyarrow" and hasattr(value, "as_py"):
        return scalar.as_py()
    return value


def from_builtins(value: object, kind: type[T]) -> T:
    """The answer from plain data: the inverse of :func:`to_builtins`."""
    return msgspec.convert(value, kind, dec_hook=decode_hook)


def decode_hook(kind: Any, value: object) -> object:
    """Decodes types that msgspec does not know; raises TimeFault for an invalid time."""
    if kind is Ms:
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise TimeFault("the time has no zone", code="time_invalid", remedy="Give it one: tzinfo=datetime.UTC")
            value = (value - _EPOCH) // _MILLISECOND
        return read_ms(value)
    raise NotImplementedError(f"{kind} is not read from plain data")


def encode_hook(value: object) -> object:
    """Encodes types that msgspec does not know."""
    if isinstance(value, Ms):
        return format_time(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} is not plain data")
