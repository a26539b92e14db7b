"""``fleetcore campaign watch``: a campaign is followed to its end."""

import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli import source, watching
from fleetcore.cli.root import run

IMAGE = {"sha256": "0" * 64, "size": 3}


@pytest.fixture
async def data(tmp_path):
    async with IoTFleetManager(tmp_path / "data", create=True) as manager:
        for device in ("a", "b"):
            await manager.register_device(device, "sensor")
        await manager.update_firmware("spring", "2.0.0", ["a", "b"], "https://x.example/f", **IMAGE)
    return tmp_path / "data"


def state(name, finished_at=None, **counts):
    return {
        "state": name, "code": None, "reason": None, "wave": 0, "counts": counts, "total": 2, "finished_at": finished_at,
    }  # fmt: skip


@pytest.fixture
def answers(monkeypatch):
    """What the fleet answers from look to look."""
    told = []

    class Told:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            pass

        async def run(self, name, given):
            assert (name, given) == ("get_campaign", {"campaign": "spring"})
            return told.pop(0)

    monkeypatch.setattr(source, "connect", lambda _at, **_: Told())
    monkeypatch.setattr(watching, "LOOK_S", 0)
    return told


def test_each_change_is_a_line_and_a_failure_is_exit_7(answers, capsys):
    answers += [
        state("running", waiting=2),
        state("running", waiting=2),
        state("running", downloading=1, succeeded=1),
        state("succeeded", "2026-01-01T00:00:00Z", failed=1, succeeded=1),
    ]

    assert run(["campaign", "watch", "spring", "-o", "jsonl"]) == 7

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["counts"] for line in lines] == [
        {"waiting": 2}, {"downloading": 1, "succeeded": 1}, {"failed": 1, "succeeded": 1},
    ]  # fmt: skip


def test_an_aborted_campaign_is_followed_until_no_device_is_under_way(answers, capsys):
    ended = "2026-01-01T00:00:00Z"
    answers += [state("aborted", ended, rebooting=1, cancelled=1), state("aborted", ended, succeeded=1, cancelled=1)]

    assert run(["campaign", "watch", "spring"]) == 7

    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["aborted: cancelled 1, rebooting 1", "aborted: cancelled 1, succeeded 1"]
    assert answers == []


def test_a_campaign_of_a_folder_is_followed(data, capsys):
    assert run(["campaign", "abort", "spring", "--data", str(data)]) == 0
    capsys.readouterr()

    assert run(["campaign", "watch", "spring", "--data", str(data), "-o", "json"]) == 7

    assert json.loads(capsys.readouterr().out)["counts"]["cancelled"] == 2
    assert run(["campaign", "watch", "none", "--data", str(data)]) == 3


def test_a_manifest_is_read_from_its_file(data, tmp_path, capsys):
    file = tmp_path / "manifest.json"
    file.write_text('{"payload": "x"}')

    code = run(["campaign", "start", "summer", "3", "a", "--manifest", str(file), "--data", str(data)])

    assert code == 5
    assert "[" in capsys.readouterr().err


EVIDENCE = {
    "campaign": "spring", "state": "paused", "code": "health_gate", "summary": "2 of 40 are bad", "e_value": 25.0,
    "limit": 25.0,
    "waves": [{"wave": 1, "observing": 0, "uncompared": 0, "updated": 40, "updated_bad": 2, "controls": 320,
               "controls_bad": 0, "matching": {"model and site": 40}}],
    "rules": [{"rule": "silent", "updated": 2, "controls": 0}],
    "worst": [{"device": "d-7", "wave": 1, "updated_at": "2026-01-01T00:00:00Z", "reasons": ["it was not heard"],
               "matching": "model", "controls": 8, "controls_bad": 0}],
    "points": [{"judged": number, "e_value": 1.0 + 24 * number / 40, "bad": 0} for number in range(1, 41)],
}  # fmt: skip


def test_evidence_is_shown_in_parts_with_the_course_of_its_e_value(monkeypatch, capsys):
    monkeypatch.setattr("fleetcore.cli.campaign.value", lambda _at, _call, given: EVIDENCE | given)

    assert run(["campaign", "evidence", "spring"]) == 0

    shown = capsys.readouterr().out
    assert "2 of 40 are bad" in shown
    assert "d-7" in shown
    assert "e-value by judged devices; at 25 the campaign stops" in shown
    assert shown.rstrip().splitlines()[-1].split() == ["0", "10", "20", "30", "40"]


def test_programs_get_the_evidence_whole(monkeypatch, capsys):
    monkeypatch.setattr("fleetcore.cli.campaign.value", lambda _at, _call, _given: EVIDENCE)

    assert run(["campaign", "evidence", "spring", "-o", "json"]) == 0

    assert json.loads(capsys.readouterr().out) == EVIDENCE
