"""Output into encodings without our signs. Guards against tracebacks, and against data that is altered for programs."""

import asyncio
import csv
import io
import json
import os
import shutil

import pytest

from fleetcore import IoTFleetManager

NAME = "Größe μ ☃ 😀"
WORDS = [
    ("device", "list"), ("device", "show", "th-9"), ("telemetry", "query", "th-1", "temperature"), ("doctor",),
    ("health", "fleet"), ("audit", "list"), ("twin", "show", "th-9"), ("telemetry", "latest", "th-9"),
    ("telemetry", "put", "no☃", "a", "1"), ("device", "show", "☃"), ("☃",), ("plugin", "list"), ("ca", "show"),
]  # fmt: skip


@pytest.fixture(scope="module")
def unusual(full, tmp_path_factory):
    """The folder with two devices, and one with such a name."""
    data = shutil.copytree(full, tmp_path_factory.mktemp("unusual") / "data")

    async def register():
        async with IoTFleetManager(data) as manager:
            await manager.register_device("th-9", "t", {"name": NAME})

    asyncio.run(register())
    return data


@pytest.fixture
def narrow(unusual, process):
    """A real process on that folder, whose output is in an encoding."""

    def go(encoding, *words):
        done = process(*words, "--data", unusual, env={**os.environ, "PYTHONIOENCODING": encoding}, encoding=encoding)
        assert "Traceback" not in done.stderr
        assert "UnicodeEncodeError" not in done.stderr
        return done

    return go


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_command_answers_in_latin_1(narrow, words):
    assert narrow("latin-1", *words).returncode in (0, 1, 2, 3, 5)


def test_signs_have_plain_stand_ins(narrow):
    marks = {line[0] for line in narrow("latin-1", "doctor").stdout.splitlines() if line[:1].strip()}

    assert "+" in marks
    assert marks <= {"+", "x", "!"}


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "utf-8"])
def test_programs_get_every_character(narrow, encoding):
    (item,) = [
        one for one in json.loads(narrow(encoding, "device", "list", "-o", "json").stdout) if one["id"] == "th-9"
    ]
    lines = [json.loads(line) for line in narrow(encoding, "device", "list", "-o", "jsonl").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(narrow(encoding, "device", "list", "-o", "csv").stdout)))

    assert item["name"] == NAME
    assert item in lines
    (row,) = [one for one in rows if one["id"] == "th-9"]
    shown = row["name"]
    assert (
        shown if encoding == "utf-8" else shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
    ) == NAME
