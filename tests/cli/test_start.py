"""Starting: quick because little is imported, quiet at a broken pipe, without a traceback when interrupted."""

import os
import signal
import subprocess
import sys
import time

import pytest

HEAVY = ("aiohttp", "cattrs", "cryptography", "lark", "mqtt5", "numpy", "paho", "rich.table")

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
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout
    assert done.stderr.strip() == ""


def test_a_reader_that_stops_reading_is_no_error(data):
    command = f"{sys.executable} -m fleetcore device --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "1", "141")


def test_an_interrupt_ends_without_a_traceback(data):
    command = [sys.executable, "-m", "fleetcore", "simulate", "--data", str(data), "--duration", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        out, err = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "Traceback" not in out + err


def test_no_progress_bar_where_nobody_looks(process, data, tmp_path):
    done = process("backup", tmp_path / "copy", "--data", data)

    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_a_module_run_with_another_name_says_what_it_is(process):
    assert process("--version").stdout.startswith("fleetcore 0.")
