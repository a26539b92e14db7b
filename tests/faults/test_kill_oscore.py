"""kill -9 between messages under OSCORE: no nonce comes twice under a key, and no captured message passes again.

It guards against sequence numbers that a crash or a restored backup sets back, and against a replay window that a
restart empties.
"""

import asyncio
import random
import socket
from urllib.parse import urlsplit

import msgspec
import pytest
from fleetcore_coap.codec import Malformed, Option, Packet, code_of, decode
from fleetcore_coap.oscore.header import read
from fleetcore_coap.oscore.numbers import NUMBERS
from fleetcore_coap.plugin import open_client

from fleetcore.pipeline.component_state import state_blob
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from tests.faults.lossy import LossyNetwork

pytest.importorskip("filelock", reason='OSCORE is the extra "fleetcore-coap[oscore]"')


class Tapped(LossyNetwork):
    """Loses nothing, and keeps what passes."""

    def __init__(self, server):
        super().__init__(server, 0)
        self.up, self.down_ = [], []

    def _from_client(self):
        datagram, client = self._near.recvfrom(2048)
        self.up.append(datagram)
        if client not in self._far:
            self.move(client)
        self._send(lambda: self._far[client].send(datagram))

    def _from_server(self, client, far):
        try:
            datagram = far.recv(2048)
        except OSError:
            return
        self.down_.append(datagram)
        self._send(lambda: self._near.sendto(datagram, client))

    def nonces(self):
        """Nonce → ciphertexts of the server: by the number of its own, or by the request's that it answers."""
        asked, found = {}, {}
        for packet in map(_read, self.up):
            if packet is not None and packet.is_request:
                asked[packet.token] = read(packet.get(Option.OSCORE)).piv
        for packet in map(_read, self.down_):
            if packet is None or packet.get(Option.OSCORE) is None:
                continue
            own = read(packet.get(Option.OSCORE)).piv
            nonce = ("own", own) if own is not None else ("of", asked[packet.token])
            found.setdefault(nonce, set()).add(packet.payload)
        return found


def _read(datagram) -> Packet | None:
    try:
        return decode(datagram)
    except Malformed:
        return None


@pytest.fixture
def tap():
    opened = []

    def make(port):
        opened.append(Tapped(("127.0.0.1", port)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


async def _replayed(port, datagrams):
    """The codes with which captured requests are answered that come again from another address."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.setblocking(False)
        attacker.connect(("127.0.0.1", port))
        for datagram in datagrams:
            attacker.send(datagram)
            try:
                async with asyncio.timeout(0.5):
                    answer = decode(await asyncio.get_running_loop().sock_recv(attacker, 4096))
            except TimeoutError:  # challenges are held back where there are many
                continue
            found.append((answer.code, answer.get(Option.OSCORE) is None))
    return found


async def test_after_kill_9_no_nonce_comes_twice_and_no_captured_message_is_taken_again(serving, opened, readings, tap):
    chance = random.Random(5)
    async with serving(coap=True) as server:
        secrets = await server.device("dev")
        port = urlsplit(server.oscore).port
        network = tap(port)
        sent, refused = 0, []
        for cycle in range(4):
            if cycle:
                captured = [each for each in network.up if _read(each).is_request]
                refused += await _replayed(port, chance.sample(captured, min(10, len(captured))))
            async with open_client(f"coap://127.0.0.1:{network.port}", server.by_token(secrets)) as device:
                following = asyncio.create_task(_commands(device, 3))
                for number in range(3):
                    # Without a time or an id: one that came twice would be stored twice.
                    assert (await device.send(messages.TELEMETRY, {"heat": sent})).error is None
                    await server.caller.run("send_command", {"device_id": "dev", "name": f"c{cycle}-{number}"})
                    sent += 1
                assert await following == 3
                if cycle == 2:  # with a replay while the server knows the device
                    refused += await _replayed(port, [network.up[-1], network.up[0]])
            await server.kill()
            await server.start()
        await server.kill()
        async with opened(server.data) as manager:
            stored = sorted(await readings(manager, "dev", "heat"))
    nonces = network.nonces()

    assert stored == list(range(sent))
    assert {nonce for nonce, ciphertexts in nonces.items() if len(ciphertexts) > 1} == set()
    assert sum(kind == "own" for kind, _ in nonces) >= 4 * 2  # a challenge and a notification at least
    # Each is refused, or answered by the challenge, which is a protected one.
    assert refused
    assert {code for code, bare in refused if bare} <= {code_of(401)}


async def _commands(device, count):
    """Follows downlinks until so many commands have come, and answers them."""
    done = 0
    async with asyncio.timeout(PATIENCE_S):
        async for downlink in device.downlinks():
            if downlink.type is messages.COMMAND:
                await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target=downlink.body["id"])
                done += 1
                if done == count:
                    return done
    return done


async def test_numbers_that_may_be_used_lie_in_the_store_before(in_process):
    async with in_process(coap=True) as server:
        secrets = await server.device("dev")
        async with server.client("oscore", secrets) as device:
            assert (await device.send(messages.TELEMETRY, {"heat": 1})).error is None
        kept = await server.fleet.storage.blob(state_blob("protocols.oscore"))
        used = server.fleet.protocols["oscore"].adapter.numbers.take()

    reserved = int.from_bytes(msgspec.msgpack.decode(kept, type=dict[str, bytes])["oscore-reserved"], "big")
    assert reserved * NUMBERS > used
