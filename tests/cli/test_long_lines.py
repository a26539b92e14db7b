"""Files of any size on the command line. It guards against a file that is read into memory as a whole, or as one line."""

import subprocess
import sys

import pytest

from fleetcore.cli.lines import MAX_LENGTH, lines_of
from fleetcore.errors import Refused
from fleetcore.testing.patience import PATIENCE_S

_MIB = 1 << 20
#: The program, whose address space may grow by less than what the file would take. It begins with what numpy reserves
#: for its threads, which depends on how many processors there are.
_LIMITED = f"""
import numpy, resource, runpy, sys
from pathlib import Path

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {1600 * _MIB},) * 2)
sys.argv[0] = "fleetcore"
runpy.run_module("fleetcore", run_name="__main__")
"""


def test_lines_are_those_of_the_file(tmp_path):
    file = tmp_path / "f"
    file.write_text("a\nb\n\n" + "c" * MAX_LENGTH)

    with file.open() as opened:
        assert list(lines_of(opened, file)) == ["a\n", "b\n", "\n", "c" * MAX_LENGTH]


def test_a_line_longer_than_a_row_is_refused_with_its_number(tmp_path):
    file = tmp_path / "f"
    file.write_text("a\n" + "c" * (MAX_LENGTH + 1))

    with file.open() as opened, pytest.raises(Refused, match="f:2: the line has more than 16,777,216 characters"):
        list(lines_of(opened, file))


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--replay", "endless.csv"],
        ["telemetry", "import", "endless.csv", "--device", "a"],
        ["telemetry", "import", "endless.jsonl", "--device", "a"],
        ["device", "import", "endless.csv"],
        ["device", "import", "endless.jsonl"],
    ],
    ids=" ".join,
)
def test_a_file_without_line_ends_is_refused_and_never_in_memory(data, tmp_path, words):
    for name in ("endless.csv", "endless.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2048 * _MIB)  # zeros that take no room on the disk
    at = [] if words[0] == "demo" else ["--data", str(data)]
    command = [sys.executable, "-c", _LIMITED]
    done = subprocess.run(
        [*command, *words, *at], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.returncode == 5, done.stderr
    assert "1: the line has more than 16,777,216 characters" in done.stderr


def test_a_long_replay_takes_no_more_memory_than_a_short_one(tmp_path):
    def peak(count):
        file = tmp_path / f"{count}.csv"
        file.write_text("timestamp,t\n" + "".join(f"{1_780_000_000_000 + i},20\n" for i in range(count)))
        watched = (
            "import re, sys\n"
            "from fleetcore.cli.recording import Recording\n"
            "from pathlib import Path\n"
            "assert sum(1 for _ in Recording.read(Path(sys.argv[1])).rows()) == int(sys.argv[2])\n"
            # The peak of getrusage begins with that of the process that started this one.
            "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        )
        words = [sys.executable, "-c", watched, str(file), str(count)]
        return int(subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout)

    # 200,000 rows in memory would be some 80 MiB.
    assert peak(200_000) - peak(1_000) < 16 * 1024
