"""The races and the restart again, on the store that fleets really use."""

import asyncio

import pytest

from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.errors import NotAuthorised
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.testing import context

from .conftest import FLEET, csr, der, leaf_of, new_key


def opened(folder, clock):
    return open_sqlite(SqliteConfig(), context("storage", fleet=FLEET, clock=clock, data=folder))


async def secured(storage, clock, authority) -> SecurityManager:
    manager = SecurityManager(storage, clock, authority, Registry(storage, clock))
    await manager.load()
    return manager


async def race(manager, asked):
    replies = await asyncio.gather(*(manager.enroll(one) for one in asked), return_exceptions=True)
    return (
        [reply for reply in replies if not isinstance(reply, Exception)],
        [reply.code for reply in replies if isinstance(reply, Exception)],
    )


async def test_one_token_used_64_times_at_once_gives_exactly_one_certificate(tmp_path, clock, authority):
    async with opened(tmp_path, clock) as storage:
        manager = await secured(storage, clock, authority)
        token = await manager.enrollment_tokens.create(uses=1)

        given, refused = await race(manager, [EnrollRequest(csr=csr(f"th-{i}"), token=token) for i in range(64)])

        assert len(given) == len(await manager.inventory()) == 1
        assert set(refused) <= {"token_spent", "rate_limited"}  # wrong tokens of one address are slowed


async def test_one_request_sent_64_times_at_once_gives_one_certificate_to_all(tmp_path, clock, authority):
    async with opened(tmp_path, clock) as storage:
        manager = await secured(storage, clock, authority)
        request = EnrollRequest(csr=csr("th-1"), token=await manager.enrollment_tokens.create())

        given, refused = await race(manager, [request] * 64)

        assert len({leaf_of(reply) for reply in given}) == len(await manager.inventory()) == 1
        assert refused == []


async def test_two_devices_that_race_with_one_key_do_not_both_get_it(tmp_path, clock, authority):
    async with opened(tmp_path, clock) as storage:
        manager, key = await secured(storage, clock, authority), new_key()
        asked = [
            EnrollRequest(csr=csr(f"th-{i}", key), token=await manager.enrollment_tokens.create()) for i in range(2)
        ]

        given, refused = await race(manager, asked)

        assert (len(given), refused) == (1, ["key_in_use"])


async def test_what_was_revoked_stays_so_after_a_restart(tmp_path, clock, authority):
    async with opened(tmp_path, clock) as storage:
        manager = await secured(storage, clock, authority)
        token = await manager.enrollment_tokens.create()
        leaf = der(leaf_of(await manager.enroll(EnrollRequest(csr=csr("th-1"), token=token))))
        await manager.revoke("th-1", reason="stolen")

    async with opened(tmp_path, clock) as storage:
        again = await secured(storage, clock, authority)

        with pytest.raises(NotAuthorised):
            await again.identify(leaf)


async def test_an_overlap_that_is_over_is_found_when_it_is_due(tmp_path, clock, authority):
    async with opened(tmp_path, clock) as storage:
        manager = await secured(storage, clock, authority)
        token = await manager.enrollment_tokens.create()
        await manager.enroll(EnrollRequest(csr=csr("th-1"), token=token))
        await manager.renew("th-1", csr("th-1"))
        clock.jump(86_400_000)

        await manager.maintain()

        assert sorted(record.state for record in await manager.inventory()) == ["pending", "superseded"]
