"""One scenario over MQTT, HTTP, CoAP (by certificate and by key) and WebSocket, by programs of others: the same answers, refusals and stored result."""

import os
import subprocess
from itertools import chain

import pytest

from fleetcore.wire import matrix, messages
from tests.protocols import scenario
from tests.protocols.conftest import GATEWAY, LEAF
from tests.protocols.peers import NODE, PEERS, Identity
from tests.protocols.scenario import T0

#: What is stored in the end, whichever protocol it came over.
STORED = {
    "readings": {
        (GATEWAY, "temperature", T0, 21.5), (GATEWAY, "door", T0, True), (GATEWAY, "mode", T0, "eco"),
        (GATEWAY, "pressure", T0, 3.0), (LEAF, "level", T0, 7.0),
    },
    "reported": {"interval": 30, "mode": "eco"},
    "location": (37.7749, -122.4194),
    "commands": {"reboot": ("succeeded", {"uptime_s": 4}), "blink": ("cancelled", None)},
    "execution": "downloading",
    "leaves": [LEAF],
}  # fmt: skip
#: The column of the wire's matrix, where it is not named as the protocol is here.
COLUMN = {"oscore": "coap"}
#: Enrolment needs a device without a certificate: tests/trust has it on every protocol.
_ELSEWHERE = {messages.ENROLL}


def _missing(programs):
    return [pytest.mark.peer(program) for program in programs]


@pytest.fixture(params=[pytest.param(name, marks=_missing(peer.programs)) for name, peer in PEERS.items()])
def way(request):
    """The name of a peer: a protocol and, where it is not by certificate, by what it speaks."""
    if request.param == "websocket":
        found = subprocess.run(["node", "-e", "require('ws')"], env=NODE, capture_output=True, check=False)
        if found.returncode:
            missing = "npm's ws is not installed: make services"
            (pytest.fail if os.environ.get("FLEETCORE_REQUIRE") == "all" else pytest.skip)(missing)
    return request.param


@pytest.fixture
def protocol(way):
    return way.partition(" by ")[0]


@pytest.fixture
async def peer(served, secrets, token, way, protocol, tmp_path):
    """The gateway, on one protocol."""
    _, fleet, data = served
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    certificate.write_bytes(secrets.certificate)
    key.write_bytes(secrets.key)
    identity = Identity(GATEWAY, certificate, key, data / "pki" / "ca.pem", token)
    return PEERS[way](COLUMN.get(way, protocol), fleet.protocols[protocol].adapter.endpoints[0], identity)


async def stored(manager):
    """What an operator sees of it all."""
    await manager.wait_idle()
    readings = set()
    for device, metric in (
        (GATEWAY, "temperature"),
        (GATEWAY, "door"),
        (GATEWAY, "mode"),
        (GATEWAY, "pressure"),
        (LEAF, "level"),
    ):
        for series in (await manager.list_readings(metric, device=device)).items:
            readings |= {(series.device, series.metric, int(time), value) for time, value in series.points}
    twin = await manager.get_twin(GATEWAY)
    location = await manager.get_location(GATEWAY)
    commands = (await manager.list_device_commands(GATEWAY)).items
    (execution,) = (await manager.list_executions("spring")).items
    return {
        "readings": readings,
        "reported": dict(twin.reported),
        "location": (location.lat, location.lon),
        "commands": {each.name: (each.state, each.output) for each in commands},
        "execution": execution.state,
        "leaves": [leaf.id for leaf in (await manager.list_leaves(GATEWAY)).items],
    }


async def test_one_scenario_is_the_same_on_every_protocol(peer, served, operator):
    manager, _, _ = served

    steps = [*scenario.STEPS]
    if matrix.cell(messages.ARTIFACT, peer.protocol).carried:
        steps.append(scenario.artifacts)
    for step in steps:
        await step(peer, operator)

    assert await stored(manager) == STORED
    carried = {row for row, cells in matrix.rows() if cells[peer.protocol].carried}
    unused = carried - peer.used - _ELSEWHERE
    assert {row.name for row in unused} <= {"errors"}, "each cell of the matrix is used for real"


def test_a_cell_is_empty_only_where_something_stands_in_for_it():
    cells = list(chain.from_iterable(cells.values() for _, cells in matrix.rows()))
    assert all(cell.address or cell.instead for cell in cells)
    assert sum(1 for cell in cells if not cell.address) == 6
    later = {row.name for row, cells in matrix.rows() if all(cell.later for cell in cells.values())}
    assert later == {"logs"}
