"""Releases: firmware whose manifest is verified against the trust root, and whose image is stored."""

from collections.abc import Mapping
from typing import cast

from fleetcore.errors import Conflict, NotFound, Refused, VersionConflict
from fleetcore.fleet.builds import Builds
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.trust_root import TrustRoot
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.edge import function_of, is_function
from fleetcore.model.firmware import Release
from fleetcore.model.store import Event
from fleetcore.wire.manifest import Manifest, check_image, check_time, open_manifest, peek_manifest

#: A device installs at most so many releases before a campaign's own.
MAX_STEPS = 16


def _release_id(name: str, seq: int) -> str:
    return f"{name}:{seq}"


#: The index entry of every release of a function, and the name of that of one function.
FUNCTION_RELEASES, OF_FUNCTION = ("functions", "yes"), "function"


def _refs(release: Release) -> Pairs:
    refs = [("name", release.name)]
    if is_function(release.component):
        refs += [FUNCTION_RELEASES, (OF_FUNCTION, function_of(release.component))]
    return refs


class Releases:
    """Stores releases and finds them. A release never changes."""

    def __init__(self, storage: Storage, clock: Clock, root: TrustRoot) -> None:
        self._storage, self._clock, self._root = storage, clock, root
        self._builds = Builds(storage, clock)
        self.records = Repository(
            storage, "release", Release, refs=_refs, sort=lambda item: f"{item.name}:{item.seq:020d}"
        )

    async def add(
        self, envelope: object, *, allow_downgrade: bool = False, actor: str = "system", reason: str = ""
    ) -> Release:
        """Verifies a manifest for every model that it names, and stores it. The same again changes nothing.

        Raises:
            Refused: ``signature_invalid``, ``manifest_expired``, ``trust_expired``, ``trust_invalid`` without a trust
                root, ``size_mismatch``; ``rollback_refused`` for a seq below the name's highest, unless allowed.
            NotFound: ``artifact_unknown``; upload the image first.
            Conflict: another release has that name and seq; ``version_rebuilt``, another image has that name and
                version.
        """
        trust, now = self._root.need(), self._clock.now_ms()
        manifest = open_manifest(envelope, trust)
        check_time(manifest, now)
        image = await self._storage.artifact(manifest.sha256)
        if image is None:
            raise NotFound(
                f"The image {manifest.sha256} is not stored",
                code="artifact_unknown",
                remedy="Upload it first: fleetcore firmware upload",
            )
        check_image(manifest, image.sha256, image.size_bytes)
        key = _release_id(manifest.name, manifest.seq)
        newest = (await self.records.page(ref=("name", manifest.name), limit=1, newest=True)).items
        highest = newest[0].seq if newest else 0
        if await self.records.get(key) is None and manifest.seq < highest and not allow_downgrade:
            raise Refused(
                f"{manifest.name} is at seq {highest}, and {manifest.seq} is below it",
                code="rollback_refused",
                remedy="Sign it under a higher seq, or use --allow-downgrade; devices still refuse to go back",
            )
        built = await self._builds.making([manifest.name], manifest.version, manifest.sha256)
        record = Release(
            id=key,
            name=manifest.name,
            release=manifest.version,
            seq=manifest.seq,
            min_seq=manifest.min_seq,
            component=manifest.component,
            requires_seq=manifest.requires_seq,
            requires={each.component: _release_id(each.name, each.seq) for each in manifest.requires},
            sbom_format="" if manifest.sbom is None else manifest.sbom.format,
            sbom_sha256="" if manifest.sbom is None else manifest.sbom.sha256,
            models=manifest.models,
            size=manifest.size,
            sha256=manifest.sha256,
            manifest=cast("Mapping[str, object]", envelope),
            manifest_sha256=manifest.digest,
            trust=trust.version,
            created=manifest.created,
            expires=manifest.expires,
            added=now,
            by=actor,
        )
        event = Event(
            type="release.added",
            subject=key,
            time=now,
            actor=actor,
            reason=reason,
            data={"release": manifest.version, "manifest_sha256": manifest.digest, "trust": trust.version},
        )
        try:
            return await self.records.create(record, [event], built)
        except VersionConflict:
            existing = await self.records.get(key)
            if existing is None:  # its version was given to an image meanwhile
                return await self.add(envelope, allow_downgrade=allow_downgrade, actor=actor, reason=reason)
            if existing.manifest_sha256 == manifest.digest:
                return existing
            raise Conflict(
                f"Release {key!r} exists with other content", remedy="Sign it under the next seq", release=key
            ) from None

    async def get(self, release: str) -> Release:
        """One release by its id; raises NotFound."""
        return await self.records.need(release)

    async def before(self, manifest: Manifest) -> tuple[Release, ...]:
        """The releases that devices need before a manifest's image, in the order in which they install them.

        Before each release come the earlier ones of its name, then those of other components, as its manifest lists
        them. A release that is not stored is left out: devices that lack it are refused.

        Raises:
            Refused: ``requires_unmet``, releases require each other, or there are more than 16 steps.
        """
        found: dict[str, Release] = {}
        await self._before(manifest, found, (_release_id(manifest.name, manifest.seq),))
        return tuple(found.values())

    async def _before(self, manifest: Manifest, found: dict[str, Release], over: tuple[str, ...]) -> None:
        needed = [await self._least(each.name, each.seq) for each in manifest.requires]
        if manifest.requires_seq:
            needed.insert(0, await self._least(manifest.name, manifest.requires_seq, below=manifest.seq))
        for release in needed:
            if release is None or release.id in found:
                continue
            if release.id in over:
                raise Refused(f"{release.id} requires itself, by way of {over[-1]}", code="requires_unmet")
            await self._before(peek_manifest(release.manifest), found, (*over, release.id))
            found[release.id] = release
            if len(found) > MAX_STEPS:
                raise Refused(f"{over[0]} needs more than {MAX_STEPS} releases before it", code="requires_unmet")

    async def _least(self, name: str, seq: int, *, below: int | None = None) -> Release | None:
        """The stored release with the least seq that is enough; a later one where that no longer holds.

        An image whose manifest has expired, or whose keys the trust root no longer has, is signed again under a higher
        seq.
        """
        stored = await self.records.find(ref=("name", name))
        enough = [each for each in stored if each.seq >= seq and (below is None or each.seq < below)]
        enough.sort(key=lambda each: each.seq)
        # Signatures are verified up to the first that holds only.
        return next(filter(self._holds, enough), next(iter(enough), None))

    def _holds(self, release: Release) -> bool:
        """Whether a release may still be installed."""
        if release.expires <= self._clock.now_ms():
            return False
        if self._root.current is None:
            return True
        try:
            open_manifest(release.manifest, self._root.current)
        except Refused:
            return False
        return True

    async def list(self, name: str | None = None) -> list[Release]:
        """All, or those of one name, by name and seq."""
        return await self.records.find(ref=None if name is None else ("name", name))
