"""A trial: a counterpart of a cloud hub on this machine, for the demo and for trying things out."""

from collections.abc import Callable, Mapping

from attrs import frozen


@frozen(kw_only=True)
class Trial:
    """One that is running.

    Attributes:
        settings: of a section of fleet.toml that leads to it.
        cut: ends its connections, and answers nothing until ``heal``.
    """

    settings: Mapping[str, object]
    cut: Callable[[], None]
    heal: Callable[[], None]
