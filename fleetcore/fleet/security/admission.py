"""Asks the admissions that fleet.toml requires whether a device may enrol.

It fails closed: an admission that is not open, raises, hangs or returns an invalid answer refuses. The device gets the
same answer for every refusal; events and the log have the reason.
"""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from fleetcore import threads
from fleetcore.errors import NotAuthorised, Unavailable
from fleetcore.interfaces.admission import Admission, Admit, BlockingAdmission, Candidate, Refuse, Verdict, Wait
from fleetcore.interfaces.boundary import as_error, in_a_line, plugin_code
from fleetcore.interfaces.clock import Clock

#: The time limit for all admissions of one enrolment together, seconds; the device waits for its answer meanwhile.
TIMEOUT_S = 5.0

#: How many blocking checks may hang at the same time, as a thread cannot be ended; beyond, enrolments are refused at
#: once.
_MAX_THREADS = 16
#: How long an abandoned check may take to react to its cancellation, in real time.
_HEED_S = 1.0

_log = logging.getLogger(__name__)


class Required(ABC):
    """An admission that fleet.toml requires, open or not."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name: ``guests`` of ``[admission.guests]``."""

    @abstractmethod
    async def opened(self) -> Admission:
        """The open admission; waits for an attempt in progress. Raises FleetError where it is not open."""


class AlwaysOpen(Required):
    """An admission that is open already: for tests and scripts."""

    def __init__(self, name: str, admission: Admission) -> None:
        self._name, self._admission = name, admission

    @property
    def name(self) -> str:
        return self._name

    async def opened(self) -> Admission:
        return self._admission


class Admissions:
    """All required admissions, in the order of fleet.toml."""

    def __init__(self, required: Sequence[Required], clock: Clock) -> None:
        self._required, self._clock = tuple(required), clock
        self._threads = 0

    async def ask(self, candidate: Candidate) -> None:
        """Returns if every admission admits the device; the error's ``ids["reason"]`` says which does not, and why.

        Raises:
            NotAuthorised: one refuses, or does not answer in time.
            Unavailable: ``enrollment_pending``; none refuses, and one has not decided.
        """
        if not self._required:
            return
        asking = asyncio.create_task(self._ask(candidate), name=f"fleetcore admission of {candidate.device.id}")
        timer = asyncio.create_task(self._clock.sleep(TIMEOUT_S), name="fleetcore admission time-out")
        try:
            await asyncio.wait({asking, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                names = ", ".join(item.name for item in self._required)
                raise _refused(candidate, f"admission took longer than {TIMEOUT_S:g} s ({names})")
            asking.result()
        finally:
            timer.cancel()
            asking.cancel()
            await asyncio.wait({asking, timer}, timeout=_HEED_S)

    async def _ask(self, candidate: Candidate) -> None:
        waiting: list[tuple[float, str]] = []
        for required in self._required:
            what = f"admission {required.name!r}"
            try:
                with plugin_code(what):
                    verdict: object = await self._call(await required.opened(), candidate)
            except Exception as error:
                raise _refused(candidate, f"{what} could not be asked: {in_a_line(error)}") from error
            match verdict:
                case Admit():
                    continue
                case Refuse(reason):
                    raise _refused(candidate, f"{what}: {reason}")
                case Wait(reason, retry_after_s):
                    waiting.append((retry_after_s, f"{what}: {reason}"))
                case _:
                    raise _refused(candidate, f"{what} answered {type(verdict).__name__}, not Admit, Refuse or Wait")
        if waiting:
            retry_after_s, reason = max(waiting)
            raise Unavailable(
                "The enrolment is not decided yet",
                code="enrollment_pending",
                retry_after_s=retry_after_s,
                device=candidate.device.id,
                fingerprint=candidate.fingerprint,
                reason=reason,
            )

    async def _call(self, admission: Admission, candidate: Candidate) -> Verdict:
        if not isinstance(admission, BlockingAdmission):
            return await admission.decide(candidate)
        if self._threads >= _MAX_THREADS:
            raise RuntimeError(f"{_MAX_THREADS} blocking checks hang already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Verdict] = loop.create_future()

        def finish(value: Verdict | None, error: BaseException | None) -> None:
            self._threads -= 1
            if answer.done():
                return
            if error is not None:
                answer.set_exception(
                    RuntimeError(in_a_line(error)) if isinstance(error, StopIteration) else as_error(error, "it")
                )
            else:
                answer.set_result(value)  # type: ignore[arg-type]  # whatever it is, it is judged by the caller

        def run() -> None:
            value: Verdict | None = None
            failed: BaseException | None = None
            try:
                with plugin_code("it"):
                    value = admission.decide_blocking(candidate)
            except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is a no, and is told to the caller
                failed = error
            try:
                loop.call_soon_threadsafe(finish, value, failed)
            except RuntimeError:
                _log.warning("An admission answered after the fleet was closed")

        self._threads += 1
        # Not the loop's own pool: a check that hangs forever would block its thread and the end of the process.
        name = f"fleetcore admission of {candidate.device.id}"
        threads.start(threading.Thread(target=run, name=name, daemon=True), threads.PLUGIN_EXIT_S)
        return await answer


def _refused(candidate: Candidate, why: str) -> NotAuthorised:
    _log.warning("Device %s is not admitted: %s", candidate.device.id, why)
    return NotAuthorised("The device is not admitted", device=candidate.device.id, reason=why)
