"""What the firmware tests share: signers with their keys, manifests and trust roots, and a line that somebody sits on."""

import asyncio
import hashlib

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.builtin.local_protocol import LocalClient
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.model.message import Operation
from fleetcore.wire import dsse
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, read_assignment, write_assignment
from fleetcore.wire.manifest import MANIFEST_TYPE, Chunks, Manifest, write_manifest
from fleetcore.wire.trust import TRUST_TYPE, Role, Trust, raw_key, write_trust

START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
IMAGE = bytes(range(256)) * 64


def digest(content):
    return hashlib.sha256(content).hexdigest()


class Signers:
    """Keys by name, made when they are first asked for."""

    def __init__(self):
        self._keys = {}

    def key(self, name):
        return self._keys.setdefault(name, Ed25519PrivateKey.generate())

    def id(self, name):
        return dsse.key_id(self.key(name).public_key())

    def role(self, names, threshold=1):
        return Role(keys=frozenset(self.id(name) for name in names), threshold=threshold)

    def trust(self, version=1, *, root=("root",), firmware=("maker",), models=None, by=None, **changes):
        """A trust root in its envelope; ``by`` are its signers, its own root keys where none are named."""
        models = models or {}
        names = {*root, *(firmware or ()), *(name for some in models.values() for name in some)}
        made = Trust(
            version=version,
            expires=START_MS + 365 * DAY_MS,
            keys={self.id(name): raw_key(self.key(name).public_key()) for name in names},
            root=self.role(root, changes.pop("threshold", 1)),
            firmware=None if firmware is None else self.role(firmware, changes.pop("firmware_threshold", 1)),
            models={model: self.role(some, changes.pop("model_threshold", 1)) for model, some in models.items()},
        )
        made = evolve(made, **changes)
        return dsse.sign(write_trust(made), TRUST_TYPE, [self.key(name) for name in by or root])

    def manifest(self, image=IMAGE, *, by=("maker",), chunk=None, **changes):
        """A manifest in its envelope."""
        seq = changes.get("seq", 2)
        made = Manifest(
            name="thermo",
            version=f"{seq}.0.0",
            seq=seq,
            models=("T-1000",),
            size=len(image),
            sha256=digest(image),
            created=START_MS,
            expires=START_MS + 30 * DAY_MS,
        )
        if chunk is not None:
            pieces = tuple(digest(image[at : at + chunk]) for at in range(0, len(image), chunk))
            changes["chunks"] = Chunks(size=chunk, sha256=pieces)
        made = evolve(made, **changes)
        return dsse.sign(write_manifest(made), MANIFEST_TYPE, [self.key(name) for name in by])


def raw_server_key(fleet):
    (key,) = fleet.security.signing_keys()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def assigned(fleet, offer, **changes):
    """The offer with an assignment that the server really signed, as who stole its key would have it."""
    found = read_assignment(dsse.opened(offer["assignment"], ASSIGNMENT_TYPE))
    payload = dsse.opened(offer["manifest"], MANIFEST_TYPE)
    made = evolve(found, **{"manifest_sha256": digest(payload), **changes})
    return {**offer, "assignment": fleet.security.sign_payload(write_assignment(made), ASSIGNMENT_TYPE)}


class Between(LocalClient):
    """A line on which somebody changes offers and images."""

    change = staticmethod(lambda offer: offer)
    image = None
    served = 0

    async def downlinks(self):
        async for downlink in super().downlinks():
            offer = downlink.body.get("offer") if downlink.operation is Operation.FIRMWARE else None
            yield evolve(downlink, body={"offer": type(self).change(offer)}) if offer else downlink

    async def artifact(self, sha256, start=0):
        source = super().artifact(sha256, start) if self.image is None else type(self).image(start)
        async for piece in source:
            type(self).served += len(piece)
            yield piece


async def ended(fleet, campaign="c"):
    """The campaign's executions once all have ended."""
    async with asyncio.timeout(20):
        while True:
            position = await fleet.storage.position()
            found = await fleet.campaigns.executions(campaign)
            over = (await fleet.campaigns.get(campaign)).finished_at is not None
            if over and all(one.state in EXECUTION_ENDS for one in found):
                return found
            await fleet.storage.wait_feed(position, 1.0)
