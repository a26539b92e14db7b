"""Update policy: a campaign's manifest is checked against its devices when it is made and at each offer.

Signers vouch for the firmware in the manifest; the server decides which device gets it, in a separately signed
assignment (see :mod:`fleetcore.wire.assignment`).
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from attrs import evolve, field, frozen
from msgspec.structs import replace

from fleetcore.errors import Refused
from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.trust_root import TrustRoot
from fleetcore.interfaces.clock import Clock
from fleetcore.model.days import HOUR_MS
from fleetcore.model.edge import RUNS, component_of
from fleetcore.model.firmware import MAIN, Campaign, Execution, FirmwareImage
from fleetcore.query.versions import version_key
from fleetcore.rollout.steps import offer_name
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, Assignment, write_assignment
from fleetcore.wire.manifest import (
    Manifest,
    check_image,
    check_model,
    check_order,
    check_requires,
    check_time,
    open_manifest,
    peek_manifest,
)

Signer = Callable[[bytes, str], dict[str, object]]
#: How many devices a refusal names in its text; ``ids['failures']`` names more.
_NAMED, _LISTED = 5, 100
#: So many decoded manifests are kept.
_MANIFESTS = 64


@frozen(kw_only=True)
class Running:
    """What a component of a device runs, as the device reports it.

    Attributes:
        sha256: the digest of the running image.
        seq, highest_seq: the seq of the running firmware, and the highest one so far.
    """

    version: str | None = None
    sha256: str | None = None
    seq: int | None = None
    highest_seq: int | None = None

    @classmethod
    def of(cls, reported: Mapping[str, object]) -> "Running":
        """From the members of a report; values of another type count as not reported."""
        seq = _whole(reported, "seq")
        return cls(
            version=version if isinstance(version := reported.get("version"), str) else None,
            sha256=sha256 if isinstance(sha256 := reported.get("sha256"), str) else None,
            seq=seq,
            highest_seq=max(
                (each for each in (seq, _whole(reported, "highest_seq")) if each is not None), default=None
            ),
        )


_NOT_KNOWN = Running()


@frozen(kw_only=True)
class Target:
    """A device of a campaign, with its model and what its components run.

    Attributes:
        trust: the version of the trust root that it has.
    """

    device: str
    model: str | None = None
    running: Mapping[str, Running] = field(factory=dict)
    trust: int = 0

    @classmethod
    def of(cls, device: str, model: object, firmware: object, functions: object = None) -> "Target":
        """From the device's report of its firmware (``reported.firmware``), and a gateway's of its functions."""
        reported = firmware if isinstance(firmware, Mapping) else {}
        others = reported.get("components")
        running = {MAIN: Running.of(reported)}
        if isinstance(others, Mapping):
            running |= {
                name: Running.of(each) for name, each in others.items() if name != MAIN and isinstance(each, Mapping)
            }
        if isinstance(functions, Mapping):
            for name, each in functions.items():
                if isinstance(each, Mapping) and each.get("state") == RUNS:
                    component = component_of(name)
                    said = running.get(component, _NOT_KNOWN)
                    running[component] = evolve(Running.of(each), seq=said.seq, highest_seq=said.highest_seq)
        return cls(
            device=device,
            model=model if isinstance(model, str) else None,
            running=running,
            trust=_whole(reported, "trust") or 0,
        )

    def runs(self, component: str) -> Running:
        """What a component runs, as far as it is known."""
        return self.running.get(component, _NOT_KNOWN)

    @property
    def seqs(self) -> Mapping[str, int]:
        """The seq that each component runs, where it is known."""
        return {name: each.seq for name, each in self.running.items() if each.seq is not None}

    def needs(self, image: FirmwareImage) -> bool:
        """Whether an image that has to be installed before another one is missing; a later one is as good."""
        running = self.runs(image.component)
        if running.seq is not None and image.seq is not None:
            return running.seq < image.seq
        if running.version == image.release:
            return False
        wanted, runs = version_key(image.release), version_key(running.version or "")
        return wanted is None or runs is None or runs < wanted

    def had(self, component: str, seq: int) -> "Target":
        """The device, where it does not report its highest seq, with one that it has installed."""
        running = self.runs(component)
        if running.seq is not None or seq <= (running.highest_seq or 0):
            return self
        return evolve(self, running={**self.running, component: evolve(running, highest_seq=seq)})

    def within(self, campaign: Campaign, execution: Execution) -> "Target":
        """The device with what it has installed in a campaign so far; its own report may be older."""
        return self.having(*campaign.before[: execution.step])

    def having(self, *images: FirmwareImage) -> "Target":
        """The device once it has installed those of the images that it needs."""
        running = dict(self.running)
        for image in filter(self.needs, images):
            running[image.component] = Running(
                version=image.release, sha256=image.sha256, seq=image.seq, highest_seq=image.seq
            )
        return evolve(self, running=running)


def _whole(reported: Mapping[str, object], name: str) -> int | None:
    value = reported.get(name)
    return value if type(value) is int else None


class UpdatePolicy:
    """Checks manifests for campaigns, and writes assignments.

    Args:
        allow_unsigned: whether campaigns without a manifest may be made although there is a trust root.
        hours: how long an assignment is valid.

    Attributes:
        sign: the server's signature; set once its key is open.
    """

    def __init__(self, clock: Clock, root: TrustRoot, *, allow_unsigned: bool = False, hours: float = 72.0) -> None:
        self._clock, self._root = clock, root
        self._allow_unsigned, self._hold_ms = allow_unsigned, round(hours * HOUR_MS)
        self.sign: Signer | None = None
        #: Manifest and model → the version of the trust root that checked its signatures, and the result.
        self._manifests = LruCache[Manifest](_MANIFESTS)
        self._judged: dict[tuple[str, str], tuple[int, str | None]] = {}

    def authorize(
        self,
        envelope: object,
        *,
        release: str,
        sha256: str | None,
        size: int | None,
        targets: Sequence[Target],
        allow_downgrade: bool = False,
    ) -> tuple[Manifest, int | None] | None:
        """Checks whether a campaign may be made; returns manifest and trust root's version, None without a manifest.

        Without a trust root no signature can be verified: the rest of the manifest is still checked.

        With a manifest the seq is compared; without one, a version older than the device's is refused.

        Raises Refused: ``manifest_required``, ``signature_invalid``, ``manifest_expired``, ``trust_expired``,
        ``version_mismatch``, ``hash_mismatch``, ``size_mismatch``. Where it does not fit devices, the code is the first
        one's (``model_mismatch``, ``signature_invalid``, ``rollback_refused``, ``requires_unmet``) and
        ``ids['failures']`` has the code of each.
        """
        if envelope is None:
            if self._root.current is not None and not self._allow_unsigned:
                raise Refused(
                    "This fleet has a trust root: firmware requires a signed manifest",
                    code="manifest_required",
                    remedy="Sign it: fleetcore firmware sign; or set [firmware] allow_unsigned",
                )
            _refuse_all([] if allow_downgrade else _older(release, targets), len(targets))
            return None
        trust = None if self._root.current is None else self._root.need()
        manifest = peek_manifest(envelope) if trust is None else open_manifest(envelope, trust, ())
        check_time(manifest, self._clock.now_ms())
        if manifest.version != release:
            raise Refused(
                f"The manifest is for version {manifest.version!r}, the campaign for {release!r}",
                code="version_mismatch",
            )
        check_image(manifest, manifest.sha256 if sha256 is None else sha256, manifest.size if size is None else size)
        # One verification per model, for any number of devices.
        signed: dict[str, Refused | None] = {}
        failures = []
        for target in targets:
            try:
                check_model(manifest, target.model)
                model = cast("str", target.model)
                if trust is not None and model not in signed:
                    signed[model] = _refusal(partial(open_manifest, envelope, trust, (model,)))
                if (refusal := signed.get(model)) is not None:
                    raise refusal
                self._fits(manifest, target, allow_downgrade=allow_downgrade)
            except Refused as error:
                failures.append({"device": target.device, "code": error.code, "reason": error.message})
        _refuse_all(failures, len(targets))
        return manifest, None if trust is None else trust.version

    def refusal(self, campaign: Campaign, target: Target) -> str | None:
        """Why a campaign's firmware may not be offered to a device now; None where it may.

        ``trust_expired`` ends with the next version of the trust root; every other code is permanent.
        """
        if campaign.manifest is None:
            older = not campaign.allow_downgrade and _older(campaign.release, [target])
            return "rollback_refused" if older else None
        trust, now = self._root.current, self._clock.now_ms()
        try:
            manifest = self._peeked(campaign)
            check_time(manifest, now)
            check_model(manifest, target.model)
            self._fits(manifest, target, allow_downgrade=campaign.allow_downgrade)
            if trust is not None:
                trust.check_time(now)
        except Refused as error:
            return error.code
        if trust is None:
            return None
        key = (campaign.manifest_sha256 or "", cast("str", target.model))
        known = self._judged.get(key)
        if known is None or known[0] != trust.version:
            found = _refusal(partial(open_manifest, campaign.manifest, trust, (key[1],)))
            known = self._judged[key] = (trust.version, None if found is None else found.code)
        return known[1]

    def _peeked(self, campaign: Campaign) -> Manifest:
        """The manifest of a campaign, which is read for every offer and so decoded once."""
        key = campaign.manifest_sha256 or campaign.id
        known = self._manifests.get(key)
        if known is None:
            known = peek_manifest(campaign.manifest)
            self._manifests.put(key, known)
        return known

    @staticmethod
    def _fits(manifest: Manifest, target: Target, *, allow_downgrade: bool) -> None:
        highest = target.runs(manifest.component).highest_seq
        if highest is not None and not allow_downgrade:
            check_order(manifest, highest)
        check_requires(manifest, target.seqs)

    def is_valid(self, campaign: Campaign, execution: Execution) -> bool:
        """Whether the device's assignment is valid for some time yet."""
        if campaign.manifest is None:
            return True
        left = (execution.not_after or 0) - self._clock.now_ms()
        return execution.assigned == execution.attempt and left > self._hold_ms // 2

    def renewed(self, execution: Execution) -> Execution:
        """The execution with a new assignment."""
        return replace(
            execution,
            nonce=secrets.token_hex(16),
            not_after=self._clock.now_ms() + self._hold_ms,
            assigned=execution.attempt,
        )

    def offer_members(self, campaign: Campaign, execution: Execution, target: Target) -> dict[str, object]:
        """The trust data of an offer: manifest, assignment, and the versions of the trust root to follow.

        The same execution gives the same bytes: nonce and expiry are stored with it, the time of issue follows from
        the expiry, and Ed25519 signatures are deterministic.
        """
        if campaign.manifest is None:
            return {}
        offer: dict[str, object] = {"manifest": dict(campaign.manifest)}
        if self.sign is not None and campaign.manifest_sha256 is not None and execution.nonce is not None:
            not_after = execution.not_after or 0
            assignment = Assignment(
                device=execution.device,
                campaign=campaign.id,
                execution=offer_name(execution),
                manifest_sha256=campaign.manifest_sha256,
                seq=campaign.seq or 0,
                not_after=not_after,
                nonce=execution.nonce,
                # Never ahead, also where it was made with other hours: devices do not unlearn a time.
                issued=min(self._clock.now_ms(), not_after - self._hold_ms),
            )
            offer["assignment"] = self.sign(write_assignment(assignment), ASSIGNMENT_TYPE)
        if chain := self._root.after(max(1, target.trust)):
            offer["trust"] = chain
        return offer


def _older(release: str, targets: Iterable[Target]) -> list[dict[str, str]]:
    """The devices that report a newer version than a release's; texts that are not versions are not compared."""
    wanted = version_key(release)
    failures = []
    for target in targets:
        version = target.runs(MAIN).version or ""
        runs = version_key(version)
        if wanted is not None and runs is not None and wanted < runs:
            reason = f"it runs {version}, which is newer than {release}"
            failures.append({"device": target.device, "code": "rollback_refused", "reason": reason})
    return failures


def _refuse_all(failures: Sequence[Mapping[str, str]], total: int) -> None:
    """Raises Refused where some devices cannot take the firmware."""
    if not failures:
        return
    named = "; ".join(f"{failure['device']}: {failure['reason']}" for failure in failures[:_NAMED])
    more = f" and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    raise Refused(
        f"{len(failures)} of {total} devices cannot take it. {named}{more}",
        code=failures[0]["code"],
        remedy="Leave them out, sign firmware that fits them, or allow the downgrade",
        failures=list(failures[:_LISTED]),
    )


def _refusal(work: Callable[[], object]) -> Refused | None:
    try:
        work()
    except Refused as error:
        return error
    return None
