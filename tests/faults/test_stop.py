"""SIGTERM under load: what was read is answered, what was answered is kept; a second one does not wait."""

import asyncio
import signal

from fleetcore.testing.patience import PATIENCE_S

#: A detector whose state never comes.
_SLOW_TO_SAVE = """
import threading
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import hookimpl, offer_detector
from fleetcore.interfaces import Detector
from fleetcore.model.anomaly import Findings


@frozen
class Config:
    pass


class Slow(Detector):
    def observe(self, batch, catalog):
        return Findings.none()

    def snapshot(self):
        threading.Event().wait()


@asynccontextmanager
async def open_slow(config, context):
    yield Slow()


@hookimpl
def fleetcore_detectors():
    return [offer_detector("slow", Config, open_slow)]
"""
_SLOW = "".join(f'\n[detectors.slow-{n}]\nkind = "slow"\n' for n in (1, 2, 3))


async def _stored(manager, sender, readings):
    return {metric: set(await readings(manager, sender.device, metric)) for metric in sender.METRICS}


async def test_sigterm_under_load_ends_well_with_every_acknowledged_reading_stored(
    server, senders, opened, readings, until
):
    async with senders(server) as at_work:
        await until(lambda: all(one.count >= 60 for one in at_work))

        code = await server.signal(signal.SIGTERM)

        for one in at_work:
            one.stopping = True
    assert code == 0
    async with opened(server.data) as manager:
        for one in at_work:
            stored = await _stored(manager, one, readings)
            for metric, numbers in one.acknowledged.items():
                assert {one.value(number) for number in numbers} <= stored[metric], (one.kind, metric)


async def test_a_server_that_was_stopped_under_load_starts_again_for_the_same_devices(server, senders, until):
    async with senders(server) as at_work:
        await until(lambda: all(one.count >= 20 for one in at_work))
        await server.signal(signal.SIGTERM)

        await server.start()

        before = [one.count for one in at_work]
        await until(lambda: all(one.count > many + 20 for one, many in zip(at_work, before, strict=True)))
    assert await server.signal(signal.SIGTERM) == 0
    assert not any(one.refused for one in at_work)


async def test_detectors_that_never_give_their_state_do_not_hold_a_stop(serving, senders, until):
    async with serving(_SLOW, plugins={"slow": _SLOW_TO_SAVE}) as server, senders(server, ("http",)) as (one,):
        await until(lambda: one.count > 20 and _seen(server, 3))

        # Far more than one limit; one for each of the three in turn would end it with 1, past all that a stop may take.
        code = await server.signal(signal.SIGTERM)

        one.stopping = True
    assert code == 0


async def _seen(server, count):
    consumers = (await server.caller.run("get_status", {}))["consumers"]
    return sum("slow" in name and one["position"] > 0 for name, one in consumers.items()) == count


async def _raising_seen(server):
    return (await server.caller.run("get_status", {}))["consumers"]["detector/raising"]["position"] > 0


async def test_a_detector_that_raises_for_its_state_does_not_spoil_a_stop(serving, senders, opened, readings, until):
    plugin = _SLOW_TO_SAVE.replace("threading.Event().wait()", 'raise ValueError("no state")')
    async with serving('[detectors.raising]\nkind = "slow"\n', plugins={"slow": plugin}) as server:
        async with senders(server, ("http",)) as (one,):
            await until(lambda: one.count > 20 and _raising_seen(server))

            code = await server.signal(signal.SIGTERM)

            one.stopping = True
        assert code == 0
        async with opened(server.data) as manager:
            assert len(await readings(manager, one.device, "timed")) >= len(one.acknowledged["timed"])


async def test_a_second_sigterm_ends_a_stop_that_waits(serving, senders, until):
    async with serving(_SLOW, plugins={"slow": _SLOW_TO_SAVE}) as server:
        async with senders(server, ("mqtt",)) as (one,):
            await until(lambda: one.count > 20 and _seen(server, 3))
            one.stopping = True
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while await server.process.stdout.readline() not in (b"stopping\n", b""):
                pass

        code = await server.signal(signal.SIGTERM)

    assert code == 1
