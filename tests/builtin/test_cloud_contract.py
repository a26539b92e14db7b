"""The cloud in memory passes the contract, and broken backends do not."""

import itertools

import pytest
from attrs import evolve

from fleetcore.errors import FleetError
from fleetcore.interfaces.cloud import Arrived, CloudCommand, Fitted, MirrorItem, MirrorResult, Sent
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import EntityKey, Loss, TwinBody
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import CloudContract, registration, twin
from fleetcore.testing.memory_cloud import MAX_BODY_BYTES, MemoryCloud, MemoryHub

UNFIT = MirrorItem(key=EntityKey("twin", "sensor-1"), body=TwinBody(desired={"a.b": 1, "c": {"$d": 2, "e": 3}, "f": 4}))
TOO_LONG = MirrorItem(key=EntityKey("twin", "sensor-1"), body=TwinBody(desired={"text": "x" * MAX_BODY_BYTES}))


class Control:
    """The contract's way to the hub in memory, past the backend."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub

    async def has(self, key):
        return key in self.hub.held

    async def edit(self, key, patch):
        self.hub.edit(key, {**self.hub.body(key), **patch})

    async def make_foreign(self, key):
        self.hub.edit(key, {"type": "theirs", "lifecycle": "active"})

    async def telemetry(self, device):
        return [(each.metric, each.time, each.value) for each in self.hub.telemetry if each.device == device]

    async def command(self, device, name, args):
        self.hub.events.append(CloudCommand(id=f"c{len(self.hub.events)}", device=device, name=name, args=args))

    async def throttle(self):
        self.hub.throttle()
        self.hub.limit_telemetry(0)

    async def go_down(self):
        self.hub.go_down()

    async def lose_answers(self, calls):
        self.hub.lose_answers(calls)

    async def reject_credentials(self):
        self.hub.reject_credentials()

    async def heal(self):
        self.hub.heal()


class TestMemoryCloud(CloudContract):
    @pytest.fixture
    def backend(self):
        return MemoryCloud()

    @pytest.fixture
    def hub(self, backend):
        return Control(backend.hub)

    @pytest.fixture(params=["keys", "size"])
    def unfit(self, request):
        return TOO_LONG if request.param == "size" else UNFIT


def test_what_the_hub_forbids_is_left_out_with_its_place():
    fitted = MemoryCloud().fit(UNFIT)

    assert fitted.item.body == TwinBody(desired={"c": {"e": 3}, "f": 4})
    assert [loss.path for loss in fitted.lost] == ["/desired/a.b", "/desired/c/$d"]


async def test_throttling_may_hit_some_items_of_a_call():
    cloud = MemoryCloud()
    cloud.hub.throttle(items=2, retry_after_s=7)

    results = await cloud.apply([registration("a"), registration("b"), registration("c")])

    assert [result.state for result in results] == ["throttled", "throttled", "done"]
    assert results[0].retry_after_s == 7


async def test_a_version_never_comes_back():
    cloud = MemoryCloud()
    first = (await cloud.apply([twin("a", interval=1)]))[0]
    cloud.hub.edit(EntityKey("twin", "a"), None)

    again = (await cloud.apply([twin("a", interval=2)]))[0]

    assert again.state == "done"
    assert again.remote_version != first.remote_version


class OverwritesConflicts(MemoryCloud):
    def _apply(self, item):
        held = self.hub.held.get(item.key)
        return super()._apply(evolve(item, remote_version=str(held.version) if held else None))


class Merges(MemoryCloud):
    def _apply(self, item):
        held = (self.hub.body(item.key) or {}).get("desired", {})
        if isinstance(item.body, TwinBody):
            item = evolve(item, body=evolve(item.body, desired={**held, **item.body.desired}))
        return super()._apply(item)


class KeepsOldMembers(MemoryCloud):
    def _apply(self, item):
        held = self.hub.body(item.key) or {}
        if item.key.facet == "registry" and item.body is not None and held.get("name"):
            item = evolve(item, body=evolve(item.body, name=held["name"]))
        return super()._apply(item)


class NotIdempotent(MemoryCloud):
    def _apply(self, item):
        if item.remote_version is None and item.key in self.hub.held:
            return MirrorResult(state="conflict")
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
        return super()._apply(evolve(item, key=EntityKey("twin", item.key.id), remote_version=None))


class TakesOver(MemoryCloud):
    def _apply(self, item):
        held = self.hub.held.get(item.key)
        if held is not None:
            self.hub.edit(item.key, held.body, owner=self._owner)
            item = evolve(item, remote_version=str(self.hub.held[item.key].version))
        return super()._apply(item)


class ListsAFew(MemoryCloud):
    async def entities(self, facet):
        count = 0
        async for key in super().entities(facet):
            count += 1
            if count <= 10:
                yield key


class MakesTwice(MemoryCloud):
    def _apply(self, item):
        if item.key in self.hub.held and item.body is not None and item.remote_version is None:
            return MirrorResult(state="invalid", reason="it exists")
        return super()._apply(item)


class RaisesWhenThrottled(MemoryCloud):
    async def apply(self, items):
        results = await super().apply(items)
        if any(result.state == "throttled" for result in results):
            raise RuntimeError("429")
        return results


class ForeignErrors(MemoryCloud):
    async def read(self, keys):
        try:
            return await super().read(keys)
        except FleetError as error:
            raise ConnectionError(str(error)) from error


class Shuffles(MemoryCloud):
    async def send(self, batch, catalog):
        return await super().send(batch.take(slice(None, None, -1)), catalog)


class LosesTexts(MemoryCloud):
    async def send_texts(self, texts, catalog):
        return evolve(await super().send_texts(texts[1:], catalog), taken=len(texts))


class CountsWrongly(MemoryCloud):
    async def send(self, batch, catalog):
        sent = await super().send(batch, catalog)
        return evolve(sent, taken=sent.taken + 1)


class DropsTheRest(MemoryCloud):
    async def send(self, batch, catalog):
        await super().send(batch, catalog)
        return Sent(taken=len(batch))


class LosesSilently(MemoryCloud):
    def fit(self, item):
        return evolve(super().fit(item), lost=())


class AlwaysComplains(MemoryCloud):
    def fit(self, item):
        return Fitted(item=item, lost=(Loss("", "something may be lost"),))


class InventsEntities(MemoryCloud):
    async def read(self, keys):
        found = await super().read(keys)
        return [held or MirrorItem(key=key, body=TwinBody()) for key, held in zip(keys, found, strict=True)]


class ReadsNothing(MemoryCloud):
    async def read(self, keys):
        await super().read(keys)
        return [None] * len(keys)


class ForgetsWhatWasNotKept(MemoryCloud):
    async def inbound(self, after):
        self.hub.events, events = [], self.hub.events
        yield Arrived(events=events, position="0")
        async for arrived in super().inbound("0"):
            yield arrived


class GivesCommandsNewIds(MemoryCloud):
    numbers = itertools.count()

    async def inbound(self, after):
        async for arrived in super().inbound(after):
            yield evolve(arrived, events=[evolve(each, id=f"n{next(self.numbers)}") for each in arrived.events])


class HasNoPosition(MemoryCloud):
    async def inbound(self, after):
        async for arrived in super().inbound(None):
            yield arrived


class FindsNothing(MemoryCloud):
    async def check(self):
        return (Finding(state="ok", what="hub", detail="it answers"),)


class TriesByWriting(MemoryCloud):
    async def check(self):
        await self.apply([registration("a-trial")])
        return await super().check()


class PrintsNothing(MemoryCloud):
    def policy(self):
        return {"json": " "}


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (WritesNothing, "test_each_facet_that_the_hub_holds_arrives_and_can_be_read"),
        (ReadsNothing, "test_each_facet_that_the_hub_holds_arrives_and_can_be_read"),
        (OneFacet, "test_each_facet_that_the_hub_holds_arrives_and_can_be_read"),
        (InventsEntities, "test_what_the_hub_has_not_is_none"),
        (LosesResults, "test_there_is_one_result_for_each_item_in_order"),
        (NotIdempotent, "test_applying_a_state_twice_equals_applying_it_once"),
        (Merges, "test_a_new_state_replaces_the_old_one_whole"),
        (KeepsOldMembers, "test_members_that_a_registration_lost_are_gone"),
        (OverwritesConflicts, "test_a_change_by_another_writer_is_a_conflict_and_stays"),
        (ReadsNothing, "test_a_conflict_is_resolved_by_reading_and_applying_again"),
        (KeepsTheGone, "test_an_entity_that_is_gone_is_gone_in_the_hub"),
        (TakesOver, "test_what_another_one_made_is_left_alone"),
        (ListsAFew, "test_what_this_fleet_made_is_listed"),
        (RaisesWhenThrottled, "test_throttling_is_a_result"),
        (ForeignErrors, "test_a_hub_that_is_down_is_unavailable"),
        (MakesTwice, "test_a_write_whose_answer_is_lost_is_done_once_and_found"),
        (ForeignErrors, "test_rejected_credentials_are_told_apart"),
        (Shuffles, "test_readings_of_each_device_arrive_in_order"),
        (CountsWrongly, "test_readings_of_each_device_arrive_in_order"),
        (LosesTexts, "test_texts_of_each_device_arrive_in_order"),
        (CountsWrongly, "test_no_readings_are_none_taken"),
        (DropsTheRest, "test_readings_that_are_turned_away_are_said_to_be_sent_again"),
        (AlwaysComplains, "test_what_fits_loses_nothing_and_stays_as_it_is"),
        (ForgetsWhatWasNotKept, "test_a_command_comes_until_it_was_kept_and_then_no_more"),
        (GivesCommandsNewIds, "test_a_command_comes_until_it_was_kept_and_then_no_more"),
        (HasNoPosition, "test_a_command_comes_until_it_was_kept_and_then_no_more"),
        (FindsNothing, "test_a_check_tells_what_is_wrong"),
        (TriesByWriting, "test_checking_changes_nothing_and_finds_nothing_wrong"),
        (PrintsNothing, "test_a_policy_is_text_by_form"),
        (LosesSilently, "test_what_does_not_fit_is_told_before_it_is_sent"),
    ],
)
async def test_the_contract_bites(broken, test):
    cloud = broken()
    cloud.pace = Pace({}, MovableClock())
    given = {"cloud": cloud, "hub": Control(cloud.hub), "unfit": UNFIT}
    method = getattr(CloudContract(), test)
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    # pytest.raises reports with an exception of its own, which is no Exception.
    with pytest.raises(BaseException) as failure:
        await method(**{name: given[name] for name in wanted})

    assert isinstance(failure.value, (AssertionError, OSError, RuntimeError, pytest.fail.Exception))
    assert str(failure.value).strip(), "a bare failure shows nothing"
