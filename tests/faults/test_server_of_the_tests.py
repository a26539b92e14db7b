"""A server of these tests that dies before it is ready is told at once, with what it said last."""

import os
import signal

import pytest

#: It leaves a process behind, as what a plugin has started may be: that one holds the server's output open.
_DIES = """
import os, subprocess, sys
from pathlib import Path

left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(__file__).with_name("left").write_text(str(left.pid))
sys.stderr.write("the last word\\n")
sys.stderr.flush()
os._exit(7)
"""


async def test_a_server_that_dies_before_it_is_ready_is_told_with_the_end_of_its_log(serving, tmp_path):
    try:
        with pytest.raises(AssertionError, match=r"ended with 7(?s:.)*the last word"):
            async with serving(plugins={"dies": _DIES}):
                pass
    finally:
        os.kill(int((tmp_path / "data" / "left").read_text()), signal.SIGKILL)
