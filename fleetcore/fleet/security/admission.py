"""Asking plugins whether a device may enrol. It fails closed: an error, a wrong answer or silence is a no."""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fleetcore import threads
from fleetcore.errors import NotAuthorised
from fleetcore.interfaces.clock import Clock
from fleetcore.model.device import Device

Admission = Callable[[Device, dict[str, object]], str | Awaitable[str | None] | None]

#: What all checks of one enrolment may take together, seconds; the device waits for its answer meanwhile.
TIMEOUT_S = 5.0

#: Checks that may hang at one time, as a thread cannot be ended; beyond, enrolments are refused at once.
_MOST_THREADS = 16

_log = logging.getLogger(__name__)


class Admissions:
    """The checks of ``fleetcore_admissions``, in their order. A plain function runs in a thread of its own."""

    def __init__(self, checks: Sequence[Admission], clock: Clock) -> None:
        self._checks, self._clock = tuple(checks), clock
        self._threads = 0

    async def ask(self, device: Device, parameters: Mapping[str, object]) -> None:
        """Returns if every check lets the device in; raises NotAuthorised with the first reason otherwise."""
        if not self._checks:
            return
        asking = asyncio.create_task(self._ask(device, parameters), name=f"fleetcore admission of {device.id}")
        timer = asyncio.create_task(self._clock.sleep(TIMEOUT_S), name="fleetcore admission time-out")
        try:
            await asyncio.wait({asking, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                _log.error("The admission checks of %s took longer than %s s", device.id, TIMEOUT_S)
                raise _refused(device, f"the admission checks took longer than {TIMEOUT_S:g} s")
            asking.result()
        finally:
            asking.cancel()
            timer.cancel()
            await asyncio.gather(asking, timer, return_exceptions=True)

    async def _ask(self, device: Device, parameters: Mapping[str, object]) -> None:
        for check in self._checks:
            try:
                answer = await self._call(check, device, dict(parameters))
            except Exception as error:
                _log.exception("An admission check failed on %s", device.id)
                raise _refused(device, "an admission check failed") from error
            if answer is not None:
                raise _refused(device, answer if isinstance(answer, str) else "an admission check gave no reason")

    async def _call(self, check: Admission, device: Device, parameters: dict[str, object]) -> object:
        if inspect.iscoroutinefunction(check):
            return await check(device, parameters)
        if self._threads >= _MOST_THREADS:
            raise RuntimeError(f"{_MOST_THREADS} admission checks hang already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()

        def settle(value: object, error: BaseException | None) -> None:
            self._threads -= 1
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def run() -> None:
            value: object = None
            failed: BaseException | None = None
            try:
                value = check(device, parameters)
            except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is a no, and is told to the caller
                failed = error
            try:
                loop.call_soon_threadsafe(settle, value, failed)
            except RuntimeError:
                _log.warning("An admission check ended after the fleet was closed")

        self._threads += 1
        # Not the loop's own pool: a check that hangs for ever would hold its thread and the end of the process.
        name = f"fleetcore admission of {device.id}"
        threads.start(threading.Thread(target=run, name=name, daemon=True), threads.PLUGIN_EXIT_S)
        return await answer


def _refused(device: Device, why: str) -> NotAuthorised:
    return NotAuthorised(f"The device is not admitted: {why}", device=device.id)
