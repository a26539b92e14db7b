"""The blocking client is made of the one in asyncio, never written by hand."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "client.py"


def test_the_blocking_client_is_what_its_script_makes_of_the_one_in_asyncio():
    checked = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
