"""Guards against a diagnosis that blames the wrong thing: what a failing consumer says is to be done fits the cause."""

import asyncio

import pytest

from fleetcore.errors import CredentialsRejected, PluginError, Unavailable
from fleetcore.pipeline.consumer import Consumer
from fleetcore.testing.patience import PATIENCE_S


class _Failing(Consumer):
    def __init__(self, storage, clock, error):
        super().__init__("cloud/hub", storage, clock)
        self._error = error

    async def _open(self):
        raise self._error

    async def _handle(self, entries):
        raise AssertionError(entries)


def _wrapped(cause):
    error = PluginError("cloud 'hub' failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "state", "remedy"),
    [
        (Unavailable("The hub is away"), "failing", "the network"),
        (ConnectionRefusedError(111, "Connection refused"), "failing", "the network"),
        (TimeoutError(), "failing", "the network"),
        (_wrapped(OSError(113, "No route to host")), "failing", "the network"),
        (Unavailable("Full", code="storage_full", remedy="Free disk space"), "failing", "Free disk space"),
        (CredentialsRejected("The hub refuses the key"), "stopped", "credentials"),
        (CredentialsRejected("It expired", remedy="Renew the key"), "stopped", "Renew the key"),
        (KeyError("x"), "failing", "Correct its plugin"),
    ],
)
async def test_what_is_to_be_done_about_a_failure_fits_its_cause(storage, clock, error, state, remedy):
    consumer = _Failing(storage, clock, error)

    running = asyncio.create_task(consumer.run())
    async with asyncio.timeout(PATIENCE_S):
        while consumer.status.state == "starting":
            await asyncio.sleep(0)
    running.cancel()

    assert consumer.status.state == state
    assert remedy in consumer.status.remedy
