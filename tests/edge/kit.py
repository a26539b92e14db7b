"""A gateway as the agent is one, as far as the fleet sees: it follows its desired functions and reports them."""

import hashlib

from fleetcore.builtin.local_protocol import LocalClient
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.edge import Capacity, Function, Resources
from fleetcore.model.twin import merge_patch
from fleetcore.testing.signers import Signers
from fleetcore.wire import messages
from fleetcore.wire.manifest import open_manifest
from fleetcore.wire.trust import first_trust

MODEL = "G-1"
ROOM = Capacity(cpu_percent=100, memory_mib=64, disk_mib=10)


def module(version="1", size=5000):
    """Bytes that stand for a module; each version's are different."""
    return (version.encode() * size)[:size]


def manifest(signers, *, name="vibration", seq=1, content=None, resources=None, **changes):
    """A signed manifest of a function for gateways of the model G-1."""
    content = module(f"{seq}") if content is None else content
    function = changes.pop("function", None) or Function(
        metrics=("vibration.*",), resources=Resources(**(resources or {}))
    )
    return signers.manifest(
        content, name=name, seq=seq, version=f"{seq}.0.0", component=f"function.{name}", models=(MODEL,),
        function=function, **changes,
    )  # fmt: skip


async def released(fleet, signers, *, name="vibration", seq=1, content=None, **changes):
    """A function whose module is stored and that is released."""
    content = module(f"{seq}") if content is None else content
    await fleet.campaigns.add_artifact(content)
    envelope = manifest(signers, name=name, seq=seq, content=content, **changes)
    return await fleet.releases.add(envelope, allow_downgrade=True)


class Gateway:
    """One gateway.

    Attributes:
        fails: the code with which it fails to install, or None.
        running: what runs, by function.
        stops_at: the state after which it reports nothing more; None to go on to the end.
    """

    def __init__(self, fleet, name, endpoint, trust):
        self.fleet, self.name, self.endpoint, self.trust = fleet, name, endpoint, first_trust(trust)
        self.client = None
        self.fails = self.stops_at = None
        self.desired, self.version = {}, 0
        self.running, self.digests, self.answered, self.replies = {}, {}, set(), []

    async def connect(self, token):
        self.client = await LocalClient(self.endpoint, DeviceSecrets(device=self.name, token=token)).__aenter__()
        await self.client.send(messages.STATUS, {"state": "online", "session": self.name})

    async def disconnect(self):
        if self.client is not None:
            await self.client.__aexit__(None, None, None)
            self.client = None

    async def poll(self):
        """Takes over what the fleet wants now."""
        await self.fleet.plane.wait_idle()
        body = await self.fleet.plane.wait(
            self.client._session, self.name, messages.TWIN_DESIRED, after=self.version, timeout_s=0.0
        )
        if body is not None:
            before = self.desired if body["since"] else {}
            self.desired, self.version = merge_patch(before, body["patch"]), body["version"]
        return self.desired.get("functions", {})

    async def work(self):
        """Does what the fleet wants now, and reports it."""
        functions = await self.poll()
        for name, entry in functions.items():
            if self.running.get(name) != entry["version"]:
                await self._install(name, entry)
        for name in self.running.keys() - functions.keys():
            del self.running[name]
        await self.report()

    async def _install(self, name, entry):
        offer = (entry.get("execution"), entry.get("attempt"))
        if offer[0] is not None and offer in self.answered:
            return
        self.answered.add(offer)
        await self.say(entry, "accepted")
        if self.stops_at == "accepted":
            return
        found = open_manifest(entry["manifest"], self.trust, (MODEL,))
        content = b"".join([piece async for piece in self.client.artifact(entry["sha256"])])
        assert hashlib.sha256(content).hexdigest() == found.sha256 == entry["sha256"]
        await self.say(entry, "installing")
        if self.stops_at == "installing":
            return
        if self.fails is not None:
            await self.say(entry, "failed", code=self.fails, reason="it does not run")
            return
        self.running[name], self.digests[name] = entry["version"], entry["sha256"]
        await self.say(entry, "succeeded", version=entry["version"])

    async def say(self, entry, state, **more):
        if entry.get("execution") is not None:
            body = {"execution": entry["execution"], "state": state, **more}
            self.replies.append(await self.client.send(messages.FIRMWARE_STATUS, body))

    async def report(self):
        known = {
            name: {"version": version, "sha256": self.digests[name], "state": "running", "batches": 7}
            for name, version in self.running.items()
        }
        reported = (await self.fleet.twins.get(self.name)).reported.document.get("functions", {})
        gone = dict.fromkeys(reported.keys() - known.keys())
        await self.client.send(messages.TWIN_REPORT, {"functions": {**gone, **known}})


async def wanted(fleet, gateway, name="vibration"):
    """The version in the gateway's desired state, or None."""
    functions = (await fleet.twins.get(gateway)).desired.document.get("functions", {})
    return functions.get(name, {}).get("version")


async def state(fleet, gateway, campaign="c"):
    return (await fleet.campaigns.execution(campaign, gateway)).state.value


__all__ = ["MODEL", "ROOM", "Capacity", "Gateway", "Signers", "manifest", "module", "released", "state", "wanted"]
