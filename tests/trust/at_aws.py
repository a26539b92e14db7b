"""A device's side at AWS: it writes its shadow, as over MQTT."""

from fleetcore.model.cutover import cutover_of
from fleetcore.testing.cutover_device import Side


class AwsSide(Side):
    """The unnamed shadow of a thing in a counterpart."""

    def __init__(self, hub, name):
        self.hub, self.name = hub, name

    @property
    def shadow(self):
        return self.hub.shadows[self.name][""]

    async def offered(self):
        there = self.hub.shadows.get(self.name, {}).get("")
        return {} if there is None else cutover_of(there.state.get("desired"))

    async def tell(self, said):
        self.shadow.state.setdefault("reported", {})["fleetcore"] = {"cutover": dict(said)}
        self.shadow.version += 1

    async def come(self, epoch, to, old):
        await self.tell({"epoch": epoch, "state": "arrived"})
