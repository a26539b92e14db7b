"""A trial: a stand-in for a cloud hub on this machine, for the demo and for experiments."""

from collections.abc import Callable, Mapping

from attrs import frozen


@frozen(kw_only=True)
class Trial:
    """A running trial.

    Attributes:
        settings: of a section of fleet.toml that connects to it.
        cut: ends its connections, and answers nothing until ``heal``.
    """

    settings: Mapping[str, object]
    cut: Callable[[], None]
    heal: Callable[[], None]
