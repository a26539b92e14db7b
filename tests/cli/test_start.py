"""Starting: quick because little is imported, quiet at a broken pipe, without a traceback when interrupted."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fleetcore.testing.patience import PATIENCE_S

HEAVY = ("aiohttp", "cattrs", "cryptography", "fleetcore.calls", "httpx", "lark", "mqtt5", "numpy", "paho", "rich")

IMPORTED = """
import sys
sys.argv = ["fleetcore", *sys.argv[1:]]
from fleetcore.cli import main
try:
    main()
except SystemExit:
    pass
print(",".join(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["device", "--help"]])
def test_nothing_heavy_is_imported_to_answer_a_question(words):
    code = IMPORTED.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.stdout
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("output", ["table", "csv", "json", "jsonl"])
def test_a_reader_that_stops_reading_is_no_error(tmp_path, output):
    # More than a pipe holds, so that the writer is still writing when the reader has gone.
    rows = [{"device": f"th-{number:05d}", "note": "x" * 60} for number in range(3_000)]
    code = (
        "import json, sys; from fleetcore.cli import root; from fleetcore.cli.output import show; import click\n"
        "@root.root.command('telemetry')\ndef many(): show(json.load(open(sys.argv.pop())), sys.argv.pop())\n"
        "root.Root.get_command = lambda *_: many\nsys.exit(root.run(['telemetry']))"
    )
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = '"$0" -c "$1" "$2" "$3" | head -1; echo ${PIPESTATUS[0]}'
    words = ["bash", "-c", command, sys.executable, code, output, str(tmp_path / "rows.json")]

    # Unbuffered, Python itself drops what a pipe did not take, without an error (cpython: FileIO.write).
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)

    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("1", "141")


def test_an_interrupt_ends_long_work_at_once_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "fleetcore", "demo", "--devices", "4", "--duration", "100"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert any("devices enrolled" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert (err.strip(), "Traceback" in out) == ("", False)
    assert list(tmp_path.iterdir()) == []


def test_a_module_run_with_another_name_says_what_it_is(process):
    assert process("--version").stdout.startswith("fleetcore 0.")
