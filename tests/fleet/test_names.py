"""Names and versions by their own rules. It guards against text that looks alike and is another name."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused

DIGEST = "0" * 64


@pytest.mark.parametrize("name", [" ", "lab ", " lab", "lab\n", "lab\u00a0"])
async def test_a_name_has_no_space_at_its_ends(name):
    async with IoTFleetManager() as manager:
        with pytest.raises(Refused):
            await manager.create_device("d", tags=[name])
        with pytest.raises(Refused):
            await manager.create_group(name)
        await manager.create_group("cold room")


async def test_a_version_is_written_as_its_build_writes_it():
    async with IoTFleetManager() as manager:
        await manager.create_device("d")
        made = await manager.update_firmware(
            "c", "1.2.3+4", ["d"], "https://images.example/a.bin", sha256=DIGEST, size=1
        )

    assert made.release == "1.2.3+4"
