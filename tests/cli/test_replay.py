"""``fleetcore demo --replay``: real readings through a real protocol; the counts add up on both sides.

Guards against success that is only bookkeeping, and against long work that does not stop.
"""

import asyncio
import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from fleetcore.cli.recording import Recording
from fleetcore.cli.replaying import batched, send_rows
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

    assert done.returncode == 7, done.stdout + done.stderr
    assert "7 = 2 + 1 + 1 + 3" in done.stdout
    assert "time_unit 3: " in done.stdout
    assert "Temp_C_" in done.stdout


@pytest.mark.parametrize(("every", "stored"), [(1, 0), (3, 20)])
def test_no_tick_stands_for_refused_readings(process, tmp_path, every, stored):
    """Every reading, or each third, has its time in seconds."""
    times = [1_780_000_000 + i if i % every == 0 else (1_780_000_000 + i) * 1000 for i in range(30)]
    (tmp_path / "s.csv").write_text("timestamp,t\n" + "\n".join(f"{time},20" for time in times) + "\n")

    done = process("demo", "--replay", tmp_path / "s.csv", timeout=PATIENCE_S)

    assert done.returncode == 7, done.stdout + done.stderr
    assert f"✗ {stored} of 30 readings stored" in done.stdout
    assert re.search(rf"time_unit {30 - stored}: .*ms since 1970", done.stdout)
    ticks = [line for line in done.stdout.splitlines() if line.startswith("✓")]
    assert ticks == ([f"✓ {stored} readings read back from the store"] if stored else [])


def test_a_recording_from_a_pipe_is_replayed_whole(process, tmp_path):
    lines = [f"{1_780_000_000_000 + i},20" for i in range(30)]

    done = process("demo", "--replay", "/dev/stdin", input="timestamp,t\n" + "\n".join(lines), timeout=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ 30 of 30 readings stored" in done.stdout


@pytest.mark.parametrize("form", [lambda ms: ms, lambda ms: datetime.fromtimestamp(ms / 1000, UTC).isoformat()])
def test_times_are_milliseconds_or_rfc_3339(tmp_path, form):
    (tmp_path / "t.csv").write_text("timestamp,t\n" + "\n".join(f"{form(1_780_000_000_250 + i)},1" for i in range(3)))

    recording = Recording.read(tmp_path / "t.csv")

    assert recording.count == 3
    assert list(recording.rows()) == [(1_780_000_000_250 + i, {"t": 1.0}) for i in range(3)]


def test_a_file_without_readings_is_refused_by_line(process, tmp_path):
    (tmp_path / "bad.csv").write_text("timestamp,t\n2026-01-01 00:00:00,warm\n")

    done = process("demo", "--replay", tmp_path / "bad.csv")

    assert done.returncode in (2, 5)
    assert "bad.csv:2" in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_travel_in_batches_of_bounded_size_and_order():
    rows = [(at, {f"m{number}": 1.0 for number in range(width)}) for at, width in enumerate([1] * 2500 + [600] * 4)]

    batches = list(batched(rows))

    assert [row for batch in batches for row in batch] == rows
    assert max(sum(len(values) for _, values in batch) for batch in batches) <= 1000
    assert len(batches) == 3 + 4


def test_a_long_replay_ends_at_once_when_it_is_interrupted(tmp_path):
    lines = (f"{1_780_000_000_000 + at * 1000},{at % 100}" for at in range(150_000))
    (tmp_path / "long.csv").write_text("timestamp,t\n" + "\n".join(lines) + "\n")
    words = [sys.executable, "-m", "fleetcore", "demo", "--replay", str(tmp_path / "long.csv")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replay:
        assert replay.stdout.readline().startswith("server ")
        replay.send_signal(signal.SIGINT)
        out, err = replay.communicate(timeout=PATIENCE_S)

    assert (replay.returncode, "Traceback" in err, "read back" in out) == (130, False, False)


async def test_an_interrupted_sending_leaves_the_rest_of_the_rows_unread():
    class Device:
        async def send(self, body, readings):
            sent.append(readings)
            await asyncio.sleep(0)
            if len(sent) == 20:
                sending.cancel()

    sent, taken = [], []
    rows = ((taken.append(at) or at, {"t": 1.0}) for at in range(150_000))
    sending = asyncio.create_task(send_rows(Device(), rows, lambda _count: None))

    with pytest.raises(asyncio.CancelledError):
        await sending

    assert len(sent) <= 20 + 8
    assert len(taken) <= (20 + 8 + 1) * 1000


def test_a_replayed_fleet_that_is_kept_ends_with_commands_that_work(process, tmp_path):
    (tmp_path / "my room.csv").write_text("timestamp,t\n2026-01-01T00:00:00Z,20.5\n", encoding="utf-8")

    done = process("demo", "--replay", tmp_path / "my room.csv", "--data", tmp_path / "kept data", timeout=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines()[-4:-2]:
        shown = process(*shlex.split(line.split("  ")[1])[1:])
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "replay-my-room" in shown.stdout
