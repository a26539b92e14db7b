"""What the core wants a gateway to run: the object ``functions`` of its desired state, each entry verified."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import cast

from attrs import frozen

from fleetcore import files
from fleetcore.errors import FleetError, Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.model.edge import Function, component_of
from fleetcore.wire.manifest import Manifest, check_model, check_time, open_manifest
from fleetcore.wire.strict_json import dumps, loads
from fleetcore.wire.trust import FirmwareRoot, first_trust, follow_all

#: The firmware root of the core, from which signatures of functions are verified.
TRUST = "trust.json"
#: The digests of manifests whose functions have begun here.
_BEGUN = "begun.json"


@frozen(kw_only=True)
class Wanted:
    """One function as it is to run.

    Attributes:
        entry: as it stands in desired state.
        contract: of its signed manifest, whose digest is ``manifest``.
        config: its defaults, with the gateway's own settings over them.
    """

    name: str
    version: str
    sha256: str
    size: int
    manifest: str
    contract: Function
    config: Mapping[str, object]
    execution: str | None
    entry: Mapping[str, object]

    def is_same(self, other: "Wanted | None") -> bool:
        """Whether the same module is to run with the same settings."""
        return other is not None and (self.sha256, self.config, self.contract) == (
            other.sha256, other.config, other.contract,
        )  # fmt: skip


class Verifier:
    """Verifies entries by the firmware root that the gateway was given, and follows that root.

    The ends of a manifest and of the root forbid to begin. What has begun before its end may start again at any time.

    Args:
        model: the gateway's hardware model; a manifest must name it.
    """

    def __init__(self, folder: Path, model: str | None, clock: Clock) -> None:
        self._file, self._begun, self._model, self._clock = folder / TRUST, folder / _BEGUN, model, clock

    def root(self) -> FirmwareRoot | None:
        """The trust root, or None where the gateway was given none. Raises Refused for a damaged file."""
        return first_trust(loads(self._file.read_bytes())) if self._file.exists() else None

    def verify(self, name: str, entry: Mapping[str, object]) -> Wanted:
        """An entry whose manifest is signed for this gateway.

        Raises:
            Refused: ``trust_missing``; ``signature_invalid``, ``model_mismatch``, ``manifest_expired``, or
                ``schema_invalid`` where the entry and its manifest differ.
        """
        manifest = self.manifest(entry)
        if manifest.component != component_of(name) or manifest.function is None:
            raise Refused(f"The manifest is not of the function {name!r}", code="signature_invalid")
        if (manifest.sha256, manifest.size) != (entry.get("sha256"), entry.get("size")):
            raise Refused("The entry names another module than its manifest", code="signature_invalid")
        own = entry.get("config")
        execution = entry.get("execution")
        return Wanted(
            name=name,
            version=manifest.version,
            sha256=manifest.sha256,
            size=manifest.size,
            manifest=manifest.digest,
            contract=manifest.function,
            config={**manifest.function.config, **(own if isinstance(own, Mapping) else {})},
            execution=execution if isinstance(execution, str) else None,
            entry=entry,
        )

    def manifest(self, offer: Mapping[str, object]) -> Manifest:
        """The manifest of an offer or an entry, signed for this gateway's model.

        Raises:
            Refused: ``trust_missing``, ``trust_invalid``, ``signature_invalid``, ``model_mismatch``,
                ``manifest_expired``.
        """
        root = self.root()
        if root is None:
            raise Refused(
                "This gateway has no firmware root to verify signatures with",
                code="trust_missing",
                remedy="Enrol it again with --trust trust.json",
            )
        root = self._followed(root, offer.get("trust"))
        manifest = open_manifest(offer.get("manifest"), root, ())
        check_model(manifest, self._model)
        open_manifest(offer.get("manifest"), root, (cast("str", self._model),))
        if manifest.digest not in self._have_begun():
            root.check_time(self._clock.now_ms())
            check_time(manifest, self._clock.now_ms())
        return manifest

    def begun(self, wanted: Wanted, before: Wanted | None) -> None:
        """A function runs in place of another: it may start again when its manifest has expired."""
        self._keep({wanted.manifest}, set() if before is None else {before.manifest})

    def ended(self, wanted: Wanted) -> None:
        """A function is removed."""
        self._keep(set(), {wanted.manifest})

    def _have_begun(self) -> frozenset[str]:
        try:
            found = loads(self._begun.read_bytes())
        except (OSError, FleetError):
            found = ()  # the ends count again
        return frozenset(map(str, found)) if isinstance(found, list | tuple) else frozenset()

    def _keep(self, new: AbstractSet[str], gone: AbstractSet[str]) -> None:
        known = self._have_begun()
        if (left := known - gone | new) != known:
            files.replace(self._begun, dumps(sorted(left)))

    def _followed(self, root: FirmwareRoot, chain: object) -> FirmwareRoot:
        for envelope in chain if isinstance(chain, list | tuple) else ():
            try:
                new = follow_all(root, (envelope,))
            except FleetError as error:
                raise Refused(f"The firmware root cannot be followed: {error}", code="trust_invalid") from error
            if new.version > root.version:
                files.replace(self._file, dumps(envelope))
                root = new
        return root
