"""Readings as rows: within the schema of the table, and within the limits of Pub/Sub."""

import json
from pathlib import Path

import fleetcore_gcp
import numpy as np
import pytest
from fleetcore_gcp.readings import row

from fleetcore.interfaces.bundles import Reading
from fleetcore.model.telemetry import Series, TelemetryBatch, TextReading
from fleetcore.testing.cloud_contract import START_MS, TwoDevices

SCHEMA = json.loads((Path(fleetcore_gcp.__file__).parent / "telemetry.bigquery.json").read_text())
TYPES = {"STRING": str, "TIMESTAMP": str, "FLOAT": (int, float), "BOOLEAN": bool}


@pytest.mark.parametrize("said", [21.5, True, "Ärger\n"])
@pytest.mark.parametrize("unit", [None, "Cel"])
def test_each_row_is_one_of_the_table(said, unit):
    series = Series(index=0, device="sensor-1", metric="temperature", unit=unit)
    made = json.loads(row("plant", Reading(at=0, series=series, time=START_MS, said=said)))

    columns = {each["name"]: each for each in SCHEMA}
    assert made.keys() <= columns.keys()
    assert {name for name, each in columns.items() if each["mode"] == "REQUIRED"} <= made.keys()
    assert all(isinstance(value, TYPES[columns[name]["type"]]) for name, value in made.items())
    assert len({"value", "text", "boolean"} & made.keys()) == 1
    assert made["time"] == "2026-01-01T00:00:00.000Z"


async def test_readings_of_a_device_share_requests_of_a_thousand(cloud, hub, front):
    batch = TelemetryBatch.of([0] * 2500, range(START_MS, START_MS + 2500), [float(at) for at in range(2500)])

    sent = await cloud.send(batch, TwoDevices())

    assert sent.taken == 2500
    assert front.calls["Publish"] == 3
    assert [value for _, _, value in await hub.telemetry("sensor-1")] == [float(at) for at in range(2500)]


async def test_the_same_reading_has_the_same_id_with_whatever_it_is_sent_again(cloud, hub):
    await cloud.send(TelemetryBatch.of([0, 1], [START_MS, START_MS], [1.0, 2.0]), TwoDevices())
    await cloud.send(TelemetryBatch.of([1, 0], [START_MS, START_MS + 1], [2.0, 1.0]), TwoDevices())

    assert len(hub.messages("telemetry")) == 4
    assert len(hub.rows()) == 3


async def test_what_has_no_place_in_a_message_is_refused_alone(cloud, hub):
    numbers = await cloud.send(TelemetryBatch.of([0, 0], [START_MS, START_MS + 1], [np.nan, 1.0]), TwoDevices())
    texts = [
        TextReading(series=0, time=START_MS + at, received=START_MS, value=text)
        for at, text in enumerate(("x" * 9_000_000, "eco"))
    ]
    said = await cloud.send_texts(texts, TwoDevices())

    assert (numbers.taken, set(numbers.refused)) == (1, {0})
    assert (said.taken, set(said.refused)) == (1, {0})
