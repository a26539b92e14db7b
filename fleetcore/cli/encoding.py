"""Output in an encoding that lacks some characters: replaces them instead of failing.

For people a known sign becomes a plain one and any other character a question mark. Output for programs stays exact:
JSON escapes, and CSV uses Python's escapes.
"""

import codecs
import sys
from typing import TextIO

_PLAIN = {"✓": "+", "✗": "x", "→": "->", "…": "...", "·": "-"} | dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True))


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def tolerate() -> None:
    """Lets standard output and error accept every character; in UTF-8 nothing changes."""
    codecs.register_error("fleetcore", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not _takes_all(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fleetcore")


def takes_all() -> bool:
    """Whether standard output can encode every character."""
    return sys.stdout is None or _takes_all(sys.stdout)


def escaped(text: str) -> str:
    """Text in which characters that standard output cannot encode are escaped as in Python."""
    if takes_all():
        return text
    name = sys.stdout.encoding
    return text.encode(name, "backslashreplace").decode(name)


def _takes_all(stream: TextIO) -> bool:
    name = getattr(stream, "encoding", None)
    return name is None or codecs.lookup(name).name.startswith(("utf-", "utf_"))
