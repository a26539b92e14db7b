"""Answers of the SDK, with the members that they must have.

boto3 takes an answer that was cut half-way for HTTP 200 without members: no exception. Code that reads a missing list
as an empty one then believes the cloud to be empty. Here a missing member is a failure of the call.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from fleetcore_aws.failures import CallFailed

T = TypeVar("T")

Answer = Mapping[str, object]


def _member(action: str, answer: Answer, name: str, kind: type[T]) -> T:
    value = answer.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CallFailed(action, "unavailable", f"the answer has no {name}; it was cut off", lost=True)
    return value


def text(action: str, answer: Answer, name: str) -> str:
    """A text that must be there."""
    return _member(action, answer, name, str)


def number(action: str, answer: Answer, name: str) -> int:
    """A whole number that must be there."""
    return _member(action, answer, name, int)


def record(action: str, answer: Answer, name: str) -> Answer:
    """An object that must be there."""
    return cast("Answer", _member(action, answer, name, dict))


def records(action: str, answer: Answer, name: str) -> Sequence[Answer]:
    """A list of objects that must be there, though it may be empty."""
    return cast("Sequence[Answer]", _member(action, answer, name, list))


def texts(action: str, answer: Answer, name: str) -> Sequence[str]:
    """A list of texts that must be there, though it may be empty."""
    return cast("Sequence[str]", _member(action, answer, name, list))


def optional_text(answer: Answer, name: str) -> str | None:
    """A text that may be missing, in an answer that has what it must have."""
    value = answer.get(name)
    return value if isinstance(value, str) and value else None
