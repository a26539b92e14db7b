"""The page about a function of the edge, literally: its sources are built, and tried on its readings."""

import re
import shutil
from pathlib import Path

import pytest

from tests.examples.test_how_to import blocks, transcript, typed

PAGE = "write-an-edge-function.md"
SDK = Path(__file__).parents[2] / "plugins" / "fleetcore-edge" / "sdk"


@pytest.mark.peer("clang-14", "wasm-ld-14", "/usr/bin/rustc")
def test_a_function_is_built_and_tried_as_the_page_says(tmp_path):
    (c,), (rust,), (console,) = (blocks(PAGE, language) for language in ("c", "rust", "console"))
    for header in ("c/fleetcore_function.h", "rust/fleetcore_function.rs"):
        shutil.copy(SDK / header, tmp_path)
    (tmp_path / "switching.c").write_text(c)
    (tmp_path / "kelvin.rs").write_text(rust)

    for commands in blocks(PAGE, "sh"):
        typed(commands, tmp_path)

    assert taken_out(transcript(console, tmp_path)) == taken_out(console)


def taken_out(text):
    """A transcript without what a function took."""
    return re.sub(r"; \d+ fuel, [\d.]+ ms, ", "; ", text).strip()
