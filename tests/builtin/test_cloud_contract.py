"""The cloud in memory passes the contract, and broken backends do not."""

import pytest
from attrs import evolve

from fleetcore.errors import FleetError
from fleetcore.interfaces.cloud import MirrorItem, MirrorResult
from fleetcore.testing.cloud_contract import CloudContract, registration, twin
from fleetcore.testing.memory_cloud import LARGEST_BODY_BYTES, MemoryCloud, MemoryHub

UNFIT = MirrorItem(entity="sensor-1", facet="twin", body={"desired": {"a.b": 1, "c": {"$d": 2}, "e": 3}})


class Control:
    """The contract's way to the hub in memory, past the backend."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub

    async def body(self, entity, facet):
        return self.hub.body(entity, facet)

    async def edit(self, entity, facet, body):
        self.hub.edit(entity, facet, body)

    async def telemetry(self, device):
        return [(one.metric, one.time, one.value) for one in self.hub.telemetry if one.device == device]

    async def throttle(self):
        self.hub.throttle()

    async def go_down(self):
        self.hub.go_down()

    async def reject_credentials(self):
        self.hub.reject_credentials()

    async def heal(self):
        self.hub.heal()


class TestMemoryCloud(CloudContract):
    @pytest.fixture
    def cloud(self):
        return MemoryCloud()

    @pytest.fixture
    def hub(self, cloud):
        return Control(cloud.hub)

    @pytest.fixture(params=["keys", "size"])
    def unfit(self, request):
        large = MirrorItem(entity="sensor-1", facet="twin", body={"desired": {"text": "x" * LARGEST_BODY_BYTES}})
        return UNFIT if request.param == "keys" else large


async def test_what_the_hub_forbids_is_left_out_and_the_rest_is_there():
    cloud = MemoryCloud()

    result = (await cloud.apply([UNFIT]))[0]

    assert cloud.hub.body("sensor-1", "twin") == {"desired": {"c": {}, "e": 3}}
    assert len(result.lost) == 2


async def test_throttling_may_hit_some_items_of_a_call():
    cloud = MemoryCloud()
    cloud.hub.throttle(items=2, retry_after_s=7)

    results = await cloud.apply([registration("a"), registration("b"), registration("c")])

    assert [result.state for result in results] == ["throttled", "throttled", "done"]
    assert results[0].retry_after_s == 7


async def test_a_version_never_comes_back():
    cloud = MemoryCloud()
    first = (await cloud.apply([twin("a", interval=1)]))[0]
    cloud.hub.edit("a", "twin", None)

    again = (await cloud.apply([twin("a", interval=2)]))[0]

    assert again.state == "done"
    assert again.remote_version != first.remote_version


class OverwritesConflicts(MemoryCloud):
    def _apply(self, item):
        held = self.hub.facets.get((item.entity, item.facet))
        return super()._apply(evolve(item, remote_version=str(held[0]) if held else None))


class Merges(MemoryCloud):
    def _apply(self, item):
        held = self.hub.body(item.entity, item.facet) or {}
        old, new = held.get("desired"), (item.body or {}).get("desired")
        both = {**old, **new} if old and new else None
        return super()._apply(evolve(item, body={"desired": both}) if both else item)


class NotIdempotent(MemoryCloud):
    def _apply(self, item):
        held = self.hub.facets.get((item.entity, item.facet))
        if item.remote_version is None and held is not None:
            return MirrorResult(state="conflict", remote_version=str(held[0]))
        return super()._apply(item)


class LosesResults(MemoryCloud):
    async def apply(self, items):
        return [result for result in await super().apply(items) if result.state == "done"]


class WritesNothing(MemoryCloud):
    def _apply(self, item):
        return MirrorResult(state="done", remote_version="1")


class KeepsTheGone(MemoryCloud):
    def _apply(self, item):
        return super()._apply(item) if item.body is not None else MirrorResult(state="done")


class OneFacet(MemoryCloud):
    def _apply(self, item):
        return super()._apply(evolve(item, facet="twin", remote_version=None))


class RaisesWhenThrottled(MemoryCloud):
    async def apply(self, items):
        results = await super().apply(items)
        if any(result.state == "throttled" for result in results):
            raise RuntimeError("429")
        return results


class ForeignErrors(MemoryCloud):
    async def read(self, entity, facet):
        try:
            return await super().read(entity, facet)
        except FleetError as error:
            raise ConnectionError(str(error)) from error


class Shuffles(MemoryCloud):
    async def send_telemetry(self, batch, catalog):
        return await super().send_telemetry(batch.take(slice(None, None, -1)), catalog)


class CountsWrongly(MemoryCloud):
    async def send_telemetry(self, batch, catalog):
        return await super().send_telemetry(batch, catalog) + 1


class LosesSilently(MemoryCloud):
    def _done(self, item):
        return evolve(super()._done(item), lost=())


class AlwaysComplains(MemoryCloud):
    def fit(self, item):
        return ("something may be lost",)


class InventsFacets(MemoryCloud):
    async def read(self, entity, facet):
        return await super().read(entity, facet) or MirrorItem(entity=entity, facet=facet, body={})


class ChangesItems(MemoryCloud):
    def _apply(self, item):
        result = super()._apply(item)
        item.body["applied"] = True
        return result


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (WritesNothing, "test_a_state_that_is_applied_is_in_the_hub"),
        (WritesNothing, "test_a_state_that_is_applied_can_be_read_with_its_version"),
        (InventsFacets, "test_what_the_hub_has_not_is_none"),
        (LosesResults, "test_there_is_one_result_for_each_item_in_order"),
        (NotIdempotent, "test_applying_a_state_twice_equals_applying_it_once"),
        (Merges, "test_a_new_state_replaces_the_old_one_whole"),
        (OverwritesConflicts, "test_a_change_by_somebody_else_is_a_conflict_and_stays"),
        (WritesNothing, "test_a_conflict_is_settled_by_reading_and_applying_again"),
        (KeepsTheGone, "test_an_entity_that_is_gone_is_gone_in_the_hub"),
        (OneFacet, "test_facets_and_entities_are_apart"),
        (ChangesItems, "test_the_items_stay_as_they_are"),
        (RaisesWhenThrottled, "test_throttling_is_a_result_with_a_time"),
        (ForeignErrors, "test_a_hub_that_is_down_is_unavailable"),
        (ForeignErrors, "test_rejected_credentials_are_told_apart"),
        (Shuffles, "test_readings_of_each_device_arrive_in_order"),
        (CountsWrongly, "test_readings_of_each_device_arrive_in_order"),
        (CountsWrongly, "test_no_readings_are_none_taken"),
        (AlwaysComplains, "test_what_fits_loses_nothing"),
        (LosesSilently, "test_what_does_not_fit_is_told_before_and_after"),
    ],
)
async def test_the_contract_bites(broken, test):
    cloud = broken()
    given = {"cloud": cloud, "hub": Control(cloud.hub), "unfit": UNFIT}
    method = getattr(CloudContract(), test)
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    # pytest.raises reports with an exception of its own, which is no Exception.
    with pytest.raises(BaseException) as failure:
        await method(**{name: given[name] for name in wanted})

    assert isinstance(failure.value, (AssertionError, OSError, RuntimeError, pytest.fail.Exception))
    assert str(failure.value).strip(), "a bare failure shows nothing"
