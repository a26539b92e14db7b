"""``where`` of a detector: it sees the readings of the devices that the query selects, as they are now."""

import numpy as np
import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import ConfigError
from fleetcore.interfaces.detector import Findings
from fleetcore.pipeline.detect import _wrong

TOML = """\
[detectors.cold]
kind = "threshold"
below = 2.0
once = false
where = "type = 'fridge' and not tags has 'defrosting'"
"""


async def test_a_detector_sees_the_devices_that_its_query_selects(tmp_path):
    (tmp_path / "fleet.toml").write_text(TOML)
    async with IoTFleetManager(tmp_path, create=True) as manager:
        for device, kind in (("f-1", "fridge"), ("f-2", "fridge"), ("o-1", "oven")):
            await manager.register_device(device, kind)
            await manager.collect_telemetry(device, "temperature", 0.5)
        await manager.wait_idle()
        assert [one["device"] for one in await manager.list_anomalies()] == ["f-1", "f-2"]

        await manager.update_device("f-1", tags=["defrosting"])
        for device in ("f-1", "f-2", "o-1"):
            await manager.collect_telemetry(device, "temperature", 0.25)
        await manager.wait_idle()

        assert [one["device"] for one in await manager.list_anomalies() if one["observed"] == 0.25] == ["f-2"]


async def test_a_query_that_cannot_be_read_names_file_line_and_column(tmp_path):
    (tmp_path / "fleet.toml").write_text(TOML.replace("type = ", "typ = "))

    with pytest.raises(ConfigError, match=r"fleet.toml:5: .*column 1: field 'typ' does not exist. Did you mean 'type'"):
        await IoTFleetManager(tmp_path, create=True).open()


@pytest.mark.parametrize(("index", "wrong"), [(2, ""), (3, "positions from 3 to 3 in a batch of 3 readings")])
def test_a_finding_names_a_reading_of_its_batch(index, wrong):
    one = np.ones(1)

    assert _wrong(Findings(index=np.array([index]), score=one, expected=one), 3) == wrong
