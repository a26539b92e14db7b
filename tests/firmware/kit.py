"""What the firmware tests share: an assignment of a stolen key, and a line that somebody sits on."""

import asyncio

from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.builtin.local_protocol import LocalClient
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.model.message import Operation
from fleetcore.testing.signers import digest
from fleetcore.wire import dsse
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, read_assignment, write_assignment
from fleetcore.wire.manifest import MANIFEST_TYPE


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
