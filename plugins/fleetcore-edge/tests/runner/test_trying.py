"""The command that tries a function on a file of readings, and the example in the ABI's page."""

import re
import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
import wasmtime
from fleetcore_edge.runner import frames
from fleetcore_edge.runner.batches import Encoder
from fleetcore_edge.runner.records import Batch
from fleetcore_edge.runner.remedies import REMEDIES

from fleetcore.cli.root import run as command

ROOT = Path(__file__).parents[4]
FUNCTIONS = Path(__file__).parents[2] / "functions"
HEAD = "time,device,metric,value,unit\n"


@pytest.fixture
def tried(tmp_path, capsys):
    def run(text, name="threshold", config='{"above": 5}', *more):
        readings, settings = tmp_path / "readings.csv", tmp_path / "config.json"
        readings.write_text(text)
        settings.write_text(config)
        status = command(
            [
                "edge",
                "try",
                str(FUNCTIONS / f"{name}.wasm"),
                "--readings",
                str(readings),
                "--config",
                str(settings),
                *more,
            ]
        )
        return status, *capsys.readouterr()

    return run


def test_times_are_iso_8601_or_milliseconds(tried):
    text = "2026-11-28T06:00:00Z,a,x,6,m\n2026-11-28T07:00:00+01:00,b,x,7,\n1795845600500,c,x,8,m\n2026-11-28 06:00,d,x,9,m\n"

    status, printed, _ = tried(HEAD + text, "threshold", '{"above": 5}', "--batch", "2")

    assert status == 0
    times = re.findall(r"^alert +(\S+)  (\w)", printed, re.MULTILINE)
    begin = "2026-11-28T06:00:00"
    assert times == [(f"{begin}.000Z", "a"), (f"{begin}.000Z", "b"), (f"{begin}.500Z", "c"), (f"{begin}.000Z", "d")]
    assert "4 readings in 2 batches; 0 readings, 4 alerts, 0 commands out" in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,device,value\n", "has no column metric"),
        (HEAD + "yesterday,a,x,1,m\n", "readings.csv:2: Invalid isoformat string: 'yesterday'"),
        (HEAD + "1,a,x,1,m\n2,a,x,cold,m\n", "readings.csv:3: could not convert string to float: 'cold'"),
        (HEAD + "1,a\n", "readings.csv:2"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tried, text, said):
    status, _, failed = tried(text)

    assert status == 5
    assert said in failed


def test_a_function_that_is_refused_says_why(tried):
    status, _, failed = tried(HEAD, "threshold", "{}")

    assert status == 5
    assert failed.startswith("fleetcore: The function 'threshold' does not start: ")
    assert failed.rstrip().endswith("[config_refused]")


def page():
    return (ROOT / "docs" / "reference" / "edge-abi.md").read_text(encoding="utf-8")


async def test_the_smallest_function_in_the_page_runs(runner, make, readings):
    text, _ = re.findall(r"^```text\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    await runner.load(make(content=bytes(wasmtime.wat2wasm(text))))

    assert (await runner.run("echo", readings())).readings == readings()


def test_the_example_in_the_page_is_what_the_runner_writes():
    _, dump = re.findall(r"^```text\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    shown = b"".join(
        bytes.fromhex(re.match(r"[0-9a-f]{4}  ((?:[0-9a-f]{4,} ?)+)", line)[1]) for line in dump.splitlines()
    )
    batch = Batch(
        series=[("d1", "temperature", "°C")], at=array("I", [0]), time=array("q", [1_700_000_000_000]),
        value=array("d", [21.5]),
    )  # fmt: skip

    request = b"".join(memoryview(piece).tobytes() for piece in Encoder(1, 1).request(1, batch, 0))

    assert shown == request[frames.HEAD.size + frames.NOW.size :]
    assert struct.unpack_from("<d", shown, 128) == (21.5,)


def test_the_page_names_every_code():
    source = "".join(
        file.read_text()
        for file in (ROOT / "plugins/fleetcore-edge/fleetcore_edge/runner").rglob("*.py")
        if file.stem != "trying"
    )
    named = set(re.findall(r"`([a-z_]+)`", page().partition("## Codes")[2]))
    used = set(re.findall(r'code="([a-z_]+)"', source)) | set(
        re.findall(r'(?:Stopped|Unsuitable)\(\s*"([a-z_]+)"', source)
    )

    assert used | REMEDIES.keys() == named - {"fc_configure", "fc_run", "cpu_percent"}


def test_the_script_in_the_readme_prints_what_it_says(tmp_path):
    text = (FUNCTIONS.parent / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = script.replace("async with", "async def main():\n  async with").replace("\n    await", "\n      await")
    code = (
        code.replace("\n    output", "\n      output").replace("print(", "  print(")
        + "import asyncio\nasyncio.run(main())\n"
    )
    (tmp_path / "functions").symlink_to(FUNCTIONS)

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == (re.search(r"print\(.*\)  # (.*)", script)[1] + "\n", "")
