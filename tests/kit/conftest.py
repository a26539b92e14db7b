"""Runs a third party's test module, as its author would: no configuration of this project, another process."""

import os
import subprocess
import sys

import pytest

from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture
def run_tests(tmp_path):
    """``run_tests(source, *options)``: what pytest prints of a module with this source."""

    def run(source, *options):
        folder = tmp_path / "third party"
        folder.mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_mine.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
            cwd=folder,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr

    return run
