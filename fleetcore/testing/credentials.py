"""A device's care for its own credentials: it adopts new CA bundles, and renews its certificate in time.

A device renews when asked (``desired.fleetcore.renew`` differs from the value that it obeyed last) and after the
renewal time of its certificate. The new certificate has a new key, and the old one is kept until the new one has
connected: after any failure the device is as before. A bundle is trusted if its digest is right, because it comes from
a server that is already trusted.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from attrs import evolve

from fleetcore.errors import FleetError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.waits import end_task
from fleetcore.model.message import Reply
from fleetcore.wire.identity import issued_chain, make_csr, make_key
from fleetcore.wire.times import parse_time


class Traffic:
    """Admits messages, and holds them while the connection is replaced, so that none uses a closed one."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._under_way = 0
        self._none = asyncio.Event()

    @asynccontextmanager
    async def message(self) -> AsyncIterator[None]:
        """The context of each message: waits while traffic is held."""
        await self._open.wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._none.set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Waits for the messages under way, and holds new ones."""
        self._open.clear()
        try:
            while self._under_way:
                self._none.clear()
                await self._none.wait()
            yield
        finally:
            self._open.set()


class CredentialCare:
    """Manages one device's credentials.

    Args:
        request: requests a certificate over the present connection: CSR (PEM) in, reply out.
        move: opens a connection with these secrets and switches to it, or raises and keeps the old one.
        report: reports twin state.

    Attributes:
        renewals: adopted certificates.
        failures: codes of failed renewals.
        obeyed: the last value of ``desired.fleetcore.renew`` that was carried out.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        secrets: Callable[[], DeviceSecrets],
        request: Callable[[bytes], Awaitable[Reply]],
        move: Callable[[DeviceSecrets], Awaitable[None]],
        report: Callable[[Mapping[str, object]], Awaitable[object]],
    ) -> None:
        self._clock = clock
        self._secrets, self._request, self._move, self._report = secrets, request, move, report
        self._renew_after: int | None = None
        self._confirmed: Mapping[str, object] = {}
        self._working: asyncio.Task[None] | None = None
        self.renewals = 0
        self.failures: list[str] = []
        self.obeyed: object = None

    def issued(self, body: Mapping[str, object]) -> None:
        """Records a new certificate, and its renewal time."""
        after = body.get("renew_after")
        self._renew_after = parse_time(after) if isinstance(after, str) else None

    def with_bundle(self, secrets: DeviceSecrets, wanted: object) -> DeviceSecrets:
        """The secrets with the bundle of ``desired.fleetcore.trust``, if it is new and complete."""
        if not isinstance(wanted, Mapping):
            return secrets
        ca, digest = wanted.get("ca"), wanted.get("sha256")
        if not isinstance(ca, str) or hashlib.sha256(ca.encode()).hexdigest() != digest:
            return secrets
        return evolve(secrets, ca=ca.encode())

    async def obey(self, wanted: Mapping[str, object]) -> None:
        """Confirms an adopted bundle, and renews if asked."""
        trust = wanted.get("trust")
        if isinstance(trust, Mapping) and self._secrets().ca == str(trust.get("ca")).encode():
            confirmed = {"version": trust.get("version"), "sha256": trust.get("sha256")}
            if confirmed != self._confirmed:
                await self._report({"fleetcore": {"trust": confirmed}})
                self._confirmed = confirmed
        value = wanted.get("renew")
        if value is not None and value != self.obeyed:
            self._start(value)

    def look(self) -> None:
        """Renews if it is time; called periodically."""
        if self._renew_after is not None and self._clock.now_ms() >= self._renew_after:
            self._start(self.obeyed)

    def _start(self, value: object) -> None:
        if self._secrets().certificate is not None and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._renew(value), name=f"renew {self._secrets().device}")

    async def _renew(self, value: object) -> None:
        pem, key = make_key()
        try:
            reply = await self._request(make_csr(self._secrets().device, key))
            if reply.status != 201 or reply.body is None:
                self.failures.append(str((reply.error or {}).get("code", reply.status)))
                return
            body = reply.body
            await self._move(
                evolve(self._secrets(), certificate=issued_chain(body), key=pem, ca=str(body["ca"]).encode())
            )
            self.issued(body)
            self.renewals += 1
            self.obeyed = value
            if value is not None:
                await self._report({"fleetcore": {"renew": value}})
        except FleetError as error:
            self.failures.append(error.code)

    async def wait_idle(self) -> None:
        """Returns once no renewal is under way."""
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)

    async def close(self) -> None:
        """Cancels a renewal under way."""
        working, self._working = self._working, None
        if working is not None and working is not asyncio.current_task():
            await end_task(working)
