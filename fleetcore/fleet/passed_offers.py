"""Firmware offers that another fleet makes to devices of this one: a gateway passes them on from its core.

The device gets such an offer as it gets any: the assignment is signed by this fleet, whose key it knows, with the
content that the other fleet gave it, and the image is here. The device's reports are events of the feed, from where
they go back; the other fleet judges them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import msgspec
from attrs import evolve

from fleetcore.errors import Refused
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.update_policy import UpdatePolicy
from fleetcore.fleet.update_reports import problem
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import OFFER_ANSWERED, OFFER_PASSED
from fleetcore.model.message import Accepted, Downlink, JointHandler, MessageType, Outcome, Request, Waiting
from fleetcore.model.passed_offer import PassedOffer
from fleetcore.model.store import Event
from fleetcore.model.twin import Json
from fleetcore.wire import dsse, messages
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, read_assignment

#: The kind of the records; the key is the device's id.
KIND = "passed_offer"


class PassedOffers:
    """Keeps the newest offer to each device.

    Args:
        update_policy: signs the assignments.
        tell: called with devices that may have something to fetch.
    """

    def __init__(
        self, storage: Storage, clock: Clock, update_policy: UpdatePolicy, tell: Callable[[Iterable[str]], None]
    ) -> None:
        self._clock, self._update_policy, self._tell = clock, update_policy, tell
        self.records = Repository(storage, KIND, PassedOffer, key="device")
        #: The devices with a record: a fleet that passes nothing on reads nothing for it.
        self._devices: set[str] = set()

    async def load(self) -> None:
        """Reads which devices have an offer."""
        self._devices = {each.device async for each in self.records.iterate()}

    async def _get(self, device: str) -> PassedOffer | None:
        return await self.records.get(device) if device in self._devices else None

    async def take(self, device: str, body: Json, *, actor: str) -> None:
        """Passes an offer or its withdrawal to a device; nothing happens where the device is done with that attempt.

        Raises:
            Refused: the offer's assignment cannot be read.
        """
        new = self._signed(PassedOffer(device=device, body=body, changed=self._clock.now_ms()))
        begins = PassedOffer(device=device, body={})

        def once(old: PassedOffer) -> tuple[PassedOffer, list[Event]] | None:
            if old.body == new.body:
                return None
            same = old.attempt == new.attempt
            ends = not new.offer and old.execution == new.execution
            if (same or ends) and old.is_over:
                return None
            event = Event(
                type=OFFER_PASSED, subject=device, time=self._clock.now_ms(), actor=actor,
                data={"execution": new.execution, "withdrawn": not new.offer},
            )  # fmt: skip
            return evolve(new, status=old.status if same else {}, version=old.version), [event]

        async def load() -> PassedOffer:
            return await self.records.get(device) or begins

        self._devices.add(device)
        await self.records.compare_and_set(load, once, key=device)
        self._tell([device])

    def _signed(self, new: PassedOffer) -> PassedOffer:
        """The offer with an assignment of this fleet in place of the other's; one without stays without."""
        envelope = new.offer.get("assignment")
        if envelope is None:
            return new
        try:
            payload = dsse.opened(envelope, ASSIGNMENT_TYPE)
            not_after = read_assignment(payload).not_after
        except Refused as error:
            raise Refused(f"The offer's assignment cannot be read: {error.message}", code=error.code) from error
        sign = self._update_policy.sign
        ours = envelope if sign is None else sign(payload, ASSIGNMENT_TYPE)
        return evolve(new, body={**new.body, "offer": {**new.offer, "assignment": ours}}, not_after=not_after)

    async def reopen(self, device: str, status: object) -> None:
        """The other fleet has refused a device's report, and goes on offering."""

        def once(old: PassedOffer) -> tuple[PassedOffer, list[Event]] | None:
            return (evolve(old, status={}), []) if old.status == status else None

        await self.records.change(device, once)

    async def names_artifact(self, device: str, sha256: str) -> bool:
        """Whether an open offer to a device names an artifact."""
        found = await self._get(device)
        return found is not None and sha256 in found.images and found.is_open(self._clock.now_ms())

    def before_firmware(self, source: Waiting) -> Waiting:
        """Firmware as a waiting item: what another fleet offers comes before this fleet's own offers."""

        async def read(device: str, after: int) -> Mapping[str, object] | None:
            return await self._body(device) or await source.read(device, after)

        async def count(device: str) -> int:
            return 1 if await self._body(device) else await source.count(device)

        async def unfinished(device: str) -> Sequence[Downlink]:
            body = await self._body(device)
            if body is None:
                return await source.unfinished(device)
            return [Downlink(type=messages.FIRMWARE, subject=device, body=body)]

        return Waiting(read=read, count=count, unfinished=unfinished)

    async def _body(self, device: str) -> Json | None:
        found = await self._get(device)
        return found.body if found is not None and found.is_open(self._clock.now_ms()) else None

    def before_reports(self, handlers: Mapping[MessageType, JointHandler]) -> Mapping[MessageType, JointHandler]:
        """Handlers of reports about firmware: those about passed offers are kept here, the others go on."""
        (others,) = handlers.values()

        async def statuses(some: Sequence[tuple[Request, messages.FirmwareStatus]]) -> Sequence[Outcome]:
            devices = self._devices.intersection(request.subject for request, _ in some)
            if not devices:
                return await others(some)
            known = await self.records.get_many(devices)
            outcomes: list[Outcome | None] = [None] * len(some)
            for place, (request, body) in enumerate(some):
                passed = known.get(request.subject)
                if passed is not None and passed.execution and passed.execution == body.execution:
                    outcomes[place] = await self._status(request.subject, body)
            left = [place for place, outcome in enumerate(outcomes) if outcome is None]
            if left:
                for place, outcome in zip(left, await others([some[place] for place in left]), strict=True):
                    outcomes[place] = outcome
            return cast("list[Outcome]", outcomes)

        return {messages.FIRMWARE_STATUS: statuses}

    async def _status(self, device: str, body: messages.FirmwareStatus) -> Outcome:
        now = self._clock.now_ms()
        refused = problem(body, now)
        if refused is not None:
            return refused
        plain: Mapping[str, object] = {
            name: value for name, value in msgspec.to_builtins(body).items() if value is not None
        }

        def once(old: PassedOffer) -> tuple[PassedOffer, list[Event]]:
            data = {"execution": body.execution, "status": plain}
            event = Event(type=OFFER_ANSWERED, subject=device, time=now, actor=device, data=data)
            # A late report does not open again what has ended.
            late = old.is_over and not evolve(old, status=plain).is_over
            return (old if late else evolve(old, status=plain)), [event]

        await self.records.change(device, once)
        return Accepted()
