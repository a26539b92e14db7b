"""A device's verification of an offer: the trust root's successors, the manifest, the server's assignment.

It does not touch the image, which is verified during the download. What expires is judged by the later of the device's
own clock and the latest time that the server signed, so that a device without a clock refuses what has expired too.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.model.firmware import MAIN
from fleetcore.testing.flash import Flash
from fleetcore.testing.slots import Image, Memory
from fleetcore.wire.assignment import Assignment, open_assignment
from fleetcore.wire.manifest import (
    Chunks,
    Manifest,
    check_model,
    check_order,
    check_requires,
    check_time,
    open_manifest,
)
from fleetcore.wire.strict_json import dumps, loads
from fleetcore.wire.trust import FirmwareRoot, first_trust, follow_all

_TRUST = "trust.json"


@frozen(kw_only=True)
class Admitted:
    """The result of an offer; the ``nonce`` differs for each attempt, ``signed_ms`` is the server's signed time."""

    image: Image
    component: str
    nonce: str
    signed_ms: int = 0
    chunks: Chunks | None = None


class Verifier:
    """The verifier of one device.

    Args:
        trust: the factory's ``trust.json``, an envelope; None accepts offers by digest and size alone.
        server_key: the fleet's public key (raw Ed25519), which verifies assignments; None requires none.
        capacity: bytes of a slot.
    """

    def __init__(
        self,
        flash: Flash,
        clock: Clock,
        *,
        device: str,
        model: str | None,
        trust: Mapping[str, object] | None,
        server_key: bytes | None,
        capacity: int,
    ) -> None:
        self._flash, self._clock = flash, clock
        self._device, self._model = device, model
        self._factory = None if trust is None else first_trust(trust)
        self._server_key, self._capacity = server_key, capacity
        self.trust = self._factory

    def load(self) -> None:
        """Loads the saved trust root; a newer one of the factory takes precedence."""
        kept = self._flash.load(_TRUST)
        if kept is not None and self._factory is not None:
            self.trust = max(first_trust(loads(kept)), self._factory, key=lambda item: item.version)

    def follow(self, chain: object) -> None:
        """Follows the trust root version by version, and saves how far it got."""
        if self.trust is None or not isinstance(chain, Sequence) or isinstance(chain, str | bytes):
            return
        for envelope in chain:
            new = follow_all(self.trust, (envelope,))
            if new.version > self.trust.version:
                self._flash.save(_TRUST, dumps(envelope))
                self.trust = new

    def admit(self, offer: Mapping[str, object], running: Image, memory: Memory, *, under_way: bool) -> Admitted:
        """What to install, given what runs in the slots and the saved state. Raises Refused with the code to report.

        ``under_way`` is an update that was begun already: it may be finished after the offer's end.
        """
        if self.trust is None:
            return self._unsigned(offer, {**memory.components, MAIN: running})
        if not isinstance(offer.get("manifest"), Mapping):
            raise Refused("The offer has no manifest", code="signature_invalid")
        now = max(self._clock.now_ms(), memory.signed_ms)
        assignment = None if self._server_key is None else self._assigned(offer, self._server_key, now, under_way)
        signed_ms = 0 if assignment is None else assignment.issued or 0
        manifest = self._genuine(offer["manifest"], self.trust, max(now, signed_ms))
        if assignment and (assignment.manifest_sha256, assignment.seq) != (manifest.digest, manifest.seq):
            raise Refused("The assignment is for another manifest", code="signature_invalid")
        images = {**memory.components, MAIN: running}
        there = _image_of(manifest.component, images)
        check_order(manifest, max(memory.highest_seq, memory.floor) if there is running else there.seq)
        if manifest.seq == there.seq and manifest.sha256 != there.sha256:
            raise Refused(f"Another image with seq {manifest.seq} runs", code="rollback_refused")
        lacking = {each.component: 0 for each in manifest.requires}
        check_requires(manifest, lacking | {name: image.seq for name, image in images.items()})
        if manifest.delta_from is not None:
            raise Refused("This device only accepts whole images", code="requires_unmet")
        if manifest.size > self._capacity:
            raise Refused(f"A slot has {self._capacity} bytes", code="no_space")
        image = Image(
            version=manifest.version,
            sha256=manifest.sha256,
            size=manifest.size,
            seq=manifest.seq,
            min_seq=manifest.min_seq,
        )
        nonce = str(offer.get("attempt", 1)) if assignment is None else assignment.nonce
        return Admitted(
            image=image, component=manifest.component, nonce=nonce, signed_ms=signed_ms, chunks=manifest.chunks
        )

    def _assigned(self, offer: Mapping[str, object], key: bytes, now: int, under_way: bool) -> Assignment:
        if not isinstance(offer.get("assignment"), Mapping):
            raise Refused("The offer has no assignment", code="signature_invalid")
        assignment = open_assignment(offer["assignment"], key, device=self._device, now=0 if under_way else now)
        if (assignment.execution, assignment.campaign) != (offer["execution"], offer["campaign"]):
            raise Refused("The assignment is for another update", code="signature_invalid")
        return assignment

    def _genuine(self, envelope: object, trust: FirmwareRoot, now: int) -> Manifest:
        trust.check_time(now)
        model = self._model
        manifest = open_manifest(envelope, trust, ())
        check_model(manifest, model)
        open_manifest(envelope, trust, (cast("str", model),))
        check_time(manifest, now)
        return manifest

    def _unsigned(self, offer: Mapping[str, object], images: Mapping[str, Image]) -> Admitted:
        component = str(offer.get("component", MAIN))
        running = _image_of(component, images)
        size = offer.get("size")
        if type(size) is not int or size > self._capacity:
            raise Refused(f"A slot has {self._capacity} bytes", code="no_space")
        image = Image(version=text_of(offer, "version"), sha256=text_of(offer, "sha256"), size=size, seq=running.seq)
        return Admitted(image=image, component=component, nonce=str(offer.get("attempt", 1)))


def text_of(offer: Mapping[str, object], name: str) -> str:
    """A required member of an offer; raises Refused."""
    value = offer.get(name)
    if not isinstance(value, str):
        raise Refused(f"The offer has no {name}")
    return value


def _image_of(component: str, images: Mapping[str, Image]) -> Image:
    if component not in images:
        raise Refused(f"This device has no component {component!r}", code="model_mismatch")
    return images[component]
