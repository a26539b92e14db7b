"""The storage contract, records: versions, compare-and-set, unique values, references, queries, due times."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from fleetcore.errors import Conflict, NotFound, VersionConflict
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Body, Commit, Delete, MessageMark, Put
from fleetcore.model.telemetry import TelemetryBatch, TextReading
from fleetcore.query.ast import And, Compare, Exists, Has, Not
from fleetcore.testing.storage_base import StorageCase, event, put, readings, series


class RecordsContract(StorageCase):
    """Records."""

    async def test_a_record_is_read_back_as_it_was_put(self, storage: Storage) -> None:
        body = {
            "text": "Grüße, \u2603 '\" \\ \n",
            "n": 1,
            "x": 0.1,
            "no": None,
            "yes": True,
            "deep": [{"a": [1, []]}, {}],
        }

        done = await storage.commit(Commit(puts=(put("a", body),)))

        found = await storage.get("thing", "a")
        assert found is not None
        assert (found.kind, found.key, found.version, found.body) == ("thing", "a", 1, body)
        assert done.versions == (1,)

    async def test_what_is_not_there_is_none(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),)))

        assert await storage.get("thing", "b") is None
        assert await storage.get("other", "a") is None

    async def test_versions_rise_by_one_with_every_put(self, storage: Storage) -> None:
        versions = [(await storage.commit(Commit(puts=(put("a"), put("b", expect=i))))).versions for i in range(4)]

        assert versions == [(1, 1), (2, 2), (3, 3), (4, 4)]

    async def test_a_put_with_another_version_than_expected_is_refused_and_names_the_current_one(
        self, storage: Storage
    ) -> None:
        await storage.commit(Commit(puts=(put("a"),)))
        await storage.commit(Commit(puts=(put("a", {"second": True}),)))

        with pytest.raises(VersionConflict) as refused:
            await storage.commit(Commit(puts=(put("a", expect=1),)))

        assert refused.value.ids["version"] == 2
        found = await storage.get("thing", "a")
        assert found is not None
        assert found.body == {"second": True}

    async def test_expecting_none_to_exist_makes_a_record_once(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a", expect=0),)))

        with pytest.raises(VersionConflict):
            await storage.commit(Commit(puts=(put("a", expect=0),)))

    async def test_a_delete_with_another_version_than_expected_is_refused(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),)))

        with pytest.raises(VersionConflict):
            await storage.commit(Commit(deletes=(Delete(kind="thing", key="a", expect=2),)))

        assert await storage.get("thing", "a") is not None

    async def test_of_many_who_expect_the_same_version_one_wins(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),)))

        outcomes = await asyncio.gather(
            *(storage.commit(Commit(puts=(put("a", {"winner": i}, expect=1),))) for i in range(30)),
            return_exceptions=True,
        )

        winners = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, VersionConflict)]
        assert len(winners) == 1, f"of 30 commits that expect version 1, {winners} were accepted"
        (winner,) = winners
        found = await storage.get("thing", "a")
        assert found is not None
        assert (found.version, found.body) == (2, {"winner": winner})

    async def test_a_refused_commit_leaves_nothing_of_itself(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await storage.commit(Commit(puts=(put("a"),)))
        before = await storage.position()

        with pytest.raises(VersionConflict):
            await storage.commit(
                _everything(
                    puts=(put("b"), put("a", expect=7), put("c")),
                    readings=TelemetryBatch.of([index], [1000], [1.0]),
                )
            )

        await _assert_nothing_of_it(storage, index, before)

    async def test_a_commit_with_an_unknown_series_leaves_nothing_of_itself(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        before = await storage.position()
        unknown = index + 1000

        with pytest.raises(NotFound) as refused:
            await storage.commit(
                _everything(
                    puts=(put("b"), put("c")), readings=TelemetryBatch.of([index, unknown], [1000, 1000], [1.0, 2.0])
                )
            )

        assert refused.value.ids["series"] == unknown
        await _assert_nothing_of_it(storage, index, before)

    async def test_a_commit_with_a_text_of_an_unknown_series_leaves_nothing_of_itself(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        before = await storage.position()

        with pytest.raises(NotFound):
            await storage.commit(
                _everything(
                    puts=(put("b"), put("c")),
                    readings=TelemetryBatch.of([index], [1000], [1.0]),
                    texts=(TextReading(index + 1000, 1000, 1, "text"),),
                )
            )

        await _assert_nothing_of_it(storage, index, before)

    async def test_what_a_caller_does_with_a_body_later_changes_no_record(self, storage: Storage) -> None:
        body: dict[str, object] = {"deep": {"list": [1]}}
        answer: dict[str, object] = {"stored": 1}
        mark = MessageMark(device="device", id="m", time=1, answer=answer)
        await storage.commit(Commit(puts=(put("a", body),), marks=(mark,)))

        body["deep"]["list"].append(2)  # type: ignore[index]  # it is a dict
        body["new"] = answer["new"] = True

        assert await _bodies(storage) == [{"deep": {"list": [1]}}] * 3
        assert (await storage.marks("device", ["m"]))["m"].answer == {"stored": 1}

    async def test_what_a_reader_does_with_a_body_changes_no_record(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"),)))

        for body in await _bodies(storage):
            if isinstance(body, dict):
                body["key"] = "changed"

        assert await _bodies(storage) == [{"key": "a"}] * 3

    async def test_one_refused_commit_harms_no_other_that_is_under_way(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),)))

        outcomes = await asyncio.gather(
            *(storage.commit(Commit(puts=(put(f"k{i}"), put("a", expect=999 if i % 2 else None)))) for i in range(20)),
            return_exceptions=True,
        )

        assert [isinstance(outcome, VersionConflict) for outcome in outcomes] == [bool(i % 2) for i in range(20)]
        kept = [record.key for record in (await storage.find("thing")).items]
        assert kept == ["a", *sorted(f"k{i}" for i in range(0, 20, 2))]

    async def test_a_cancelled_commit_happened_whole_or_not_at_all(self, storage: Storage) -> None:
        tasks = [
            asyncio.ensure_future(storage.commit(Commit(puts=(put(f"k{i}"), put(f"l{i}")), events=(event(i),))))
            for i in range(40)
        ]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await storage.commit(Commit(puts=(put("last"),)))

        keys = {record.key for record in (await storage.find("thing")).items}
        happened = {e.time for entry in await storage.feed(0) for e in entry.events}
        assert {i for i in range(40) if f"k{i}" in keys} == {i for i in range(40) if f"l{i}" in keys} == happened
        assert happened >= set(range(1, 40, 2))

    async def test_a_cancelled_commit_is_done_before_a_later_one_ends(self, storage: Storage) -> None:
        for turn in range(20):
            given = asyncio.ensure_future(storage.commit(Commit(puts=tuple(put(f"k{turn}/{i}") for i in range(100)))))
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            given.cancel()
            await storage.commit(Commit())
            then = len((await storage.find("thing", limit=10_000)).items)
            await storage.commit(Commit())

            assert len((await storage.find("thing", limit=10_000)).items) == then

    async def test_a_deleted_record_is_gone_with_all_that_led_to_it(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"),)))

        await storage.commit(Commit(deletes=(Delete(kind="thing", key="a", expect=1),)))

        assert await storage.get("thing", "a") is None
        assert await storage.find_unique("serial", "a") is None
        assert (await storage.find("thing", ref=("group", "north"))).items == ()
        assert await storage.due("thing", 10**6) == []
        assert (await storage.commit(Commit(puts=(_with_all("a"),)))).versions == (1,)

    async def test_a_unique_value_belongs_to_one_record(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"),)))
        thief = replace(_with_all("b"), unique=frozenset({("serial", "a")}))

        with pytest.raises(Conflict) as refused:
            await storage.commit(Commit(puts=(thief,)))

        assert not isinstance(refused.value, VersionConflict)
        assert await storage.get("thing", "b") is None
        holder = await storage.find_unique("serial", "a")
        assert holder is not None
        assert holder.key == "a"

    async def test_records_of_many_keys_are_those_of_each(self, storage: Storage) -> None:
        wanted = ["b", "a", "nobody", "a", '"quoted"', "ä"]
        await storage.commit(
            Commit(puts=(*map(_with_all, ["a", "b", "c", '"quoted"', "ä"]), Put(kind="other", key="nobody", body={})))
        )

        found = await storage.get_many("thing", wanted)

        each = {key: await storage.get("thing", key) for key in wanted}
        assert found == {key: record for key, record in each.items() if record is not None}
        assert await storage.get_many("thing", iter(())) == {}

    async def test_holders_of_many_values_are_those_of_each(self, storage: Storage) -> None:
        wanted = ["a", "b", "nobody", "a", '"quoted"']
        await storage.commit(Commit(puts=(_with_all("a"), _with_all("b"))))

        found = await storage.holders("serial", wanted)

        each = {value: await storage.find_unique("serial", value) for value in wanted}
        assert found == {value: record for value, record in each.items() if record is not None}
        assert await storage.holders("serial", []) == {}

    async def test_two_records_of_one_commit_cannot_share_a_unique_value(self, storage: Storage) -> None:
        both = [replace(_with_all(key), unique=frozenset({("serial", "x")})) for key in "ab"]

        with pytest.raises(Conflict):
            await storage.commit(Commit(puts=tuple(both)))

        assert await storage.find_unique("serial", "x") is None

    async def test_a_put_replaces_the_unique_values_and_references_from_before(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"),)))

        await storage.commit(Commit(puts=(put("a"),)))

        assert await storage.find_unique("serial", "a") is None
        assert (await storage.find("thing", ref=("group", "north"))).items == ()
        assert await storage.due("thing", 10**6) == []

    async def test_unique_values_move_between_records_within_a_commit(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"), _with_all("b"))))
        swapped = [
            replace(_with_all("a"), unique=frozenset({("serial", "b")})),
            replace(_with_all("b"), unique=frozenset({("serial", "a")})),
        ]

        await storage.commit(Commit(puts=tuple(swapped)))
        await storage.commit(
            Commit(
                deletes=(Delete(kind="thing", key="a"),),
                puts=(replace(_with_all("c"), unique=frozenset({("serial", "b")})),),
            )
        )

        holders = [await storage.find_unique("serial", value) for value in "ab"]
        assert [holder.key if holder else None for holder in holders] == ["b", "c"]

    async def test_find_goes_by_code_point_and_pages_without_gap_or_repetition(self, storage: Storage) -> None:
        keys = ["", "A", "B", "a", "aa", "z", "é", "\uffee", "\U0001f600"]
        await storage.commit(Commit(puts=tuple(put(key) for key in reversed(keys))))
        await storage.commit(Commit(puts=(Put(kind="other", key="m", body={}),)))

        found, after, pages = [], None, 0
        while True:
            page = await storage.find("thing", after=after, limit=2)
            found += [record.key for record in page.items]
            pages, after = pages + 1, page.after
            if after is None:
                break

        assert found == keys
        assert pages == 5

    async def test_a_full_last_page_says_that_it_is_the_last(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"), put("b"))))

        assert (await storage.find("thing", limit=2)).after is None
        assert (await storage.find("nothing")).items == ()

    async def test_references_find_their_records_in_pages(self, storage: Storage) -> None:
        north = [_with_all(f"{i:03}") for i in range(30)]
        south = [replace(_with_all(f"x{i}"), refs=frozenset({("group", "south"), ("type", "north")})) for i in range(5)]
        await storage.commit(Commit(puts=tuple(north + south)))

        first = await storage.find("thing", ref=("group", "north"), limit=20)
        rest = await storage.find("thing", ref=("group", "north"), limit=20, after=first.after)

        assert [record.key for record in (*first.items, *rest.items)] == [item.key for item in north]
        assert rest.after is None

    async def test_records_of_a_reference_come_in_the_order_of_their_sort(self, storage: Storage) -> None:
        puts = [replace(_with_all(key), sort=sort) for key, sort in (("a", "3"), ("b", "1"), ("c", "2"), ("d", "1"))]
        await storage.commit(Commit(puts=tuple(puts)))

        found, after = [], None
        for _ in range(4):
            page = await storage.find("thing", ref=("group", "north"), after=after, limit=1)
            found += [record.key for record in page.items]
            after = page.after

        assert found == ["b", "d", "c", "a"]
        assert after is None

    async def test_the_newest_come_first_where_they_are_asked_for(self, storage: Storage) -> None:
        puts = [replace(_with_all(key), sort=sort) for key, sort in (("a", "3"), ("b", "1"), ("c", "2"), ("d", "1"))]
        await storage.commit(Commit(puts=tuple(puts)))

        first = await storage.find("thing", ref=("group", "north"), limit=3, newest=True)
        rest = await storage.find("thing", ref=("group", "north"), limit=3, newest=True, after=first.after)
        by_key = await storage.find("thing", newest=True, limit=2)
        last = await storage.find("thing", newest=True, after=by_key.after)

        assert [record.key for record in (*first.items, *rest.items)] == ["a", "c", "d", "b"]
        assert [record.key for record in (*by_key.items, *last.items)] == ["d", "c", "b", "a"]
        assert rest.after is None
        assert last.after is None

    async def test_a_bounded_page_is_cut_short_and_goes_on_where_it_stopped(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=tuple(put(f"{i:02}", {"n": i}) for i in range(50))))
        where = Compare(("n",), ">=", 25)

        pages, found, after = 0, [], None
        while pages < 20:
            page = await storage.find("thing", where=where, after=after, limit=100, scan=10)
            found += [record.key for record in page.items]
            pages, after = pages + 1, page.after
            if after is None:
                break

        assert found == [f"{i:02}" for i in range(25, 50)]
        assert pages >= 5

    async def test_counters_add_up_whatever_is_committed_beside_them(self, storage: Storage) -> None:
        await asyncio.gather(
            *(storage.commit(Commit(add={("work", "open"): 1, ("work", f"of {i % 3}"): 2})) for i in range(30))
        )
        await storage.commit(Commit(add={("work", "of 1"): -20, ("other", "open"): 5}))

        assert await storage.counters("work") == {"open": 30, "of 0": 20, "of 2": 20}
        assert await storage.counters("other") == {"open": 5}
        assert await storage.counters("nothing") == {}

    async def test_a_refused_commit_counts_nothing(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),)))

        with pytest.raises(VersionConflict):
            await storage.commit(Commit(puts=(put("a", expect=9),), add={("s", "n"): 1}, floors={("s", "n"): 1}))

        assert await storage.counters("s") == {}
        assert await storage.floor("s", "n") == 0

    async def test_a_floor_only_rises_and_outlives_its_record(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(put("a"),), floors={("thing", "a"): 7}))
        await storage.commit(Commit(deletes=(Delete(kind="thing", key="a"),), floors={("thing", "a"): 3}))

        assert await storage.floor("thing", "a") == 7
        assert await storage.floor("thing", "b") == 0

    async def test_counters_and_floors_take_no_place_in_the_feed(self, storage: Storage) -> None:
        before = (await storage.commit(Commit(puts=(put("a"),)))).position

        done = await storage.commit(Commit(add={("s", "n"): 1}, floors={("s", "n"): 1}))

        assert done.position == before

    async def test_index_entries_are_written_again_without_touching_the_record(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=(_with_all("a"), _with_all("b"))))
        before = await storage.position()
        moved = Put(
            kind="thing", key="a", body={}, expect=1, unique=frozenset({("serial", "z")}), due=5,
            refs=frozenset({("group", "south")}), sort="9",
        )  # fmt: skip

        await storage.commit(Commit(reindexed=(moved,)))

        record = await storage.get("thing", "a")
        assert record is not None
        assert (record.version, record.body) == (1, {"key": "a"})
        assert [item.key for item in (await storage.find("thing", ref=("group", "south"))).items] == ["a"]
        assert [item.key for item in (await storage.find("thing", ref=("group", "north"))).items] == ["b"]
        assert await storage.find_unique("serial", "a") is None
        assert [item.key for item in await storage.due("thing", 100)] == ["a"]
        assert await storage.position() == before
        with pytest.raises(VersionConflict):
            await storage.commit(Commit(reindexed=(replace(moved, expect=3),)))

    async def test_a_query_selects_where_it_is_true_and_fills_its_pages(self, storage: Storage) -> None:
        bodies = [{"n": i, "tags": ["even"] if i % 2 == 0 else []} for i in range(50)]
        bodies[10].pop("n")
        await storage.commit(Commit(puts=tuple(put(f"{i:02}", body) for i, body in enumerate(bodies))))
        where = And((Has(("tags",), "even"), Not(Compare(("n",), "<", 6))))

        page = await storage.find("thing", where=where, limit=5)
        rest = await storage.find("thing", where=where, limit=100, after=page.after)

        # 10 has no n: whether it is below 6 is unknown, and so is the negation.
        expected = [f"{i:02}" for i in range(6, 50, 2) if i != 10]
        assert [record.key for record in page.items] == expected[:5]
        assert [record.key for record in rest.items] == expected[5:]
        assert [r.key for r in (await storage.find("thing", where=Not(Exists(("n",))))).items] == ["10"]

    async def test_what_is_due_comes_earliest_first_up_to_and_with_the_moment(self, storage: Storage) -> None:
        times = {"a": 300, "b": 100, "c": None, "d": 200, "e": 201}
        await storage.commit(Commit(puts=tuple(replace(put(key), due=due) for key, due in times.items())))
        await storage.commit(Commit(puts=(Put(kind="other", key="o", body={}, due=1),)))

        assert [record.key for record in await storage.due("thing", 200)] == ["b", "d"]
        assert [record.key for record in await storage.due("thing", 10**9, limit=3)] == ["b", "d", "e"]

    async def test_a_thousand_records_go_in_one_commit(self, storage: Storage) -> None:
        await storage.commit(Commit(puts=tuple(_with_all(f"{i:04}") for i in range(1000))))

        done = await storage.commit(Commit(puts=tuple(_with_all(f"{i:04}") for i in range(500, 1500))))

        assert done.versions == (2,) * 500 + (1,) * 500
        assert len((await storage.find("thing", limit=2000)).items) == 1500


def _with_all(key: str) -> Put:
    return Put(
        kind="thing",
        key=key,
        body={"key": key},
        unique=frozenset({("serial", key)}),
        due=1000,
        refs=frozenset({("group", "north")}),
    )


async def _bodies(storage: Storage) -> list[Body]:
    """The body of the only record of ``thing``, by each way to read it."""
    item = await storage.get("thing", "a")
    (found,) = (await storage.find("thing")).items
    again = await storage.get("thing", "a")
    assert item is not None
    assert again is not None
    return [item.body, found.body, again.body]


def _everything(**parts: Any) -> Commit:
    """A commit with everything that a commit can contain, except for the arguments."""
    return Commit(
        marks=(MessageMark(device="device", id="m", time=1, answer={}),),
        events=(event(1),),
        cursors={"c": 1},
        blobs={"b": b"x"},
        add={("s", "n"): 1},
        floors={("s", "n"): 1},
        **parts,
    )


async def _assert_nothing_of_it(storage: Storage, index: int, before: int) -> None:
    """Nothing of :func:`_everything` exists: neither ``b`` nor ``c`` nor a reading of the series."""
    assert [await storage.get("thing", key) for key in "bc"] == [None, None]
    assert await readings(storage, index) == []
    assert await storage.latest([index]) == [None]
    assert await storage.marks("device", ["m"]) == {}
    assert await storage.cursor("c") is None
    assert await storage.blob("b") is None
    assert await storage.counters("s") == {}
    assert await storage.floor("s", "n") == 0
    assert [e for entry in await storage.feed(0) for e in entry.events] == []
    assert await storage.position() == before
