"""Core and gateway as processes in network namespaces, leaves over HTTP, MQTT and CoAP, and a link that is cut."""

import asyncio
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from fleetcore_coap.plugin import open_client as open_coap
from fleetcore_http.plugin import open_client as open_http
from fleetcore_mqtt.plugin import open_client as open_mqtt

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice
from tests.agent.conftest import until
from tests.agent.network import Network

FLEETCORE = (sys.executable, "-m", "fleetcore")
LEAVES = {
    "by-http": (open_http, "https", 8443),
    "by-mqtt": (open_mqtt, "mqtts", 8883),
    "by-coap": (open_coap, "coaps", 5684),
}


def does(network, namespace, *words, folder):
    """A command in a namespace, and what it prints."""
    done = subprocess.run(
        network.words(namespace, *FLEETCORE, *words, "--data", str(folder)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(network, namespace, *words, folder):
    """A server in a namespace, once it is ready."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            network.words(namespace, *FLEETCORE, *words, "--data", str(folder)),
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
        else:
            pytest.fail((folder / "log").read_text()[-3000:])
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stdout.close()


def token(network, namespace, device, folder):
    return json.loads(
        does(network, namespace, "enrollment", "token", "create", "--device", device, "-o", "json", folder=folder)
    )["token"]


@pytest.fixture
def places(tmp_path):
    """The network, and the folders of a core and of a gateway that has enrolled there."""
    core, gateway = tmp_path / "core", tmp_path / "gateway"
    with Network() as network:
        made = [*FLEETCORE, "init", str(core), "--host", network.core_address]
        subprocess.run(made, check=True, capture_output=True)
        does(network, network.core, "edge", "register", "gw-1", "--model", "G-1", "--may-register", folder=core)
        (tmp_path / "token").write_text(token(network, network.core, "gw-1", core))
        with running(network, network.core, "serve", folder=core):
            does(
                network, network.gateway, "edge", "enroll", "gw-1", "--url", f"mqtts://{network.core_address}:8883",
                "--http", f"https://{network.core_address}:8443", "--token-file", str(tmp_path / "token"),
                "--ca", str(core / "pki" / "ca.pem"), "--host", network.gateway_address, folder=gateway,
            )  # fmt: skip
            toml = (
                (gateway / "fleet.toml").read_text().replace("# [protocols.coap]\n# listen", "[protocols.coap]\nlisten")
            )
            (gateway / "fleet.toml").write_text(toml + "live_commits = 5\nlook_s = 1.0\n")
            yield network, core, gateway


async def enrolled(network, gateway, name):
    """A leaf that has enrolled at the gateway over HTTP, and then speaks its own protocol."""
    make, scheme, port = LEAVES[name]
    secrets = DeviceSecrets(device=name, ca=(gateway / "pki" / "ca.pem").read_bytes())
    at = network.gateway_address
    leaf = SimulatedDevice(secrets, make, f"{scheme}://{at}:{port}", SystemClock())
    await asyncio.to_thread(
        does, network, network.gateway, "device", "register", name, "--type", "pump", folder=gateway
    )
    given = await asyncio.to_thread(token, network, network.gateway, name, gateway)
    await leaf.enroll(given, client=open_http, endpoint=f"https://{at}:8443")
    await leaf.connect()
    return leaf


async def at_core(network, core):
    """How many readings the core has of each leaf."""
    found = {}
    for name in LEAVES:
        words = ("telemetry", "query", name, "temperature", "-o", "json")
        done = await asyncio.to_thread(
            subprocess.run, network.words(network.core, *FLEETCORE, *words, "--data", str(core)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found[name] = [each["temperature"] for each in json.loads(done.stdout or "[]")]
    return found


def all_of(sent):
    """Every leaf's readings."""
    return {name: list(sent) for name in LEAVES}


@pytest.mark.peer("ip")
@pytest.mark.timeout(600)
async def test_leaves_of_three_protocols_lose_nothing_over_a_dead_line(places):
    network, core, gateway = places
    with running(network, network.gateway, "edge", "run", folder=gateway) as agent:
        leaves = [await enrolled(network, gateway, name) for name in LEAVES]
        sent = []

        async def send(count):
            for _ in range(count):
                sent.append(float(len(sent)))
                for leaf in leaves:
                    reply = await leaf.send({"temperature": sent[-1]}, 1)
                    assert reply.error is None

        async def there():
            return {name: sorted(values) for name, values in (await at_core(network, core)).items()}

        await send(5)
        await until(there, all_of(sent))
        network.cut()
        await send(30)
        during = await there()
        network.mend()
        await send(5)

        await until(there, all_of(sent))
        assert during == all_of(sent[:5])

        for _ in range(4):  # a line that comes and goes
            network.cut()
            await send(5)
            network.mend()
            await send(5)
        await until(there, all_of(sent))
        assert agent.poll() is None
        for leaf in leaves:
            await leaf.disconnect()
