"""The fleet's trust root: the signers of firmware. The server has only public keys, and every version so far.

The first version is trusted because an admin set it; each later one because a threshold of the previous keys and of its
own has signed it. The chain is stored whole, since a device that missed some versions has to follow them all.
"""

from collections.abc import Mapping
from typing import cast

from fleetcore.errors import Conflict, NotFound, Refused, VersionConflict
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.firmware import TrustVersion
from fleetcore.model.store import Event
from fleetcore.wire import dsse
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.trust import TRUST_TYPE, FirmwareRoot, first_trust, follow, read_trust

#: How many versions an offer carries; a device that is further behind gets the rest with the next offer.
CHAIN_BYTES = 64 * 1024


class TrustRoot:
    """Stores the chain and the current version. Call :meth:`load` first."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._clock, self._shield = clock, Shield()
        self.records = Repository(storage, "trust_version", TrustVersion)
        self._chain: list[TrustVersion] = []
        self._current: FirmwareRoot | None = None

    async def load(self) -> None:
        """Loads the stored chain."""
        self._chain = await self.records.find()
        if self._chain:
            self._current = read_trust(dsse.opened(self._chain[-1].envelope, TRUST_TYPE))

    @property
    def current(self) -> FirmwareRoot | None:
        """The current version; None before there is one."""
        return self._current

    def need(self) -> FirmwareRoot:
        """The current version, if it has not expired.

        Raises Refused: ``trust_invalid`` without one, ``trust_expired``.
        """
        if self._current is None:
            raise Refused(
                "The fleet has no trust root yet",
                code="trust_invalid",
                remedy="Make one: fleetcore firmware trust init, sign, set",
            )
        self._current.check_time(self._clock.now_ms())
        return self._current

    async def add(self, envelope: object, *, actor: str = "system", reason: str = "") -> TrustVersion:
        """Sets the next version, starting with number 1; the same again changes nothing.

        An expired version is accepted, since its successor needs it, but it verifies nothing.

        Raises:
            Conflict: that version exists with other content.
            Refused: as :func:`~fleetcore.wire.trust.follow`.
        """
        old = self._current
        given = read_trust(dsse.opened(envelope, TRUST_TYPE))
        if old is not None and given.version <= old.version:
            existing = self._chain[given.version - 1]
            if dsse.opened(existing.envelope, TRUST_TYPE) == dsse.opened(envelope, TRUST_TYPE):
                return existing
            raise Conflict(
                f"Version {given.version} of the trust root exists with other content",
                remedy=f"Sign version {old.version + 1}",
            )
        if old is None and given.version != 1:
            raise Refused(
                f"The first version of a trust root is 1, not {given.version}",
                code="trust_invalid",
                remedy="Give every version in order: devices follow them one by one",
            )
        new = first_trust(envelope) if old is None else follow(old, envelope)
        now = self._clock.now_ms()
        record = TrustVersion(
            id=f"{new.version:07d}",
            number=new.version,
            envelope=cast("Mapping[str, object]", envelope),
            expires=new.expires,
            added=now,
            by=actor,
        )
        event = Event(
            type="trust.set",
            subject="firmware trust root",
            time=now,
            actor=actor,
            reason=reason,
            data={"version": new.version, "expires": new.expires, "keys": sorted(new.keys)},
        )
        return await self._shield.run(self._keep(record, event, new))

    async def _keep(self, record: TrustVersion, event: Event, new: FirmwareRoot) -> TrustVersion:
        try:
            stored = await self.records.create(record, [event])
        except VersionConflict as error:
            raise Conflict(f"Version {new.version} of the trust root was set meanwhile") from error
        self._chain.append(stored)
        self._current = new
        return stored

    def versions(self) -> list[TrustVersion]:
        """Every version, the first one first."""
        return list(self._chain)

    def get(self, number: int | None = None) -> TrustVersion:
        """One version, or the current one. Raises NotFound."""
        if self._chain and (number is None or 1 <= number <= len(self._chain)):
            return self._chain[-1 if number is None else number - 1]
        raise NotFound(
            "No trust root is set" if number is None else f"Version {number} of the trust root does not exist",
            remedy="Make one: fleetcore firmware trust init, sign, set",
        )

    def after(self, number: int) -> list[Mapping[str, object]]:
        """The versions after a given one, in order, as many as an offer carries."""
        found: list[Mapping[str, object]] = []
        size = 0
        for item in self._chain[max(0, number) :]:
            size += len(dumps(item.envelope))
            if found and size > CHAIN_BYTES:
                break
            found.append(item.envelope)
        return found
