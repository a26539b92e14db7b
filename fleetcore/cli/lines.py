"""Lines of a text file of any size: a file without line ends is not read into memory as one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fleetcore.errors import Refused

#: The longest line in characters: a row of 100,000 cells of long numbers has some 2 million.
MAX_LENGTH = 1 << 24


def lines_of(file: TextIO, path: Path) -> Iterator[str]:
    """The lines with their ends; raises Refused at one that is too long for a row."""
    number = 0
    while line := file.readline(MAX_LENGTH + 1):
        number += 1
        if len(line) > MAX_LENGTH:
            raise Refused(
                f"{path}:{number}: the line has more than {MAX_LENGTH:,} characters",
                remedy="Write one row per line; check that it is a text file",
            )
        yield line
