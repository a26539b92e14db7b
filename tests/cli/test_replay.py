"""``fleetcore demo --replay``: real readings through a real protocol; the counts add up on both sides."""

import re
from datetime import UTC, datetime

import pytest

from fleetcore.cli.showcase import read_csv
from fleetcore.testing.patience import PATIENCE_S


def test_every_reading_of_the_file_is_accounted_for(process, tmp_path):
    rows = [f"2026-01-01 00:{i:02d}:00,{20 + i % 3 / 10},{40 + i}" for i in range(50)]
    (tmp_path / "room.csv").write_text("timestamp,temperature,humidity\n" + "\n".join(rows) + "\n")

    done = process("demo", "--replay", tmp_path / "room.csv", timeout=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"refused: (\d+) = (\d+) \+ (\d+) \+ (\d+) \+ (\d+)", done.stdout)
    assert counts is not None
    assert counts.groups() == ("100", "100", "0", "0", "0")
    # No progress bar, colour or cursor movement where nobody looks.
    assert done.stderr == ""
    assert not {"\x1b", "\r"} & set(done.stdout)


def test_refused_and_repeated_readings_are_accounted_for_too(process, tmp_path):
    rows = [
        "2026-01-01T00:00:00Z,1,2",
        "2026-01-01T00:00:00Z,1,5",
        "2100-01-01T00:00:00Z,1,2",
        "2100-01-01T00:00:01Z,3,",
    ]
    (tmp_path / "odd.csv").write_text("time,Temp (C),t,empty\n" + ",\n".join(rows) + ",\n")

    done = process("demo", "--replay", tmp_path / "odd.csv", timeout=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 = 2 + 1 + 1 + 3" in done.stdout
    assert "Temp_C_" in done.stdout


@pytest.mark.parametrize("form", [lambda ms: ms, lambda ms: datetime.fromtimestamp(ms / 1000, UTC).isoformat()])
def test_times_are_milliseconds_or_rfc_3339(tmp_path, form):
    (tmp_path / "t.csv").write_text("timestamp,t\n" + "\n".join(f"{form(1_780_000_000_250 + i)},1" for i in range(3)))

    _, rows = read_csv(tmp_path / "t.csv")

    assert rows == [(1_780_000_000_250 + i, {"t": 1.0}) for i in range(3)]


def test_a_file_without_readings_is_refused_by_line(process, tmp_path):
    (tmp_path / "bad.csv").write_text("timestamp,t\n2026-01-01 00:00:00,warm\n")

    done = process("demo", "--replay", tmp_path / "bad.csv")

    assert done.returncode in (2, 5)
    assert "bad.csv:2" in done.stderr
    assert "Traceback" not in done.stderr
