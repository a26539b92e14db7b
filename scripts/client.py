"""Writes the blocking client (fleetcore/client/blocking.py) from the one in asyncio, so that both always say the same.

python scripts/client.py            writes it
python scripts/client.py --check    exits 1 where it is not as it would be written
"""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "fleetcore" / "client"
SOURCE, TARGET = FOLDER / "aio.py", FOLDER / "blocking.py"
_CHANGES = (
    (r"\A\"\"\".*?\"\"\"", '"""The blocking client. ``scripts/client.py`` writes this file: change aio.py."""'),
    (r"^import asyncio\n", ""),
    (r"^import ssl\n", "import ssl\nimport time as clock\n"),
    (r"import AsyncIterator, Callable, ", "import Callable, Iterator, "),
    (r"AsyncIterator", "Iterator"),
    (r"asyncio\.sleep", "clock.sleep"),
    (r"AsyncFleetClient", "FleetClient"),
    (r"calls_async", "calls_blocking"),
    (r"AsyncCalls", "BlockingCalls"),
    (r"httpx\.AsyncClient", "httpx.Client"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\.aclose\(", ".close("),
    (r"\.aread\(", ".read("),
    (r"\.aiter_lines\(", ".iter_lines("),
    (r"\basync_pieces\b", "pieces"),
    (r"\[part async for part in pages\]", "list(pages)"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
)


def blocking() -> str:
    """The text of the blocking client, before the formatter."""
    text = SOURCE.read_text(encoding="utf-8")
    for pattern, replacement in _CHANGES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE | re.DOTALL)
    return text


def main() -> None:
    """Writes or compares."""
    import subprocess

    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input=blocking(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "--check" not in sys.argv:
        TARGET.write_text(formatted, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != formatted:
        sys.exit("fleetcore/client/blocking.py is not what scripts/client.py writes: run it")


if __name__ == "__main__":
    main()
