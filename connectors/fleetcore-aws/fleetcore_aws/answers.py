"""Reads members of the SDK's answers that must be present.

For a truncated answer boto3 returns HTTP 200 without members, and raises nothing. Code that reads a missing list as
empty would then find an empty cloud. Here a missing member fails the call.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from fleetcore_aws.failures import CallFailed

T = TypeVar("T")

Answer = Mapping[str, object]


def _member(action: str, answer: Answer, name: str, kind: type[T]) -> T:
    value = answer.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CallFailed(action, "unavailable", f"the answer lacks {name}; it was truncated", lost=True)
    return value


def text(action: str, answer: Answer, name: str) -> str:
    """A required text."""
    return _member(action, answer, name, str)


def number(action: str, answer: Answer, name: str) -> int:
    """A required integer."""
    return _member(action, answer, name, int)


def record(action: str, answer: Answer, name: str) -> Answer:
    """A required object."""
    return cast("Answer", _member(action, answer, name, dict))


def records(action: str, answer: Answer, name: str) -> Sequence[Answer]:
    """A required list of objects, possibly empty."""
    return cast("Sequence[Answer]", _member(action, answer, name, list))


def texts(action: str, answer: Answer, name: str) -> Sequence[str]:
    """A required list of texts, possibly empty."""
    return cast("Sequence[str]", _member(action, answer, name, list))


def optional_text(answer: Answer, name: str) -> str | None:
    """An optional text, in an answer whose required members are present."""
    value = answer.get(name)
    return value if isinstance(value, str) and value else None
