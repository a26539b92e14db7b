"""Opening plugin components: within a time limit, checked against their interface, with every failure in one line.

The opener runs in a separate task until the component is closed. So it is exited in the task that entered it, as task
groups require, and one that ignores cancellation blocks nothing else. Blocking code cannot be interrupted: it holds the
event loop, and :mod:`fleetcore.runtime.watchdog` names it.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from attrs import evolve, frozen

from fleetcore.errors import FleetError, PluginError
from fleetcore.interfaces.boundary import in_a_line, plugin_code
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Context, Kind, Provider
from fleetcore.interfaces.waits import end_tasks
from fleetcore.pipeline.component_state import ComponentState
from fleetcore.runtime.abandoning import end_within

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: How long closing may take, and how long a cancelled task may take to end.
CLOSE_S, HEED_S = 10.0, 1.0
#: The name of a kind in a sentence.
_SINGULAR: dict[Kind, str] = {
    "storage": "storage",
    "codecs": "codec",
    "protocols": "protocol",
    "detectors": "detector",
    "notifiers": "notifier",
    "clouds": "cloud",
    "services": "service",
    "admission": "admission",
}


def interface_of(kind: Kind) -> type:
    """The class that an opener's result must have; ``object`` for services."""
    from fleetcore import interfaces

    names: dict[Kind, str] = {
        "storage": "Storage",
        "codecs": "Codec",
        "protocols": "ProtocolAdapter",
        "detectors": "Detector",
        "notifiers": "Notifier",
        "clouds": "CloudBackend",
        "admission": "Admission",
    }
    found: type = getattr(interfaces, names[kind]) if kind in names else object
    return found


@frozen(kw_only=True)
class Offered:
    """An offer and its plugin, opened for one section."""

    provider: Provider[Any]
    plugin: str
    section: object
    context: Context
    more: tuple[object, ...] = ()
    timeout_s: float

    @property
    def what(self) -> str:
        """Its name in messages: ``Detector 'hot' of plugin 'jumps'``."""
        return f"{_SINGULAR[self.provider.kind].capitalize()} {self.context.name!r} of plugin {self.plugin!r}"

    def manager(self, context: Context) -> AbstractAsyncContextManager[Any]:
        """The opener's context manager; raises PluginError if it returns anything else."""
        with plugin_code(f"{self.what}: its opener"):
            made: object = self.provider.opener(self.section, context, *self.more)
        if inspect.iscoroutine(made):
            made.close()
        if not isinstance(made, AbstractAsyncContextManager):
            raise PluginError(
                f"{self.what}: its opener returned {type(made).__name__}, not an async context manager",
                remedy="Decorate it with contextlib.asynccontextmanager",
                plugin=self.plugin,
            )
        # asynccontextmanager does this to a coroutine function, such as an opener that only raises.
        body = getattr(made, "gen", None)
        if inspect.iscoroutine(body):
            body.close()
            raise PluginError(
                f"{self.what}: its opener has no yield", remedy="Yield the open object once", plugin=self.plugin
            )
        return made

    def checked(self, component: object) -> Any:
        """The component; raises PluginError if it does not have the kind's interface."""
        wanted = interface_of(self.provider.kind)
        if not isinstance(component, wanted):
            raise PluginError(
                f"{self.what}: its opener yielded {type(component).__name__}, not a {wanted.__name__}",
                remedy=f"Yield an object of a class that inherits fleetcore.interfaces.{wanted.__name__}",
                plugin=self.plugin,
            )
        return component

    def overdue(self) -> PluginError:
        """The error when opening takes too long."""
        return PluginError(
            f"{self.what} did not open within {self.timeout_s:g} s",
            remedy="[fleet] open_timeout_s allows more time; the plugin's log may say what it waits for",
            plugin=self.plugin,
        )

    def failure(self, error: BaseException, did: str) -> BaseException:
        """A FleetError unchanged; any other error as one line that names the plugin."""
        if isinstance(error, FleetError):
            return error
        return PluginError(f"{self.what}: its opener {did} {in_a_line(error)}", plugin=self.plugin)


async def open_in_time(offered: Offered, clock: Clock) -> tuple[AbstractAsyncContextManager[Any], Any]:
    """Enters in the caller's task; returns the context to exit and the part. For the store.

    The store is exited last, after all tasks: it has none. Raises as :meth:`Opening.__aenter__`.
    """
    try:
        async with asyncio.timeout(None) as limit:
            timer = asyncio.create_task(_expire(limit, clock, offered.timeout_s), name="fleetcore opening the store")
            try:
                manager = offered.manager(offered.context)
                with plugin_code(f"{offered.what}: its opener"):
                    component = await manager.__aenter__()
            finally:
                await end_tasks(timer)
    except TimeoutError as error:
        if limit.expired():
            raise offered.overdue() from None
        raise offered.failure(error, "raised") from error
    except Exception as error:  # FleetErrors pass unchanged
        raise offered.failure(error, "raised") from error
    try:
        return manager, offered.checked(component)
    except PluginError:
        await manager.__aexit__(None, None, None)
        raise


async def _expire(limit: asyncio.Timeout, clock: Clock, seconds: float) -> None:
    await clock.sleep(seconds)
    limit.reschedule(asyncio.get_running_loop().time())


class Opening(AbstractAsyncContextManager[T], Generic[T]):
    """One opening of a plugin component; entered and exited once.

    Args:
        find: returns the offer; raises the reason why it cannot be opened.
        kept: the component's saved state, read before the opener is called; None for a part without one.
    """

    def __init__(self, find: Callable[[], Offered], clock: Clock, kept: ComponentState | None = None) -> None:
        self._find, self._clock, self._kept = find, clock, kept
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._what = ""

    async def __aenter__(self) -> T:
        """Opens the part.

        Raises:
            NotReady, ConfigError, CredentialsRejected: from the opener, like other FleetErrors.
            PluginError: it raised another error, took too long, or yielded an object without the kind's interface.
        """
        offered = self._find()
        self._what = offered.what
        if self._kept is not None:
            offered = evolve(offered, context=evolve(offered.context, state=await self._kept.load()))
        opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._own(offered, opened), name=f"fleetcore opener of {offered.what}")
        timer = asyncio.create_task(self._clock.sleep(offered.timeout_s), name=f"fleetcore time-out of {offered.what}")
        try:
            either: set[asyncio.Future[Any]] = {opened, timer}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self._give_up()
            raise
        finally:
            await end_tasks(timer)
        if not opened.done():
            await self._give_up()
            raise offered.overdue()
        return opened.result()

    async def _own(self, offered: Offered, opened: "asyncio.Future[T]") -> None:
        """Stays in the opener from its beginning to its end."""
        try:
            with plugin_code(f"{offered.what}: its opener"):
                async with offered.manager(offered.context) as component:
                    checked = offered.checked(component)
                    if not opened.done():
                        opened.set_result(checked)
                    await self._closing.wait()
        except BaseException as error:
            if not opened.done():
                if isinstance(error, Exception):
                    opened.set_exception(offered.failure(error, "raised"))
                else:
                    opened.cancel()
                    raise
            elif isinstance(error, asyncio.CancelledError):
                raise
            elif self._closing.is_set():
                raise offered.failure(error, "raised while it closed") from error
            else:
                _log.error("%s ended unexpectedly: %s", offered.what, in_a_line(error))

    async def _give_up(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        if await end_within({task}, HEED_S):
            _log.error("%s does not end when cancelled and is abandoned", self._what)
        elif not task.cancelled():
            task.exception()  # it was reported, or no longer matters

    async def __aexit__(self, *_: object) -> None:
        """Closes the part within 10 s; raises its errors, always as a FleetError."""
        task = self._task
        if task is None:
            return
        self._closing.set()
        done, _waiting = await asyncio.wait({task}, timeout=CLOSE_S)
        if not done:
            _log.error("%s did not close within %g s", self._what, CLOSE_S)
            await self._give_up()
            return
        self._task = None
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
