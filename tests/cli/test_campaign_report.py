"""The report of a campaign as a page and as rows: hostile names stay text, and no cell is a formula."""

import asyncio
import csv
import json
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from fleetcore import IoTFleetManager
from fleetcore.cli.root import Root
from fleetcore.wire import messages

_BAD = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")

    async def make():
        async with IoTFleetManager(folder) as manager:
            fleet = await manager.open()
            for number in range(6):
                await fleet.devices.register(f"d-{number}", "sensor", model="m-1")
            await fleet.campaigns.create(
                "spring", "2.0.0", [f"d-{number}" for number in range(6)], "https://example.com/fw", sha256="ab" * 32,
                size=10, actor="ana", reason=_BAD,
            )  # fmt: skip
            for number in range(5):
                await fleet.updates.offer(f"d-{number}")
                state = "failed" if number % 2 else "succeeded"
                body = messages.FirmwareStatus(
                    execution=f"spring:d-{number}", state=state, version="2.0.0", code="internal", reason=f"=1+1 {_BAD}"
                )
                await fleet.updates.status(f"d-{number}", body)

    asyncio.run(make())
    return folder


def run(data, *words):
    result = CliRunner().invoke(Root(), ["campaign", "report", "spring", "--data", str(data), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, _attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_has_the_causes_and_no_text_becomes_a_tag(data, tmp_path):
    run(data, "--html", str(tmp_path / "report.html"))

    page = Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))

    assert not page.tags & {"img", "b", "script"}
    assert {"svg", "polyline", "table"} <= page.tags
    assert _BAD in page.text
    assert "m-1" in page.text


def test_a_row_for_each_device_and_no_formula(data, tmp_path):
    run(data, "--csv", str(tmp_path / "report.csv"))

    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [(row["device"], row["state"]) for row in rows][:2] == [("d-0", "succeeded"), ("d-1", "failed")]
    assert len(rows) == 6
    assert rows[1]["reason"].startswith("'=1+1")


def test_people_and_programs_read_the_same(data):
    said = json.loads(run(data, "-o", "json"))
    shown = run(data)

    assert said["failures"] == [{"state": "failed", "code": "internal", "model": "m-1", "devices": 2}]
    assert [(wave["succeeded"], wave["failed"], wave["left"]) for wave in said["waves"]] == [(3, 2, 1)]
    assert said["actions"][0]["by"] == "ana"
    assert shown.startswith("spring: running: failed 2, succeeded 3, waiting 1")
    for name in ("waves", "failures", "slowest", "actions"):
        assert f"\n{name}\n" in shown
