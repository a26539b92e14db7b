"""The context of an opener, for a plugin's own tests: complete, and with access to the plugin's counters.

A plugin's test::

    from fleetcore.testing import context

    async def test_it_counts_what_it_refuses():
        lent = context("mine", secrets={"env:MINE_PASSWORD": "hunter2"})
        async with open_mine(MineConfig(password="env:MINE_PASSWORD"), lent) as mine:
            await mine.take(b"garbage")

        assert lent.counted["mine_refused"] == 1
"""

import logging
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from fleetcore.errors import ConfigError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Context, Limits, TlsProvider
from fleetcore.interfaces.state import PluginState
from fleetcore.listening.budget import Budget
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing.clock import MovableClock


@frozen(kw_only=True)
class LentContext(Context):
    """A context with readable counters.

    Attributes:
        counted: the counters by name.
    """

    counted: Counter[str] = field(factory=Counter)


def context(
    name: str = "test",
    *,
    fleet: str = "default",
    clock: Clock | None = None,
    logger: logging.Logger | None = None,
    secrets: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    listeners: ListenerLimits | None = None,
    tls: TlsProvider | None = None,
    data: Path | None = None,
    in_memory: bool = False,
    create: bool = True,
    state: Mapping[str, bytes] | None = None,
) -> LentContext:
    """Makes a context like a server's.

    Args:
        name: the instance's name.
        clock: by default one that a test moves.
        logger: by default ``fleetcore.NAME``.
        secrets: reference → value. Any other reference raises ConfigError, as on a server.
        limits: by default those of a new fleet.
        listeners: deadlines and limits of listeners; by default those of a new fleet.
        tls: certificates, such as a :class:`~fleetcore.testing.throwaway_ca.ThrowawayCa`; by default none.
        data: the plugin's folder; by default a new empty one, deleted with the context.
        in_memory: there is no folder, as in a fleet without a data folder.
        create: whether a missing store may be created.
        state: what the plugin saved before.
    """
    counted: Counter[str] = Counter()
    known = dict(secrets or {})

    def secret(reference: str) -> str:
        if reference not in known:
            raise ConfigError(
                f"The secret {reference!r} is unknown; known are {sorted(known)}",
                remedy="Name it in context(secrets={…})",
            )
        return known[reference]

    def count(name: str) -> None:
        counted[name] += 1

    own = None if in_memory or data is not None else Path(tempfile.mkdtemp(prefix="fleetcore-plugin-"))
    made = LentContext(
        name=name,
        fleet=fleet,
        clock=MovableClock() if clock is None else clock,
        logger=logging.getLogger(f"fleetcore.{name}") if logger is None else logger,
        secret=secret,
        limits=Limits() if limits is None else limits,
        tls=tls,
        data=None if in_memory else own if data is None else data,
        create=create,
        state=PluginState(dict(state or {})),
        listening=Budget(listeners),
        count=count,
        counted=counted,
    )
    if own is not None:
        weakref.finalize(made, shutil.rmtree, own, ignore_errors=True)
    return made


__all__ = ["LentContext", "context"]
