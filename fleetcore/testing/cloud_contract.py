"""The contract of :class:`~fleetcore.interfaces.cloud.CloudBackend`: states and readings arrive, faults are told.

The tests look at the hub and break it past the backend, through :class:`HubControl`; for a real hub that is its own
SDK or emulator. :mod:`fleetcore.testing.memory_cloud` is a counterpart that passes.
"""

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import pytest

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudBackend, Facet, MirrorItem
from fleetcore.model.telemetry import Series, TelemetryBatch
from fleetcore.testing.contract import Contract, missing

START_MS = 1_767_225_600_000


class HubControl(Protocol):
    """How a test reaches the hub past the backend; asynchronous, for most hubs are far away."""

    async def body(self, entity: str, facet: Facet) -> Mapping[str, object] | None:
        """What the hub holds of a facet, in the mirror's terms, or None."""
        ...

    async def edit(self, entity: str, facet: Facet, body: Mapping[str, object]) -> None:
        """Changes a facet as somebody else would."""
        ...

    async def telemetry(self, device: str) -> Sequence[tuple[str, int, float]]:
        """Metric, time and value of the readings of a device that arrived, in order."""
        ...

    async def throttle(self) -> None:
        """Makes the hub turn items away until :meth:`heal`."""
        ...

    async def go_down(self) -> None:
        """Makes the hub answer nothing until :meth:`heal`."""
        ...

    async def reject_credentials(self) -> None:
        """Makes the hub let nobody in until :meth:`heal`."""
        ...

    async def heal(self) -> None:
        """Ends the faults."""
        ...


class TwoDevices:
    """A catalog of two devices with two metrics each: series 0 and 1 are ``sensor-1``'s, 2 and 3 ``sensor-2``'s."""

    def series(self, index: int) -> Series:
        return Series(index=index, device=f"sensor-{1 + index // 2}", metric=("temperature", "humidity")[index % 2])


def twin(entity: str, version: str | None = None, **desired: object) -> MirrorItem:
    """A device's twin as a mirror sends it."""
    return MirrorItem(entity=entity, facet="twin", body={"desired": desired}, remote_version=version)


def registration(entity: str, version: str | None = None) -> MirrorItem:
    """A device's registration as a mirror sends it."""
    body = {"type": "sensor", "state": "active", "tags": ["outdoor"]}
    return MirrorItem(entity=entity, facet="registry", body=body, remote_version=version)


@pytest.mark.asyncio
class CloudContract(Contract):
    """Override ``cloud`` and ``hub``, both of one empty hub, and ``unfit`` where the hub cannot hold everything."""

    @pytest.fixture
    def cloud(self) -> CloudBackend:
        """The opened backend."""
        raise missing(self, "cloud")

    @pytest.fixture
    def hub(self) -> HubControl:
        """The hub it writes to."""
        raise missing(self, "hub")

    @pytest.fixture
    def unfit(self) -> MirrorItem | None:
        """An item that the hub cannot hold, or not all of it; None where there is none."""
        return None

    async def test_a_state_that_is_applied_is_in_the_hub(self, cloud: CloudBackend, hub: HubControl) -> None:
        registered = (await cloud.apply([registration("sensor-1")]))[0]
        result = (await cloud.apply([twin("sensor-1", interval=60)]))[0]

        assert registered.state == "done", registered
        assert result.state == "done", result
        assert result.remote_version is not None
        assert await hub.body("sensor-1", "twin") == {"desired": {"interval": 60}}

    async def test_a_state_that_is_applied_can_be_read_with_its_version(self, cloud: CloudBackend) -> None:
        await cloud.apply([registration("sensor-1")])
        result = (await cloud.apply([twin("sensor-1", interval=60)]))[0]

        held = await cloud.read("sensor-1", "twin")

        assert held is not None
        assert held.body == {"desired": {"interval": 60}}
        assert (held.entity, held.facet, held.remote_version) == ("sensor-1", "twin", result.remote_version)

    async def test_what_the_hub_has_not_is_none(self, cloud: CloudBackend) -> None:
        assert await cloud.read("nobody", "registry") is None
        assert await cloud.read("nobody", "twin") is None

    async def test_there_is_one_result_for_each_item_in_order(self, cloud: CloudBackend, hub: HubControl) -> None:
        names = [f"sensor-{number}" for number in range(12)]
        await cloud.apply([registration(name) for name in names])
        await cloud.apply([twin("sensor-3", interval=1)])
        await hub.edit("sensor-3", "twin", {"desired": {"interval": 99}})

        results = await cloud.apply([twin(name, interval=number) for number, name in enumerate(names)])

        states = ["conflict" if name == "sensor-3" else "done" for name in names]
        assert [result.state for result in results] == states

    async def test_nothing_to_apply_is_no_result(self, cloud: CloudBackend) -> None:
        assert list(await cloud.apply([])) == []

    async def test_applying_a_state_twice_equals_applying_it_once(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60)]))[0]

        # Once as after a lost answer, once knowing the version.
        lost = (await cloud.apply([twin("sensor-1", interval=60)]))[0]
        known = (await cloud.apply([twin("sensor-1", first.remote_version, interval=60)]))[0]

        assert (lost.state, known.state) == ("done", "done")
        assert await hub.body("sensor-1", "twin") == {"desired": {"interval": 60}}

    async def test_a_new_state_replaces_the_old_one_whole(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60, mode="eco")]))[0]

        second = (await cloud.apply([twin("sensor-1", first.remote_version, interval=30)]))[0]

        assert second.state == "done", second
        assert second.remote_version != first.remote_version
        assert await hub.body("sensor-1", "twin") == {"desired": {"interval": 30}}

    async def test_a_change_by_somebody_else_is_a_conflict_and_stays(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        await cloud.apply([registration("sensor-1")])
        first = (await cloud.apply([twin("sensor-1", interval=60)]))[0]
        await hub.edit("sensor-1", "twin", {"desired": {"interval": 5}})

        result = (await cloud.apply([twin("sensor-1", first.remote_version, interval=30)]))[0]

        assert result.state == "conflict", result
        assert await hub.body("sensor-1", "twin") == {"desired": {"interval": 5}}

    async def test_a_conflict_is_settled_by_reading_and_applying_again(
        self, cloud: CloudBackend, hub: HubControl
    ) -> None:
        await cloud.apply([registration("sensor-1")])
        await cloud.apply([twin("sensor-1", interval=60)])
        await hub.edit("sensor-1", "twin", {"desired": {"interval": 5}})

        held = await cloud.read("sensor-1", "twin")
        assert held is not None
        result = (await cloud.apply([twin("sensor-1", held.remote_version, interval=30)]))[0]

        assert result.state == "done", result
        assert await hub.body("sensor-1", "twin") == {"desired": {"interval": 30}}

    async def test_an_entity_that_is_gone_is_gone_in_the_hub(self, cloud: CloudBackend, hub: HubControl) -> None:
        first = (await cloud.apply([registration("sensor-1")]))[0]
        gone = MirrorItem(entity="sensor-1", facet="registry", body=None, remote_version=first.remote_version)

        results = [(await cloud.apply([gone]))[0], (await cloud.apply([gone]))[0]]

        assert [result.state for result in results] == ["done", "done"], "the second time there is nothing to do"
        assert await hub.body("sensor-1", "registry") is None

    async def test_facets_and_entities_are_apart(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1"), registration("sensor-2")])

        await cloud.apply([twin("sensor-1", interval=60)])

        assert await hub.body("sensor-1", "registry") == registration("sensor-1").body
        assert (await hub.body("sensor-2", "twin") or {}).get("desired", {}) == {}

    async def test_the_items_stay_as_they_are(self, cloud: CloudBackend) -> None:
        item = registration("sensor-1")
        before = copy.deepcopy(item)

        cloud.fit(item)
        await cloud.apply([item])

        assert item == before

    async def test_throttling_is_a_result_with_a_time(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.throttle()

        throttled = (await cloud.apply([registration("sensor-1")]))[0]
        held = await hub.body("sensor-1", "registry")
        await hub.heal()
        healed = (await cloud.apply([registration("sensor-1")]))[0]

        assert (throttled.state, held, healed.state) == ("throttled", None, "done")
        assert throttled.retry_after_s > 0

    async def test_a_hub_that_is_down_is_unavailable(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.go_down()

        for call in _calls(cloud):
            with pytest.raises(Unavailable):
                await call()

    async def test_rejected_credentials_are_told_apart(self, cloud: CloudBackend, hub: HubControl) -> None:
        await hub.reject_credentials()

        for call in _calls(cloud):
            with pytest.raises(CredentialsRejected):
                await call()

    async def test_readings_of_each_device_arrive_in_order(self, cloud: CloudBackend, hub: HubControl) -> None:
        await cloud.apply([registration("sensor-1"), registration("sensor-2")])
        series = [0, 2, 1, 3, 0, 2, 0]
        batch = TelemetryBatch.of(series, range(START_MS, START_MS + 7), [20.5, 1, 2, 3, 4, 5, -6.25])

        taken = await cloud.send_telemetry(batch, TwoDevices())

        assert taken == len(series)
        for device in ("sensor-1", "sensor-2"):
            sent = [
                (TwoDevices().series(index).metric, START_MS + at, float(batch.value[at]))
                for at, index in enumerate(series)
                if TwoDevices().series(index).device == device
            ]
            assert list(await hub.telemetry(device)) == sent

    async def test_no_readings_are_none_taken(self, cloud: CloudBackend) -> None:
        assert await cloud.send_telemetry(TelemetryBatch.empty(), TwoDevices()) == 0

    async def test_what_fits_loses_nothing(self, cloud: CloudBackend) -> None:
        items = [registration("sensor-1"), twin("sensor-1", interval=60)]

        results = [(await cloud.apply([item]))[0] for item in items]

        assert [list(cloud.fit(item)) for item in items] == [[], []]
        assert [list(result.lost) for result in results] == [[], []]

    async def test_what_does_not_fit_is_told_before_and_after(
        self, cloud: CloudBackend, unfit: MirrorItem | None
    ) -> None:
        if unfit is None:
            pytest.skip("this hub holds everything")
        await cloud.apply([registration(unfit.entity)])

        told = list(cloud.fit(unfit))
        result = (await cloud.apply([unfit]))[0]

        assert told, "fit says what is lost"
        assert list(cloud.fit(unfit)) == told, "fit is pure"
        if result.state == "invalid":
            assert result.reason, "a refusal says why"
        else:
            assert result.state == "done", result
            assert list(result.lost) == told


def _calls(cloud: CloudBackend) -> Sequence[Callable[[], Awaitable[object]]]:
    batch = TelemetryBatch.of([0], [START_MS], [1.0])
    return (
        lambda: cloud.apply([registration("sensor-1")]),
        lambda: cloud.read("sensor-1", "registry"),
        lambda: cloud.send_telemetry(batch, TwoDevices()),
    )
