"""Output into an encoding that lacks some of our characters: a stand-in instead of an error.

For people a known sign gets a plain one and any other character a question mark. What programs read is never altered:
JSON escapes, and CSV has the escapes of Python.
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
    """Lets standard output and error take every character; in UTF-8 nothing changes."""
    codecs.register_error("fleetcore", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not _takes_all(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fleetcore")


def takes_all() -> bool:
    """Whether standard output takes every character."""
    return sys.stdout is None or _takes_all(sys.stdout)


def escaped(text: str) -> str:
    """Text in which what standard output cannot take is escaped as Python does."""
    if takes_all():
        return text
    name = sys.stdout.encoding
    return text.encode(name, "backslashreplace").decode(name)


def _takes_all(stream: TextIO) -> bool:
    name = getattr(stream, "encoding", None)
    return name is None or codecs.lookup(name).name.startswith(("utf-", "utf_"))
