"""Certificates that are renewed, bounds of one device, and what is lost on the way to a device that observes."""

import asyncio

from attrs import evolve
from fleetcore_coap.exchanges import MAX_RETRANSMIT
from fleetcore_coap.plugin import open_client

from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.limits import ListenerLimits
from fleetcore.wire import messages

COMMAND = {"id": "c-1", "name": "reboot", "args": {}, "sequence": 1, "attempt": 1}


async def test_a_renewed_certificate_of_the_server_is_shown_to_the_next_device(
    served, authority, tmp_path, monkeypatch
):
    from fleetcore.testing.throwaway_ca import ThrowawayCa

    other = ThrowawayCa(tmp_path)
    renewed = evolve(other.material(), trusted=authority.pem)
    async with open_client(served.url, authority.secrets("dev1")) as device:
        monkeypatch.setattr(authority, "material", lambda **_given: renewed)
        await served.clock.advance(1.1)
        before = await device.send(messages.TELEMETRY, {"t": 1})
    trusting = evolve(authority.secrets("dev1"), ca=other.pem)
    async with open_client(served.url, trusting) as device:
        after = await device.send(messages.TELEMETRY, {"t": 2})

    assert (before.error, after.error) == (None, None)


async def test_associations_of_one_device_are_bounded_and_the_newest_stays(serve, plane, authority):
    served = await serve(listeners=ListenerLimits(per_identity=2))
    devices = [await open_client(served.url, authority.secrets("dev1")).__aenter__() for _ in range(4)]

    assert served.adapter.connections == 2
    assert len(plane.sessions) == 2
    assert (await devices[3].send(messages.TELEMETRY, {"t": 1})).error is None
    for device in devices:
        await device.__aexit__(None, None, None)


async def test_a_notification_that_is_never_acknowledged_ends_the_observation_and_the_command_waits(
    served, plane, authority, until
):
    async with open_client(served.url, authority.secrets("dev1")) as device:
        downlinks = device.downlinks()
        coming = asyncio.ensure_future(anext(downlinks))
        await until(lambda: plane.listening)
        peer, channel = next(iter(served.adapter._places.live.values())).peer, device._channel
        await until(lambda: len(peer.observations) == 3 and not channel.correlation._waiting)
        deaf = []
        heard, channel.datagram_received = channel.datagram_received, lambda data, addr: deaf.append(data)
        plane.command("dev1", COMMAND)
        await until(lambda: deaf)
        for _ in range(MAX_RETRANSMIT + 1):
            await served.clock.advance(60.0)
        await until(lambda: not peer.observations.outstanding)
        left = len(peer.observations)
        channel.datagram_received = heard
        reply = await device.request(messages.INBOX)
        await end_tasks(coming)

    assert left == 2  # of three: the others were not told anything
    assert reply.body is not None
    assert [command["id"] for command in reply.body["commands"]["commands"]] == ["c-1"]
    assert len(deaf) == 1 + MAX_RETRANSMIT


async def test_plain_coap_knows_nobody_and_forgets_who_was_there(serve, plane, authority):
    served = await serve(tls=False)
    async with open_client(served.url, authority.secrets("dev1")) as device:
        found = await device.request(messages.CA_GET)
        refused = await device.send(messages.TELEMETRY, {"t": 1})
        await served.clock.advance(121.0)
        left = served.adapter.connections

    assert found.body is not None
    assert refused.error is not None
    assert refused.error["code"] == "not_authenticated"
    assert left == 0
    assert plane.arrived == []
