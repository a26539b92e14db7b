"""Updates of the agent: an offer of the component ``agent`` is verified, downloaded, and started on trial.

The trial ends well once the new release is connected to the core and its functions are settled. Where it is not within
ten minutes, or does not start, the release before runs again and reports it.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from msgspec.structs import replace

from fleetcore import files
from fleetcore.errors import FleetError, Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_task
from fleetcore.model.message import Reply
from fleetcore.wire.manifest import Manifest, check_order
from fleetcore_edge.agent.bundle import unpack
from fleetcore_edge.agent.slots import Ended, Release, Slots, Trial

_log = logging.getLogger(__name__)

COMPONENT = "agent"
#: How long a release on trial has to reach the core.
TRIAL_S = 600.0
#: The room of a bundle and of what it holds, in sizes of the bundle: wheels shrink Python to a third.
_UNPACKED = 4


class AgentUpdate:
    """One gateway's agent.

    Args:
        verify: the manifest of an offer that is signed for this gateway; raises Refused.
        download: the bytes of an artifact.
        tell: brings a report to the core, however long that takes.
        admit: makes room for a number of bytes; raises FleetError where there is none.
        connected: returns once there is a connection to the core.
        settled: returns once the functions run, or cannot.
        report: reports state of the gateway.
        restart: ends this process, which then starts as another release.
        site: the folder of the release that this process runs.
        proved: called when a trial has ended well.
    """

    def __init__(
        self,
        slots: Slots,
        clock: Clock,
        *,
        verify: Callable[[Mapping[str, object]], Manifest],
        download: Callable[[str], AsyncIterator[bytes]],
        tell: Callable[[Mapping[str, object]], Awaitable[Reply]],
        admit: Callable[[int], Awaitable[None]],
        connected: Callable[[], Awaitable[object]],
        settled: Callable[[], Awaitable[object]],
        report: Callable[[Mapping[str, object]], Awaitable[object]],
        restart: Callable[[], None],
        site: Path | None,
        proved: Callable[[], object] = lambda: None,
    ) -> None:
        self._slots, self._clock = slots, clock
        self._verify, self._download, self._tell, self._admit = verify, download, tell, admit
        self._connected, self._settled, self._report = connected, settled, report
        self._restart, self._site, self._proved = restart, site, proved
        self._offer: Mapping[str, object] | None = None
        self._cancelled: str | None = None
        self._working: asyncio.Task[None] | None = None
        #: What the task works on.
        self._under_way: object = None
        self._came = asyncio.Event()

    def _running(self) -> Mapping[str, object]:
        """What runs, as the component ``agent`` of ``reported.firmware``."""
        running = self._slots.memory.running
        if running is None or self._site != self._slots.site(running):
            return {"version": version("fleetcore-edge"), "sha256": None, "seq": None}
        return {"version": running.version, "sha256": running.sha256, "seq": running.seq}

    def heard(self, body: Mapping[str, object]) -> None:
        """The core offers firmware to this gateway, or withdraws an offer."""
        offer = body.get("offer")
        if isinstance(offer, Mapping):
            self._offer = offer
        else:
            self._cancelled = str(body.get("cancel"))
            if self._offer is not None and self._offer.get("execution") == self._cancelled:
                self._offer = None
        self._came.set()

    async def run(self) -> None:
        """Ends a trial, then follows offers; owned by the supervisor."""
        await self._end_trial()
        await self._report({"firmware": {"components": {COMPONENT: self._running()}}})
        await self._tell_end()
        try:
            while True:
                await self._came.wait()
                self._came.clear()
                await self._follow()
        finally:
            if self._working is not None:
                await end_task(self._working)

    async def _end_trial(self) -> None:
        trial = self._slots.memory.trial
        if trial is None or self._site != self._slots.site(trial.release):
            return
        proving = asyncio.create_task(self._prove(), name="agent on trial")
        time_out = asyncio.create_task(self._clock.sleep(TRIAL_S), name="end of the trial")
        try:
            await asyncio.wait({proving, time_out}, return_when=asyncio.FIRST_COMPLETED)
            if proving.done() and proving.exception() is None:
                self._slots.confirm()
                self._proved()
                _log.info("Agent %s has proved itself", trial.release.version)
                return
            self._slots.give_up("health_failed", f"It did not reach the core within {TRIAL_S:g} s")
            _log.error("Agent %s does not reach the core: the one before runs again", trial.release.version)
            self._restart()
            await asyncio.Event().wait()
        finally:
            await end_task(proving)
            await end_task(time_out)

    async def _prove(self) -> None:
        await self._connected()
        await self._settled()

    async def _tell_end(self) -> None:
        ended = self._slots.memory.ended
        if ended is None or ended.told:
            return
        await self._say(ended.execution, ended.state, version=ended.version, code=ended.code, reason=ended.reason)
        now = self._slots.memory.ended
        if now is not None and (now.execution, now.attempt) == (ended.execution, ended.attempt):
            self._slots.end(replace(now, told=True))

    async def _say(self, execution: str, state: str, **more: object) -> None:
        body = {"execution": execution, "state": state, **{name: value for name, value in more.items() if value}}
        reply = await self._tell(body)
        if reply.error is not None:
            _log.warning("The core refuses the agent's report %s: %s", state, reply.error.get("detail"))

    async def _follow(self) -> None:
        cancelled, self._cancelled = self._cancelled, None
        offer, self._offer = self._offer, None
        works = self._working is not None and not self._working.done()
        if offer is not None and cancelled is None and works and _attempt(offer) == self._under_way:
            return  # it was only told again
        if (cancelled is not None or offer is not None) and self._working is not None:
            await end_task(self._working)
            self._working = None
        if cancelled is not None:
            ended = self._slots.memory.ended
            if ended is None or ended.execution != cancelled:
                await self._say(cancelled, "cancelled")
        if offer is not None:
            self._under_way = _attempt(offer)
            self._working = asyncio.create_task(self._update(offer), name="agent update")

    async def _update(self, offer: Mapping[str, object]) -> None:
        execution, attempt = str(offer.get("execution")), _number(offer.get("attempt"))
        ended = self._slots.memory.ended
        if ended is not None and (ended.execution, ended.attempt) == (execution, attempt):
            self._slots.end(replace(ended, told=False))
            await self._tell_end()
            return
        try:
            await self._install(offer, execution, attempt)
        except (FleetError, OSError) as error:
            code = error.code if isinstance(error, FleetError) else "internal"
            _log.warning("The agent is not updated: %s", error)
            self._slots.end(Ended(execution=execution, attempt=attempt, state="failed", code=code, reason=str(error)))
            await self._tell_end()

    async def _install(self, offer: Mapping[str, object], execution: str, attempt: int) -> None:
        if offer.get("component") != COMPONENT:
            raise Refused(
                f"This gateway updates its component {COMPONENT!r} alone",
                code="requires_unmet",
                remedy=f"Sign the release with --component {COMPONENT}",
            )
        manifest = self._verify(offer)
        if (manifest.sha256, manifest.size, manifest.component) != (offer.get("sha256"), offer.get("size"), COMPONENT):
            raise Refused("The offer names another image than its manifest", code="signature_invalid")
        check_order(manifest, self._slots.memory.highest_seq)
        await self._say(execution, "accepted")
        release = Release(version=manifest.version, sha256=manifest.sha256, seq=manifest.seq)
        bundle = self._slots.folder / f"{manifest.sha256}.zip"
        await self._say(execution, "downloading")
        await self._fetch(bundle, manifest)
        await self._say(execution, "downloaded")
        if offer.get("install") == "wait":
            return  # the core offers it again when it may be installed
        await self._say(execution, "installing")
        await asyncio.to_thread(unpack, bundle, self._slots.site(release))
        bundle.unlink(missing_ok=True)
        await self._say(execution, "rebooting")
        self._slots.try_out(Trial(release=release, execution=execution, attempt=attempt))
        _log.info("The agent starts anew as %s", release.version)
        self._restart()

    async def _fetch(self, bundle: Path, manifest: Manifest) -> None:
        """Downloads the bundle, where it is not there already."""
        if await asyncio.to_thread(_digest, bundle) == manifest.sha256:
            return
        await self._admit(_UNPACKED * manifest.size)
        files.make_private(self._slots.folder)
        part, digest, size = bundle.with_suffix(".part"), hashlib.sha256(), 0
        with part.open("wb") as file:
            async for piece in self._download(manifest.sha256):
                size += len(piece)
                if size > manifest.size:
                    break
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
        if (size, digest.hexdigest()) != (manifest.size, manifest.sha256):
            part.unlink()
            raise Refused("The bundle that the core gave is another one than its digest says", code="digest_mismatch")
        part.replace(bundle)


def _digest(file: Path) -> str | None:
    """The digest of a file; None where there is none."""
    if not file.exists():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _attempt(offer: Mapping[str, object]) -> object:
    return offer.get("execution"), offer.get("attempt"), offer.get("install")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 1
