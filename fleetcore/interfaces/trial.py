"""A trial: a cloud's counterpart on this machine, which a connector offers for the demo and for experiments."""

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
