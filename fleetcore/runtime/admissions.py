"""The admissions that fleet.toml requires: opened in the background, reopened after a failure, called while open."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fleetcore.errors import FleetError, Unavailable
from fleetcore.fleet.security.admission import Required
from fleetcore.interfaces.admission import Admission
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.pipeline.back_off import back_off_s

_log = logging.getLogger(__name__)


class RequiredAdmission(Required):
    """One ``[admission.NAME]``.

    Attributes:
        kind: the kind that its section chooses.
        error: why it is not open; empty if it is open, or during the first attempt.
    """

    def __init__(
        self, name: str, kind: str, opener: Callable[[], AbstractAsyncContextManager[Admission]], clock: Clock
    ) -> None:
        self._name, self.kind, self._opener, self._clock = name, kind, opener, clock
        self._tried = asyncio.Event()
        self._admission: Admission | None = None
        self.error = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def state(self) -> str:
        """``starting``, ``open`` or ``failing``."""
        if self._admission is not None:
            return "open"
        return "failing" if self.error else "starting"

    async def opened(self) -> Admission:
        await self._tried.wait()
        if self._admission is None:
            raise Unavailable(f"it is not open: {self.error}", code="not_ready")
        return self._admission

    async def run(self) -> None:
        """Opens it, retries after a failure, and keeps it open until cancelled; owned by the supervisor."""
        failures = 0
        while True:
            try:
                await self._hold(self._opener())
            except Exception as error:
                self.error = error.message if isinstance(error, FleetError) else in_a_line(error)
                self._tried.set()
                wait = back_off_s(failures)
                failures += 1
                _log.error("[admission.%s] is not open, so no device can enrol: %s", self._name, self.error)
                await self._clock.sleep(wait)

    async def _hold(self, opening: AbstractAsyncContextManager[Admission]) -> None:
        self._admission = await opening.__aenter__()
        self.error = ""
        self._tried.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._admission = None
            try:
                await opening.__aexit__(None, None, None)
            except Exception as error:
                _log.warning("[admission.%s] did not close cleanly: %s", self._name, in_a_line(error))
