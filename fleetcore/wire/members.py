"""Strict decoding of signed JSON objects: each member is required, with its type and bounds, and no extras are allowed.

A signed object is a contract. A reader that ignored an unknown member could not tell whether that member forbids the
very action, so an unknown member refuses the whole; new members need a new format.
"""

import re
from collections.abc import Mapping

from fleetcore.errors import Refused
from fleetcore.model.names import check_label, check_version
from fleetcore.wire.strict_json import EXACT_INTEGER, loads
from fleetcore.wire.times import parse_time

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Members:
    """The members of one object, read one after the other.

    Args:
        what: a name for the object, for messages.
        at: its place in the document, a JSON pointer.

    Every method raises Refused with ``schema_invalid`` and the ``pointer`` of the member.
    """

    def __init__(self, value: object, what: str, at: str = "") -> None:
        self._what, self._at = what, at
        if not isinstance(value, Mapping):
            raise Refused(f"{what} must be a JSON object", pointer=at)
        self._left = dict(value)

    @classmethod
    def of(cls, payload: bytes, what: str, *, limit_bytes: int, form: str, depth: int = 4) -> "Members":
        """The members of a document whose member ``format`` is the expected one."""
        if len(payload) > limit_bytes:
            raise Refused(
                f"{what} is longer than {limit_bytes} bytes", code="limit_exceeded", limit=limit_bytes, unit="bytes"
            )
        members = cls(loads(payload, depth=depth), what)
        if members.take("format") != form:
            raise members.wrong("format", f"{form!r}")
        return members

    def wrong(self, name: str, wanted: str) -> Refused:
        """The refusal of a member."""
        return Refused(f"{self._what}: {name} must be {wanted}", pointer=f"{self._at}/{name}")

    def take(self, name: str) -> object:
        """A member without conversion."""
        if name not in self._left:
            raise Refused(f"{self._what} lacks {name}", pointer=f"{self._at}/{name}")
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Whether an optional member is present."""
        return name in self._left

    def integer(self, name: str, low: int, high: int = EXACT_INTEGER) -> int:
        """An integer within bounds."""
        value = self.take(name)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def time(self, name: str) -> int:
        """A time in ms."""
        try:
            return parse_time(self.take(name))
        except Refused as error:
            raise self.wrong(name, f"a time ({error.message})") from error

    def text(self, name: str, pattern: "re.Pattern[str]", wanted: str) -> str:
        """Text that matches a pattern."""
        value = self.take(name)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise self.wrong(name, wanted)
        return value

    def label(self, name: str) -> str:
        """A label of the fleet's alphabet."""
        try:
            return check_label(self.take(name), name)  # type: ignore[arg-type]  # it is checked there
        except Refused as error:
            raise self.wrong(name, f"a name ({error.remedy})") from error

    def version(self, name: str) -> str:
        """A firmware's version."""
        try:
            return check_version(self.take(name))  # type: ignore[arg-type]  # it is checked there
        except Refused as error:
            raise self.wrong(name, f"a version ({error.remedy})") from error

    def sha256(self, name: str) -> str:
        """A digest, 64 lower-case hex digits."""
        return self.text(name, _SHA256, "a SHA-256, 64 lower-case hex digits")

    def texts(self, name: str, most: int, *, least: int = 1) -> tuple[str, ...]:
        """A list of different texts; the caller checks their content."""
        value = self.take(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of text")
        if not least <= len(value) <= most:
            raise self.wrong(name, f"a list of {least} to {most}")
        return tuple(value)

    def inner(self, name: str) -> "Members":
        """A nested object."""
        return Members(self.take(name), f"{self._what}'s {name}", f"{self._at}/{name}")

    def items(self) -> list[tuple[str, "Members"]]:
        """Every remaining member, as an object each."""
        left, self._left = self._left, {}
        return [(name, Members(value, f"{self._what} {name!r}", f"{self._at}/{name}")) for name, value in left.items()]

    def names(self) -> list[str]:
        """The names of the remaining members."""
        return list(self._left)

    def end(self) -> None:
        """Raises Refused where a member remains."""
        if self._left:
            name = next(iter(self._left))
            raise Refused(f"{self._what} has a member {name[:64]!r}, which this format does not have", pointer=self._at)
