"""The contract of :class:`~fleetcore.interfaces.cloud.CloudBackend`: states and readings arrive, faults are reported.

The tests inspect the hub and break it independently of the backend, through :class:`HubControl`; for a real hub that is
its own SDK or emulator. A hub that only receives (``limits.readable`` is false) is inspected through
:class:`ReceiverControl`: the state of a receiver stands for the hub's. The samples are bodies as the engine makes them.
:mod:`fleetcore.testing.memory_cloud` is a backend that passes.
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol, cast

import pytest
from attrs import evolve

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import Arrived, CloudBackend, CloudCommand, MirrorItem, MirrorResult
from fleetcore.interfaces.pace import Pace
from fleetcore.model.mirror import (
    CertificateBody,
    DeviceCertificate,
    EntityKey,
    Facet,
    GroupBody,
    JobBody,
    MirrorBody,
    RegistryBody,
    TwinBody,
)
from fleetcore.model.telemetry import Series, TelemetryBatch, TextReading
from fleetcore.testing.certificates import Forged
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.contract import Contract, missing
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.throwaway_ca import ThrowawayCa

START_MS = 1_767_225_600_000


class HubControl(Protocol):
    """A test's access to the hub, independent of the backend; asynchronous, because most hubs are remote."""

    async def has(self, key: EntityKey) -> bool:
        """Whether the hub has the entity, created by this fleet or not."""
        ...

    async def edit(self, key: EntityKey, patch: Mapping[str, object]) -> None:
        """Changes an existing entity, as another writer would: ``patch`` is a member of its body, replaced."""
        ...

    async def make_foreign(self, key: EntityKey) -> None:
        """Creates a device at the hub without a fleet's mark."""
        ...

    async def telemetry(self, device: str) -> Sequence[tuple[str, int, float | str]]:
        """Metric, time and value of the readings of a device that arrived, in order."""
        ...

    async def command(self, device: str, name: str, args: Mapping[str, object]) -> None:
        """Gives a command for a device, as the hub's users do; not called for a hub without commands."""
        ...

    async def throttle(self) -> None:
        """Makes the hub defer everything until :meth:`heal`."""
        ...

    async def go_down(self) -> None:
        """Makes the hub answer nothing until :meth:`heal`."""
        ...

    async def lose_answers(self, calls: int) -> None:
        """Makes the hub execute the next calls without answering them."""
        ...

    async def reject_credentials(self) -> None:
        """Makes the hub reject all credentials until :meth:`heal`."""
        ...

    async def heal(self) -> None:
        """Ends the faults."""
        ...


class ReceiverControl(HubControl, Protocol):
    """The same for a hub that only receives; ``edit`` and ``make_foreign`` are not called for it."""

    async def received(self) -> Mapping[EntityKey, MirrorItem]:
        """The state of a receiver that was there from the beginning: this fleet's entities, with their versions."""
        ...

    async def repeat(self) -> None:
        """Sends receivers everything once more, in reverse order."""
        ...


REGISTERED = RegistryBody(type="sensor", lifecycle="active", tags=("outdoor",), attributes={"site": "north"})


class TwoDevices:
    """A catalog of two devices with two metrics each: series 0 and 1 are ``sensor-1``'s, 2 and 3 ``sensor-2``'s."""

    def series(self, index: int) -> Series:
        return Series(index=index, device=f"sensor-{1 + index // 2}", metric=("temperature", "humidity")[index % 2])


def twin(device: str, version: str | None = None, **desired: object) -> MirrorItem:
    """A device's twin as a mirror sends it."""
    body = TwinBody(desired=desired, reported={"battery": 0.5})
    return MirrorItem(key=EntityKey("twin", device), body=body, remote_version=version)


def registration(device: str, version: str | None = None, body: RegistryBody = REGISTERED) -> MirrorItem:
    """A device's registration as a mirror sends it."""
    return MirrorItem(key=EntityKey("registry", device), body=body, remote_version=version)


def certified(*made: Forged) -> CertificateBody:
    """Certificates as a mirror sends them."""
    found = [
        DeviceCertificate(fingerprint=hashlib.sha256(item.der).hexdigest(), pem=item.pem.decode()) for item in made
    ]
    return CertificateBody(certificates=tuple(sorted(found, key=lambda item: item.fingerprint)))


@functools.cache
def samples() -> Mapping[Facet, MirrorBody]:
    """One sample of each facet; ``limits.facets`` says which of them a hub cannot hold."""
    ca = ThrowawayCa()
    return {
        "group": GroupBody(description="the lab"),
        "registry": RegistryBody(type="sensor", lifecycle="active", tags=("outdoor",)),
        "certificate": certified(ca.another("sensor-1"), ca.another("sensor-1")),
        "twin": TwinBody(desired={"interval": 60}, reported={"battery": 0.5}),
        "job": JobBody(device="sensor-1", campaign="c1", release="2.0", url="https://x.example/fw", state="offered"),
    }


@pytest.mark.asyncio
class CloudContract(Contract):
    """Override ``backend`` and ``hub``, both of one empty hub, and ``unfit`` if the hub cannot hold everything."""

    @pytest.fixture
    def backend(self) -> CloudBackend:
        """The opened backend."""
        raise missing(self, "backend")

    @pytest.fixture
    def cloud(self, backend: CloudBackend) -> CloudBackend:
        """The backend as the engine uses it, without a rate limit."""
        backend.pace = Pace({}, MovableClock())
        return backend

    @pytest.fixture
    def hub(self) -> HubControl:
        """The hub that it writes to."""
        raise missing(self, "hub")

    @pytest.fixture
    def unfit(self) -> MirrorItem | None:
        """An item that the hub cannot hold completely; None if it can hold everything."""
        return None

    # -- states -----------------------------------------------------------------------------------------------------

    async def test_each_facet_that_the_hub_holds_arrives_and_can_be_read(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        for facet, body in samples().items():
            if facet not in cloud.limits.facets:
                continue
            key = EntityKey(facet, "c1:sensor-1" if facet == "job" else "lab" if facet == "group" else "sensor-1")
            fitted = cloud.fit(MirrorItem(key=key, body=body))
            assert fitted.item is not None, fitted
            (result,) = await cloud.apply([fitted.item])
            held = await _held(cloud, hub, key)

            assert result.state == "done", result
            assert held is not None, f"{key} is missing"
            assert (held.key, held.body) == (key, fitted.item.body)
            assert held.remote_version == result.remote_version
            assert await hub.has(key)

    async def test_what_the_hub_has_not_is_none(self, cloud: CloudBackend) -> None:
        keys = [EntityKey("registry", "nobody"), EntityKey("twin", "nobody")]

        assert list(await cloud.read(keys)) == [None, None]

    async def test_there_is_one_result_for_each_item_in_order(self, cloud: CloudBackend, hub: HubControl) -> None:
        names = [f"sensor-{number}" for number in range(min(8, cloud.limits.items))]
        await _all(cloud, [registration(name) for name in names])
        known = await _all(cloud, [twin(name, interval=0) for name in names])
        if cloud.limits.readable:
            await hub.edit(EntityKey("twin", names[-1]), {"desired": {"interval": 99}})
        last = "conflict" if cloud.limits.readable else "done"

        results = await cloud.apply(
            [
                twin(name, was.remote_version, interval=number + 1)
                for number, (name, was) in enumerate(zip(names, known, strict=True))
            ]
        )

        assert [result.state for result in results] == [*["done"] * (len(names) - 1), last]

    async def test_nothing_to_apply_or_read_is_nothing(self, cloud: CloudBackend) -> None:
        assert list(await cloud.apply([])) == []
        assert list(await cloud.read([])) == []

    async def test_applying_a_state_twice_equals_applying_it_once(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60)]))[0]

        # Once as after a lost answer, once with the known version.
        lost = (await cloud.apply([twin("sensor-1", interval=60)]))[0]
        known = (await cloud.apply([twin("sensor-1", first.remote_version, interval=60)]))[0]

        assert (lost.state, known.state) == ("done", "done")
        held = await _held(cloud, hub, EntityKey("twin", "sensor-1"))
        assert held is not None
        assert held.body == twin("sensor-1", interval=60).body

    async def test_a_new_state_replaces_the_old_one_whole(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60, mode="eco", nested={"a": 1, "b": 2})]))[0]

        second = (await cloud.apply([twin("sensor-1", first.remote_version, interval=30, nested={"b": 3})]))[0]

        assert second.state == "done", second
        assert second.remote_version != first.remote_version
        held = await _held(cloud, hub, EntityKey("twin", "sensor-1"))
        assert held is not None
        assert held.body == twin("sensor-1", interval=30, nested={"b": 3}).body

    async def test_members_that_a_registration_lost_are_gone(self, cloud: CloudBackend, hub: HubControl) -> None:
        named = evolve(REGISTERED, name="north door", attributes={"site": "north", "row": "7"})
        first = (await cloud.apply([registration("sensor-1", body=named)]))[0]

        later = registration("sensor-1", first.remote_version, evolve(REGISTERED, tags=("indoor",)))
        second = (await cloud.apply([later]))[0]

        assert second.state == "done", second
        held = await _held(cloud, hub, later.key)
        assert held is not None
        assert held.body == later.body

    async def test_a_change_by_another_writer_is_a_conflict_and_stays(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        _needs_reading(cloud)
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60)]))[0]
        await hub.edit(EntityKey("twin", "sensor-1"), {"desired": {"interval": 5}})

        result = (await cloud.apply([twin("sensor-1", first.remote_version, interval=30)]))[0]

        assert result.state == "conflict", result
        (held,) = await cloud.read([EntityKey("twin", "sensor-1")])
        assert held is not None
        assert isinstance(held.body, TwinBody)
        assert held.body.desired == {"interval": 5}

    async def test_a_conflict_is_resolved_by_reading_and_applying_again(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        _needs_reading(cloud)
        await cloud.apply([registration("sensor-1")])
        await cloud.apply([twin("sensor-1", interval=60)])
        await hub.edit(EntityKey("twin", "sensor-1"), {"desired": {"interval": 5}})

        (held,) = await cloud.read([EntityKey("twin", "sensor-1")])
        assert held is not None
        result = (await cloud.apply([twin("sensor-1", held.remote_version, interval=30)]))[0]

        assert result.state == "done", result

    async def test_an_entity_that_is_gone_is_gone_in_the_hub(self, cloud: CloudBackend, hub: HubControl) -> None:
        first = (await cloud.apply([registration("sensor-1")]))[0]
        gone = MirrorItem(key=EntityKey("registry", "sensor-1"), body=None, remote_version=first.remote_version)

        results = [(await cloud.apply([gone]))[0], (await cloud.apply([evolve(gone, remote_version=None)]))[0]]

        assert [result.state for result in results] == ["done", "done"], "the second time nothing must happen"
        assert not await hub.has(gone.key)

    async def test_what_another_one_made_is_left_alone(self, cloud: CloudBackend, hub: HubControl) -> None:
        _needs_reading(cloud)
        key = EntityKey("registry", "sensor-9")
        await hub.make_foreign(key)

        (made,) = await cloud.apply([registration("sensor-9")])
        (removed,) = await cloud.apply([MirrorItem(key=key, body=None)])

        assert (made.state, removed.state) == ("foreign", "foreign")
        assert made.reason
        assert list(await cloud.read([key])) == [None]
        assert key not in [each async for each in cloud.entities("registry")]
        assert await hub.has(key)

    async def test_what_this_fleet_made_is_listed(self, cloud: CloudBackend, hub: HubControl) -> None:
        names = [f"sensor-{number}" for number in range(25)]
        await _all(cloud, [registration(name) for name in names])

        assert sorted(await _listed(cloud, hub, "registry")) == sorted(names)

    async def test_a_hub_that_only_receives_gets_versions_that_grow_and_an_older_state_undoes_none(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        receiver = _receiver(cloud, hub)
        states = [registration("sensor-1"), twin("sensor-1", interval=60)]
        first = await _all(cloud, states)
        # Once with the known version, once as after a lost answer, and then deleted and created again.
        second = await _all(cloud, [twin("sensor-1", first[1].remote_version, interval=30)])
        third = await _all(cloud, [twin("sensor-1", first[1].remote_version, interval=20)])
        gone = await _all(cloud, [MirrorItem(key=states[0].key, body=None, remote_version=first[0].remote_version)])
        again = await _all(cloud, [registration("sensor-1", gone[0].remote_version)])
        await receiver.repeat()

        found = await receiver.received()

        assert found[states[1].key].body == twin("sensor-1", interval=20).body
        assert found[states[0].key].remote_version == again[0].remote_version
        versions = [int(each.remote_version or 0) for each in (first[1], *second, *third)]
        assert sorted(set(versions)) == versions
        assert int(first[0].remote_version or 0) < int(gone[0].remote_version or 0) < int(again[0].remote_version or 0)

    async def test_a_hub_that_only_receives_is_neither_read_nor_listed(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        _receiver(cloud, hub)
        (made,) = await _all(cloud, [registration("sensor-1")])

        assert made.remote_version
        assert list(await cloud.read([EntityKey("registry", "sensor-1")])) == [None]
        assert [key async for key in cloud.entities("registry")] == []

    # -- faults -----------------------------------------------------------------------------------------------------

    async def test_throttling_is_a_result(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.throttle()

        throttled = (await cloud.apply([registration("sensor-1")]))[0]
        await hub.heal()
        healed = (await cloud.apply([registration("sensor-1")]))[0]

        assert (throttled.state, healed.state) == ("throttled", "done")

    async def test_a_hub_that_is_down_is_unavailable(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.go_down()

        for call in _calls(cloud):
            with pytest.raises(Unavailable):
                await call()

    async def test_a_write_whose_answer_is_lost_is_done_once_and_found(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        await hub.lose_answers(1)
        try:
            (first,) = await cloud.apply([registration("sensor-1")])
        except Unavailable:
            pass
        else:
            assert first.state == "failed"
        await hub.heal()

        (again,) = await cloud.apply([registration("sensor-1")])

        assert again.state in {"done", "conflict"}, again
        held = await _held(cloud, hub, EntityKey("registry", "sensor-1"))
        assert held is not None
        assert held.body == registration("sensor-1").body

    async def test_rejected_credentials_are_told_apart(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.reject_credentials()

        for call in _calls(cloud):
            with pytest.raises(CredentialsRejected):
                await call()

    # -- readings ---------------------------------------------------------------------------------------------------

    async def test_readings_of_each_device_arrive_in_order(self, cloud: CloudBackend, hub: HubControl) -> None:
        await _all(cloud, [registration("sensor-1"), registration("sensor-2")])
        series = [0, 2, 1, 3, 0, 2, 0]
        batch = TelemetryBatch.of(series, range(START_MS, START_MS + 7), [20.5, 1, 2, 3, 4, 5, -6.25])

        sent = await cloud.send(batch, TwoDevices())

        assert (sent.taken, dict(sent.refused), list(sent.rest)) == (len(series), {}, [])
        for device in ("sensor-1", "sensor-2"):
            wanted = [
                (TwoDevices().series(index).metric, START_MS + at, float(batch.value[at]))
                for at, index in enumerate(series)
                if TwoDevices().series(index).device == device
            ]
            assert list(await hub.telemetry(device)) == wanted

    async def test_texts_of_each_device_arrive_in_order(self, cloud: CloudBackend, hub: HubControl) -> None:
        await _all(cloud, [registration("sensor-1"), registration("sensor-2")])
        texts = [
            TextReading(series=index, time=START_MS + at, received=START_MS, value=value)
            for at, (index, value) in enumerate([(0, "eco"), (2, "Ärger"), (0, ""), (1, 'a "quoted"\nline')])
        ]

        sent = await cloud.send_texts(texts, TwoDevices())

        if len(sent.refused) == len(texts):
            assert all(sent.refused.values())
            pytest.skip("this hub is only sent numbers")
        assert (sent.taken, dict(sent.refused), list(sent.rest)) == (len(texts), {}, [])
        for device in ("sensor-1", "sensor-2"):
            wanted = [
                (TwoDevices().series(text.series).metric, text.time, text.value)
                for text in texts
                if TwoDevices().series(text.series).device == device
            ]
            assert list(await hub.telemetry(device)) == wanted

    async def test_no_readings_are_none_taken(self, cloud: CloudBackend) -> None:
        sent = await cloud.send(TelemetryBatch.empty(), TwoDevices())

        assert (sent.taken, dict(sent.refused), list(sent.rest)) == (0, {}, [])

    async def test_readings_that_are_turned_away_are_said_to_be_sent_again(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        await _all(cloud, [registration("sensor-1")])
        await hub.throttle()
        batch = TelemetryBatch.of([0, 1, 0], range(START_MS, START_MS + 3), [1.0, 2.0, 3.0])

        try:
            sent = await cloud.send(batch, TwoDevices())
        except Unavailable:
            return
        assert (sent.taken, list(sent.rest)) == (0, [0, 1, 2])

    # -- messages from the hub --------------------------------------------------------------------------------------

    async def test_a_command_comes_until_it_was_kept_and_then_no_more(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        if not cloud.limits.commands:
            pytest.skip("this hub has no commands")
        cloud.use = evolve(cloud.use, commands=True)
        await _all(cloud, [registration("sensor-1")])
        await hub.command("sensor-1", "reboot", {"delay_s": 5})
        async with aclosing(cloud.inbound(None)) as arriving:
            first, _ = await _commands(arriving, "reboot")
        await hub.command("sensor-1", "blink", {})
        async with aclosing(cloud.inbound(None)) as arriving:
            again, _ = await _commands(arriving, "blink")
            await hub.command("sensor-1", "locate", {})
            later, arrived = await _commands(arriving, "locate")  # requesting it confirmed that the others were saved
        async with aclosing(cloud.inbound(arrived.position)) as arriving:
            await hub.command("sensor-1", "measure", {})
            restarted, _ = await _commands(arriving, "measure")

        assert [(each.device, each.name, each.args) for each in first] == [("sensor-1", "reboot", {"delay_s": 5})]
        assert {each.id for each in first} < {each.id for each in again}, "it was not saved: it must come again"
        assert [each.name for each in later] == ["locate"]
        assert "reboot" not in {each.name for each in restarted}
        assert "blink" not in {each.name for each in restarted}

    async def test_a_policy_is_text_by_form(self, cloud: CloudBackend) -> None:
        assert all(form and text.strip() for form, text in cloud.policy().items())

    async def test_checking_changes_nothing_and_finds_nothing_wrong(self, cloud: CloudBackend) -> None:
        found = await cloud.check()

        assert [finding for finding in found if finding.state == "problem"] == []
        for facet in cloud.limits.facets:
            assert [each async for each in cloud.entities(facet)] == []

    async def test_a_check_tells_what_is_wrong(self, cloud: CloudBackend, hub: HubControl) -> None:
        if not await cloud.check():
            pytest.skip("this backend has no checks")
        await hub.reject_credentials()

        found = [finding for finding in await cloud.check() if finding.state == "problem"]

        assert found
        assert all(finding.detail and finding.remedy for finding in found)

    # -- fitting ----------------------------------------------------------------------------------------------------

    async def test_what_fits_loses_nothing_and_stays_as_it_is(self, cloud: CloudBackend) -> None:
        for item in (registration("sensor-1"), twin("sensor-1", interval=60)):
            fitted = cloud.fit(item)
            assert (fitted.item, list(fitted.lost)) == (item, [])

    async def test_what_does_not_fit_is_told_before_it_is_sent(
        self, cloud: CloudBackend, hub: HubControl, unfit: MirrorItem | None
    ) -> None:
        if unfit is None:
            pytest.skip("this hub can hold everything")
        await _all(cloud, [registration(unfit.key.id)])

        fitted = cloud.fit(unfit)

        assert fitted.lost, "fit must report what is lost"
        assert all(loss.reason for loss in fitted.lost)
        assert cloud.fit(unfit) == fitted, "fit is pure"
        if fitted.item is None:
            return
        assert not cloud.fit(fitted.item).lost, "the rest must fit"
        (result,) = await cloud.apply([fitted.item])
        held = await _held(cloud, hub, unfit.key)
        assert result.state == "done", result
        assert held is not None
        assert held.body == fitted.item.body


def _needs_reading(cloud: CloudBackend) -> None:
    if not cloud.limits.readable:
        pytest.skip("this hub only receives: it has no states that another writer could change")


def _receiver(cloud: CloudBackend, hub: HubControl) -> ReceiverControl:
    if cloud.limits.readable:
        pytest.skip("this hub can be read")
    return cast("ReceiverControl", hub)


async def _held(cloud: CloudBackend, hub: HubControl, key: EntityKey) -> MirrorItem | None:
    """The hub's state, or that of a receiver of a hub that only receives."""
    if cloud.limits.readable:
        return (await cloud.read([key]))[0]
    return (await _receiver(cloud, hub).received()).get(key)


async def _listed(cloud: CloudBackend, hub: HubControl, facet: Facet) -> list[str]:
    if cloud.limits.readable:
        return [key.id async for key in cloud.entities(facet)]
    return [key.id for key in await _receiver(cloud, hub).received() if key.facet == facet]


async def _commands(arriving: AsyncGenerator[Arrived, None], until: str) -> tuple[list[CloudCommand], Arrived]:
    """The next commands, up to one of this name, and the message with it."""
    found: list[CloudCommand] = []
    async with asyncio.timeout(PATIENCE_S):
        async for arrived in arriving:
            found += [event for event in arrived.events if isinstance(event, CloudCommand)]
            if until in {command.name for command in found}:
                return found, arrived
    raise AssertionError("the stream of the hub has ended")


async def _all(cloud: CloudBackend, items: Sequence[MirrorItem]) -> list[MirrorResult]:
    """Applies any number of items, each of which must succeed."""
    results: list[MirrorResult] = []
    for start in range(0, len(items), cloud.limits.items):
        results += await cloud.apply(items[start : start + cloud.limits.items])
    assert {result.state for result in results} <= {"done"}, results
    return results


def _calls(cloud: CloudBackend) -> Sequence[Callable[[], Awaitable[object]]]:
    batch = TelemetryBatch.of([0], [START_MS], [1.0])
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: cloud.apply([registration("sensor-1")]),
        lambda: cloud.send(batch, TwoDevices()),
    ]
    if cloud.limits.readable:
        calls.append(lambda: cloud.read([EntityKey("registry", "sensor-1")]))
    return calls
