"""The storage contract, primitives behind the defaults: pages of an index, named values, and shared stores."""

import pytest

from fleetcore.interfaces.storage import Sharing, Storage
from fleetcore.model import values
from fleetcore.model.store import DUE, Commit, Delete, MessageMark, Put
from fleetcore.testing.storage_base import OpenStorage, StorageCase, event, put, readings, series, store


class PrimitivesContract(StorageCase):
    """:meth:`Storage.page` and :meth:`Storage.values`, and the guarantees of a shared store."""

    async def test_pages_of_a_kind_go_by_key_in_both_directions(self, storage: Storage) -> None:
        keys = ["", "a", "b", "é"]
        await storage.commit(Commit(puts=tuple(put(key) for key in reversed(keys))))

        found: list[list[str]] = []
        for newest in (False, True):
            pages: list[str] = []
            after = None
            while page := await storage.page("thing", None, after=after, limit=3, newest=newest):
                pages += [record.key for _, record in page]
                after = page[-1][0]
            found.append(pages)

        assert found == [keys, keys[::-1]]

    async def test_pages_of_an_index_go_by_sort_and_then_by_key(self, storage: Storage) -> None:
        north = frozenset({("group", "north")})
        puts = [
            Put(kind="thing", key=key, body={}, refs=north, sort=sort, due=due)
            for key, sort, due in (("a", "2", 20), ("b", "1", None), ("c", "2", -5), ("d", "", 20))
        ]
        await storage.commit(Commit(puts=(*puts, put("e"))))

        by_group = await storage.page("thing", ("group", "north"), after=None, limit=3, newest=False)
        rest = await storage.page("thing", ("group", "north"), after=by_group[-1][0], limit=9, newest=False)
        by_due = await storage.page("thing", DUE, after=None, limit=2, newest=False)
        due_rest = await storage.page("thing", DUE, after=by_due[-1][0], limit=9, newest=False)

        assert [record.key for _, record in (*by_group, *rest)] == ["d", "b", "a", "c"]
        assert [record.key for _, record in (*by_due, *due_rest)] == ["c", "a", "d"]

    async def test_named_values_are_what_commits_put_there(self, storage: Storage) -> None:
        mark = MessageMark(device="device", id="m", time=7, answer={"ok": True})
        held = Put(kind="thing", key="a", body={}, unique=frozenset({("serial", "x")}))
        await storage.commit(
            Commit(
                puts=(held,),
                marks=(mark,),
                cursors={"c": 0, "d": 4},
                blobs={"b": b"\x00"},
                add={("work", "open"): 2, ("work", "done"): 0},
                floors={("release", "r"): 3},
            )
        )

        assert await storage.values(values.CURSORS) == {"c": b"0", "d": b"4"}
        assert await storage.values(values.CURSORS, ["d", "none"]) == {"d": b"4"}
        assert await storage.values(values.BLOBS) == {"b": b"\x00"}
        assert await storage.values(values.counters_of("work")) == {"open": b"2"}
        assert await storage.values(values.floors_of("release")) == {"r": b"3"}
        kept = await storage.values(values.marks_of("device"), ["m"])
        assert values.to_mark("device", "m", kept["m"]) == mark
        holders = await storage.values(values.uniques_of("serial"), ["x"])
        assert values.to_holder(holders["x"]) == ("thing", "a")
        assert await storage.values("no such space") == {}

    async def test_named_values_that_a_commit_removes_are_gone(self, storage: Storage) -> None:
        held = Put(kind="thing", key="a", body={}, unique=frozenset({("serial", "x")}))
        await storage.commit(Commit(puts=(held,), cursors={"c": 1}, blobs={"b": b"x"}, add={("work", "open"): 2}))
        before = await storage.values(values.BLOBS)

        await storage.commit(
            Commit(
                deletes=(Delete(kind="thing", key="a"),),
                cursors={"c": None},
                blobs={"b": None},
                add={("work", "open"): -2},
            )
        )

        for space in (values.CURSORS, values.BLOBS, values.counters_of("work"), values.uniques_of("serial")):
            assert await storage.values(space) == {}
        assert before == {"b": b"x"}, "a later change altered an earlier result"

    async def test_a_shared_store_shows_to_each_what_the_others_committed(self, open_again: OpenStorage) -> None:
        async with open_again() as item:
            if item.sharing is Sharing.ONE_PROCESS:
                pytest.skip("this store is for one process")
            async with open_again() as other:
                (index,) = await series(item, "t")
                first = await store(item, index, [1000], [1.0])
                assert await series(other, "t") == [index]
                assert await readings(other, index) == [(1000, 1.0)]
                second = await other.commit(Commit(puts=(put("a", expect=0),), events=(event(1),)))
                assert second.position == first.position + 1 == await item.position()
                assert [entry.position for entry in await item.feed(0)] == [first.position, second.position]
                found = await item.get("thing", "a")
                assert found is not None
