"""A fleet in memory with the API on a free loopback port, spoken to over real sockets."""

from contextlib import AsyncExitStack

import httpx
import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.caller import Caller
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
async def manager(clock):
    async with IoTFleetManager(clock=clock) as manager:
        yield manager


@pytest.fixture
async def fleet(manager):
    return await manager.open()


@pytest.fixture
async def served(fleet):
    """The open API."""
    context = fleet._context("api")
    async with open_api(ApiConfig(listen="http://127.0.0.1:0"), context, fleet) as server:
        yield server


@pytest.fixture
async def as_role(fleet, served):
    """Gives a client with a fresh token: ``await as_role("viewer", scope="group:lab")``."""
    async with AsyncExitStack() as stack:
        count = 0

        async def make(*roles, scope="", **options):
            nonlocal count
            count += 1
            name = f"p{count}"
            for role in roles:
                await fleet.operators.grant(name, role, scope=scope)
            token = (await fleet.operators.create_token(name, **options)).token
            return await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=served.url + "/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S
                )
            )

        yield make


@pytest.fixture
def caller_of(fleet):
    """Gives the caller that a client is for the API: with the rights of its token, as they are and as they change."""

    async def make(client):
        token, operators = client.headers["authorization"].removeprefix("Bearer "), fleet.operators
        return Caller(
            fleet,
            await operators.authenticate(token),
            renew=lambda: operators.authenticate(token),
            watch=lambda: operators.watch(token),
        )

    return make


@pytest.fixture
async def admin(as_role):
    return await as_role("admin")


@pytest.fixture
async def nobody(served):
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as client:
        yield client
