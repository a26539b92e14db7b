"""Rotation: replacing a root by a new one, and an issuing CA by another, without locking a device out.

The steps are a table, :data:`STEPS`. ``announce``: there is a second root with an issuing CA, and the first root's key
has signed the second's too (the cross certificate). Both are trusted, the first still signs, and the devices get the
new bundle. ``issue``: the second signs; the server's certificate is renewed and sent with the cross certificate, so
that a device which trusts only the first root can still verify it. ``retire``: the first root is no longer trusted.
Until then every step can be undone.

A fleet's phase follows from what it trusts and signs with (:func:`phase_of`), so no crash can make them disagree.
Everything that depends on a change, the server's certificate, the devices' bundle, the audit row, is updated by
:meth:`Rotation.reconcile`, which may be called at any time and again after a crash.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from uuid import uuid4

from attrs import evolve, frozen
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcore.errors import Conflict, IllegalTransition, NotFound, Refused
from fleetcore.fleet.security.authority import (
    Authority,
    IssuingCa,
    RootCa,
    TrustBundle,
    key_id,
    make_cross,
    make_issuing,
    make_root,
)
from fleetcore.fleet.security.claims import ClaimBatch
from fleetcore.fleet.security.folder import PkiFolder, read_key
from fleetcore.fleet.security.inventory import CertificateRecord, Inventory
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import Phase
from fleetcore.model.store import Commit, Event, Put

#: How long an unlocked root's key stays in memory, seconds: time to type the next command.
LENT_S = 600.0

#: An issuing CA is replaced at this part of its life, so that its last certificates are not cut short.
RENEW_ISSUING_AT = 0.5

#: How many devices an answer lists.
_SAMPLE = 20


#: The phase in which a step is possible, and the phase that it leads to.
STEPS: Mapping[str, Mapping[Phase, Phase]] = MappingProxyType(
    {
        "begin": {Phase.SETTLED: Phase.ANNOUNCED},
        "issue": {Phase.ANNOUNCED: Phase.ISSUING},
        "back": {Phase.ISSUING: Phase.ANNOUNCED, Phase.ANNOUNCED: Phase.SETTLED},
        "retire": {Phase.ISSUING: Phase.SETTLED},
        "renew_issuing": {Phase.SETTLED: Phase.SETTLED},
    }
)


def phase_of(trust: TrustBundle) -> Phase:
    """The phase of a trust."""
    if len(trust.roots) == 1:
        return Phase.SETTLED
    return Phase.ISSUING if trust.root_of(trust.signer) is trust.roots[-1] else Phase.ANNOUNCED


def bundle_digest(trust: TrustBundle) -> str:
    """SHA-256 (hex) of the bundle: a device confirms the CAs that it trusts by it."""
    return hashlib.sha256(trust.bundle()).hexdigest()


class Delivery(Protocol):
    """Delivers the bundle to devices, and counts their confirmations."""

    async def deliver(self, version: int, sha256: str, ca: str) -> None:
        """Sends the bundle to every device; repeating it changes nothing."""
        ...

    def confirmed(self, sha256: str) -> AsyncIterator[str]:
        """The devices that have confirmed this bundle."""
        ...


@frozen(kw_only=True)
class RotationStatus:
    """The progress of a rotation.

    Attributes:
        bundle: the version of the CAs that devices are to trust, ``sha256`` its digest.
        devices: those with a credential, which are asked to confirm it; ``confirmed`` those that have.
        waiting: some that have not.
        dependents: devices whose certificates all come from the older root; ``dependents_on_new`` from the newer.
        locked_out: some that ``retire`` would lock out now.
        claims: batches that still enrol, by a claim certificate of the older root.
    """

    phase: Phase
    bundle: int
    sha256: str
    devices: int
    confirmed: int
    waiting: tuple[str, ...] = ()
    dependents: int = 0
    dependents_on_new: int = 0
    locked_out: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The confirmed share; 1.0 where there are no devices."""
        return self.confirmed / self.devices if self.devices else 1.0


@frozen(kw_only=True)
class StepResult:
    """A completed step, the devices that it locked out, and the batches whose claim certificate it invalidated."""

    phase: Phase
    bundle: int
    locked_out: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


class Rotation:
    """Takes the steps.

    Args:
        folder: the folder of the CAs; None in memory.
        follow: updates what depends on the CAs: the server's certificate, the revocation lists.
        ended: ``ended(device, certificate)``, for each certificate that a step has invalidated.
        token_holders: the devices that have a token: they present no certificate, and trust the server by the bundle
            too.
        batches: those whose claim certificate is still valid.

    Attributes:
        delivery: None where devices cannot be told.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        authority: Authority,
        inventory: Inventory,
        *,
        folder: Callable[[], PkiFolder | None],
        follow: Callable[[], Awaitable[None]],
        ended: Callable[[str, str], None],
        token_holders: Callable[[], AsyncIterator[str]],
        batches: Callable[[], AsyncIterator[ClaimBatch]],
    ) -> None:
        self._token_holders, self._batches = token_holders, batches
        self._storage, self._clock, self._authority, self._inventory = storage, clock, authority, inventory
        self._folder, self._follow, self._ended = folder, follow, ended
        self.delivery: Delivery | None = None
        self._lent: tuple[ec.EllipticCurvePrivateKey, float] | None = None
        self._said: Mapping[str, object] = {}
        self._lock = asyncio.Lock()

    @property
    def phase(self) -> Phase:
        """The present progress."""
        return phase_of(self._authority.trust)

    @property
    def unchanged(self) -> asyncio.Lock:
        """While it is held, the CAs and their files do not change: for copying them, for example."""
        return self._lock

    # --- the root's key ------------------------------------------------------------------------------------------

    def lend(self, key: str, passphrase: str | None = None) -> None:
        """Unlocks a trusted root with its key, PEM, for the next step that needs it; the key is not stored.

        Raises ConfigError where it is not a key, Refused where it is not that of a trusted root.
        """
        read = read_key(key.encode(), passphrase, file="the root's key")
        if all(root.public_key() != read.public_key() for root in self._authority.roots):
            raise Refused(
                "The key is not that of a root of this fleet", remedy="`fleetcore ca show` names the roots in use"
            )
        self._lent = read, self._clock.monotonic_s()

    def _root(self, root: RootCa) -> RootCa:
        """The root with its key: from the folder, or unlocked."""
        if root.key is not None:
            return root
        if self._lent is not None:
            key, since = self._lent
            if self._clock.monotonic_s() - since <= LENT_S and key.public_key() == root.certificate.public_key():
                return evolve(root, key=key)
        raise Conflict(
            "The root's key is kept offline",
            code="root_offline",
            remedy="Give its file: --root-key FILE, and --root-passphrase env:NAME or file:PATH",
        )

    async def take_offline(
        self, file: Path, *, passphrase: str | None = None, number: int | None = None, actor: str, reason: str
    ) -> RootCa:
        """Moves a root's key out of the folder: see :meth:`PkiFolder.take_root_offline`.

        Args:
            number: which root's, if the keys of both are here.

        Raises NotFound where the folder has no root's key, Refused in memory or where ``number`` is missing.
        """
        folder = self._folder()
        if folder is None:
            raise Refused("A fleet in memory has no folder to take a key from")
        async with self._lock:
            trust = self._authority.trust
            here = [root for root in trust.roots if root.key is not None and number in (None, root.number)]
            if not here:
                raise NotFound("The folder does not contain such a root key: it is offline already")
            if len(here) > 1:
                numbers = ", ".join(str(root.number) for root in here)
                raise Refused(f"The keys of the roots {numbers} are here", remedy="Select one: --number N")
            (root,) = here
            await asyncio.to_thread(folder.take_root_offline, root, file, passphrase)
            roots = tuple(evolve(item, key=None) if item is root else item for item in trust.roots)
            self._authority.install(evolve(trust, roots=roots))
            event = self._event("ca.root_offline", actor, reason, {"root": key_id(root.certificate)})
            await self._storage.commit(Commit(events=(event,)))
        return root

    # --- the steps -----------------------------------------------------------------------------------------------

    async def step(
        self, step: str, *, threshold: float = 1.0, force: bool = False, actor: str, reason: str = ""
    ) -> StepResult:
        """Takes a step by its name: ``begin``, ``issue``, ``back`` or ``retire``; raises as each, and Refused."""
        match step:
            case "begin":
                return await self.begin(actor=actor, reason=reason)
            case "issue":
                return await self.issue(actor=actor, reason=reason)
            case "back":
                return await self.back(force=force, actor=actor, reason=reason)
            case "retire":
                return await self.retire(threshold=threshold, force=force, actor=actor, reason=reason)
        raise Refused(f"A rotation has no step {step!r}", remedy="Use one of: begin, issue, back, retire")

    async def begin(self, *, actor: str, reason: str = "") -> StepResult:
        """Announces a new root: both are trusted, the old one still signs.

        Raises:
            IllegalTransition: a rotation is in progress.
            Conflict: ``root_offline``; the root's key is offline and not unlocked.
        """
        async with self._lock:
            trust = self._allowed("begin")
            old = self._root(trust.roots[-1])
            number = trust.last + 1
            fleet, clock = self._authority.fleet, self._clock
            root = await asyncio.to_thread(make_root, fleet, number, clock)
            issuing = make_issuing(fleet, number, root, clock)
            expired = clock.now_ms() >= old.certificate.not_valid_after_utc.timestamp() * 1000
            new = evolve(
                trust,
                roots=(*trust.roots, root),
                issuing=(*trust.issuing, issuing),
                # A cross certificate by an expired root would not be trusted.
                cross=() if expired else (make_cross(root, old, clock),),
                last=number,
            )
            self._lent = None
            return await self._change(new, "ca.announced", actor, reason)

    async def issue(self, *, actor: str, reason: str = "") -> StepResult:
        """Makes the new root's CA sign from now on. Raises IllegalTransition where none was announced."""
        async with self._lock:
            trust = self._allowed("issue")
            return await self._change(
                evolve(trust, signing=_newest_below(trust, trust.roots[-1]).number), "ca.issuing", actor, reason
            )

    async def back(self, *, force: bool = False, actor: str, reason: str = "") -> StepResult:
        """Undoes the last step: the old root signs again, or the new one is dropped.

        Raises:
            IllegalTransition: there is nothing to undo.
            Conflict: ``devices_would_be_locked_out``; dropping the new root would lock devices out. ``force`` does it.
        """
        async with self._lock:
            trust = self._allowed("back")
            if phase_of(trust) is Phase.ISSUING:
                old = _newest_below(trust, trust.roots[0])
                return await self._change(evolve(trust, signing=old.number), "ca.taken_back", actor, reason)
            return await self._drop(trust, trust.roots[-1], "ca.taken_back", actor, reason, force=force)

    async def retire(self, *, threshold: float = 1.0, force: bool = False, actor: str, reason: str = "") -> StepResult:
        """Ends trust in the old root, for good: its files are removed, its key too if it is here.

        Args:
            threshold: the share of devices that must have confirmed the new bundle.
            force: without the checks; the answer names the devices that are locked out.

        Raises:
            IllegalTransition: the new root does not sign yet.
            Conflict: ``devices_would_be_locked_out``; too few have confirmed, or some have only a certificate of the
                old root.
        """
        if not 0 <= threshold <= 1:
            raise Refused("The threshold must be a share from 0 to 1")
        async with self._lock:
            trust = self._allowed("retire")
            # If the server could not take its new certificate yet, it still presents one of the root that goes.
            await self._follow()
            status = await self.status()
            if status.share < threshold and not force:
                raise Conflict(
                    f"{status.confirmed} of {status.devices} devices have confirmed the new root, "
                    f"{status.share:.1%}, less than {threshold:.1%}",
                    code="devices_would_be_locked_out",
                    remedy="Wait for them, lower the threshold, or use force: the others are locked out then",
                    waiting=list(status.waiting),
                )
            return await self._drop(trust, trust.roots[0], "ca.retired", actor, reason, force=force)

    async def renew_issuing(self, *, actor: str, reason: str = "") -> StepResult:
        """Makes a new issuing CA under the same root, which signs from now on; the one before stays trusted.

        Raises as :meth:`begin`.
        """
        async with self._lock:
            trust = self._allowed("renew_issuing")
            number = trust.last + 1
            issuing = make_issuing(self._authority.fleet, number, self._root(trust.roots[-1]), self._clock)
            self._lent = None
            new = evolve(trust, issuing=(*trust.issuing, issuing), signing=number, last=number)
            return await self._change(new, "ca.issuing_renewed", actor, reason)

    async def distrust(self, ca: str, *, force: bool = False, actor: str, reason: str = "") -> StepResult:
        """Ends trust in an issuing CA whose key is compromised: all its certificates are refused from now on.

        Raises:
            NotFound: there is no such CA.
            Conflict: it signs now or is the last under its root, or ``devices_would_be_locked_out``: devices have
                certificates only of it.
        """
        async with self._lock:
            trust = self._authority.trust
            chosen = next((item for item in trust.issuing if item.id == ca), None)
            if chosen is None:
                raise NotFound(f"No issuing CA {ca!r} is trusted", remedy="`fleetcore ca show` lists them", ca=ca)
            if chosen.number == trust.signing:
                raise Conflict(
                    "This CA signs now",
                    code="illegal_transition",
                    remedy="Make another CA sign first: fleetcore ca renew-issuing, or ca rotate",
                )
            root = trust.root_of(chosen)
            if sum(trust.root_of(item) is root for item in trust.issuing) == 1:
                raise Conflict(
                    "This CA is the only one under its root, and without it a rotation could not be undone",
                    code="illegal_transition",
                    remedy="End trust in the root: fleetcore ca rotate retire, or back, with --force",
                )
            return await self._without([chosen], trust, "ca.distrusted", actor, reason, force=force)

    async def _drop(
        self, trust: TrustBundle, root: RootCa, what: str, actor: str, reason: str, *, force: bool
    ) -> StepResult:
        """Ends trust in a root and all its issuing CAs."""
        leaving = [item for item in trust.issuing if trust.root_of(item) is root]
        left = evolve(trust, roots=tuple(item for item in trust.roots if item is not root), cross=())
        return await self._without(leaving, left, what, actor, reason, force=force)

    async def _without(
        self,
        leaving: Collection[IssuingCa],
        left: TrustBundle,
        what: str,
        actor: str,
        reason: str,
        *,
        force: bool,
    ) -> StepResult:
        ids = {item.id for item in leaving}
        dependents, records = await self._dependents(ids)
        claims = await self._claims_of(ids)
        if claims and not dependents and not force:
            raise Conflict(
                f"The claim certificates of {len(claims)} batches would become invalid: {', '.join(claims[:_SAMPLE])}",
                code="devices_would_be_locked_out",
                remedy="Give the factory new ones (fleetcore enrollment claim create) and disable these, or use force",
                claims=claims[:_SAMPLE],
            )
        if dependents and not force:
            raise Conflict(
                f"{len(dependents)} devices have no certificate of another CA and would be locked out",
                code="devices_would_be_locked_out",
                remedy="Renew them (fleetcore ca renew-devices), or use force: they must then enrol again",
                devices=sorted(dependents)[:_SAMPLE],
            )
        known = {record.issuer for record in records}
        former = (*left.former, *(item for item in leaving if item.id in known))
        issuing = tuple(item for item in left.issuing if item not in leaving)
        done = await self._change(evolve(left, issuing=issuing, former=former), what, actor, reason)
        for record in records:
            self._ended(record.device, record.id)
        return evolve(done, locked_out=tuple(sorted(dependents)), claims=tuple(claims))

    async def _claims_of(self, issuers: Collection[str]) -> list[str]:
        """The open batches whose claim certificate one of these CAs has issued."""
        trust = self._authority.trust
        # A batch from before the issuer was stored: the first CA of all.
        first = {item.id for item in (*trust.issuing, *trust.former) if item.number == 1}
        return [
            batch.id
            async for batch in self._batches()
            if batch.issuer in issuers or (not batch.issuer and first & set(issuers))
        ]

    def _allowed(self, step: str) -> TrustBundle:
        phase = self.phase
        if phase not in STEPS[step]:
            able = " or ".join(STEPS[step])
            raise IllegalTransition(
                f"The CA is {phase}; {step.replace('_', ' ')} requires it to be {able}", phase=phase
            )
        return self._authority.trust

    async def _change(self, new: TrustBundle, what: str, actor: str, reason: str) -> StepResult:
        old = self._authority.trust
        new = evolve(new, version=old.version + (new.bundle() != old.bundle()))
        change = {"id": uuid4().hex, "what": what, "actor": actor, "reason": reason, "time": self._clock.now_ms()}
        folder = self._folder()
        if folder is not None:
            await asyncio.to_thread(folder.save, new, change)
        self._said = change
        self._authority.install(new)
        await self._settle()
        return StepResult(phase=phase_of(new), bundle=new.version)

    async def reconcile(self) -> None:
        """Updates everything that depends on the CAs: after a crash in between, or at any time."""
        async with self._lock:
            await self._settle()

    async def _settle(self) -> None:
        folder, trust = self._folder(), self._authority.trust
        change = self._said
        if folder is not None:
            await asyncio.to_thread(folder.reconcile)
            change = folder.last_change()
        await self._follow()
        if self.delivery is not None and change:
            await self.delivery.deliver(trust.version, bundle_digest(trust), trust.bundle().decode())
        await self._tell(change)

    async def _tell(self, change: Mapping[str, object]) -> None:
        """Writes the event of the last change, once: the change's id identifies it."""
        if not change:
            return
        record = await self._storage.get("ca_change", "last")
        if record is not None and record.body.get("id") == change["id"]:
            return
        what, actor, reason = str(change["what"]), str(change["actor"]), str(change["reason"])
        trust = self._authority.trust
        data = {"bundle": trust.version, "sha256": bundle_digest(trust), "signing": self._authority.issuer}
        put = Put(
            kind="ca_change", key="last", body={"id": change["id"]}, expect=0 if record is None else record.version
        )
        await self._storage.commit(Commit(puts=(put,), events=(self._event(what, actor, reason, data),)))

    def _event(self, what: str, actor: str, reason: str, data: Mapping[str, object]) -> Event:
        return Event(type=what, subject="ca", time=self._clock.now_ms(), actor=actor, reason=reason, data=dict(data))

    # --- progress of the devices ---------------------------------------------------------------------------------

    async def status(self) -> RotationStatus:
        """The devices' progress, counted now."""
        trust = self._authority.trust
        digest = bundle_digest(trust)
        holders, dependents, on_new = await self._holders(trust)
        concerned, confirmed = holders | {device async for device in self._token_holders()}, set[str]()
        if self.delivery is not None:
            confirmed = {device async for device in self.delivery.confirmed(digest)} & concerned
        older = [item.id for item in trust.issuing if len(trust.roots) > 1 and trust.root_of(item) is trust.roots[0]]
        return RotationStatus(
            phase=phase_of(trust),
            bundle=trust.version,
            sha256=digest,
            devices=len(concerned),
            confirmed=len(confirmed),
            waiting=tuple(sorted(concerned - confirmed)[:_SAMPLE]),
            dependents=len(dependents),
            dependents_on_new=len(on_new),
            locked_out=tuple(sorted(dependents)[:_SAMPLE]),
            claims=tuple(await self._claims_of(older)),
        )

    async def _holders(self, trust: TrustBundle) -> tuple[set[str], set[str], set[str]]:
        """Devices with a valid certificate; those with only the older root's; those with only the newer's."""
        below = {item.id: trust.root_of(item) for item in trust.issuing}
        by_root: dict[int, set[str]] = {root.number: set() for root in trust.roots}
        async for record in self._inventory.all_alive():
            root = below.get(record.issuer)
            if root is not None:
                by_root[root.number].add(record.device)
        everybody = set[str]().union(*by_root.values())
        if len(trust.roots) == 1:
            return everybody, set(), set()
        older, newer = by_root[trust.roots[0].number], by_root[trust.roots[-1].number]
        return everybody, older - newer, newer - older

    async def _dependents(self, leaving: Collection[str]) -> tuple[set[str], list[CertificateRecord]]:
        """Devices that have certificates only of these CAs, and all valid certificates of the CAs."""
        trust = self._authority.trust
        records: list[CertificateRecord] = []
        others: set[str] = set()
        async for record in self._inventory.all_alive():
            if record.issuer in leaving:
                records.append(record)
            elif trust.trusts(record.issuer):
                others.add(record.device)
        return {record.device for record in records} - others, records


def _newest_below(trust: TrustBundle, root: RootCa) -> IssuingCa:
    return max((item for item in trust.issuing if trust.root_of(item) is root), key=lambda item: item.number)
