"""Commits that wait at once are written together: what is stored and answered is as if each had been alone."""

import asyncio
import random

import pytest

from fleetcore.builtin.sqlite import changes
from fleetcore.errors import Conflict, VersionConflict
from fleetcore.model.store import Commit, Delete, Event, Put

KEYS, VALUES = "abcde", "uvw"


def drawn(chance, number):
    """A commit of a few puts and deletes on few keys, so that many of them collide."""
    keys = chance.sample(KEYS, chance.randint(1, 3))
    puts, deletes, reindexed = [], [], []
    for key in keys:
        expect = chance.choice([None, None, 0, 1, 2, 3])
        if chance.random() < 0.2:
            deletes.append(Delete(kind="k", key=key, expect=expect))
            if chance.random() < 0.5:
                continue
            expect = chance.choice([None, 0])
        put = Put(
            kind="k",
            key=key,
            body={"of": number},
            expect=expect,
            unique=frozenset(("space", value) for value in chance.sample(VALUES, chance.randint(0, 1))),
            refs=frozenset(("ref", value) for value in chance.sample(VALUES, chance.randint(0, 2))),
            due=chance.choice([None, number]),
            sort=chance.choice(["", "1", "2"]),
        )
        (puts if chance.random() < 0.9 else reindexed).append(put)
    return Commit(
        puts=tuple(puts),
        deletes=tuple(deletes),
        reindexed=tuple(entry for entry in reindexed if entry.expect not in (None, 0)),
        add={("count", key): 1 for key in keys},
        floors={("floor", keys[0]): number},
        events=(Event(type="x.kit.happened", subject=str(number), time=number),) if chance.random() < 0.5 else (),
    )


async def answer(storage, commit):
    try:
        done = await storage.commit(commit)
    except (Conflict, VersionConflict) as refusal:
        return type(refusal), refusal.message
    return done.position, done.versions


async def everything(storage):
    found = [(await storage.find("k", limit=100)).items]
    for value in VALUES:
        found += [(await storage.find("k", ref=("ref", value))).items, await storage.find_unique("space", value)]
    found += [await storage.due("k", 10**6), await storage.counters("count")]
    found += [await storage.floor("floor", key) for key in KEYS]
    return [*found, [(entry.position, entry.events) for entry in await storage.feed(0)]]


@pytest.mark.parametrize("seed", range(40))
async def test_commits_that_wait_together_end_as_if_each_were_alone(open_at, seed):
    chance = random.Random(seed)
    commits = [drawn(chance, number) for number in range(150)]
    async with open_at(None) as alone, open_at(None) as together:
        expected = [await answer(alone, commit) for commit in commits]
        # Submitted in their order before the writer's thread has done the first.
        answers = await asyncio.gather(*(answer(together, commit) for commit in commits))

        assert answers == expected
        assert await everything(together) == await everything(alone)
        assert {kind for kind, _ in expected if isinstance(kind, type)} == {Conflict, VersionConflict}


async def test_an_index_entry_that_stays_is_not_written_again(monkeypatch, open_at):
    written = []
    real = changes.RecordChanges._write_refs

    def counting(self, there):
        before = self._db.total_changes
        real(self, there)
        written.append(self._db.total_changes - before)

    monkeypatch.setattr(changes.RecordChanges, "_write_refs", counting)
    put = Put(kind="k", key="a", body={}, refs=frozenset({("ref", "u"), ("ref", "v")}))
    async with open_at(None) as storage:
        for _ in range(2):
            await storage.commit(Commit(puts=(put,)))

    assert written == [2, 0]
