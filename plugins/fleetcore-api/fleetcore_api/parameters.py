"""Parameters that many routes take."""

from typing import Annotated

from litestar.di import NamedDependency
from litestar.params import HeaderParameter, QueryParameter, SkipValidation

from fleetcore_api.access import Access

Caller = NamedDependency[SkipValidation[Access]]
IfMatch = Annotated[
    str | None, HeaderParameter(name="If-Match", max_length=64, description="The ETag that the record must have.")
]
Why = Annotated[str, QueryParameter(name="reason", max_length=1024, description="Why: written into the audit log.")]


def named(text: str) -> str:
    """A name from a path: a slash within it came as ``%2F`` (see the gate)."""
    return text.replace("%2F", "/").replace("%25", "%")
