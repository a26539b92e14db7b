"""What the firmware tests share: an assignment of a stolen key, and a line that somebody sits on."""

import asyncio

from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.builtin.local_protocol import LocalClient
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.signers import DAY_MS, IMAGE, START_MS, digest
from fleetcore.testing.updater import Updater
from fleetcore.wire import dsse, messages
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, Assignment, read_assignment, write_assignment
from fleetcore.wire.manifest import MANIFEST_TYPE
from fleetcore.wire.trust import raw_key


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
            offer = downlink.body.get("offer") if downlink.type is messages.FIRMWARE else None
            yield evolve(downlink, body={"offer": type(self).change(offer)}) if offer else downlink

    async def artifact(self, sha256, start=0, *, subject=None):
        source = super().artifact(sha256, start, subject=subject) if self.image is None else type(self).image(start)
        async for piece in source:
            type(self).served += len(piece)
            yield piece


async def ended(fleet, campaign="c"):
    """The campaign's executions once all have ended."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            position = await fleet.storage.position()
            found = await fleet.campaigns.executions.find(ref=("campaign", campaign))
            over = (await fleet.campaigns.get(campaign)).finished_at is not None
            if over and all(one.state in EXECUTION_ENDS for one in found):
                return found
            await fleet.storage.wait_feed(position, 1.0)


def offer_of(
    signers, *, image=IMAGE, device="a", attempt=1, trust=(), issued=None, not_after=START_MS + DAY_MS, **manifest
):
    """What a server would offer a device, made by hand; the server's key is ``signers``' key "server"."""
    envelope = signers.manifest(image, **manifest)
    payload = dsse.opened(envelope, MANIFEST_TYPE)
    seq = manifest.get("seq", 2)
    assignment = Assignment(
        device=device,
        campaign="c",
        execution=f"c{seq}:{device}",
        manifest_sha256=digest(payload),
        seq=seq,
        not_after=not_after,
        nonce=digest(payload + bytes([attempt]))[:32],
        issued=issued,
    )
    offer = {
        "execution": f"c{seq}:{device}",
        "campaign": "c",
        "attempt": attempt,
        "version": manifest.get("version", f"{seq}.0.0"),
        "size": len(image),
        "sha256": digest(image),
        "install": "now",
        "manifest": envelope,
        "assignment": dsse.sign(write_assignment(assignment), ASSIGNMENT_TYPE, [signers.key("server")]),
    }
    return offer | ({"trust": list(trust)} if trust else {})


class Bench:
    """A device on a work bench: its flash is a folder, and what it says is written down."""

    def __init__(
        self, flash, signers, clock, *, image=IMAGE, supply=None, healthy=True, comes_up=True, runs=None, **factory
    ):
        self.image, self.healthy, self.supply = image, healthy, supply
        self.said, self.loaded = [], 0
        self.updater = Updater(
            flash if supply is None else supply.flash(flash),
            clock,
            device="a",
            **{
                "model": "T-1000",
                "seq": 1,
                "trust": signers.trust(),
                "image": runs,
                "server_key": raw_key(signers.key("server").public_key()),
                **factory,
            },
        )
        self.updater.slots.comes_up = lambda image: comes_up or image.seq == 1

    async def start(self):
        self.updater.boot()
        await self.updater.reconcile(self.say, self.health)
        return self.updater

    async def take(self, offer):
        await self.updater.take(offer, self.fetch, self.say, self.health)
        return self.said[-1][0] if self.said else None

    async def fetch(self, start):
        for at in range(start, len(self.image), 3000):
            piece = self.image[at : min(at + 3000, len(self.image))]
            self.loaded += len(piece)
            yield piece

    async def say(self, execution, campaign, state, **more):
        if self.supply is not None:
            self.supply.step(f"say {state}")
        self.said.append((state, more.get("code")))

    async def health(self):
        return None if self.healthy else "health_failed"
