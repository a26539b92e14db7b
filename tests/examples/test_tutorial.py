"""The first ten minutes, literally: every shell block of the tutorial in bash, in a folder of its own.

Two things differ from what a reader types: the ports, since other tests run beside this one, and how long the
simulated devices send.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port, moved

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "first-ten-minutes.md"


class Reader:
    """Somebody who follows the page in a folder."""

    def __init__(self, folder, page=PAGE, ports=("8443", "8883")):
        self.folder = folder
        self.changed = {port: str(free_port()) for port in ports} | {"--duration 10": "--duration 2"}
        self.blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HOME": str(folder)}

    def block(self, holds):
        (found,) = [one for one in self.blocks if holds in one]
        return moved(found, self.changed)

    def types(self, text):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, end, holds="fleetcore serve"):
        words = self.block(holds).split()
        with (self.folder / "log").open("ab") as log:
            server = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            assert any(line == "ready\n" for line in server.stdout), (self.folder / "log").read_text()
            yield server
        finally:
            server.send_signal(end)
            server.stdout.read()
            server.wait(PATIENCE_S)
            server.stdout.close()


@pytest.mark.peer("curl", "openssl")
def test_every_block_of_the_first_ten_minutes_does_what_the_page_says(tmp_path):
    reader = Reader(tmp_path)
    assert "fleetcore serve" in reader.types(reader.block("fleetcore init"))
    file = tmp_path / "fleet-data" / "fleet.toml"
    text = file.read_text()
    assert "8443" in text
    assert "8883" in text
    file.write_text(moved(text, reader.changed))

    with reader.serving(signal.SIGKILL):
        assert "th-0001" in reader.types(reader.block("fleetcore doctor"))
        assert "temperature" in reader.types(reader.block("fleetcore simulate"))
        assert "21.5" in reader.types(reader.block("curl --cacert"))
    with reader.serving(signal.SIGTERM) as server:
        assert "21.5" in reader.types("fleetcore telemetry latest th-0002")
    assert server.returncode == 0

    rows = "\n".join(f"2026-01-01T00:{minute:02d}:00Z,{20 + minute / 10}" for minute in range(60))
    (tmp_path / "your.csv").write_text(f"timestamp,temperature\n{rows}\n")
    assert "60 = 60 + 0 + 0 + 0" in reader.types(reader.block("--replay"))
