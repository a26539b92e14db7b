"""The running server's socket: the same refusals as on the folder itself."""

import os
import pwd

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.exits import exit_code
from fleetcore.errors import FleetError
from fleetcore.frontends.control import ControlClient, serve_control

REFUSED = [
    ("list_devices", (), {"where": "type = 'a"}),
    ("explain_query", ("a", "tags hs 'x'"), {}),
    ("send_command", ("a", "x"), {"precondition": "bad ("}),
    ("set_desired", ("a", {"x": 1}), {"if_version": 9}),
    ("register_device", ("a", "sensor"), {}),
    ("get_device", ("nobody",), {}),
    ("count_commands", ("nothing",), {}),
    ("set_lifecycle", ("a", "sleepy"), {}),
]


@pytest.mark.parametrize(("name", "args", "options"), REFUSED)
async def test_a_refusal_has_the_same_code_and_exit_code(tmp_path, name, args, options):
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        await manager.register_device("a", "sensor")

        with pytest.raises(FleetError) as direct:
            await getattr(manager, name)(*args, **options)
        with pytest.raises(FleetError) as through:
            await ControlClient(tmp_path).call(name, *args, **options)

    assert (through.value.code, str(through.value)) == (direct.value.code, str(direct.value))
    assert exit_code(through.value) == exit_code(direct.value) > 1


async def test_what_comes_through_the_socket_is_done_in_the_name_of_its_user(tmp_path):
    async with IoTFleetManager(tmp_path, actor="library:the-server") as manager, serve_control(manager, tmp_path):
        await ControlClient(tmp_path).run("create_group", {"id": "lab"})
        await manager.create_group("hall")
        await manager.settle()
        actors = {row.object: row.actor for row in await manager.list_audit()}

    assert actors["lab"] == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert actors["hall"] == "library:the-server"
