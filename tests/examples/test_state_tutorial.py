"""The tutorial on a fleet's state, literally: its shell blocks in bash, its Python blocks as one script."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "a-fleet-and-its-state.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(command, folder):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_does_what_the_page_says(tmp_path):
    out = run(["bash", "-euo", "pipefail", "-c", "\n".join(blocks("sh"))], tmp_path)

    assert "3 of 3 done, 0 failed" in out
    assert "th-2 is not selected" in out
    assert '{"interval": 60, "led": false}' in out
    assert "2 of 2 done, 0 failed" in out
    assert "nothing was ever heard of it" in out
    assert re.search(r"ok +True", out)


def test_the_library_does_what_the_page_says(tmp_path):
    body = textwrap.indent("\n".join(blocks("python")), "    ")
    script = f"import asyncio\n\nasync def main():\n{body}\n\nasyncio.run(main())\n"

    run([sys.executable, "-W", "error", "-c", script], tmp_path)
